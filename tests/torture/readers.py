"""Every reader of files that a user may have from others, with valid files of its kind."""

import functools
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from torchvision.models import squeezenet1_0

from ohem_d2.comparison.run_folder import read_run
from ohem_d2.comparison.sweep import read_records
from ohem_d2.data import load_voc, register_catalog
from ohem_d2.data.checking.coco import check_coco
from ohem_d2.data.checking.report import Report
from ohem_d2.data.checking.voc import check_voc
from ohem_d2.data.coco import load_coco
from ohem_d2.data.dataset_dicts import load_dataset_dicts
from ohem_d2.data.layouts import read_folder
from ohem_d2.data.regions import RegionDatasetMapper
from ohem_d2.data.voc import VOCFolders
from ohem_d2.engine.yaml_config import load_config, read_part
from ohem_d2.evaluation.label_error_files import read_inspected, write_inspected
from ohem_d2.modeling.backbones.caffe import read_caffemodel, read_npz
from ohem_d2.modeling.backbones.weights import convert_torchvision, torchvision_weights
from ohem_d2.proposals import read_proposals, write_proposals
from ohem_d2.proposals.formats import FORMATS
from ohem_d2.utils.checkpoint import CheckedCheckpointer
from ohem_d2.utils.images import read_image_size
from ohem_d2.utils.mined_rois import MinedRoIs

from .. import drawn_layouts
from ..builders import tiny_cfg
from ..evaluation.inspected import two_images
from ..modeling.backbones.caffe_files import write_caffemodel
from ..proposals.conftest import CORNERS, NUMBERS, cells, write_h5
from ..toy import write_toy
from .fuzz import Reader
from .mutations import IN_JSON, IN_PICKLE, IN_SAFETENSORS, IN_TEXT, IN_YAML, IN_ZIP

__all__ = ["READERS"]

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["cat", "dog"]
_EMPTY = np.zeros((0, 4))


# ---- Configs and catalogues


def _write_config(folder: Path) -> list[Path]:
    write_toy(folder)
    path = folder / "config.yaml"
    part = read_part(str(ROOT / "configs/Base-FastRCNN-small.yaml"))
    part["MODEL"].update(OHEM={"RULE": "hardest", "RULE_ARGS": {}, "NMS_THRESH": 0.7})
    part["DATASETS"] = {"CATALOG": [str(folder / "catalog.yaml")], "TRAIN": ["toy_wide"], "TEST": []}
    path.write_text(json.dumps(part))
    return [path]


def _load_config(path: Path) -> None:
    try:
        load_config(str(path), ["OUTPUT_DIR", str(path.parent / "output")])
    finally:
        _forget("toy_")


