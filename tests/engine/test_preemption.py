"""Signals that stop a training: what is saved, what is said, how the run goes on."""

import ast
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from ohem_d2.engine import OHEMTrainer
from ohem_d2.engine.preemption import EXIT_CODE, forward_signals
from ohem_d2.utils.metrics import read_metrics

from .test_resume import assert_same, make_cfg, train  # noqa: F401 (make_cfg is a fixture)

TEST = ("DATASETS.TEST", "('toy_wide',)", "TEST.EVAL_PERIOD", "5", "SEED", "3")


class Signalled(OHEMTrainer):
    """Gets a signal in the step of an iteration, or in the evaluation after it."""

    number, in_step, in_test = signal.SIGTERM, None, None

    def run_step(self):
        super().run_step()
        if self.iter == self.in_step:
            os.kill(os.getpid(), self.number)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        cls.num_tests += 1
        if cls.num_tests == cls.in_test:
            os.kill(os.getpid(), cls.number)
        return results


def signalled(**attributes):
    return type("Signalled", (Signalled,), {"num_tests": 0, **attributes})


def stopped(cfg, trainer_class, **kwargs):
    with pytest.raises(SystemExit) as stop:
        train(cfg, trainer_class=trainer_class, **kwargs)
    assert stop.value.code == EXIT_CODE == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_after_its_iteration_with_a_checkpoint(make_cfg, caplog, number):  # noqa: F811
    cfg, before = make_cfg("run"), signal.getsignal(number)
    stopped(cfg, signalled(in_step=1, number=number))
    assert signal.getsignal(number) == before
    told = f"{number.name}: stopped after 2 of 7 iterations; --resume goes on (exit code 75)"
    assert caplog.text.count(told) == 1
    trainer = OHEMTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2


def test_an_evaluation_stops_at_once_and_is_made_when_the_run_goes_on(make_cfg):  # noqa: F811
    cfg, ends = make_cfg("run", *TEST), []

    class Ending(signalled(in_test=1)):
        @classmethod
        def test(cls, *args):
            results = super().test(*args)
            ends.append(cls)
            return results

    stopped(cfg, Ending)
    assert ends == []  # the signal came at the end of the evaluation, which did not return
    again = signalled()
    resumed = train(cfg, resume=True, trainer_class=again)
    assert resumed.start_iter == 5 and again.num_tests == 2  # the one that was cut, and the last
    whole = train(make_cfg("whole", *TEST))
    tested = [[i for _, i in t.storage.history("bbox/AP").values()] for t in (resumed, whole)]
    assert tested == [[4, 7], [4, 7]]
    assert_same(resumed, whole)
    once = signalled()
    train(cfg, resume=True, trainer_class=once)
    assert once.num_tests == 1


def test_the_evaluation_of_a_resumed_run_stops_as_any_other(make_cfg):  # noqa: F811
    cfg = make_cfg("run", *TEST)
    stopped(cfg, signalled(in_test=1))
    stopped(cfg, signalled(in_test=1), resume=True)
    again = signalled()
    assert train(cfg, resume=True, trainer_class=again).start_iter == 5 and again.num_tests == 2


def test_the_loss_over_all_rois_is_measured_before_an_evaluation_that_stops(make_cfg, tmp_path):  # noqa: F811
    stopped(make_cfg("run", *TEST, "TEST.ROI_LOSS.PERIOD", "5"), signalled(in_test=1))
    rows = read_metrics(tmp_path / "run/metrics.json")
    assert [row["iteration"] for row in rows if "ohem/all_roi_loss" in row] == [4]


def test_a_signal_before_an_evaluation_is_heeded_before_it(make_cfg):  # noqa: F811
    trainer = signalled(in_step=4)
    stopped(make_cfg("run", *TEST), trainer)
    assert trainer.num_tests == 0


def test_of_a_training_that_is_done_only_the_last_evaluation_is_made_again(make_cfg, tmp_path):  # noqa: F811
    cfg = make_cfg("run", *TEST)
    stopped(cfg, signalled(in_test=2))
    again = signalled()
    resumed = train(cfg, resume=True, trainer_class=again)
    assert resumed.images == [] and again.num_tests == 1
    rows = read_metrics(tmp_path / "run/metrics.json")
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [4, 7]  # as without a stop


