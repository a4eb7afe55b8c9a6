"""Fixtures of all tests."""
import pytest
from detectron2.utils.events import EventStorage


@pytest.fixture
def storage():
    with EventStorage() as storage:
        yield storage