def _forget(prefix: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [name for name in catalog if name.startswith(prefix)]:
            catalog.remove(name)


_CATALOG = """\
toy:
  format: voc
  root: ./voc
  splits: {wide: wide, tall: tall}
  classes: [cat, dog]
  year: 2012
  proposals: ./{name}.safetensors
  ignore: [crowd]
other:
  format: coco
  root: ${HOME}/x
  splits: [train, val]
  annotations: annotations/{split}.json
"""


def _write_catalog(folder: Path) -> list[Path]:
    path = folder / "catalog.yaml"
    path.write_text(_CATALOG)
    return [path]


def _register(path: Path) -> None:
    known = set(DatasetCatalog)
    try:
        register_catalog(path)
    finally:
        for name in set(DatasetCatalog) - known:
            _forget(name)


# ---- Proposals


def _write_proposals(kind: str, folder: Path) -> list[Path]:
    path = folder / f"proposals{kind}"
    tables = {
        "ids": ["7", "8"],
        "boxes": [CORNERS, _EMPTY],
        "objectness_logits": [[2.0, 1.0], []],
        "bbox_mode": 0,
    }
    image = np.array(NUMBERS["yxyx1-inclusive"], np.uint16)
    if kind == ".safetensors":
        write_proposals(path, {"7": (CORNERS, [2, 1]), "8": ([], [])})
    elif kind == ".pkl":
        path.write_bytes(pickle.dumps(tables, 4))
        other = folder / "old.pkl"
        other.write_bytes(pickle.dumps(tables, 2))
        return [path, other]
    elif kind == ".mat":
        savemat(path, {"images": cells(["7", "8"]), "boxes": cells([image, _EMPTY])})
    elif kind == ".mat73":
        path = path.with_suffix(".mat")
        write_h5(path, ["7", "8"], [image, np.zeros((0, 4), np.uint16)])
    elif kind == ".npz":
        np.savez(path, ids=["7", "8"], boxes=CORNERS, scores=np.array([2.0, 1]), offsets=[0, 2, 2])
        other = folder / "images.npz"
        np.savez_compressed(other, **{"7": np.c_[CORNERS, [2, 1]], "8": np.zeros((0, 5))})
        return [path, other]
    elif kind == ".json":
        rows = [{"image_id": 7, "bbox": box, "score": 0.5, "category_id": 1} for box in NUMBERS["xywh0"]]
        path.write_text(json.dumps(rows))
    return [path]


def _read_proposals(path: Path) -> None:
    proposals = read_proposals(path)
    for image_id in proposals:
        proposals[image_id]


def _write_mmdetection(folder: Path) -> list[Path]:
    path = folder / "proposals.pkl"
    path.write_bytes(pickle.dumps([np.c_[CORNERS, [2, 1]], np.zeros((0, 5))], 4))
    return [path]


def _read_mmdetection(path: Path) -> None:
    list(FORMATS["mmdetection"].read(path, ["7", "8"]).entries)


# ---- Weights


class _Model(torch.nn.Module):
    """A model whose images are described, as that of a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), False)
        self.input_format = "BGR"


def _checkpoint() -> dict[str, Any]:
    image_input = {"format": "BGR", "pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3}
    return {"model": _Model().state_dict(), "image_input": image_input, "__author__": "us", "iteration": 3}


def _write_pth(folder: Path) -> list[Path]:
    paths = [folder / "model.pth", folder / "legacy.pth"]
    torch.save(_checkpoint(), paths[0])
    torch.save(_checkpoint(), paths[1], _use_new_zipfile_serialization=False)
    return paths


def _write_pkl(folder: Path) -> list[Path]:
    zoo = _checkpoint() | {"model": {key: value.numpy() for key, value in _checkpoint()["model"].items()}}
    contents = {"zoo": zoo, "caffe2": {"blobs": zoo["model"]}, "tensors": _checkpoint()}
    for name, content in contents.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, 2 if name == "caffe2" else 4))
    return [folder / f"{name}.pkl" for name in contents]


def _write_safetensors(folder: Path) -> list[Path]:
    save_file(_Model().state_dict(), folder / "model.safetensors")
    return [folder / "model.safetensors"]


def _load_weights(path: Path) -> None:
    CheckedCheckpointer(_Model()).load(str(path))


def _write_torchvision(folder: Path) -> list[Path]:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in squeezenet1_0().state_dict().items()}
    torch.save({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}, folder / "network.pth")
    return [folder / "network.pth"]


def _read_torchvision(path: Path) -> None:
    weights = torchvision_weights("squeezenet1_0", str(path))
    try:
        convert_torchvision("squeezenet1_0", weights, "TorchvisionBackbone")
    except ValueError:
        return  # it knows no file


_BLOBS = {"conv": [np.ones((2, 3, 1, 1), np.float32), np.zeros(2, np.float32)]}


def _write_caffe_npz(folder: Path) -> list[Path]:
    path = folder / "net.npz"
    np.savez(path, **{f"conv.{number}": blob for number, blob in enumerate(_BLOBS["conv"])})
    return [path]


def _write_caffemodel(folder: Path) -> list[Path]:
    return [write_caffemodel(folder / f"{kind}.caffemodel", _BLOBS, kind) for kind in ("v0", "v1", "new")]


# ---- Data sets


def _write_coco(folder: Path) -> list[Path]:
    drawn_layouts.coco(folder)
    path = folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    polygon, counts = [[4, 4, 20, 4, 20, 20, 4, 20]], {"counts": [100, 50, 2922], "size": [48, 64]}
    for annotation, segmentation in zip(content["annotations"], (polygon, counts)):
        annotation["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    return [path]


def _load_coco(path: Path) -> None:
    name = "fuzzed_coco"
    load = functools.partial(load_coco, str(path), str(path.parents[1] / "train2017"), name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=str(path))
    try:
        for record in load_dataset_dicts([name], filter_empty=True):
            _mapper()(record)
    finally:
        _forget(name)


@functools.cache
def _mapper() -> RegionDatasetMapper:
    return RegionDatasetMapper(tiny_cfg("INPUT.MIN_SIZE_TRAIN", (32,)), is_train=True)


def _check_coco(path: Path) -> None:
    report = Report("fuzzed")
    check_coco(report, str(path), str(path.parents[1] / "train2017"), CLASSES, progress=False)
    _require_lines(report.problems)


def _require_lines(problems: Sequence[object]) -> None:
    """Each problem must be a line of its own."""
    for problem in problems:
        if len(str(problem).splitlines()) > 1:
            raise AssertionError(f"several lines: {problem}")


def _write_voc(kind: str, folder: Path) -> list[Path]:
    drawn_layouts.voc(folder)
    return sorted(folder.rglob("ImageSets/Main/train.txt" if kind == "split" else "*.xml"))


def _load_voc(path: Path) -> None:
    load_voc(_voc_root(path), "train", CLASSES)


def _check_voc(path: Path) -> None:
    report = Report("fuzzed")
    check_voc(report, str(_voc_root(path)), "train", VOCFolders(), CLASSES, labelled=True, progress=False)
    _require_lines(report.problems)


def _voc_root(path: Path) -> Path:
    return next(parent for parent in path.parents if (parent / "ImageSets").exists())


def _write_layout(layout: str, folder: Path) -> list[Path]:
    root = folder / "layout"
    drawn_layouts.LAYOUTS[layout](root)
    return sorted(path for path in root.rglob("*.*") if path.suffix in (".xml", ".json", ".yaml", ".txt"))


def _read_layout(path: Path) -> None:
    root = next(parent for parent in path.parents if parent.name == "layout")
    _require_lines(read_folder(root).problems)


def _write_image(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [folder / f"image.{suffix}" for suffix in ("jpg", "png", "bmp", "tif", "webp")]
    for path in paths:
        Image.fromarray(pixels).save(path, exif=exif)
    return paths


def _read_image(path: Path) -> None:
    width, height = read_image_size(path)
    _mapper()({"file_name": str(path), "image_id": "x", "width": width, "height": height, "annotations": []})


# ---- Files of ours, which may have been cut or edited


def _write_mined(folder: Path) -> list[Path]:
    path, one, many = folder / "mined.safetensors", np.zeros(1, np.int64), np.ones(2, np.float32)
    MinedRoIs(
        ["a.jpg"], one, one, np.array([[40, 30]]), np.array([0, 2]), np.ones((2, 4), np.float32),
        np.zeros(2, np.int64), np.zeros(2, np.int64), many, many, many,
    ).save(path)  # fmt: skip
    return [path]


def _read_mined(path: Path) -> None:
    mined = MinedRoIs.load(path)
    mined.take(np.arange(len(mined)))


def _write_run(folder: Path) -> list[Path]:
    rows = [{"iteration": i, "total_loss": 1.0 / i, "bbox/AP": 40.0} for i in (1, 2, 3)]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 3\n  STEPS: [2]\nSEED: 1\n")
    return [folder / "metrics.json", folder / "config.yaml"]


def _read_run(path: Path) -> None:
    run = read_run(path.parent)
    run.curve("bbox/AP")
    _require_lines(run.problems)


def _write_records(folder: Path) -> list[Path]:
    rows = [{"folder": "a/seed0", "arm": "a", "seed": 0, "data": "", "figures": {"AP": 40.0}}] * 2
    (folder / "results.json").write_text(json.dumps(rows))
    return [folder / "results.json"]


def _write_inspected(folder: Path) -> list[Path]:
    write_inspected(folder / "inspected.json", two_images())
    return [folder / "inspected.json"]


def _proposals(kind: str, *mutations: Any) -> Reader:
    return Reader(f"proposals {kind}", functools.partial(_write_proposals, kind), _read_proposals, mutations)


def _layout(layout: str) -> Reader:
    make: Callable[[Path], list[Path]] = functools.partial(_write_layout, layout)
    return Reader(f"layout {layout}", make, _read_layout, (*IN_JSON, *IN_TEXT))


READERS = (
    Reader("config", _write_config, _load_config, IN_YAML, by_key=True),
    Reader("catalogue", _write_catalog, _register, IN_YAML),
    _proposals(".safetensors", *IN_SAFETENSORS),
    _proposals(".pkl", *IN_PICKLE),
    _proposals(".mat"),
    _proposals(".mat73"),
    _proposals(".npz", *IN_ZIP),
    _proposals(".json", *IN_JSON),
    Reader("proposals of mmdetection", _write_mmdetection, _read_mmdetection, IN_PICKLE),
    Reader("weights .pth", _write_pth, _load_weights, (*IN_ZIP, *IN_PICKLE)),
    Reader("weights .pkl", _write_pkl, _load_weights, IN_PICKLE),
    Reader("weights .safetensors", _write_safetensors, _load_weights, IN_SAFETENSORS),
    Reader("weights of torchvision", _write_torchvision, _read_torchvision, IN_ZIP),
    Reader("weights of Caffe .npz", _write_caffe_npz, lambda path: read_npz(str(path)), IN_ZIP),
    Reader("weights of Caffe .caffemodel", _write_caffemodel, lambda path: read_caffemodel(str(path))),
    Reader("COCO JSON, loader", _write_coco, _load_coco, IN_JSON),
    Reader("COCO JSON, check", _write_coco, _check_coco, IN_JSON),
    Reader("VOC XML, loader", functools.partial(_write_voc, "xml"), _load_voc, IN_TEXT),
    Reader("VOC XML, check", functools.partial(_write_voc, "xml"), _check_voc, IN_TEXT),
    Reader("VOC split, loader", functools.partial(_write_voc, "split"), _load_voc, IN_TEXT),
    Reader("VOC split, check", functools.partial(_write_voc, "split"), _check_voc, IN_TEXT),
    *(_layout(layout) for layout in drawn_layouts.LAYOUTS),
    Reader("image", _write_image, _read_image),
    Reader("mined log", _write_mined, _read_mined, IN_SAFETENSORS),
    Reader("run folder", _write_run, _read_run, (*IN_JSON, *IN_YAML)),
    Reader("results.json", _write_records, lambda path: read_records(path), IN_JSON),
    Reader("inspected labels", _write_inspected, read_inspected, IN_JSON),
)
