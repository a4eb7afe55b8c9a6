"""The processes of a training: started here, or by torchrun or SLURM's srun, which are joined."""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT, launch
from detectron2.utils import comm

from .preemption import forward_signals

__all__ = ["launch_training"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
# Names of SLURM jobs in which a person types commands; what they start is one process.
_INTERACTIVE = ("bash", "interactive", "sh", "zsh")
_FIRST_PORT, _NUM_PORTS = 15000, 15000


@dataclass(frozen=True)
class Place:
    """Of this process among those that a launcher started."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int  # among those of this machine
    local_size: int
    init_method: str
    num_restarts: int  # of the whole, by the launcher


def launch_training(main: Callable[[Namespace], Any], args: Namespace) -> Any:
    """Run `main` of `args` in each process of the training.

    A process that torchrun or srun started joins the others. Else ``args.num_gpus`` processes are started on
    each of ``args.num_machines``, as in Detectron2. What a launcher started again, after a failure or a
    requeue, resumes.

    Args:
        main: takes `args`, with ``may_restart``: whether a launcher may start the process again.
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        SystemExit: settings of both kinds of launch, or of a launcher that do not fit; says which.
    """
    try:
        place = find_place(os.environ)
        if place is not None and (args.num_gpus, args.num_machines) != (1, 1):
            raise ValueError(
                f"{place.launcher} starts the processes; --num-gpus and --num-machines: leave them out"
            )
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    args.may_restart = place is not None
    if place is None:
        machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank}
        with forward_signals() if args.num_gpus * args.num_machines > 1 else nullcontext():
            return launch(main, args.num_gpus, **machines, dist_url=args.dist_url, args=(args,))
    args.resume = args.resume or (place.num_restarts > 0 and not args.eval_only)
    join(place)
    try:
        return main(args)
    finally:
        dist.destroy_process_group()


def find_place(env: Mapping[str, str]) -> Place | None:
    """The place that torchrun or srun gave this process; None if neither started it, or it alone.

    Variables of SLURM: those of the step, as PyTorch Lightning and submitit read them. MASTER_ADDR and
    MASTER_PORT are taken where they are set; else the first node, and a port that follows from the job.

    Raises:
        ValueError: a variable that is no number, or nodes of different numbers of tasks.
    """
    if all(name in env for name in _TORCHRUN):
        rank, size, local_rank, local_size = (_number(env, name) for name in _TORCHRUN[:4])
        restarts = _number(env, "TORCHELASTIC_RESTART_COUNT", 0)
        return Place("torchrun", rank, size, local_rank, local_size, "env://", restarts)
    if not all(name in env for name in _SLURM) or env.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return None
    rank, size, local_rank, job = (_number(env, name) for name in _SLURM)
    if size == 1:
        return None
    address = env.get("MASTER_ADDR") or _first_node(env)
    port = _number(env, "MASTER_PORT", _FIRST_PORT + job % _NUM_PORTS)
    restarts = _number(env, "SLURM_RESTART_COUNT", 0)
    url = f"tcp://{address}:{port}"
    return Place("srun", rank, size, local_rank, _tasks_per_node(env, size), url, restarts)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = env.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"the environment variable {name} is {value!r}; valid: a number") from None


def _first_node(env: Mapping[str, str]) -> str:
    """The first of nodes such as ``gpu[03-05,9],login1``."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    name = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    if name is None:
        raise ValueError(f"the environment variable SLURM_STEP_NODELIST is {nodes!r}; valid: names of nodes")
    return "".join(part or "" for part in name.groups())


def _tasks_per_node(env: Mapping[str, str], num_tasks: int) -> int:
    """The tasks of each node, from a list such as ``4(x2)``; without the list all are on one node."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = env.get(name) or env.get("SLURM_TASKS_PER_NODE") or str(num_tasks)
    sizes = {int(size) for size in re.findall(r"(?:^|,)(\d+)(?=$|,|\()", text)}
    if len(sizes) != 1 or num_tasks % max(sizes):
        raise ValueError(f"the environment variable {name} is {text!r}; valid: as many tasks on each node")
    return sizes.pop()


def join(place: Place) -> None:
    """Make this process one of those of the training, as Detectron2's `launch` does."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    store, rank, world_size = next(dist.rendezvous(place.init_method, place.rank, place.world_size))
    # torchrun keeps its store when it starts all again: without a prefix, addresses of the dead are found.
    store = dist.PrefixStore(f"attempt{place.num_restarts}", store)
    backend = "nccl" if has_gpu else "gloo"
    here = {"store": store, "rank": rank, "world_size": world_size}
    dist.init_process_group(backend, timeout=DEFAULT_TIMEOUT, **here)
    # Detectron2 takes the rank among those of the machine for the number of the GPU.
    local_size = 1 if has_gpu and torch.cuda.device_count() == 1 else place.local_size
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
    else:  # Detectron2 0.6
        for first in range(0, place.world_size, local_size):
            group = dist.new_group(list(range(first, first + local_size)))
            if first <= place.rank < first + local_size:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
