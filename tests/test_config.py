import re
from dataclasses import fields
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from ohem_d2 import OHEMOptions, OHEMRetinaNetOptions, OHEMRPNOptions, add_ohem_config
from ohem_d2.config import BoxVotingOptions, SoftNMSOptions
from ohem_d2.engine import load_config

ROOT = Path(__file__).parent.parent
OPTIONS = {
    "MODEL.OHEM": OHEMOptions,
    "MODEL.OHEM.RPN": OHEMRPNOptions,
    "MODEL.OHEM.RETINANET": OHEMRetinaNetOptions,
    "TEST.BOX_VOTING": BoxVotingOptions,
    "TEST.SOFT_NMS": SoftNMSOptions,
}


def cfg_with(*opts):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def leaves(node, prefix=()):
    for key, value in node.items():
        yield from leaves(value, (*prefix, key)) if hasattr(value, "items") else [(*prefix, key)]


def added_keys():
    return sorted(".".join(k) for k in set(leaves(cfg_with())) - set(leaves(get_cfg())))


def source():
    return {f: f.read_text() for f in (ROOT / "ohem_d2").rglob("*.py")}


@pytest.mark.parametrize("key", added_keys())
def test_every_key_is_read_and_explained(key):
    """Keys of a section with options are fields that code reads by name; others are read from the config."""
    section, name = key.rsplit(".", 1)
    code = {f: text for f, text in source().items() if f.name != "config.py" or "engine" in str(f)}
    own = section in OPTIONS and name.lower() in {f.name for f in fields(OPTIONS[section])}
    pattern = (
        rf"(ohem|options|self|voting|soft_nms)\.{name.lower()}\b"
        if own
        else rf"\.{re.escape(key.split('.', 1)[1])}\b"
    )
    assert any(re.search(pattern, text) for text in code.values()), f"nothing reads {key}"
    assert f"`{key}`" in (ROOT / "README.md").read_text(), f"README does not explain {key}"


def test_defaults_are_the_papers():
    options = OHEMOptions.from_config(cfg_with())
    assert options == OHEMOptions()
    assert (options.nms_thresh, options.nms_per_class, options.budget, options.rank_by) == (
        0.7,
        False,
        "image",
        "cls+box",
    )


def test_values_reach_the_options():
    options = OHEMOptions.from_config(
        cfg_with("MODEL.OHEM.NMS_THRESH", "0.5", "MODEL.OHEM.BUDGET", "batch", "MODEL.OHEM.ENABLED", "False")
    )
    assert (options.nms_thresh, options.budget, options.enabled) == (0.5, "batch", False)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("NMS_THRESH", 1.2, r"MODEL.OHEM.NMS_THRESH is 1.2; valid: a number in \[0, 1\]"),
        ("NMS_THRESH", -0.1, "MODEL.OHEM.NMS_THRESH is -0.1"),
        ("BUDGET", "images", "MODEL.OHEM.BUDGET is 'images'; valid: one of 'image', 'batch'"),
        ("RANK_BY", "loss", "MODEL.OHEM.RANK_BY is 'loss'; valid: one of 'cls.box', 'cls', 'box'"),
        ("READONLY_DTYPE", "half", "MODEL.OHEM.READONLY_DTYPE is 'half'; valid: one of 'auto'"),
        ("READONLY_CHUNK", -1, "MODEL.OHEM.READONLY_CHUNK is -1; valid: an integer >= 0"),
    ],
)
def test_a_value_out_of_range_is_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        OHEMOptions.from_config(cfg_with(f"MODEL.OHEM.{key}", str(value)))


@pytest.mark.parametrize("section, options", [("RPN", OHEMRPNOptions), ("RETINANET", OHEMRetinaNetOptions)])
def test_the_keys_of_anchors_reach_their_own_options_alone(section, options):
    assert options.from_config(cfg_with()) == options(None, 256, 0.7, 6000)
    cfg = cfg_with(
        f"MODEL.OHEM.{section}.BATCH_SIZE_PER_IMAGE", "64", f"MODEL.OHEM.{section}.ENABLED", "False"
    )
    assert options.from_config(cfg) == options(False, 64, 0.7, 6000)
    others = {OHEMOptions, OHEMRPNOptions, OHEMRetinaNetOptions} - {options}
    assert all(other.from_config(cfg) == other() for other in others)


