"""Fixtures of all tests: tiny data sets, the project's scripts, and guards for Detectron2's global state."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage

from .pretended_cuda import pretended_cuda
from .toy import write_voc

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--torture", action="store_true", help="as `make torture`: more cases, and what is marked so"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--torture"):
        left_out = [item for item in items if item.get_closest_marker("torture")]
        items[:] = [item for item in items if not item.get_closest_marker("torture")]
        config.hook.pytest_deselected(items=left_out)


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

    def make(objects, name="voc", **kwargs):
        return write_voc(tmp_path / name, objects, **kwargs)

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
