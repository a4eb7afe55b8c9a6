"""The scripts of datasets/, loaded as modules."""

import importlib.util
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture
def load_script():
    def load(name):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(autouse=True)
def clean_catalogs():
    """Forget the data sets that a test registered."""
    known, described = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for name in set(DatasetCatalog) - known:
        DatasetCatalog.pop(name)
    for name in set(MetadataCatalog) - described:
        MetadataCatalog.pop(name)
