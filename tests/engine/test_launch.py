"""Trainings whose processes torchrun or SLURM starts."""

import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from ohem_d2.engine import launch
from ohem_d2.engine.launch import Place, find_place

from ..toy import toy_options, write_toy

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}  # fmt: skip
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "1234567",
         "SLURM_JOB_NAME": "train", "SLURM_STEP_NODELIST": "gpu[03-04]",
         "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}  # fmt: skip


def test_no_launcher_no_place():
    assert find_place({}) is None
    assert find_place({"RANK": "0", "WORLD_SIZE": "1"}) is None  # of something else than torchrun


def test_torchrun_says_where_a_process_is():
    assert find_place(TORCHRUN) == Place("torchrun", 3, 4, 1, 2, "env://", 0)
    assert find_place({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}).num_restarts == 2


def test_slurm_says_where_a_process_is():
    # 1234567 mod 15000 = 4567.
    assert find_place(SLURM) == Place("srun", 5, 8, 1, 4, "tcp://gpu03:19567", 0)
    requeued = {**SLURM, "SLURM_RESTART_COUNT": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    assert find_place(requeued) == Place("srun", 5, 8, 1, 4, "tcp://10.0.0.1:4000", 1)


@pytest.mark.parametrize("eval_only", [False, True])
def test_what_is_started_again_resumes_but_tests_the_same_weights(monkeypatch, eval_only):
    """A test with --resume takes the last checkpoint in place of MODEL.WEIGHTS."""
    for name, value in {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "join", lambda place: None)
    monkeypatch.setattr(launch.dist, "destroy_process_group", lambda: None)
    args = Namespace(num_gpus=1, num_machines=1, resume=False, eval_only=eval_only)
    assert launch.launch_training(lambda args: args.resume, args) is not eval_only


def test_what_a_launcher_may_start_again_never_resumes_the_run_before(
    monkeypatch, load_script, tmp_path, caplog
):
    """The first attempt dies while it builds, before any checkpoint; the second resumes."""
    script = load_script("train_net.py")
    write_toy(tmp_path)
    output = tmp_path / "out"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_final.pth")

    def fail(cfg):
        raise ValueError("no such GPU")

    monkeypatch.setattr(script, "OHEMTrainer", fail)
    for name in ("default_setup", "setup_logger", "keep_tracebacks_off_console"):  # they outlive the test
        monkeypatch.setattr(script, name, lambda *args, **kwargs: None)
    config = ["--config-file", "configs/Base-FastRCNN-small.yaml"]
    options = [*toy_options(tmp_path), "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
    args = script.default_argument_parser().parse_args([*config, *options])
    for may_restart, left in ((False, ["last_checkpoint"]), (True, ["last_checkpoint.old"])):
        args.may_restart = may_restart
        with pytest.raises(SystemExit, match="no such GPU"):
            script.main(args)
        assert [file.name for file in output.glob("last_checkpoint*")] == left
    assert "renamed to .old: last_checkpoint" in caplog.text


def test_only_what_a_launcher_started_may_be_started_again(monkeypatch):
    args = Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="", resume=False, eval_only=False)
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    launch.launch_training(lambda args: None, args)
    assert args.may_restart is False
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "join", lambda place: None)
    monkeypatch.setattr(launch.dist, "destroy_process_group", lambda: None)
    launch.launch_training(lambda args: None, args)
    assert args.may_restart is True


@pytest.mark.parametrize("num_gpus, num_machines, forwards", [(1, 1, 0), (2, 1, 1), (1, 2, 1)])
def test_signals_reach_the_processes_that_are_started(monkeypatch, num_gpus, num_machines, forwards):
    """Detectron2 starts one also for the only GPU of one of several machines."""
    entered = []

    @contextmanager
    def forward_signals():
        entered.append(True)
        yield

    monkeypatch.setattr(launch, "forward_signals", forward_signals)
    monkeypatch.setattr(launch, "find_place", lambda env: None)
    monkeypatch.setattr(launch, "launch", lambda main, *args, **kwargs: None)
    launch.launch_training(
        None, Namespace(num_gpus=num_gpus, num_machines=num_machines, machine_rank=0, dist_url="auto")
    )
    assert len(entered) == forwards


