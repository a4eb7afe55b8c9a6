"""The config files."""
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from ohem_d2 import add_ohem_config
from ohem_d2.config import OHEMOptions

ROOT = Path(__file__).resolve().parents[1]
FILES = [f for f in sorted((ROOT / "configs").rglob("*.yaml")) if f.name != "catalog.yaml"]

# The lines in which the two arms of a comparison may differ: how RoIs are sampled.
SAMPLING = {"MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "MODEL.ROI_HEADS.IOU_THRESHOLDS",
            "MODEL.ROI_HEADS.IOU_LABELS"}  # fmt: skip


def read(file):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else [(prefix + key, value)]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT / "configs")))
def test_every_config_builds(file):
    cfg = read(file)
    OHEMOptions.from_config(cfg)
    if not file.name.startswith("Base-"):
        build_model(cfg)


@pytest.mark.parametrize(
    "one, other",
    [("BCCD/fast_rcnn_heuristic", "BCCD/fast_rcnn_ohem"), ("BCCD/fast_rcnn_bg0", "BCCD/fast_rcnn_ohem"), ("demo/heuristic", "demo/ohem")],
)
def test_the_arms_of_a_comparison_differ_in_sampling_alone(one, other):
    a, b = (dict(leaves(read(ROOT / "configs" / f"{name}.yaml"))) for name in (one, other))
    assert {key for key in a if a[key] != b[key]} <= SAMPLING
    assert a["MODEL.ROI_HEADS.NAME"] != b["MODEL.ROI_HEADS.NAME"]


def test_no_config_is_a_copy_of_its_base():
    for file in FILES:
        text = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
        if not file.name.startswith("Base-"):
            assert text[0].startswith("_BASE_"), file
            assert len(text) <= 20, f"{file} repeats more than a delta"
