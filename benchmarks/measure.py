"""Measures time, memory, operations and host-device synchronisations of a training iteration."""

import json
import os
import platform
import re
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ohem_d2  # before Detectron2, whose FutureWarnings it keeps off the console

# isort: split
import detectron2
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ohem_d2.mining import suppression
from ohem_d2.utils.revision import read_revision

# Operations that synchronise host and device, since the host needs their value or the size of their result.
SYNCING = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "torchvision::nms",
)
# Beside views, operations that launch no kernel.
_NO_LAUNCH = (
    *("aten::empty", "aten::new_empty", "aten::_local_scalar_dense"),
    *("aten::detach", "aten::lift_fresh", "prim::"),
)
# Operations that synchronise when an index is boolean.
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")

# Stage of mining -> its function, as (module, attribute).
STAGES = {
    "label": ("ohem_d2.modeling.mixin", "label_candidates"),
    "read-only pass": ("ohem_d2.modeling.mixin", "candidate_losses"),
    "select, statistics": ("ohem_d2.modeling.mixin", "mine_candidates"),
}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def time_in_turns(
    steps: dict[str, Callable], device: str, repeats: int, warmup: int
) -> dict[str, dict[str, Any]]:
    """Time the steps, by CUDA events on a GPU; they take turns, so that drift affects all alike.

    Returns:
        for each step, in milliseconds, ``ms`` (median) and ``spread`` (10th and 90th percentile).
    """
    for _ in range(warmup):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(_milliseconds(step, device))
    return {name: {"ms": statistics.median(ms), "spread": _spread(ms)} for name, ms in times.items()}


def _milliseconds(step: Callable, device: str) -> float:
    synchronize(device)
    if not device.startswith("cuda"):
        start = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _spread(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[int(q * (len(ordered) - 1))] for q in (0.1, 0.9)]


def peak_memory(step: Callable, device: str) -> dict[str, Any]:
    """Peak memory of one iteration in MiB, above what is allocated between iterations.

    On CUDA by the caching allocator, with ``reserved MiB``; on the CPU by PyTorch's profiler.
    """
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        synchronize(device)
        peak = torch.cuda.max_memory_allocated() - before
        return {"memory MiB": peak / 2**20, "reserved MiB": torch.cuda.max_memory_reserved() / 2**20}
    peak_cpu_bytes(step)  # the profiler sees a block freed only if it saw it allocated: here, the gradients
    return {"memory MiB": peak_cpu_bytes(step) / 2**20}


def peak_cpu_bytes(run: Callable) -> int:
    """Peak number of bytes that PyTorch's CPU allocator holds during `run`, above those before it."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    peak = now = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


class OperationCounter(TorchDispatchMode):
    """Counts the ATen and torchvision operations that run inside, and those that synchronise on CUDA.

    NMS takes the code path of CUDA, also on the CPU.
    """

    def __init__(self):
        super().__init__()
        self.counts: Counter = Counter()
        self.num_syncing = self.num_launches = 0

    def __enter__(self):
        self._patches = ExitStack()
        self._patches.enter_context(
            mock.patch.object(torch.Tensor, "tolist", self._counted(torch.Tensor.tolist))
        )
        self._patches.enter_context(
            mock.patch.object(suppression, "_group_by_group", suppression._all_at_once)
        )
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.counts[name] += 1
        self.num_launches += not (func.is_view or name.startswith(_NO_LAUNCH))
        self.num_syncing += name in SYNCING or self._synchronises(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _synchronises(self, name, args, kwargs) -> bool:
        if name in _INDEXING:
            if len(args) > 2 and args[2].numel() == 1:  # a scalar is filled in by the mask itself
                return False
            return any(index is not None and index.dtype == torch.bool for index in args[1])
        if name == "aten::lift_fresh":  # a tensor from Python numbers, which is copied to the device
            return args[0].dim() > 0
        return name == "aten::repeat_interleave" and kwargs.get("output_size") is None

    def _counted(self, tolist):
        def counted(tensor):  # on the CPU it runs no ATen operation
            self.num_syncing += 1
            return tolist(tensor)

        return counted


class TrafficCounter(TorchDispatchMode):
    """Counts the bytes of the tensors that each kernel reads and writes, by what the kernel does."""

    KINDS = {
        "products": ("aten::convolution", "aten::mm", "aten::addmm", "aten::bmm"),
        "pooling": ("torchvision::roi_align", "torchvision::roi_pool"),
    }

    def __init__(self):
        super().__init__()
        self.bytes: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func._schema.name
        if not (func.is_view or name.startswith(_NO_LAUNCH)):
            kinds = (kind for kind, names in self.KINDS.items() if name in names)
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
            self.bytes[next(kinds, "the rest")] += sum(x.numel() * x.element_size() for x in tensors)
        return result


def count_operations(step: Callable, device: str) -> dict[str, float]:
    """``GFLOP``, ``ATen calls``, ``launches`` and ``syncs`` of an iteration.

    Launches are the calls that start kernels: no views, no allocations. On the CPU, syncs are those that CUDA
    would have.
    """
    with FlopCounterMode(display=False) as flops, OperationCounter() as counter:
        step()
    syncs = counter.num_syncing
    if device.startswith("cuda"):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        syncs = sum("synchroniz" in str(w.message) for w in caught)
    return {
        "GFLOP": flops.get_total_flops() / 1e9,
        "ATen calls": sum(counter.counts.values()),
        "launches": counter.num_launches,
        "syncs": syncs,
    }


def stage_times(step: Callable, device: str, repeats: int = 5) -> dict[str, float]:
    """Mean milliseconds of the stages of mining, each synchronised before and after: compare their shares."""
    spent: Counter = Counter()
    with ExitStack() as stack:
        for stage, (module, name) in STAGES.items():
            stack.enter_context(_timed(module, name, stage, spent, device))
        for _ in range(repeats):
            spent["whole step"] += _milliseconds(step, device)
    return {stage: ms / repeats for stage, ms in spent.items()}


@contextmanager
def _timed(module: str, name: str, stage: str, spent: Counter, device: str):
    original = getattr(__import__(module, fromlist=[name]), name)

    def timed(*args, **kwargs):
        synchronize(device)
        start = time.perf_counter()
        result = original(*args, **kwargs)
        synchronize(device)
        spent[stage] += 1000 * (time.perf_counter() - start)
        return result

    with mock.patch(f"{module}.{name}", timed):
        yield


def environment() -> dict[str, str]:
    """Hardware and versions, for a results file."""
    info = Path("/proc/cpuinfo")
    cpus = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    cpu = cpus[0] if cpus else platform.machine()
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cpu": f"{cpu} ({os.cpu_count()} cores, {torch.get_num_threads()} thread(s))",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "ohem_d2": ohem_d2.__version__,
    }


def write_report(results: dict[str, Any], file: Path | None) -> None:
    """Write `results` with command, commit, hardware and versions as JSON, unless `file` is None."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        made = {"command": " ".join(["python", *sys.argv]), "code": read_revision()}
        report = {**made, "environment": environment(), **results}
        file.write_text(json.dumps(report, indent=1) + "\n")
