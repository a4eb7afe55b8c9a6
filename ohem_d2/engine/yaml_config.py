"""Reading and checking YAML configs."""

import io
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
    RetinaNet,
)
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from fvcore.common.registry import Registry

from ..config import (
    ClsLossOptions,
    DatasetOptions,
    IgnoreRegionsOptions,
    OHEMOptions,
    OHEMRetinaNetOptions,
    OHEMRPNOptions,
    add_ohem_config,
    check_values,
)
from ..data import register_catalog
from ..evaluation import check_testing
from ..modeling import OHEMMixin, OHEMRetinaNetMixin, OHEMRPNMixin
from ..modeling.rules import build_rule
from ..utils.messages import brief, one_line
from ..utils.yaml_files import ConfigLoader, read_yaml
from .num_classes import fit_num_classes, unset_num_classes

logger = logging.getLogger(__name__)

_RULE_ARGS = "MODEL.OHEM.RULE_ARGS."


class _UnreadableError(ValueError):
    """Of a file that is no YAML; names the file, which may be one of ``_BASE_``."""


class _SafeCfgNode(CfgNode):
    """A config whose files cannot run code; Detectron2's own reads them with YAML's unsafe loader."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        """Hand on what the safe loader reads as YAML without tags, also for the files of ``_BASE_``."""
        try:
            with super()._open_cfg(filename) as file:
                content = read_yaml(file, filename, ConfigLoader)
        except ValueError as error:
            raise _UnreadableError(*error.args) from error
        if not isinstance(content, dict):
            raise _UnreadableError(f"{filename}: a config maps keys to values, found {brief(content)}")
        return io.StringIO(yaml.safe_dump(content, sort_keys=False))


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a YAML config and overrides, register its catalogues and check its keys and values.

    Without CUDA the device becomes the CPU, with a warning. A number of classes that is set nowhere becomes
    that of the data sets. The output folder is created.

    Args:
        config_file: path; "": only the defaults.
        opts: ``KEY VALUE`` pairs, as on the command line.

    Raises:
        FileNotFoundError: no such config or catalogue.
        KeyError: an unknown key or registered name.
        ValueError: a value out of its range, settings that contradict each other or the data sets, a data set
            that is not registered, a bad catalogue, or YAML that is malformed or could run code.
        OSError: the output folder cannot be written.
    """
    _check_overrides(opts)
    cfg = get_cfg()
    add_ohem_config(cfg)
    unset_num_classes(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise FileNotFoundError(f"config file {config_file} does not exist")
        if config_file.endswith(".py"):
            raise ValueError(f"{config_file} is a Python config; this command takes YAML configs alone")
        safe = _SafeCfgNode(cfg)
        safe.MODEL.OHEM.RULE_ARGS.set_new_allowed(True)  # the copy forgets it
        _merge(safe, config_file, lambda: safe.merge_from_file(config_file))
        cfg = CfgNode(safe)
    for key in opts[::2]:  # yacs takes no new keys from a command line
        if key.startswith(_RULE_ARGS):
            cfg.MODEL.OHEM.RULE_ARGS.setdefault(key.removeprefix(_RULE_ARGS), None)
    _merge(cfg, "command line", lambda: cfg.merge_from_list(list(opts)))
    cfg.MODEL.DEVICE = present_device("MODEL.DEVICE", cfg.MODEL.DEVICE)
    for catalog in DatasetOptions.from_config(cfg).catalog:
        register_catalog(catalog)
    check_config(cfg)
    fit_num_classes(cfg)
    cfg.freeze()
    return cfg


def read_part(config_file: str) -> dict[str, Any]:
    """What a YAML config and the files of its ``_BASE_`` say, without the defaults.

    Raises:
        FileNotFoundError: no such file.
        ValueError: YAML that is malformed or could run code.
    """
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"config file {config_file} does not exist")
    part: dict[str, Any] = _SafeCfgNode.load_yaml_with_base(config_file)
    return part


