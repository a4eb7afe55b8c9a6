"""What turns the source archive of Detectron2 0.6 into a pure-Python build for current dependencies.

Data alone, used by install_detectron2.py. The archive holds the Python files of the official v0.6 tag without
its C++ and CUDA sources. So it gets a build recipe of its own and a stand-in for the compiled extension, and
a few lines are changed, each for a stated reason.
"""

from typing import NamedTuple

NAME, VERSION = "pb1-detectron2", "0.6"
ARCHIVE_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


class Substitution(NamedTuple):
    """Replace `old` by `new` in `file` of the archive, where it occurs exactly `count` times."""

    file: str
    count: int
    why: str
    old: str
    new: str


PYPROJECT = """\
[build-system]
requires = ["setuptools>=61", "wheel"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "0.6"
description = "detectron2 v0.6 without its C++/CUDA extension, patched for current dependencies"
license = {text = "Apache-2.0"}
requires-python = ">=3.8"
dependencies = [
  "Pillow>=7.1", "matplotlib", "pycocotools>=2.0.2", "termcolor>=1.1", "yacs>=0.1.8", "tabulate",
  "cloudpickle", "tqdm>4.29.0", "tensorboard", "fvcore>=0.1.5,<0.1.6", "iopath>=0.1.7",
  "omegaconf>=2.1", "hydra-core>=1.1",
]

[tool.setuptools]
include-package-data = false

[tool.setuptools.packages.find]
include = ["detectron2*"]
namespaces = false

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""

# Packages that the official setup.py maps into detectron2.projects.
PROJECTS = {
    "point_rend": "projects/PointRend/point_rend",
    "deeplab": "projects/DeepLab/deeplab",
    "panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}

STUB_C = '''\
"""Stand-in for the compiled extension, which this build does not have.

