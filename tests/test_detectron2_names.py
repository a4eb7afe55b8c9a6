"""Private names of other libraries that the package uses: all are in one table, and all exist."""

import ast
import importlib
import inspect
import pkgutil
import textwrap
from functools import cache
from pathlib import Path

import pytest
from detectron2.modeling import roi_heads

import ohem_d2

PACKAGE = Path(ohem_d2.__file__).parent
BOX_FORWARD = "modeling/box_forward.py"
EVAL_HOOK = "detectron2.engine.hooks:EvalHook"
VOC = "detectron2.evaluation:PascalVOCDetectionEvaluator"

# Name -> the module or class that has it, and the files of the package that use or override it.
TABLE = {
    "_DropoutNd": ("torch.nn.modules.dropout", ["mining/readonly.py"]),
    "__prepare_scriptable__": ("torch.jit._script", ["modeling/mixin.py"]),
    "_anno_file_template": (VOC, ["evaluation/voc_evaluation.py"]),
    "_LOCAL_PROCESS_GROUP": ("detectron2.utils.comm", ["engine/launch.py"]),
    "_class_names": (VOC, ["evaluation/voc_evaluation.py"]),
    "_create_proposals_from_boxes": ("detectron2.modeling.roi_heads:CascadeROIHeads", [BOX_FORWARD]),
    "_coco_api": ("detectron2.evaluation:COCOEvaluator", ["evaluation/coco_evaluation.py"]),
    "_derive_coco_results": (
        "detectron2.evaluation:COCOEvaluator",
        ["evaluation/coco_evaluation.py"],
    ),
    "_do_eval": (EVAL_HOOK, ["engine/preemption.py"]),
    "_do_evaluation": ("detectron2.evaluation:COCOEvaluator", ["evaluation/coco_evaluation.py"]),
    "_ema_update": (
        "detectron2.modeling.meta_arch.dense_detector:DenseDetector",
        ["modeling/retinanet.py"],
    ),
    "_exit": ("os", ["data/workers.py", "engine/preemption.py", "proposals/selective_search.py"]),
    "_file_handle": ("detectron2.utils.events:JSONWriter", ["engine/writers.py"]),
    "_func": (EVAL_HOOK, ["engine/trainer.py"]),
    "_get_builtin_metadata": ("detectron2.data.datasets.builtin_meta", ["data/builtin.py"]),
    "_image_set_path": (VOC, ["evaluation/voc_evaluation.py"]),
    "_load_file": ("fvcore.common.checkpoint:Checkpointer", ["utils/checkpoint.py"]),
    "_load_model": ("fvcore.common.checkpoint:Checkpointer", ["utils/checkpoint.py"]),
    "_match_and_label_boxes": ("detectron2.modeling.roi_heads:CascadeROIHeads", [BOX_FORWARD]),
    "_modules": ("torch.nn:Module", ["modeling/mixin.py"]),
    "_on_queue_feeder_error": ("multiprocessing.queues:Queue", ["data/workers.py"]),
    "_open_cfg": ("detectron2.config:CfgNode", ["engine/yaml_config.py"]),
    "_predictions": (VOC, ["evaluation/voc_evaluation.py"]),
    "_sample_proposals": ("detectron2.modeling.roi_heads:ROIHeads", [BOX_FORWARD]),
    "_run_stage": ("detectron2.modeling.roi_heads:CascadeROIHeads", [BOX_FORWARD]),
    "_shared_roi_transform": ("detectron2.modeling.roi_heads:Res5ROIHeads", [BOX_FORWARD]),
    "_transform_annotations": ("detectron2.data:DatasetMapper", ["data/regions.py"]),
    "_subsample_labels": ("detectron2.modeling.proposal_generator:RPN", ["modeling/rpn.py"]),
    "_Unpickler": ("pickle", ["utils/pickles.py", "utils/weights_files.py"]),
    "_train_loader_from_config": ("detectron2.data.build", ["data/loaders.py"]),
    "_trainer": (
        "detectron2.engine:DefaultTrainer",
        ["engine/base_trainer.py", "engine/lazy.py", "engine/trainer.py"],
    ),
    "_write_metrics": (
        "detectron2.engine:SimpleTrainer",
        ["engine/accumulation.py", "engine/finite_losses.py"],
    ),
}


def is_private(name):
    return name in TABLE or name.startswith("_") and not name.endswith("_")


@cache
def trees():
    """File of the package -> its syntax tree."""
    return {str(f.relative_to(PACKAGE)): ast.parse(f.read_text()) for f in PACKAGE.rglob("*.py")}


def is_on_self(node):
    return isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("self", "cls")


def defined(tree):
    """Functions, classes, variables of modules and of classes, and attributes set on ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif is_on_self(node) and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, (ast.Module, ast.ClassDef)):
            assignments = [s for s in node.body if isinstance(s, (ast.Assign, ast.AnnAssign))]
            names = [n for s in assignments for n in ast.walk(s) if isinstance(n, ast.Name)]
            yield from (n.id for n in names if isinstance(n.ctx, ast.Store))


def accessed(tree):
    """Attributes, also those in ``getattr(x, "name")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant))


def imported(tree):
    """Parts of the names that are imported from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from [*node.module.split("."), *(alias.name for alias in node.names)]


@cache
def tree_of(cls):
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # written in C
        return ast.Module([], [])


def names_of(cls):
    """What a class defines, in its body or on ``self``, without its bases."""
    return {*vars(cls), *defined(tree_of(cls))}


def inherited():
    """(name, file) of all that a class of the package shares with a base from another library."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "ohem_d2."):
        members = vars(importlib.import_module(module.name)).values()
        for cls in [c for c in members if isinstance(c, type) and c.__module__ == module.name]:
            own = [c for c in cls.__mro__ if c.__module__.split(".")[0] == "ohem_d2"]
            foreign = set().union(*(names_of(c) for c in cls.__mro__ if c not in own))
            for c in own:
                used = {*defined(tree_of(c)), *(n.attr for n in ast.walk(tree_of(c)) if is_on_self(n))}
                file = str(Path(inspect.getsourcefile(c)).relative_to(PACKAGE))
                yield from ((name, file) for name in used & foreign)


def test_every_private_name_of_another_library_is_in_the_table():
    own = {name for tree in trees().values() for name in defined(tree)} - set(TABLE)
    found = set(inherited())
    for file, tree in trees().items():
        found |= {(name, file) for name in [*imported(tree), *({*accessed(tree)} - own)]}
    # Hooks that another library calls are defined here, not accessed.
    found |= {(n, file) for file, tree in trees().items() for n in defined(tree) if n.endswith("__")}
    expected = {(name, file) for name, (_, files) in TABLE.items() for file in files}
    assert {(name, file) for name, file in found if is_private(name)} == expected


@pytest.mark.parametrize("name", TABLE)
def test_every_private_name_exists_in_the_installed_libraries(name):
    owner = pkgutil.resolve_name(TABLE[name][0])
    if isinstance(owner, type):
        assert any(name in names_of(cls) for cls in owner.__mro__)
    else:
        assert hasattr(owner, name) or name in inspect.getsource(owner)


def test_private_methods_of_roi_heads_are_used_in_one_file():
    heads = [cls for cls in vars(roi_heads).values() if isinstance(cls, type)]
    methods = {
        name
        for cls in heads
        for name in names_of(cls)
        if is_private(name) and callable(getattr(cls, name, 0))
    }
    assert {"_run_stage", "_forward_box", "_sample_proposals"} <= methods
    for file, tree in trees().items():
        if file != BOX_FORWARD:
            assert not methods & {*accessed(tree), *defined(tree)}, file
