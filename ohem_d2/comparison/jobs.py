"""Runs as jobs of SLURM, through submitit; its local executor runs the same jobs on this machine."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from ..utils.text_files import read_json
from .children import Stopped, end_with_children, is_stopping, stop_children, wait_for_children
from .runs import is_done, run_once, write_json

__all__ = ["JobLauncher", "RunJob", "parse_parameters"]

_POLL = 1.0  # seconds between two looks at a job
# Unless the user says otherwise: minutes of a job, and how often one that was too short is queued again.
_DEFAULTS = {"timeout_min": 24 * 60, "name": "ohem_d2"}
_MAX_REQUEUES = 100


class RunJob:
    """`run_once` as a job, which saves a checkpoint and is queued again when it is preempted or times out."""

    def __call__(self, *args: Any) -> dict[str, Any]:
        # In a thread, so that `checkpoint`, which is called in a signal handler, can wait for it.
        with end_with_children(), ThreadPoolExecutor(1) as pool:
            return pool.submit(run_once, *args).result()

    def checkpoint(self, *args: Any) -> Any:
        """Called by submitit when the job has to end; what it returns is queued."""
        from submitit.helpers import DelayedSubmission

        stop_children()
        wait_for_children()
        return DelayedSubmission(RunJob(), *args)


class JobLauncher:
    """Makes a run as a job and waits for it; called from any thread, like `run_once`.

    The job is named in the run's folder: another process that wants the same run, after this one was killed,
    waits for it instead of queueing a second. A signal to this process cancels the jobs.
    """

    def __init__(self, folder: Path, cluster: str, parameters: Mapping[str, Any]):
        """Prepare a queue.

        Args:
            folder: for the files of submitit.
            cluster: "slurm" or "local".
            parameters: of submitit's ``AutoExecutor.update_parameters``.

        Raises:
            ImportError: there is no submitit.
            ValueError: an unknown parameter, or no SLURM.
        """
        if find_spec("submitit") is None:
            raise ImportError('jobs need submitit: pip install "ohem_d2[slurm]"')
        import submitit  # an extra

        limits = {f"{cluster}_max_num_timeout": _MAX_REQUEUES}
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, **limits)
            self._executor.update_parameters(**{**_DEFAULTS, **parameters})
        except (NameError, TypeError, RuntimeError) as error:
            raise ValueError(f"--launcher {cluster}: {error}") from None
        self._lock = Lock()

    def __call__(
        self,
        config: str,
        seed: int,
        folder: Path,
        opts: Sequence[str],
        eval_only: bool = False,
        gpu: str = "",
    ) -> dict[str, Any]:
        """As `run_once`; the job has the GPUs that its parameters ask for, not `gpu`."""
        if not eval_only and is_done(folder):
            return run_once(config, seed, folder, opts)  # what was made before
        job = self._waiting(folder) or self._submit(folder, (config, seed, folder, list(opts), eval_only))
        while not job.done():
            if is_stopping():
                job.cancel()
                raise Stopped(f"job {job.job_id} was cancelled")
            time.sleep(_POLL)
        try:
            record: dict[str, Any] = job.result()
        except RuntimeError as error:
            last = (str(error).strip().splitlines() or [""])[-1]
            raise RuntimeError(
                f"{folder}: job {job.job_id} failed; {job.paths.stderr} ends: {last}"
            ) from None
        return record

    def _submit(self, folder: Path, arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            if is_stopping():
                raise Stopped("stopped before it was queued")
            job = self._executor.submit(RunJob(), *arguments)
        write_json(folder / "job.json", {"job_id": job.job_id})
        return job

    def _waiting(self, folder: Path) -> Any:
        """The job of another process that has this run and is not over; None: there is none."""
        file = folder / "job.json"
        if not file.exists():
            return None
        job_id = read_json(file)["job_id"]
        job = self._executor.job_class(folder=self._executor.folder, job_id=job_id)
        return None if job.done(force_check=True) else job


def parse_parameters(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words; a value that is a number becomes one.

    Raises:
        ValueError: a word without "=".
    """
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word!r} is no parameter; valid: KEY=VALUE, as timeout_min=240")
    pairs = (word.split("=", 1) for word in words)
    return {key: int(value) if value.isdecimal() else value for key, value in pairs}
