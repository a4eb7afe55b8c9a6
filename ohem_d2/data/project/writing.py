"""Writes a project: annotations of each split, catalogue, configs."""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from detectron2.data import DatasetCatalog

from ..catalog_entry import require_plain
from ..checking import Problem
from ..layouts import LabelledFolder, LabelledImage, read_folder
from .settings import BASES, ProjectData, cpu_config, gpu_config
from .split import SPLITS, draw_split, has_split
from .statistics import Statistics, describe

__all__ = ["Project", "make_project"]

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Project:
    """What `make_project` wrote, and found.

    Attributes:
        folder: of the project.
        train: registered name of the data set that is trained on.
        test: and of the one that is tested on.
        examples: a few images of it, relative to the labelled folder.
        network: of torchvision, whose weights the config takes; "" for none.
        summary: of the labelled folder, many lines.
        problems: what is wrong in it and was left out.
    """

    folder: Path
    train: str
    test: str
    examples: list[Path]
    network: str
    summary: str
    problems: list[Problem]


def make_project(
    folder: str | Path, output: str | Path, configs: str | Path, weights: str | Path = "", seed: int = 0
) -> Project:
    """Write what a training on the images in `folder` needs, all of it or nothing.

    ``annotations/SPLIT.json`` (COCO; the images stay where they are), ``catalog.yaml``, ``config.yaml`` for a
    CPU, ``config_gpu.yaml`` and ``report.txt``. The split of the folder is kept; else about one image in five
    is held out.

    Args:
        folder: in a layout that `read_folder` knows; nothing in it is changed.
        output: folder of the project, which must not exist.
        configs: folder of this project's configs.
        weights: of an ImageNet network, whose name the file's begins with; see `BASES`.
        seed: of the split.

    Raises:
        FileExistsError: `output` exists.
        OSError: `folder` cannot be read, or `output` cannot be written.
        ValueError: nothing to train on, a network that is not known, an `output` inside `folder`, or a path
            that cannot stand in a config.
    """
    folder, output, network = Path(folder).absolute(), Path(output).absolute(), _network(weights)
    _check_places(folder, output)
    found = read_folder(folder)
    _leave_out_incomplete(folder, found)
    note = _split(folder, found, seed)
    images = [image for image in found.images if image.split is not None]
    name = _free_name(folder)
    splits = [split for split in SPLITS if any(image.split == split for image in images)]
    trained = [image for image in images if image.split == "train"]
    ignores = any(a["iscrowd"] for image in trained for a in image.annotations)
    names = f"{name}_train", f"{name}_{splits[1]}"
    num_empty = sum(not image.has_objects for image in trained)
    data = ProjectData(folder, output, len(found.classes), *names, Statistics.of(trained), ignores, num_empty)
    if num_empty:
        note += f"\n{num_empty} training images have no object and are trained on as background."
    summary = f"{describe(found, images)}\n\n{note}"
    files = {f"annotations/{split}.json": _coco(folder, found.classes, images, split) for split in splits}
    files["catalog.yaml"] = _catalogue(name, folder, splits, found.classes)
    files["config.yaml"] = cpu_config(data, Path(configs).absolute(), network)
    files["config_gpu.yaml"] = gpu_config(data, Path(configs).absolute())
    files["report.txt"] = "\n".join([summary, "", *map(str, found.problems), ""])
    _write(output, files)
    tested = {image.path.name: image.path for image in images if image.split == splits[1]}
    examples = [path.relative_to(folder) for path in list(tested.values())[:NUM_EXAMPLES]]
    return Project(output, *names, examples, network, summary, found.problems)


def _check_places(folder: Path, output: Path) -> None:
    if output.exists():
        raise FileExistsError(f"{output} exists; name another --output, or remove it")
    if output.is_relative_to(folder):
        raise ValueError(
            f"--output {output} lies inside {folder}, which is not changed; name a folder outside"
        )
    for path in folder, output:
        require_plain(path)


def _free_name(folder: Path) -> str:
    """The name of the folder, as that of an entry whose data sets are not registered yet."""
    name = re.sub(r"\W+", "_", folder.name).strip("_") or "data"
    while f"{name}_train" in DatasetCatalog:  # such as coco_2017_train
        name = f"my_{name}"
    return name


def _network(weights: str | Path) -> str:
    """The network of `BASES` that the name of a file of weights begins with, "" without a file."""
    if not weights:
        return ""
    if not Path(weights).is_file():
        raise FileNotFoundError(f"weights {weights} do not exist")
    for network in BASES:
        if Path(weights).name.startswith(network):
            return network
    valid = ", ".join(BASES)
    raise ValueError(f"weights {weights}: the name of the file has to begin with that of a network: {valid}")


def _leave_out_incomplete(folder: Path, found: LabelledFolder) -> None:
    """Leave out images with labels that cannot be used: their objects would be trained on as background."""
    left = [image for image in found.images if image.is_incomplete]
    found.images = [image for image in found.images if not image.is_incomplete]
    if left:
        text = f"{len(left)} images have labels that cannot be used, {left[0].path.name} for one"
        found.add_problem(folder, f"{text}; they are left out")


def _split(folder: Path, found: LabelledFolder, seed: int) -> str:
    """Draw a split where the folder has none; what was done."""
    if has_split(found.images):
        left = sum(image.split is None for image in found.images)
        if left:
            found.add_problem(folder, f"{left} labelled images are in no split; they are left out")
        if not any(image.split == "train" and image.has_objects for image in found.images):
            raise ValueError(f"{folder}: found no box in the images of its split train")
        return "The split is the folder's own."
    try:
        draw_split(found.images, seed)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    num_held_out = sum(image.split == "val" for image in found.images)
    held_out = f"{num_held_out} of {len(found.images)} images are held out (val)"
    return f"The folder has no split: {held_out}, by class, seed {seed}."


def _coco(folder: Path, classes: Sequence[str], images: Sequence[LabelledImage], split: str) -> str:
    """The images of a split as COCO JSON; ``file_name`` is relative to `folder`."""
    ids = {name: i for i, name in enumerate(classes, 1)}
    content: dict[str, list] = {"images": [], "annotations": []}
    for image in (image for image in images if image.split == split):
        name, image_id = image.path.relative_to(folder).as_posix(), len(content["images"]) + 1
        content["images"].append(
            {"id": image_id, "file_name": name, "width": image.width, "height": image.height}
        )
        for annotation in image.annotations:
            keys = {key: value for key, value in annotation.items() if key != "category"}
            x = {"id": len(content["annotations"]) + 1, "image_id": image_id, **keys}
            area = annotation["bbox"][2] * annotation["bbox"][3]
            content["annotations"].append({**x, "category_id": ids[annotation["category"]], "area": area})
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return json.dumps({**content, "categories": categories}, indent=1)


def _catalogue(name: str, folder: Path, splits: Sequence[str], classes: Sequence[str]) -> str:
    entry = {
        "format": "coco",
        "root": "./",
        "splits": list(splits),
        "annotations": "annotations/{split}.json",
        "images": str(folder),
        "classes": list(classes),
        "proposals": "proposals/{split}.safetensors",
    }
    return yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _write(output: Path, files: dict[str, str]) -> None:
    """Write the files into a folder that becomes `output` when all of them are there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as parent:
        folder = Path(parent, output.name)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        os.rename(folder, output)
