"""Fixtures of all tests: tiny data sets, the project's scripts, and guards for Detectron2's global state."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image

from .pretended_cuda import pretended_cuda

ROOT = Path(__file__).resolve().parents[1]
OBJECT = (
    "<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
    "<difficult>{difficult}</difficult><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


@pytest.fixture(autouse=True)
def clean_catalogs():
    """Forget the data sets that a test registered."""
    known, described = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for name in set(DatasetCatalog) - known:
        DatasetCatalog.pop(name)
    for name in set(MetadataCatalog) - described:
        MetadataCatalog.pop(name)


@pytest.fixture(autouse=True)
def cuda_device(request):
    """For tests marked `cuda`: the GPU, or where there is none a pretended one, whose `Kernels` it gives."""
    if request.node.get_closest_marker("cuda") is None or torch.cuda.is_available():
        yield None
        return
    with pretended_cuda() as kernels:
        yield kernels


@pytest.fixture
def make_voc(tmp_path):
    """``make_voc({id: [(class, (xmin, ymin, xmax, ymax))]}, ...)`` writes a VOC tree and returns its root."""

    def make(objects, split="train", size=(40, 30), extension=".jpg", name="voc", difficult=0):
        root, (width, height) = tmp_path / name, size
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for seed, (image_id, boxes) in enumerate(objects.items()):
            pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{image_id}{extension}")
            body = "".join(OBJECT.format(*box, name=label, difficult=difficult) for label, box in boxes)
            sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            xml = f"<annotation>{sizes}{body}</annotation>"
            (root / "Annotations" / f"{image_id}.xml").write_text(xml)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(objects) + "\n")
        return root

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("OHEM_D2_DATA")
    if not folder:
        pytest.skip("needs the real data sets: set OHEM_D2_DATA to their folder")
    return Path(folder)


@pytest.fixture
def load_script(monkeypatch):
    """``load_script("datasets/prepare_demo.py")`` imports a script as a module; it finds those beside it."""

    def load(path):
        monkeypatch.syspath_prepend(str((ROOT / path).parent))
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def storage():
    with EventStorage() as storage:
        yield storage