def test_a_signal_in_the_last_iteration_stops_once_and_leaves_its_figures(make_cfg, tmp_path, caplog):  # noqa: F811
    cfg, saved = make_cfg("run", *TEST), []

    class Saving(signalled(in_step=6)):
        def build_hooks(self):
            hooks, save = super().build_hooks(), self.checkpointer.save
            self.checkpointer.save = lambda name, **kwargs: saved.append(name) or save(name, **kwargs)
            return hooks

    stopped(cfg, Saving)
    assert saved.count("model_0000006") == 1 and Saving.num_tests == 1
    assert caplog.text.count("stopped after 7 of 7 iterations") == 1
    rows = read_metrics(tmp_path / "run/metrics.json")
    assert "total_loss" in rows[-1] and rows[-1]["iteration"] == 6
    again = signalled()
    assert train(cfg, resume=True, trainer_class=again).images == [] and again.num_tests == 1


def test_a_final_checkpoint_that_a_kill_prevented_is_written(make_cfg, tmp_path):  # noqa: F811
    cfg = make_cfg("run", "SOLVER.MAX_ITER", "3")
    train(cfg)
    (tmp_path / "run/model_final.pth").unlink()
    resumed = train(cfg, resume=True)
    final = torch.load(tmp_path / "run/model_final.pth", weights_only=True)
    assert resumed.images == [] and final["iteration"] == final["trainer"]["iteration"] == 2
    assert torch.equal(
        final["model"]["roi_heads.box_head.fc1.bias"], resumed.model.roi_heads.box_head.fc1.bias
    )


def test_where_the_training_is_in_another_thread_signals_are_left_alone(make_cfg):  # noqa: F811
    """Python allows handlers in the main thread alone."""
    cfg, trained = make_cfg("run", "SOLVER.MAX_ITER", "1"), []
    thread = threading.Thread(target=lambda: trained.append(train(cfg)))
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join(120)
    assert len(trained) == 1 and signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_stops_at_once(make_cfg, tmp_path):  # noqa: F811
    twice = f"""
import os, signal, time
from ohem_d2.engine import OHEMTrainer, load_config
from tests.engine.test_resume import train
from tests.toy import toy_options
class Twice(OHEMTrainer):
    def run_step(self):
        super().run_step()
        if self.iter == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # at the same time: one signal
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
options = [*toy_options({str(tmp_path)!r}), "OUTPUT_DIR", {str(tmp_path / "run")!r}]
train(load_config("configs/Base-FastRCNN-small.yaml", options), trainer_class=Twice)
"""
    done = subprocess.run([sys.executable, "-c", twice], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert "SIGTERM, the second signal: stopped at once" in done.stderr
    assert not list((tmp_path / "run").glob("*.pth"))


def wait_and_exit(rank, folder):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / str(rank)).touch()
    time.sleep(60)


def launcher(folder):
    with forward_signals():
        torch.multiprocessing.spawn(wait_and_exit, (folder,), nprocs=2)


def test_processes_get_the_signals_of_their_parent_and_it_exits_as_they_do(tmp_path):
    process = torch.multiprocessing.get_context("spawn").Process(target=launcher, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 75


@pytest.mark.parametrize(
    "code, told", [(-9, "process 1 was killed (SIGKILL), and the others with it; "), (75, "")]
)
def test_a_process_that_was_killed_is_named(capsys, code, told):
    with pytest.raises(SystemExit) as stop, forward_signals():
        raise ProcessExitedException("of PyTorch", error_index=1, error_pid=123, exit_code=code)
    assert stop.value.code == (137 if told else 75)  # as shells have it: 128 + 9
    assert capsys.readouterr().err == (told and f"{told}--resume goes on from the last checkpoint\n")


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_not():
    kills = subprocess.run(
        [sys.executable, "-m", "tests.engine.kills", "--kills", "5"], capture_output=True, text=True
    )
    result = ast.literal_eval(kills.stdout.splitlines()[-1])
    assert result == {"kills": 5, "runs": result["runs"], "tensors that differ": 0, "temporary files": 0}
