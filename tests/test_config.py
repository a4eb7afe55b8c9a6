import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import get_cfg

from ohem_d2 import OHEMOptions, OHEMRetinaNetOptions, OHEMRPNOptions, add_ohem_config
from ohem_d2.config import SECTIONS, TorchvisionOptions, check_values
from ohem_d2.engine import load_config

ROOT = Path(__file__).parent.parent


def cfg_with(*opts):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def leaves(node, prefix=()):
    for key, value in node.items():
        has_keys = hasattr(value, "items") and len(value) > 0
        yield from leaves(value, (*prefix, key)) if has_keys else [(*prefix, key)]


def test_all_keys_are_those_of_the_sections():
    added = {".".join(k) for k in set(leaves(cfg_with())) - set(leaves(get_cfg()))}
    assert added == {f"{options.section}.{key}" for options in SECTIONS for key in options.defaults()}


FIELDS = [(options, f.name) for options in SECTIONS for f in fields(options)]


@pytest.mark.parametrize("options, name", FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_every_key_is_read_and_explained(options, name):
    others = [f.read_text() for f in (ROOT / "ohem_d2").rglob("*.py") if f != ROOT / "ohem_d2/config.py"]
    of_options = rf"(ohem|options|self|voting|soft_nms|TORCHVISION|from_config\([a-z.]+\))\.{name}\b"
    read = rf"{of_options}|cfg.*\.{name.upper()}\b"
    if options is not TorchvisionOptions:  # whose fields are the arguments of a class
        assert any(re.search(read, text) for text in others), (
            f"nothing reads {options.section}.{name.upper()}"
        )
    owner = next(cls for cls in options.__mro__ if name in vars(cls).get("__annotations__", ()))
    lines = [line.strip() for line in inspect.getsource(owner).splitlines()]
    above = next(lines[i - 1] for i, line in enumerate(lines) if line.startswith(f"{name}: "))
    assert above.startswith("# "), f"no comment explains {options.section}.{name.upper()}"


def test_check_values_finds_a_wrong_value_of_any_section():
    wrong = {
        "MODEL.OHEM.BUDGET": ("images", "one of 'image', 'batch'"),
        "MODEL.OHEM.RPN.NMS_THRESH": (2.0, "a number in"),
        "MODEL.OHEM.RETINANET.PRE_NMS_TOPK": (1, "an integer >= BATCH_SIZE_PER_IMAGE"),
        "MODEL.IGNORE_REGIONS.THRESH": (1.5, "a number in [0, 1]"),
        "MODEL.CLS_LOSS.NAME": ("hinge", "one of 'cross_entropy', 'focal', 'guided'"),
        "MODEL.TORCHVISION.NORM": ("GN", "one of 'BN', 'FrozenBN'"),
        "MODEL.TORCHVISION.STRIDES": ((4,), "one stride for each of LAYERS"),
        "DATALOADER.TIMEOUT": (-1, "an integer >= 0"),
        "DATASETS.PROPOSALS_MISSING": ("skip", "one of 'error', 'ground_truth'"),
        "DATASETS.VOC_DIFFICULT": ("skip", "one of 'keep', 'drop', 'ignore'"),
        "SOLVER.ACCUMULATE": (0, "an integer >= 1"),
        "TEST.EVALUATORS": (("voc10",), "any of 'voc07', 'voc12', 'coco'"),
        "TEST.ROI_LOSS.PERIOD": (-1, "an integer >= 0"),
        "TEST.ROI_LOSS.NUM_IMAGES": (0, "an integer >= 1"),
        "TEST.AUG.COMBINE": ("min", "one of 'detections', 'candidates', 'mean', 'max', 'proposals'"),
        "TEST.BOX_VOTING.ROUNDS": (0, "an integer >= 1"),
        "TEST.SOFT_NMS.SIGMA": (0.0, "a number > 0"),
    }
    assert {key.rpartition(".")[0] for key in wrong} == {options.section for options in SECTIONS}
    for key, (value, valid) in wrong.items():
        cfg = cfg_with(key, value)
        with pytest.raises(ValueError, match=re.escape(f"{key} is {value!r}; valid: {valid}")):
            check_values(cfg)


def test_defaults_are_the_papers():
    options = OHEMOptions.from_config(cfg_with())
    assert options == OHEMOptions()
    assert (options.nms_thresh, options.nms_per_class, options.budget, options.rank_by) == (
        0.7,
        False,
        "image",
        "cls+box",
    )


IGNORE = ("MODEL.IGNORE_REGIONS.ENABLED", True)
RPN_CANNOT = "MODEL.PROPOSAL_GENERATOR.NAME is 'RPN', which cannot ignore regions; valid: OHEMRPN"


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.ROI_HEADS.NAME", "OHEMROIHeads"), RPN_CANNOT),
        (("MODEL.META_ARCHITECTURE", "ProposalNetwork"), RPN_CANNOT),
        (
            ("MODEL.PROPOSAL_GENERATOR.NAME", "OHEMRPN"),
            "NAME is 'Res5ROIHeads', which cannot ignore regions; valid: O",
        ),
        (
            ("MODEL.META_ARCHITECTURE", "RetinaNet"),
            "'RetinaNet', which cannot ignore regions; valid: OHEMRetinaNet",
        ),
    ],
)
def test_what_cannot_ignore_regions_is_refused(opts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_config("", [*map(str, [*opts, *IGNORE]), "OUTPUT_DIR", str(tmp_path)])


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.META_ARCHITECTURE", "OHEMRetinaNet"),
        ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME", "OHEMRPN"),
        ("MODEL.ROI_HEADS.NAME", "OHEMRes5ROIHeads", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        ("MODEL.ROI_HEADS.NAME", "OHEMRes5ROIHeads", "MODEL.PROPOSAL_GENERATOR.NAME", "OHEMRPN"),
    ],
)
def test_what_can_ignore_regions_is_accepted(opts, tmp_path):
    opts = [*opts, *IGNORE, "MODEL.OHEM.ENABLED", "None", "DATASETS.VOC_DIFFICULT", "ignore"]
    load_config("", [*map(str, opts), "OUTPUT_DIR", str(tmp_path)])


