"""Runs as jobs: a stand-in for the queue, and submitit's local executor with the toy of tests/toy.py."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("submitit", reason="needs submitit")

from ohem_d2.comparison import (
    JobLauncher,
    Stopped,
    Sweep,
    Variant,
    jobs,
    make_runs,
    parse_parameters,
    read_records,
)
from ohem_d2.comparison.children import end_with_children, stop_children
from tests.toy import toy_options, write_toy


class Job:
    """Is done after some looks at it."""

    def __init__(self, job_id, looks=1, result=None, error=None):
        self.job_id, self.looks, self.answer, self.error = job_id, looks, result, error
        self.cancelled, self.paths = False, SimpleNamespace(stderr="job.err")

    def done(self, force_check=False):
        self.looks -= 1
        return self.looks < 0

    def result(self):
        if self.error:
            raise self.error
        return self.answer

    def cancel(self):
        self.cancelled = True


class Queue:
    """Stands in for the executor: `known` are the jobs that are waiting or over."""

    def __init__(self, *new):
        self.new, self.known, self.submitted, self.folder = list(new), {}, [], "jobs"

    def submit(self, function, *arguments):
        self.submitted.append(arguments)
        return self.new.pop(0)

    def job_class(self, folder, job_id):
        assert folder == "jobs"
        return self.known[job_id]


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_POLL", 0.01)
    return JobLauncher(tmp_path / "jobs", "local", {})


def test_a_run_is_a_job_of_which_the_folder_tells(launcher, tmp_path):
    launcher._executor = queue = Queue(Job("7", 3, {"figures": {}}))
    assert launcher("c.yaml", 1, tmp_path / "a", ("K", "V"), gpu="3") == {"figures": {}}
    assert queue.submitted == [("c.yaml", 1, tmp_path / "a", ["K", "V"], False)]
    assert json.loads((tmp_path / "a/job.json").read_text()) == {"job_id": "7"}


def test_a_job_that_another_process_left_is_waited_for_and_one_that_is_over_is_queued_again(
    launcher, tmp_path
):
    launcher._executor = queue = Queue(Job("8", 1, "new"))
    jobs.write_json(tmp_path / "a/job.json", {"job_id": "7"})
    queue.known["7"] = Job("7", 3, "left")
    assert launcher("c.yaml", 1, tmp_path / "a", ()) == "left" and queue.submitted == []
    queue.known["7"] = Job("7", 0)
    assert launcher("c.yaml", 1, tmp_path / "a", ()) == "new"


def test_a_run_that_is_done_is_not_queued_again(launcher, tmp_path):
    launcher._executor = queue = Queue()
    done = {"figures": {"bbox/AP": 1.0}, "options": ["c.yaml", 1, "K", "V"]}
    jobs.write_json(tmp_path / "a/result.json", done)
    jobs.write_json(tmp_path / "a/job.json", {"job_id": "7"})
    queue.known["7"] = Job("7", 0)
    assert launcher("c.yaml", 1, tmp_path / "a", ("K", "V")) == done and queue.submitted == []
    with pytest.raises(ValueError, match="was made with"):
        launcher("c.yaml", 1, tmp_path / "a", ("K", "W"))


def test_a_job_that_failed_is_told_with_its_log(launcher, tmp_path):
    launcher._executor = Queue(Job("7", error=RuntimeError("Traceback\n  File x\nValueError: bad\n")))
    with pytest.raises(RuntimeError, match="^.*/a: job 7 failed; job.err ends: ValueError: bad$"):
        launcher("c.yaml", 1, tmp_path / "a", ())


def test_a_signal_cancels_the_jobs_and_queues_no_other(launcher, tmp_path):
    waiting = Job("7", 10**9)
    launcher._executor = queue = Queue(waiting)
    with end_with_children():
        threading.Timer(0.1, stop_children).start()
        with pytest.raises(Stopped, match="job 7 was cancelled"):
            launcher("c.yaml", 1, tmp_path / "a", ())
        with pytest.raises(Stopped, match="before it was queued"):
            launcher("c.yaml", 1, tmp_path / "b", ())
    assert waiting.cancelled and len(queue.submitted) == 1


def test_parameters_are_words_and_numbers():
    assert parse_parameters(["timeout_min=240", "slurm_partition=gpu", "slurm_comment=a=b"]) == {
        "timeout_min": 240, "slurm_partition": "gpu", "slurm_comment": "a=b",
    }  # fmt: skip
    with pytest.raises(ValueError, match="^'gpu' is no parameter; valid: KEY=VALUE"):
        parse_parameters(["gpu"])


def test_what_submitit_refuses_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="^--launcher local: .*'partion'"):
        JobLauncher(tmp_path, "local", {"partion": "gpu"})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="^--launcher slurm: "):
        JobLauncher(tmp_path, "slurm", {})
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "ohem_d2\[slurm\]"$'):
        JobLauncher(tmp_path, "slurm", {})


def processes_below(pid):
    """Ids of a process's children, and of theirs."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            yield int(file.parent.name)
            yield from processes_below(int(file.parent.name))


def preempt(console, job_file):
    """When the training has begun, tell the job's task that it has to end, as SLURM does."""
    deadline = time.time() + 120
    while time.time() < deadline and not (console.exists() and "Starting training" in console.read_text()):
        time.sleep(0.05)
    task = next(processes_below(int(json.loads(job_file.read_text())["job_id"])))
    os.kill(task, signal.SIGUSR2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_job_that_is_preempted_is_queued_again_and_ends(tmp_path, monkeypatch):
    write_toy(tmp_path)
    long = ("SOLVER.MAX_ITER", "150", "SOLVER.STEPS", "(100,)", "DATASETS.TEST", "('toy_wide',)")
    runs = make_runs(
        "configs/Base-FastRCNN-small.yaml", [Variant("a")], [0], opts=[*toy_options(tmp_path), *long]
    )
    output = tmp_path / "out"
    launcher = JobLauncher(output / "jobs", "local", {})
    console, job_file = output / "a/seed0/console.txt", output / "a/seed0/job.json"
    thread = threading.Thread(target=preempt, args=(console, job_file), daemon=True)
    thread.start()
    assert Sweep(runs, output, launch=launcher).train() == []
    thread.join()
    text = console.read_text()
    assert "SIGTERM: stopped after" in text and text.count("Starting training from iteration") == 2
    assert "Starting training from iteration 0" in text
    assert text.count("Starting training from iteration 0\n") == 1  # the second goes on
    (row,) = read_records(output / "results.json")
    assert "bbox/AP" in row["figures"] and row["folder"] == "a/seed0"