@pytest.mark.parametrize("num_visible, device, local_size", [(1, 0, 1), (4, 3, 4)])
def test_where_a_process_sees_one_gpu_alone_that_is_its_first(monkeypatch, num_visible, device, local_size):
    """Detectron2 hands the rank among the processes of the machine to DDP as the number of the GPU."""
    begun, devices, groups = [], [], []
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: num_visible)
    monkeypatch.setattr(launch.torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(launch.dist, "rendezvous", lambda *args: iter([("store", 3, 4)]))
    monkeypatch.setattr(launch.dist, "PrefixStore", lambda prefix, store: store)
    monkeypatch.setattr(
        launch.dist, "init_process_group", lambda *args, **kw: begun.append((*args, kw["timeout"]))
    )
    monkeypatch.setattr(launch.dist, "new_group", lambda ranks: ranks)
    monkeypatch.setattr(launch.comm, "synchronize", lambda: None)
    monkeypatch.setattr(launch.comm, "_LOCAL_PROCESS_GROUP", None)
    monkeypatch.setattr(launch.comm, "create_local_process_group", groups.append, raising=False)
    launch.join(Place("srun", 3, 4, 3, 4, "tcp://node:1", 0))
    assert devices == [device] and groups == [local_size]
    assert begun == [("nccl", timedelta(minutes=30))]  # as Detectron2's launch: an evaluation may take long


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node7", "node7"),
        ("a1,a2", "a1"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("gpu[12,14]", "gpu12"),
        ("rack[1-2]-x,b", "rack1-x"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert find_place({**SLURM, "SLURM_STEP_NODELIST": nodes}).init_method == f"tcp://{first}:19567"


@pytest.mark.parametrize("changed", [{"SLURM_NTASKS": "1"}, {"SLURM_JOB_NAME": "bash"}])
def test_one_task_or_a_shell_joins_nothing(changed):
    assert find_place({**SLURM, **changed}) is None


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"SLURM_PROCID": "one"}, "SLURM_PROCID is 'one'; valid: a number"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4,3(x2)"}, "is '4,3(x2)'; valid: as many tasks on each node"),
        ({"SLURM_STEP_TASKS_PER_NODE": "3(x2)"}, "is '3(x2)'; valid: as many tasks on each node"),
        ({"SLURM_STEP_NODELIST": "[1-2]"}, "SLURM_STEP_NODELIST is '[1-2]'; valid: names of nodes"),
    ],
)
def test_variables_that_do_not_fit_are_named(changed, message):
    with pytest.raises(ValueError) as error:
        find_place({**SLURM, **changed})
    assert message in str(error.value)


# Whole trainings. An iteration has four images, however many processes there are.


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    write_toy(data)

    def train(name, *launcher, num=1, env=lambda rank: {}, opts=()):
        """Run train_net.py by `launcher`, in `num` processes of `env`; its output folder."""
        folder = tmp_path_factory.mktemp(name)
        settings = [
            *toy_options(data),
            *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder), "SEED", "1", "TEST.EVAL_PERIOD", "0"),
            *("DATASETS.TRAIN", "('toy_wide',)", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "6"),
            *("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.RANDOM_FLIP", "none", "MODEL.RESNETS.NORM", "FrozenBN"),
            *(
                "MODEL.ROI_HEADS.NAME",
                "OHEMROIHeads",
                "SOLVER.CHECKPOINT_PERIOD",
                "2",
                "SOLVER.STEPS",
                "(4,)",
            ),
        ]
        script = ["-m", "tests.engine.launched", folder, "--config-file", "configs/Base-FastRCNN-small.yaml"]
        command = [sys.executable, *launcher, *script, *settings, *opts]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(list(map(str, command)), cwd=ROOT, env={**environment, **env(rank)},
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for rank in range(num)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=300)[0] for process in started]
        assert all(process.returncode == 0 for process in started), "\n".join(outputs)[-3000:]
        return folder, "\n".join(outputs)

    return train


def torchrun(num, *more):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", num, *more]


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row]


def trained_boxes(folder):
    """{iteration: {image: its boxes, sorted}} over all processes."""
    merged = {}
    for file in sorted(folder.glob("rank*.pth")):
        for iteration, images in torch.load(file).items():
            for image, boxes in images:
                merged.setdefault(iteration, {})[image] = sorted(boxes.tolist())
    return merged


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


@pytest.fixture(scope="module")
def one(train):
    return train("one")[0]