def check_config(cfg: CfgNode) -> None:
    """Check the config.

    Raises:
        KeyError: an unknown key or registered name.
        ValueError: a value out of its range, or a setting that has no effect with the others.
        OSError: the output folder cannot be written.
    """
    check_values(cfg)
    model = cfg.MODEL
    _check_registered("META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _check_registered("ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY)
    options = OHEMOptions.from_config(cfg)
    build_rule(options)
    if options.enabled is None and model.ROI_HEADS.NAME not in _derived(ROI_HEADS_REGISTRY, OHEMMixin):
        _warn_of_unread(options, model.ROI_HEADS.NAME)
    elif options.enabled is not False and -1 in model.ROI_HEADS.IOU_LABELS:
        logger.warning(
            "MODEL.ROI_HEADS.IOU_LABELS is %s: RoIs labelled -1 are never mined; the paper has [0, 1] and "
            "one threshold, 0.5", model.ROI_HEADS.IOU_LABELS,
        )  # fmt: skip
    if options.enabled:
        _check_mines("OHEM", "ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY, OHEMMixin)
    if OHEMRPNOptions.from_config(cfg).enabled:
        name = model.PROPOSAL_GENERATOR.NAME
        _check_mines("OHEM.RPN", "PROPOSAL_GENERATOR.NAME", name, PROPOSAL_GENERATOR_REGISTRY, OHEMRPNMixin)
    if OHEMRetinaNetOptions.from_config(cfg).enabled:
        name = model.META_ARCHITECTURE
        _check_mines("OHEM.RETINANET", "META_ARCHITECTURE", name, META_ARCH_REGISTRY, OHEMRetinaNetMixin)
    _check_cls_loss(cfg)
    _check_ignoring(cfg)
    _check_heads(cfg)
    check_testing(cfg)
    check_writable("OUTPUT_DIR", cfg.OUTPUT_DIR)


def _check_heads(cfg: CfgNode) -> None:
    """Check that the RoI heads are of the family that the rest of the config is for, and have a budget."""
    heads, name = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_HEADS.NAME
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if not (isinstance(architecture, type) and issubclass(architecture, GeneralizedRCNN)):
        return
    kind = ROI_HEADS_REGISTRY.get(name)
    is_res5, is_standard = (
        isinstance(kind, type) and issubclass(kind, family) for family in (Res5ROIHeads, StandardROIHeads)
    )
    if is_standard and not cfg.MODEL.ROI_BOX_HEAD.NAME:
        key, others = "MODEL.ROI_BOX_HEAD.NAME is '', as in configs of C4", Res5ROIHeads
    elif is_res5 and len(heads.IN_FEATURES) != 1:
        key, others = f"MODEL.ROI_HEADS.IN_FEATURES is {list(heads.IN_FEATURES)}", StandardROIHeads
    elif heads.BATCH_SIZE_PER_IMAGE < 1:
        number = heads.BATCH_SIZE_PER_IMAGE
        raise ValueError(f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is {number}; valid: an integer >= 1")
    else:
        return
    valid = ", ".join(_derived(ROI_HEADS_REGISTRY, others))
    raise ValueError(f"MODEL.ROI_HEADS.NAME is {name!r}, but {key}; valid heads: {valid}")


def _check_registered(key: str, name: str, registry: Registry) -> None:
    if name not in registry:
        raise KeyError(f"MODEL.{key} is {brief(name)}; valid: {', '.join(known for known, _ in registry)}")


def _check_cls_loss(cfg: CfgNode) -> None:
    """Check that the RoI heads can have another classification loss, if they have to."""
    options, name = ClsLossOptions.from_config(cfg), cfg.MODEL.ROI_HEADS.NAME
    able = _derived(ROI_HEADS_REGISTRY, OHEMMixin)
    if not options.is_plain and name not in able:
        raise ValueError(
            f"MODEL.CLS_LOSS.NAME is {options.name!r} and PRIOR {options.prior}, which MODEL.ROI_HEADS.NAME "
            f"{name!r} does not read; valid: {', '.join(able)}"
        )


def _warn_of_unread(options: OHEMOptions, name: str) -> None:
    """Log the first key of mining that is set for heads which do not mine."""
    for key, default in OHEMOptions.defaults().items():
        value = getattr(options, key.lower())
        if value != default and key != "VIS_PERIOD":  # it draws for any heads
            logger.warning(
                "MODEL.OHEM.%s is %r, but MODEL.ROI_HEADS.NAME %r does not mine; those that do: %s",
                key, value, name, ", ".join(_derived(ROI_HEADS_REGISTRY, OHEMMixin)),
            )  # fmt: skip
            return


def _check_ignoring(cfg: CfgNode) -> None:
    """Check that all that trains on RoIs or anchors can ignore some, if it has to."""
    model, section = cfg.MODEL, "IGNORE_REGIONS"
    if not IgnoreRegionsOptions.from_config(cfg).enabled:
        if DatasetOptions.from_config(cfg).voc_difficult == "ignore":
            raise ValueError(
                f"DATASETS.VOC_DIFFICULT is 'ignore' but MODEL.{section}.ENABLED is False; valid: True, or "
                "DATASETS.VOC_DIFFICULT 'drop'"
            )
        return
    architecture = META_ARCH_REGISTRY.get(model.META_ARCHITECTURE)
    if isinstance(architecture, type) and issubclass(architecture, RetinaNet):
        name, key = model.META_ARCHITECTURE, "META_ARCHITECTURE"
        _check_mines(section, key, name, META_ARCH_REGISTRY, OHEMRetinaNetMixin, "ignore regions")
        return
    name, key = model.PROPOSAL_GENERATOR.NAME, "PROPOSAL_GENERATOR.NAME"
    if name != "PrecomputedProposals":
        _check_mines(section, key, name, PROPOSAL_GENERATOR_REGISTRY, OHEMRPNMixin, "ignore regions")
    if architecture is not ProposalNetwork:
        name, key = model.ROI_HEADS.NAME, "ROI_HEADS.NAME"
        _check_mines(section, key, name, ROI_HEADS_REGISTRY, OHEMMixin, "ignore regions")


def _check_mines(
    section: str, key: str, name: str, registry: Registry, mixin: type, what: str = "mine"
) -> None:
    able = _derived(registry, mixin)
    if name not in able:
        raise ValueError(
            f"MODEL.{section}.ENABLED is True but MODEL.{key} is {name!r}, which cannot {what}; "
            f"valid: {', '.join(able)}"
        )


def _derived(registry: Registry, base: type) -> list[str]:
    return [name for name, cls in registry if isinstance(cls, type) and issubclass(cls, base)]


def _merge(cfg: CfgNode, source: str, merge) -> None:
    try:
        merge()
    except RecursionError:
        raise ValueError(f"{source}: nested too deep, or in itself") from None
    except _UnreadableError as error:
        raise ValueError(*error.args) from None
    except (AttributeError, TypeError, ValueError) as error:  # of values that have another type
        raise ValueError(f"{source}: {one_line(error)}") from None
    except (KeyError, AssertionError) as error:  # yacs raises either for an unknown key
        match = re.search(r"Non-existent (?:config )?key: ([\w.]+)", str(error))
        if not match:
            raise ValueError(f"{source}: {one_line(error)}") from None
        *section, key = match.group(1).split(".")
        raise KeyError(f"{source}: unknown key {match.group(1)}; {_valid_keys(cfg, section)}") from None


def _check_overrides(opts: Sequence[str]) -> None:
    """Check the form of a command line, before its keys."""
    for word in opts[::2]:
        if "=" in word:
            raise ValueError(f"command line: {word!r}; valid with a YAML config: KEY VALUE, not KEY=VALUE")
        if word.endswith((".yaml", ".yml", ".py")):
            raise ValueError(f"command line: {word!r} is no key; a config goes after --config-file")
    if len(opts) % 2:
        raise ValueError(f"command line: {opts[-1]!r} has no value; valid: KEY VALUE, any number of times")


def _valid_keys(cfg: CfgNode, section: Sequence[str]) -> str:
    node = cfg
    for name in section:
        if not isinstance(node, CfgNode) or name not in node:
            return f"there is no section {'.'.join(section)}"
        node = node[name]
    if list(section) == ["MODEL", "ROI_HEADS"]:
        return f"valid: {', '.join(node)}; hard example mining is set in MODEL.OHEM"
    return f"valid: {', '.join(node)}"


def present_device(key: str, device: str) -> str:
    """`device`; where it is CUDA and there is none, the CPU, with a warning that names `key`."""
    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    logger.warning("%s is %r, but there is no CUDA device: running on the CPU", key, device)
    return "cpu"


def check_writable(key: str, folder: str) -> None:
    """Create `folder`; raise OSError with the name of `key` unless files can be written to it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{key} {folder} cannot be written: {error.strerror}") from None
