"""A CUDA device without a GPU: tensors in the memory of the CPU that may not meet those of the CPU.

Inside `pretended_cuda`, a tensor is "on cuda" if its storage carries a mark, which views share. Each ATen
operation, of the backward pass too, runs on the CPU after a look at where its arguments are; its results are
marked where these are. Python sees the device "cuda:0".

It finds operations on tensors of both devices and NumPy reading the device, and counts synchronisations:
copies between host and device, and operations whose output has a size that depends on values. It does not
find types and operations that CUDA has no kernel for, what its kernels compute, races, time and memory.
"""

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch._dynamo  # autograd imports it at its first use, which fails once torch.cuda is patched
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MARK = "is_on_pretended_cuda"

# May have arguments on both devices.
MOVING = {"aten::copy_", "aten::_to_copy", "aten::set_"}
INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
}
# Take no scalar tensor of the CPU beside those of the GPU, as arithmetic does.
STRICT = ("aten::cat", "aten::stack", "aten::gather", "aten::index_select", "aten::scatter",
          "aten::masked_select", "torchvision::")  # fmt: skip
# Their output has a size that depends on values: the host waits for it.
SIZED_BY_VALUES = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
                   "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave",
                   "torchvision::nms"}  # fmt: skip
# Methods by which Python reads values.
READS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__contains__"}


def is_on_cuda(tensor: torch.Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), MARK, False)


def mark(tree):
    """Put the tensors in `tree` on the pretended device, and return it."""
    for tensor in tensors_of(tree):
        with torch._C.DisableTorchFunction():
            setattr(tensor.untyped_storage(), MARK, True)
    return tree


def tensors_of(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Kernels(TorchDispatchMode):
    """Checks where the arguments of each operation are, and marks its results."""

    def __init__(self, syncs: Counter):
        super().__init__()
        self.syncs = syncs
        self.num_calls = 0  # operations on the device
        self.is_copying = False  # between the devices
        self.is_called_with_cuda = (
            False  # the Python call that the operation belongs to has arguments on the device
        )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name
        if self.is_copying:
            return func(*args, **kwargs)
        given = tensors_of((args, kwargs))
        on_cuda = [x for x in given if is_on_cuda(x)]
        if on_cuda and name not in MOVING:
            self._check(name, args, given, len(on_cuda))
        self._count(name, args, bool(on_cuda))
        result = func(*args, **kwargs)
        in_backward = torch._C._current_autograd_node() is not None
        is_new = not given and (self.is_called_with_cuda or in_backward)
        return mark(result) if (on_cuda or is_new) and name not in ("aten::copy_", "aten::set_") else result

    def _check(self, name, args, given, num_cuda):
        free = tensors_of(args[1]) if name in INDEXING else ()  # indices may be on the CPU
        wrong = [
            x
            for x in given
            if not is_on_cuda(x)
            and not any(x is y for y in free)
            and (x.dim() > 0 or name.startswith(STRICT))
        ]
        if wrong:
            raise RuntimeError(
                f"{name}: expected all tensors on the same device, found {num_cuda} on cuda:0 and "
                f"{len(wrong)} on cpu"
            )

    def _count(self, name, args, is_on_device):
        if not is_on_device:
            return
        self.num_calls += 1
        if name in SIZED_BY_VALUES or (name in INDEXING and self._waits_for_mask(args)):
            self.syncs[name] += 1

    @staticmethod
    def _waits_for_mask(args) -> bool:
        has_mask = any(x.dtype in (torch.bool, torch.uint8) for x in tensors_of(args[1]))
        is_filled_in = len(args) > 2 and args[2].numel() == 1  # a scalar, by the mask itself
        return has_mask and not is_filled_in


class Python(TorchFunctionMode):
    """What Python says and hears of devices."""

    def __init__(self, kernels: Kernels):
        super().__init__()
        self.kernels, self.syncs = kernels, kernels.syncs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        tensor = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if name == "__get__" and tensor is not None:
            return self._attribute(func, args, kwargs)
        if name in ("cuda", "cpu") and tensor is not None:
            return self._move(tensor, name == "cuda")
        if name in ("numpy", "__array__") and is_on_cuda(tensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name in READS and tensor is not None and is_on_cuda(tensor):
            self.syncs[name] += 1
        target, args = self._target(name, args, kwargs)
        with mock.patch.object(
            self.kernels, "is_called_with_cuda", name != "to" and self._has_cuda(args, kwargs)
        ):
            result = func(*args, **kwargs)
        if target is None:
            target = name in ("new_tensor", "__deepcopy__") and is_on_cuda(tensor)
            if not target:
                return result
        if name in ("tensor", "as_tensor", "new_tensor") and target and result.dim() > 0:
            self.syncs["copy to the device"] += 1
        return self._move(result, target) if name == "to" else mark(result) if target else result

    @staticmethod
    def _has_cuda(args, kwargs) -> bool:
        return any(map(is_on_cuda, tensors_of((args, kwargs))))

    @staticmethod
    def _attribute(func, args, kwargs):
        if func.__self__ is torch.Tensor.device:
            return CUDA if is_on_cuda(args[0]) else CPU
        if func.__self__ is torch.Tensor.is_cuda:
            return is_on_cuda(args[0])
        return func(*args, **kwargs)

    @staticmethod
    def _target(name, args, kwargs):
        """Whether the result is to be on the device (None: it is not said), and the arguments for the CPU."""
        target = None
        if name == "to":
            args = list(args)
            for i, value in enumerate(args[1:], start=1):
                if isinstance(value, (str, torch.device)):
                    target, args[i] = torch.device(value).type == "cuda", CPU
                elif isinstance(value, torch.Tensor):
                    target, args[i] = is_on_cuda(value), value.dtype
        if kwargs.get("device") is not None:
            target, kwargs["device"] = torch.device(kwargs["device"]).type == "cuda", CPU
        return target, args

    def _move(self, tensor, to_cuda: bool):
        if is_on_cuda(tensor) == to_cuda:
            return tensor
        self.syncs["copy to the device" if to_cuda else "copy to the host"] += 1
        with mock.patch.object(self.kernels, "is_copying", True):
            copy = tensor.clone()
        return mark(copy) if to_cuda else copy


class Autocast(torch.autocast):
    """Autocast of the pretended device: the CPU's, with the default type of CUDA."""

    def __init__(self, device_type, dtype=None, **kwargs):
        super().__init__("cpu", dtype or (torch.float16 if device_type == "cuda" else None), **kwargs)


class Event:
    def __init__(self, **kwargs):
        pass

    def record(self):
        pass

    synchronize = record

    def elapsed_time(self, other):
        return 1.0


@contextmanager
def pretended_cuda():
    """Inside, PyTorch has one CUDA device; gives the `Kernels`, which count calls and synchronisations."""

    def nothing(*args, **kwargs):
        return None

    def zero(*args, **kwargs):
        return 0

    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *args: "pretended",
        "get_device_capability": lambda *args: (9, 0),
        "Event": Event,
        "get_rng_state": lambda *args: torch.get_rng_state(),
        "set_rng_state": lambda state, *args: torch.set_rng_state(state),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "max_memory_reserved"), zero),
        **dict.fromkeys(
            ("synchronize", "empty_cache", "reset_peak_memory_stats", "manual_seed_all"), nothing
        ),
        "set_sync_debug_mode": nothing,
    }
    kernels = Kernels(Counter())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **fakes))
        stack.enter_context(mock.patch.object(torch, "autocast", Autocast))
        stack.enter_context(Python(kernels))
        stack.enter_context(kernels)
        yield kernels
