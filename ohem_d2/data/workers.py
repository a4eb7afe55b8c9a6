"""Loader workers that fail: no training waits for them for ever, and one line says what to do."""

import errno
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, queues
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

__all__ = ["WatchedLoader", "worker_errors_explained"]

# Exit codes of a worker that cannot hand an image over: EX_IOERR and EX_SOFTWARE of sysexits.h.
_NO_ROOM, _NOT_SENT = 74, 70

_SHARED_MEMORY = Path("/dev/shm")

# Looks at the workers in the time of a timeout.
_TICKS = 10

# State of a process in /proc/PID/stat -> what it means.
_STATES = {
    "T": "is stopped (SIGSTOP)",
    "t": "is stopped by a debugger",
    "D": "waits for a disk or a network",
}


class WatchedLoader(DataLoader):
    """A `DataLoader` that ends its workers where they send nothing for some time.

    Iterating then raises a RuntimeError that says what the workers do. Workers leave signals to their
    process, and end with it.
    """

    def __init__(self, *args: Any, num_workers: int = 0, timeout: float = 0, **kwargs: Any) -> None:
        """Extend `DataLoader`; `timeout` is in seconds, 0: none, and not used without workers."""
        options = {"worker_init_fn": _start_worker} if num_workers else {}
        super().__init__(*args, num_workers=num_workers, **options, **kwargs)
        self._patience = timeout

    @classmethod
    def of(cls, loader: DataLoader, timeout: float) -> "WatchedLoader":
        """A loader of the same batches."""
        options = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn, "timeout": timeout}
        return cls(loader.dataset, batch_sampler=loader.batch_sampler, **options)

    def __iter__(self) -> Iterator[Any]:
        others = set(active_children())
        try:
            samples = super().__iter__()
        except OSError as error:
            if error.errno != errno.ENOSPC:  # semaphores are in shared memory
                raise
            raise RuntimeError(f"the loader workers cannot start: {_no_room()}") from None
        workers = set(active_children()) - others
        if not workers:
            yield from samples
            return
        watch = _Watch(workers, self._patience)
        try:
            yield from watch.watched(samples)
        finally:
            watch.is_over.set()


class _Watch:
    """Ends workers where the wait for a sample of theirs is too long.

    PyTorch's own timeout does not end the wait for a worker that was stopped before it handed over a tensor.
    Time counts while this process runs: not where a whole job is stopped and goes on.
    """

    def __init__(self, workers: set[BaseProcess], patience: float):
        """Begin to watch; `patience` is in seconds."""
        self.is_over = threading.Event()
        self._workers, self._patience = workers, patience
        self._changes = 0  # odd: the process waits
        self._told = ""
        if patience:
            threading.Thread(target=self._run, daemon=True).start()

    def watched(self, samples: Iterator[Any]) -> Iterator[Any]:
        """`samples`; RuntimeError where the workers were ended."""
        while True:
            self._changes += 1
            try:
                sample = next(samples)
            except StopIteration:
                return
            except Exception as error:
                if self._told:
                    with suppress(RuntimeError):  # of PyTorch's handler, which raises one alone
                        _join(self._workers)
                    _join(self._workers)
                    raise RuntimeError(
                        f"no image from the {len(self._workers)} loader workers for {self._patience:g} "
                        f"seconds (DATALOADER.TIMEOUT; 0 waits for ever): {self._told}"
                    ) from None
                if isinstance(error, (ConnectionError, EOFError, FileNotFoundError)):
                    self._raise_if_dead()
                raise
            self._changes += 1
            yield sample

    def _raise_if_dead(self) -> None:
        """Raise what PyTorch raises for a dead worker: it passes on the error of the broken connection."""
        ended = wait([worker.sentinel for worker in self._workers], timeout=5)
        for worker in [worker for worker in self._workers if worker.sentinel in ended]:
            worker.join()
            if code := worker.exitcode:
                killed = f"is killed by signal: {signal.strsignal(-code)}"
                how = killed if code < 0 else f"exited unexpectedly with exit code {code}"
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) {how}") from None

    def _run(self) -> None:
        seen, ticks = 0, 0
        while not self.is_over.wait(self._patience / _TICKS):
            is_same = seen == self._changes and seen % 2 == 1
            seen, ticks = self._changes, ticks + 1 if is_same else 0
            if ticks == _TICKS:
                self._told = _describe(self._workers)
                for worker in self._workers:
                    worker.kill()  # a stopped one heeds no other signal, and Python would wait at its exit
                return


def _describe(workers: set[BaseProcess]) -> str:
    """What workers do that send nothing."""
    states = {worker.pid: _STATES.get(_state(worker.pid)) for worker in workers}
    told = [f"worker {pid} {state}" for pid, state in sorted(states.items()) if state]
    return ", ".join(told) or "none is stopped; reading an image takes longer, or does not end"


def _state(pid: int | None) -> str:
    """The letter of a process's state; "" where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _join(workers: set[BaseProcess]) -> None:
    """Wait for workers that were killed, without the error that PyTorch's handler of SIGCHLD raises."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    for worker in workers:
        worker.join()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def _start_worker(worker: int) -> None:
    """Prepare a worker for what can go wrong."""
    _ignore_signals()
    queues.Queue._on_queue_feeder_error = staticmethod(_end_unable_to_send)


def _ignore_signals() -> None:
    """Leave it to the training process to stop: a worker that dies of the same signal would fail it.

    Only SIGTERM of that process ends the worker, as PyTorch and Python end workers at their exit.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _end_unable_to_send(error: Exception, sample: Any) -> None:
    """End the worker, whose sample Python would drop; its process would wait for it for ever."""
    print(f"loader worker {os.getpid()} cannot send an image: {error}", file=sys.stderr, flush=True)
    os._exit(_NO_ROOM if "shared memory" in str(error) else _NOT_SENT)


@contextmanager
def worker_errors_explained() -> Iterator[None]:
    """A block in which the error that PyTorch raises for a worker that died says what to do.

    PyTorch raises it as soon as the worker is dead, wherever the process then is.
    """
    try:
        yield
    except RuntimeError as error:
        if (told := _explanation(f"{error} {error.__cause__ or ''}")) is None:
            raise
        raise RuntimeError(told) from None


def _explanation(error: str) -> str | None:
    """What to do about an error of PyTorch and its cause; None if it is not of a worker that died."""
    died = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited)", error)
    if died is None:
        return None
    if "Bus error" in error or f"exit code {_NO_ROOM}" in error:
        return f"loader worker {died[1]} could not hand an image over: {_no_room()}"
    if f"exit code {_NOT_SENT}" in error:
        return f"loader worker {died[1]} could not hand an image over, for the reason that it told above"
    by = re.search(r"killed by signal: ([\w ]+)", error)
    how = f"was killed ({by[1].strip()})" if by else "ended without a word"
    return (
        f"loader worker {died[1]} {how}. The system kills what takes too much memory: lower "
        "DATALOADER.NUM_WORKERS; --resume goes on from the last checkpoint"
    )


def _no_room() -> str:
    """What to do where workers have no room."""
    room = shutil.disk_usage(_SHARED_MEMORY) if _SHARED_MEMORY.exists() else None
    size = f" ({room.free >> 20} of {room.total >> 20} MiB are free)" if room else ""
    return (
        f"shared memory, {_SHARED_MEMORY}, is too small{size}. Enlarge it (docker run --shm-size=8g), lower "
        "DATALOADER.NUM_WORKERS, or load with none: DATALOADER.NUM_WORKERS 0"
    )