A real `_C.*.so` beside this file takes precedence over it in Python's import order.
"""
import torch

IS_STUB = True


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name} is not available: this detectron2 was built without its C++/CUDA "
        "extension (rotated boxes / RoIAlignRotated / rotated NMS, deformable convolution and the "
        "fast COCO evaluation need it)."
    )


# The one operator that detectron2.layers calls through torch.ops, also from TorchScript.
_lib = torch.library.Library("detectron2", "DEF")
_lib.define("nms_rotated(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_lib.impl("nms_rotated", lambda *args: __getattr__("nms_rotated"), "CompositeExplicitAutograd")
'''

SUBSTITUTIONS = [
    # compiled extension made optional
    Substitution(
        "detectron2/evaluation/fast_eval_api.py", 1,
        "no _C: the official pycocotools evaluation in its place",
        old='"COCOeval_opt.accumulate() finished in {:0.2f} seconds.".format(toc - tic))\n',
        new=(
            '"COCOeval_opt.accumulate() finished in {:0.2f} seconds.".format(toc - tic))\n'
            '\n\nif getattr(_C, "IS_STUB", False):\n'
            "    COCOeval_opt = COCOeval\n"
        ),
    ),
    Substitution(
        "detectron2/evaluation/coco_evaluation.py", 1,
        "so that the log names the evaluation that is really used",
        old="        self._use_fast_impl = use_fast_impl\n",
        new="        self._use_fast_impl = use_fast_impl and COCOeval_opt is not COCOeval\n",
    ),
    Substitution(
        "detectron2/utils/collect_env.py", 1,
        "report the stand-in as absent instead of asking it for compiler versions",
        old="        import detectron2._C as _C\n",
        new=(
            "        import detectron2._C as _C\n"
            '\n        if getattr(_C, "IS_STUB", False):\n'
            '            raise ImportError("pure-Python build, no extension")\n'
        ),
    ),
    # caffe2, gone from torch
    Substitution(
        "detectron2/export/__init__.py", 1,
        "so that TracingAdapter, scripting_with_instances and detectron2.utils.analysis import",
        old="from .api import *\n",
        new=(
            "try:\n"
            "    from .api import *\n"
            "except ImportError:  # caffe2 is no longer part of torch\n"
            "    pass\n"
        ),
    ),
    # NumPy >= 1.24 and 2.x
    Substitution(
        "detectron2/data/datasets/pascal_voc.py", 1, "np.str removed",
        old="dtype=np.str)",
        new="dtype=str)",
    ),
    Substitution(
        "detectron2/data/build.py", 2, "np.int removed",
        old="dtype=np.int",
        new="dtype=int",
    ),
    Substitution(
        "detectron2/evaluation/sem_seg_evaluation.py", 2, "np.int removed",
        old="dtype=np.int)",
        new="dtype=int)",
    ),
    Substitution(
        "detectron2/evaluation/sem_seg_evaluation.py", 5, "np.float removed",
        old="np.float)",
        new="float)",
    ),
    Substitution(
        "detectron2/evaluation/pascal_voc_evaluation.py", 2, "np.bool absent in NumPy 1.24 to 1.26",
        old="np.bool)",
        new="bool)",
    ),
    Substitution(
        "detectron2/structures/masks.py", 3, "np.bool absent in NumPy 1.24 to 1.26",
        old="np.bool)",
        new="bool)",
    ),
    Substitution(
        "detectron2/utils/visualizer.py", 3, "np.bool absent in NumPy 1.24 to 1.26",
        old="np.bool)",
        new="bool)",
    ),
    Substitution(
        "detectron2/utils/video_visualizer.py", 1, "np.bool absent in NumPy 1.24 to 1.26",
        old="np.bool)",
        new="bool)",
    ),
    Substitution(
        "detectron2/layers/mask_ops.py", 1, "NumPy 2: copy=False raises when a copy is needed",
        old="np.array(mask, copy=False)",
        new="np.asarray(mask)",
    ),
    # Pillow >= 10
    Substitution(
        "detectron2/data/transforms/transform.py", 1, "removed in Pillow 10 (import-time failure)",
        old="Image.LINEAR",
        new="Image.BILINEAR",
    ),
    # setuptools >= 81
    Substitution(
        "detectron2/model_zoo/model_zoo.py", 1, "pkg_resources removed",
        old="import pkg_resources\n",
        new="",
    ),
    Substitution(
        "detectron2/model_zoo/model_zoo.py", 1, "pkg_resources removed",
        old=(
            "pkg_resources.resource_filename(\n"
            '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
            "    )"
        ),
        new=(
            "os.path.join(\n"
            '        os.path.dirname(os.path.abspath(__file__)), "configs", config_path\n'
            "    )"
        ),
    ),
    # Python >= 3.11
    Substitution(
        "detectron2/data/common.py", 1,
        "random.sample no longer takes a set (reached when a mapper returns None; same as main)",
        old="self._rng.sample(self._fallback_candidates, k=1)",
        new="self._rng.sample(list(self._fallback_candidates), k=1)",
    ),
    # torch >= 2.0
    Substitution(
        "detectron2/engine/hooks.py", 2,
        "torch's own schedulers are not _LRScheduler since 2.0: their state was neither saved nor loaded",
        old="lr_scheduler._LRScheduler)",
        new="lr_scheduler.LRScheduler)",
    ),
    Substitution(
        "detectron2/solver/lr_scheduler.py", 3, "private alias kept only for compatibility",
        old="lr_scheduler._LRScheduler)",
        new="lr_scheduler.LRScheduler)",
    ),
    Substitution(
        "detectron2/solver/build.py", 1, "private alias kept only for compatibility",
        old="lr_scheduler._LRScheduler:",
        new="lr_scheduler.LRScheduler:",
    ),
    Substitution(
        "detectron2/projects/deeplab/build_solver.py", 1, "private alias kept only for compatibility",
        old="lr_scheduler._LRScheduler:",
        new="lr_scheduler.LRScheduler:",
    ),
    Substitution(
        "detectron2/projects/deeplab/lr_scheduler.py", 1, "private alias kept only for compatibility",
        old="lr_scheduler._LRScheduler)",
        new="lr_scheduler.LRScheduler)",
    ),
    Substitution(
        "detectron2/utils/comm.py", 1, "typed storages are deprecated",
        old=(
            "    storage = torch.ByteStorage.from_buffer(buffer)\n"
            "    tensor = torch.ByteTensor(storage).to(device=device)\n"
        ),
        new="    tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device=device)\n",
    ),
    # multi-process runs on a machine without a GPU
    Substitution(
        "detectron2/engine/launch.py", 1,
        "processes on CPU talk through gloo, as on Detectron2's main branch",
        old=(
            "    assert torch.cuda.is_available(), "
            '"cuda is not available. Please check your installation."\n'
        ),
        new="    has_gpu = torch.cuda.is_available()\n",
    ),
    Substitution(
        "detectron2/engine/launch.py", 1,
        "processes on CPU talk through gloo, as on Detectron2's main branch",
        old='            backend="NCCL",\n',
        new='            backend="NCCL" if has_gpu else "GLOO",\n',
    ),
    Substitution(
        "detectron2/engine/launch.py", 1,
        "processes on CPU talk through gloo, as on Detectron2's main branch",
        old=(
            "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
            "    torch.cuda.set_device(local_rank)\n"
        ),
        new=(
            "    if has_gpu:\n"
            "        assert num_gpus_per_machine <= torch.cuda.device_count()\n"
            "        torch.cuda.set_device(local_rank)\n"
        ),
    ),
    Substitution(
        "detectron2/engine/defaults.py", 1, "DDP refuses device_ids for a CPU module (main still has this)",
        old='    if "device_ids" not in kwargs:\n',
        new='    if "device_ids" not in kwargs and next(model.parameters()).is_cuda:\n',
    ),
    # warnings at each call
    Substitution(
        "detectron2/modeling/anchor_generator.py", 1, "torch.meshgrid warns without indexing",
        old="torch.meshgrid(shifts_y, shifts_x)",
        new='torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
    Substitution(
        "detectron2/engine/train_loop.py", 1, "torch.cuda.amp.GradScaler deprecated",
        old=(
            "            from torch.cuda.amp import GradScaler\n"
            "\n            grad_scaler = GradScaler()\n"
        ),
        new=(
            "            from torch.amp import GradScaler\n"
            '\n            grad_scaler = GradScaler("cuda")\n'
        ),
    ),
    Substitution(
        "detectron2/engine/train_loop.py", 1, "torch.cuda.amp.autocast deprecated",
        old="        from torch.cuda.amp import autocast\n",
        new="        from torch import autocast\n",
    ),
    Substitution(
        "detectron2/engine/train_loop.py", 1, "torch.cuda.amp.autocast deprecated",
        old="        with autocast():\n",
        new='        with autocast("cuda"):\n',
    ),
]  # fmt: skip