@pytest.mark.parametrize("section, options", [("RPN", OHEMRPNOptions), ("RETINANET", OHEMRetinaNetOptions)])
@pytest.mark.parametrize(
    "key, value, message",
    [
        ("NMS_THRESH", 1.2, r"is 1.2; valid: a number in \[0, 1\]"),
        ("BATCH_SIZE_PER_IMAGE", 0, "is 0; valid: an integer >= 1"),
        ("PRE_NMS_TOPK", 255, "is 255; valid: an integer >= BATCH_SIZE_PER_IMAGE, which is 256"),
    ],
)
def test_a_value_of_anchors_out_of_range_is_named(section, options, key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.OHEM.{section}.{key} {message}"):
        options.from_config(cfg_with(f"MODEL.OHEM.{section}.{key}", str(value)))


def test_a_section_of_anchors_with_a_wrong_key_or_none_is_an_error():
    cfg = cfg_with()
    cfg.MODEL.OHEM.RPN.BUDGET = 64
    with pytest.raises(
        KeyError, match="unknown key MODEL.OHEM.RPN.BUDGET; valid: ENABLED, BATCH_SIZE_PER_IMAGE"
    ):
        OHEMOptions.from_config(cfg)
    cfg.MODEL.OHEM.RPN = True
    with pytest.raises(KeyError, match="MODEL.OHEM.RPN is True; valid: a section with the keys ENABLED"):
        OHEMRPNOptions.from_config(cfg)


def test_an_unknown_key_set_in_python_is_an_error():
    cfg = cfg_with()
    cfg.MODEL.OHEM.NMS_TRESH = 0.5
    with pytest.raises(KeyError, match="unknown key MODEL.OHEM.NMS_TRESH; valid: ENABLED, NMS_THRESH"):
        OHEMOptions.from_config(cfg)


def test_the_key_that_people_set_today_is_an_error():
    cfg = cfg_with()
    cfg.MODEL.ROI_HEADS.OHEM = True
    with pytest.raises(KeyError, match="MODEL.ROI_HEADS.OHEM does nothing"):
        OHEMOptions.from_config(cfg)


def test_a_config_without_the_section_says_what_to_call():
    with pytest.raises(KeyError, match="call ohem_d2.add_ohem_config"):
        OHEMOptions.from_config(get_cfg())


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "MODEL: {OHEM: {NMS_TRESH: 0.5}}",
            r"bad.yaml: unknown key MODEL.OHEM.NMS_TRESH; valid: ENABLED, NMS_THRESH",
        ),
        (
            "MODEL: {OHEM: {RPN: {NMS: 0.5}}}",
            r"bad.yaml: unknown key MODEL.OHEM.RPN.NMS; valid: ENABLED, BATCH_SIZE",
        ),
        (
            "MODEL: {ROI_HEADS: {OHEM: True}}",
            r"bad.yaml: unknown key MODEL.ROI_HEADS.OHEM; .* set in MODEL.OHEM",
        ),
    ],
)
def test_an_unknown_key_in_a_file_names_the_file_and_the_valid_ones(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    file.write_text(text + "\nVERSION: 2\n")
    with pytest.raises(KeyError, match=message):
        load_config(str(file), ["OUTPUT_DIR", str(tmp_path / "out")])


def test_an_unknown_key_on_the_command_line_is_named(tmp_path):
    with pytest.raises(KeyError, match="command line: unknown key MODEL.OHEM.BUGDET; valid: ENABLED"):
        load_config("", ["MODEL.OHEM.BUGDET", "batch", "OUTPUT_DIR", str(tmp_path)])


def test_heads_that_cannot_mine_are_named(tmp_path):
    opts = [
        "MODEL.OHEM.ENABLED",
        "True",
        "MODEL.ROI_HEADS.NAME",
        "StandardROIHeads",
        "OUTPUT_DIR",
        str(tmp_path),
    ]
    with pytest.raises(
        ValueError, match="'StandardROIHeads', which cannot mine; valid: OHEMROIHeads, OHEMRes5ROIHeads"
    ):
        load_config("", opts)


@pytest.mark.parametrize(
    "section, message",
    [
        ("RPN", "MODEL.PROPOSAL_GENERATOR.NAME is 'RPN', which cannot mine; valid: OHEMRPN$"),
        (
            "RETINANET",
            "MODEL.META_ARCHITECTURE is 'GeneralizedRCNN', which cannot mine; valid: OHEMRetinaNet$",
        ),
    ],
)
def test_a_model_that_cannot_mine_anchors_is_named(tmp_path, section, message):
    with pytest.raises(ValueError, match=f"MODEL.OHEM.{section}.ENABLED is True but {message}"):
        load_config("", [f"MODEL.OHEM.{section}.ENABLED", "True", "OUTPUT_DIR", str(tmp_path)])


def test_an_output_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="OUTPUT_DIR .*file/out cannot be written"):
        load_config("", ["OUTPUT_DIR", str(tmp_path / "file" / "out")])


def test_a_config_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="config file none.yaml does not exist"):
        load_config("none.yaml")