def test_difficult_objects_are_ignored_only_where_regions_are(tmp_path):
    with pytest.raises(
        ValueError, match="VOC_DIFFICULT is 'ignore' but MODEL.IGNORE_REGIONS.ENABLED is False"
    ):
        load_config("", ["DATASETS.VOC_DIFFICULT", "ignore", "OUTPUT_DIR", str(tmp_path)])


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
    with pytest.raises(
        KeyError, match="unknown key MODEL.OHEM.NMS_TRESH; valid: ENABLED, RULE, RULE_ARGS, NMS_THRESH"
    ):
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
            r"bad.yaml: unknown key MODEL.OHEM.NMS_TRESH; valid: ENABLED, RULE, RULE_ARGS, NMS_THRESH",
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


@pytest.mark.parametrize("section", ["OHEM", "OHEM.RPN", "OHEM.RETINANET"])
@pytest.mark.parametrize("value", ["false", "no", "0", "off"])
def test_off_has_one_form(tmp_path, section, value):
    """Of YAML's other forms a command line makes no False."""
    with pytest.raises(ValueError, match=f"{section}.ENABLED is '?{value}'?; valid: None, True or False"):
        load_config("", [f"MODEL.{section}.ENABLED", value, "OUTPUT_DIR", str(tmp_path)])


def test_settings_of_mining_for_heads_that_do_not_mine_are_told(tmp_path, caplog):
    plain = ["MODEL.OHEM.VIS_PERIOD", "5", "OUTPUT_DIR", str(tmp_path)]
    load_config("", plain)
    assert "does not mine" not in caplog.text
    load_config("", [*plain, "MODEL.OHEM.RULE", "quota"])
    told = "MODEL.OHEM.RULE is 'quota', but MODEL.ROI_HEADS.NAME 'Res5ROIHeads' does not mine; those that do"
    assert told in caplog.text


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


@pytest.mark.parametrize("key, value", [("NAME", "focal"), ("PRIOR", "0.1")])
def test_heads_that_have_another_classification_loss_are_named(tmp_path, key, value):
    opts = [f"MODEL.CLS_LOSS.{key}", value, "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(
        ValueError, match="which MODEL.ROI_HEADS.NAME 'Res5ROIHeads' does not read; valid: OHEM"
    ):
        load_config("", opts)
    load_config("", [*opts, "MODEL.ROI_HEADS.NAME", "OHEMRes5ROIHeads"])


@pytest.mark.parametrize(
    "key, value",
    [("PRIOR", 1.0), ("PRIOR", -0.1), ("FOCAL_GAMMA", -1.0), ("FOCAL_ALPHA", 1.5)],
)
def test_a_classification_loss_out_of_range_is_named(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"MODEL.CLS_LOSS.{key} is {value}; valid: "):
        load_config("", [f"MODEL.CLS_LOSS.{key}", value, "OUTPUT_DIR", str(tmp_path)])


def test_an_output_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="OUTPUT_DIR .*file/out cannot be written"):
        load_config("", ["OUTPUT_DIR", str(tmp_path / "file" / "out")])


