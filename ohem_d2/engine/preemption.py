"""Stopping a training by a signal, with a checkpoint from which it can be resumed."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.checkpoint import Checkpointer
from detectron2.engine.hooks import EvalHook, HookBase
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

__all__ = ["EXIT_CODE", "ResumableEvalHook", "StopOnSignal", "forward_signals"]

logger = logging.getLogger(__name__)

# Of a run that a signal stopped and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again".
EXIT_CODE = 75

# Seconds: what sends a signal to a group of processes and to each of them sends it twice.
_SECOND_SIGNAL = 1.0

# For other processes to save what is theirs.
_PATIENCE = timedelta(seconds=30)

# Windows has no SIGUSR1.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


class StopOnSignal(HookBase):
    """Ends the training after the iteration in which SIGTERM, SIGUSR1 or SIGINT arrives.

    A checkpoint is saved, one line says how to go on, and the process exits with `EXIT_CODE`. A second signal
    ends the process at once. Several processes stop after the same iteration if any of them gets a signal.
    Signals are left alone where the training does not run in the main thread.
    """

    def __init__(self, checkpointer: Checkpointer):
        """Save with `checkpointer`, whose checkpoints have the state of the trainer."""
        self._checkpointer = checkpointer
        self._received, self._time = "", 0.0  # name of the signal
        self._is_interruptible = False
        self.has_stopped = False
        self._handlers: dict[int, Any] = {}
        self._process = os.getpid()
        self._group: dist.ProcessGroup | None = None
        self._exchange: tuple[dist.Work, torch.Tensor] | None = None

    def before_train(self) -> None:
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def after_step(self) -> None:
        if self._is_to_stop():
            self._stop()

    def after_train(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block after an iteration that a signal leaves at once; every process must enter it."""
        if self._group is not None:
            self._exchange = self._begin_exchange()
        if self._is_to_stop():
            self._stop()
        self._is_interruptible = True
        try:
            yield
        except _Interrupted:
            self._is_interruptible = False
            self._stop()
        finally:
            self._is_interruptible = False

    def _stop(self) -> None:
        """Save a checkpoint and exit."""
        self.has_stopped = True
        done = self.trainer.iter + 1
        if (
            done <= self.trainer.max_iter
        ):  # else the last checkpoint is there, and the last evaluation was cut
            self._checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        logger.warning(
            "%s: stopped after %d of %d iterations; --resume goes on (exit code %d)",
            self._received or "A signal to another process",
            min(done, self.trainer.max_iter), self.trainer.max_iter, EXIT_CODE,
        )  # fmt: skip
        self._await_others()
        raise SystemExit(EXIT_CODE)

    def _await_others(self) -> None:
        """Wait, for a while, until all processes are here: when one exits, launchers end the others."""
        if self._group is not None:
            try:
                dist.barrier(group=self._group, async_op=True).wait(_PATIENCE)
            except RuntimeError as error:
                logger.debug("Stopped without another process: %s", error)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a worker that was forked: its parent ends it
            return
        name, now = signal.Signals(number).name, time.monotonic()
        if not self._received:
            self._received, self._time = name, now
            if self._is_interruptible:
                raise _Interrupted
        elif now - self._time > _SECOND_SIGNAL:
            print(f"{name}, the second signal: stopped at once", file=sys.stderr, flush=True)
            os._exit(128 + number)

    def _is_to_stop(self) -> bool:
        """Whether a process got a signal; of several, as they told each other after the iteration before."""
        if self._group is None:
            return bool(self._received)
        told, self._exchange = self._exchange, self._begin_exchange()
        if told is None:
            return False
        told[0].wait()
        return bool(told[1])

    def _begin_exchange(self) -> tuple[dist.Work, torch.Tensor]:
        received = torch.tensor(int(bool(self._received)))
        return dist.all_reduce(received, dist.ReduceOp.MAX, group=self._group, async_op=True), received


class _Interrupted(BaseException):
    """A signal came in a block that it may leave."""


class ResumableEvalHook(EvalHook):
    """`EvalHook` that a signal stops at once; the resumed run evaluates first, then goes on training."""

    def __init__(self, period: int, function: Callable[[], Any], stop: StopOnSignal):
        """Extend `EvalHook`, whose arguments come first; `stop` gets the signals."""
        super().__init__(period, function)
        self._stop, self._every = stop, period
        self._num_iterations = 0  # before the last evaluation

    def before_step(self) -> None:
        trainer = self.trainer
        done = trainer.start_iter
        is_due = self._every > 0 and 0 < done < trainer.max_iter and done % self._every == 0
        if trainer.iter == done and is_due and self._num_iterations < done:
            logger.info("The checkpoint is older than the evaluation after %d iterations", done)
            trainer.iter = trainer.storage.iter = done - 1  # the figures stand where they would have stood
            self._do_eval()
            trainer.iter = trainer.storage.iter = done

    def after_train(self) -> None:
        if not self._stop.has_stopped:  # by a signal in the last iteration
            super().after_train()

    def state_dict(self) -> dict[str, int]:
        return {"num_iterations": self._num_iterations}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._num_iterations = state["num_iterations"]

    def _do_eval(self) -> None:
        with self._stop.interruptible():
            super()._do_eval()
        self._num_iterations = self.trainer.iter + 1


@contextmanager
def forward_signals() -> Iterator[None]:
    """A block that starts training processes: they get its signals; it exits as the first of them."""

    def forward(number: int, frame: Any) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)

    handlers = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code != EXIT_CODE:
            told = "failed, and the others with it; its line above says why"
            if error.exit_code < 0:
                killed = f"was killed ({signal.Signals(-error.exit_code).name})"
                told = f"{killed}, and the others with it; --resume goes on from the last checkpoint"
            print(f"process {error.error_index} {told}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