def assert_trained_as(folder, one):
    assert losses(folder) == pytest.approx(losses(one), rel=1e-4) and losses(one)
    boxes, expected = trained_boxes(folder), trained_boxes(one)
    assert boxes.keys() == expected.keys() == set(range(6))
    for iteration, images in expected.items():
        assert boxes[iteration].keys() == images.keys() == set("abcd")
        for image, rows in images.items():
            torch.testing.assert_close(torch.tensor(boxes[iteration][image]), torch.tensor(rows))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(folder)[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_four_processes_of_torchrun_train_as_one(train, one):
    folder, output = train("four", *torchrun(4))
    assert_trained_as(folder, one)
    assert output.count("World size: 4") == output.count("Total training time") == 1  # of one process alone
    assert len(list(folder.glob("rank*.pth"))) == 4


def slurm(rank):
    return {**SLURM, "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(rank),
            "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
            "MASTER_PORT": "29517"}  # fmt: skip


@pytest.mark.slow
def test_two_tasks_of_slurm_train_as_one_process(train, one):
    """By a config for one process, which is scaled: twice the images and the rate, half the iterations."""
    opts = ("SOLVER.REFERENCE_WORLD_SIZE", "1", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.005",
            "SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "(8,)", "SOLVER.CHECKPOINT_PERIOD", "4")  # fmt: skip
    folder, _ = train("slurm", num=2, env=slurm, opts=opts)
    assert_trained_as(folder, one)


@pytest.mark.slow
def test_a_killed_worker_starts_all_again_from_the_last_checkpoint(train, one):
    whole, _ = train("whole", *torchrun(2))
    assert_trained_as(whole, one)
    killed, output = train("killed", *torchrun(2, "--max-restarts", 1), env=lambda rank: {"KILLED_AT": "4"})
    assert "exitcode: -9" in output
    assert trained_boxes(killed)[5] == trained_boxes(whole)[5]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(killed).items())


@pytest.mark.slow
def test_both_kinds_of_launch_are_refused():
    command = [sys.executable, "train_net.py", "--num-gpus", "2"]
    environment = {**os.environ, **TORCHRUN, "PYTHONPATH": str(ROOT)}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith(
        "torchrun starts the processes; --num-gpus and --num-machines: leave them out"
    )


@pytest.fixture
def fail(tmp_path):
    """Train in two processes of which the second fails: the ended command, and the seconds it took."""
    write_toy(tmp_path)

    def fail(fault):
        command = [sys.executable, "-m", "tests.engine.failing_process", "--num-gpus", "2"]
        config = ["--dist-url", "auto", "--config-file", "configs/Base-FastRCNN-small.yaml"]
        more = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.CHECKPOINT_PERIOD", "1",
                "MODEL.ROI_HEADS.NAME", "OHEMROIHeads"]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FAULT": fault,
                       "DETECTRON2_DATASETS": str(tmp_path)}  # fmt: skip
        run = subprocess.run(
            [*command, *config, *toy_options(tmp_path), *more],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        seconds = time.time() - float(re.search(r"failed at ([\d.]+)", run.stdout)[1])
        assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000001.pth"
        return run, seconds

    return fail


@pytest.mark.slow
def test_where_one_process_is_killed_the_others_end_soon(fail):
    run, seconds = fail("killed")
    assert run.returncode == 128 + 9 and seconds < 60  # 3 on a machine that does nothing else
    assert run.stderr.splitlines()[-1] == (
        "process 1 was killed (SIGKILL), and the others with it; --resume goes on from the last checkpoint"
    )


@pytest.mark.slow
def test_where_the_numbers_of_one_process_are_not_finite_it_names_its_images(fail, tmp_path):
    run, seconds = fail("nan")
    assert run.returncode == 1 and seconds < 60
    last = run.stderr.splitlines()[-1]
    assert last == "process 1 failed, and the others with it; its line above says why"
    (line,) = re.findall(r"^FloatingPointError: .*", run.stderr, re.MULTILINE)
    assert line.startswith("FloatingPointError: iteration 2, process 1: 32 of 32 losses are not finite")
    assert re.search(r"not finite: none of the weights; images of the batch: \S+/JPEGImages/\w+\.jpg ", line)
    assert line.endswith(f" (see {tmp_path}/run/log.txt.rank1)") and "Traceback" not in run.stderr
    assert "FloatingPointError" in (tmp_path / "run/log.txt.rank1").read_text()