def test_a_config_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="config file none.yaml does not exist"):
        load_config("none.yaml")


BASES = {
    "the file itself": "{evil}",
    "its _BASE_": "_BASE_: evil.yaml",
    "one of its _BASE_": "_BASE_: [good.yaml, evil.yaml]",
}


@pytest.mark.parametrize("where", BASES)
def test_a_config_that_would_run_code_is_refused_before_it_does(tmp_path, where):
    evil = f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/ran']"
    (tmp_path / "evil.yaml").write_text(evil)
    (tmp_path / "good.yaml").write_text("VERSION: 2")
    (tmp_path / "a.yaml").write_text(BASES[where].format(evil=evil))
    file = "a" if where == "the file itself" else "evil"
    with pytest.raises(
        ValueError, match=rf"/{file}.yaml, line 2: tag !!python/object/apply:os.mkdir is refused"
    ):
        load_config(str(tmp_path / "a.yaml"), ["OUTPUT_DIR", str(tmp_path / "out")])
    assert not (tmp_path / "ran").exists()


def test_the_expression_in_detectron2s_retinanet_is_evaluated(tmp_path):
    file = model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    sizes = load_config(file, ["OUTPUT_DIR", str(tmp_path)]).MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]


def test_a_config_of_detectron2s_first_version_is_upgraded(tmp_path):
    (tmp_path / "old.yaml").write_text("MODEL: {WEIGHT: w.pkl, RPN: {PRE_NMS_TOPK_TEST: 7}}")
    cfg = load_config(str(tmp_path / "old.yaml"), ["OUTPUT_DIR", str(tmp_path)])
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST) == ("w.pkl", 7)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "a.yaml: a config maps keys to values, found .1."),
        ("_BASE_: a.yaml", "a.yaml: nested too deep, or in itself"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / "a.yaml"), ["OUTPUT_DIR", str(tmp_path)])


@pytest.mark.parametrize("device, warns", [("cuda", True), ("cuda:1", True), ("cpu", False)])
def test_a_device_that_is_not_there_is_a_warning(tmp_path, monkeypatch, caplog, device, warns):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = load_config("", ["MODEL.DEVICE", device, "OUTPUT_DIR", str(tmp_path)])
    assert cfg.MODEL.DEVICE == "cpu"
    message = f"MODEL.DEVICE is {device!r}, but there is no CUDA device: running on the CPU"
    assert caplog.messages == [message] * warns


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ["OUTPUT_DIR=out", "SEED=1"],
            "'OUTPUT_DIR=out'; valid with a YAML config: KEY VALUE, not KEY=VALUE",
        ),
        (["mine.yaml"], "'mine.yaml' is no key; a config goes after --config-file"),
        (["SEED", "1", "OUTPUT_DIR"], "'OUTPUT_DIR' has no value; valid: KEY VALUE"),
    ],
)
def test_a_command_line_of_another_form_says_what_is_valid(opts, message):
    with pytest.raises(ValueError, match=f"^command line: {message}"):
        load_config("", opts)


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ["MODEL.ROI_HEADS.NAME", "OHEMROIHeads"],
            "NAME is 'OHEMROIHeads', but MODEL.ROI_BOX_HEAD.NAME is '', as in configs of C4; valid heads: .*"
            "OHEMRes5ROIHeads",
        ),
        (
            ["MODEL.ROI_HEADS.IN_FEATURES", "('p2', 'p3')"],
            r"NAME is 'Res5ROIHeads', but MODEL.ROI_HEADS.IN_FEATURES is \['p2', 'p3'\]; valid heads: ",
        ),
        (["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0"], "BATCH_SIZE_PER_IMAGE is 0; valid: an integer >= 1"),
    ],
)
def test_heads_of_another_family_than_the_config_are_named(tmp_path, opts, message):
    """The defaults of Detectron2 are those of a C4."""
    with pytest.raises(ValueError, match=message):
        load_config("", [*opts, "OUTPUT_DIR", str(tmp_path)])


def test_a_lower_threshold_of_iou_under_mining_is_told(tmp_path, caplog):
    opts = ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.1, 0.5]", "MODEL.ROI_HEADS.IOU_LABELS", "[-1, 0, 1]"]
    load_config("", [*opts, "OUTPUT_DIR", str(tmp_path)])
    assert "never mined" not in caplog.text
    load_config("", [*opts, "OUTPUT_DIR", str(tmp_path), "MODEL.ROI_HEADS.NAME", "OHEMRes5ROIHeads"])
    assert "IOU_LABELS is [-1, 0, 1]: RoIs labelled -1 are never mined" in caplog.text
