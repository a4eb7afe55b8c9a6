"""tools/compare.py with runs that are made in no time, and once with a training that is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("scipy", reason="needs SciPy")

from ohem_d2.comparison import Stopped
from tests.toy import toy_options, write_toy

ROOT = Path(__file__).resolve().parents[2]
ARMS = ["--base", "base.yaml", "--arm", "plain", "--arm", "ohem", "GAIN", "5"]


@pytest.fixture
def compare(load_script, tmp_path, monkeypatch):
    """The script in an empty folder; `made` are the runs that it made, `failing` those that it cannot."""
    script = load_script("tools/compare.py")
    script.made, script.failing = [], {}

    def make(config, seed, folder, opts, eval_only, gpu):
        script.made.append((str(folder), tuple(opts)))
        if str(folder) in script.failing:
            raise script.failing[str(folder)]
        ap = 20.0 + seed + (5 if "GAIN" in opts else 0)
        run = {"arm": "base", "seed": seed, "environment": {"torch": "2"}, "test_settings": {}}
        return {**run, "figures": {"bbox/AP": ap}, "curve": [[100, ap]]}

    def try_all(runs, output, jobs, count, num_iterations=0):
        script.tried = num_iterations
        if wrong := [run.arm for run in runs if "WRONG" in run.opts]:
            raise ValueError("\n".join(f"{arm}: unknown key WRONG" for arm in wrong))
        schedule = {"SOLVER.MAX_ITER": 100, "SOLVER.STEPS": [], "TEST.EVAL_PERIOD": 0}
        seconds = {"seconds_per_iteration": 0.5, "start_seconds": 10.0, "test_seconds": 15.0}
        trial = {"schedule": schedule, "weights": "w", "images": "i", **seconds}
        tested = {run.arm: {"TEST.KEY": 1 if "TEST.KEY" in run.opts else 0} for run in runs}
        return {(run.data, run.arm): {**trial, "test_settings": tested[run.arm]} for run in runs}

    monkeypatch.setattr(script, "run_once", make)
    monkeypatch.setattr(script, "try_all", try_all)
    monkeypatch.chdir(tmp_path)
    return script


def folders(script):
    return [folder for folder, _ in script.made]


def test_it_ends_with_a_sentence_to_act_on(compare, capsys):
    compare.main([*ARMS, "--seeds", "0", "1", "2", "--output", "out", "--margin", "1"])
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith(
            "ohem +5.0 [5.0, 5.0] AP over plain; 3 seeds. ohem loses less than 1 AP against plain: shown."
        )
    )
    assert folders(compare) == [f"out/{arm}/seed{seed}" for seed in range(3) for arm in ("plain", "ohem")]
    assert compare.tried == 0 and Path("out/report.html").exists()


def test_another_call_with_other_arms_keeps_the_rows(compare, capsys):
    compare.main([*ARMS, "--output", "out"])
    compare.main(["--base", "base.yaml", "--arm", "third", "GAIN", "5", "--seeds", "1", "--output", "out"])
    rows = json.loads(Path("out/results.json").read_text())
    assert [(row["arm"], row["seed"]) for row in rows] == [("plain", 0), ("ohem", 0), ("third", 1)]


def test_a_run_that_failed_is_named_at_the_end_and_the_others_have_their_table(compare, capsys):
    compare.failing["out/ohem/seed1"] = RuntimeError("out/ohem/seed1 failed with exit status 1; console.txt")
    with pytest.raises(
        SystemExit, match="^compare.py: out/ohem/seed1 failed with exit status 1; console.txt$"
    ):
        compare.main([*ARMS, "--seeds", "0", "1", "2", "--output", "out"])
    assert "| ohem | plain | 2 | +5.0 [5.0, 5.0]" in capsys.readouterr().out


def test_what_was_stopped_has_no_table_and_exit_code_75(compare, capsys):
    compare.failing["out/plain/seed0"] = Stopped("by a signal")
    with pytest.raises(SystemExit) as stop:
        compare.main([*ARMS, "--output", "out"])
    assert stop.value.code == 75
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith("compare.py: stopped; the same command goes on\n")


def test_a_budget_plans_seeds_and_is_kept(compare, caplog):
    # A seed of two arms takes 2 * 75 s; 9 in 10 of 1,010 s are 6 of them.
    caplog.set_level("INFO")
    compare.main([*ARMS, "--output", "out", "--budget", "1010s"])
    assert compare.tried == compare.TRIAL_ITERATIONS
    assert folders(compare)[-1] == "out/ohem/seed5" and len(compare.made) == 12
    assert "Plan: 6 seeds x 2 configs" in caplog.text and "(as on BCCD" in caplog.text
    compare.main([*ARMS, "--output", "out", "--budget", "2000s"])  # the plan stays
    assert folders(compare)[12:] == folders(compare)[:12] and compare.tried == 0
    compare.main([*ARMS, "--output", "out", "--seeds", "6", "7"])
    assert folders(compare)[24:] == [f"out/{arm}/seed{s}" for s in (6, 7) for arm in ("plain", "ohem")]


def test_a_shortened_schedule_is_that_of_later_seeds_too(compare):
    compare.main([*ARMS, "--output", "out", "--budget", "602s"])
    assert compare.made[0][1] == ("SOLVER.MAX_ITER", "58", "SOLVER.STEPS", "[]", "TEST.EVAL_PERIOD", "0")
    compare.main([*ARMS, "--output", "out", "--seeds", "9"])
    assert compare.made[-1][1] == ("GAIN", "5", *compare.made[0][1])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--arm", "plain"], "two arms are equal: plain, ohem, plain"),
        (["--baselines", "none"], "there is no arm 'none'; valid: plain, ohem"),
        (["--budget", "5"], "'5' is no duration; valid: 90s"),
        (["--test", "a", "--test", "a"], "two tests have the same name: a, a"),
        (["--test", "a", "--test", "b", "WRONG", "1"], "plain/b: unknown key WRONG\nohem/b: unknown key"),
        (["--launcher", "submitit-local", "--slurm", "x"], "'x' is no parameter"),
        (
            ["--arm", "x", "TEST.KEY", "1"],
            "no table: TEST.KEY is 0 for plain and 1 for x; arms must be tested alike",
        ),
        (["--launcher", "slurm", "--budget", "1h"], "--budget plans for this machine"),
    ],
)
def test_a_mistake_is_one_line(compare, more, message):
    with pytest.raises(SystemExit, match=f"^compare.py: {message}"):
        compare.main([*ARMS, "--output", "out", *more])
    assert compare.made == []


def test_an_error_of_the_report_comes_beside_those_of_the_runs(compare):
    failing = {f"out/{arm}/seed{s}": RuntimeError(f"{arm} {s}") for arm, s in (("plain", 0), ("ohem", 1))}
    compare.failing.update(failing)
    with pytest.raises(SystemExit) as stop:
        compare.main(
            [*ARMS, "--arm", "x", "--baselines", "plain", "ohem", "--seeds", "0", "1", "--output", "out"]
        )
    assert stop.value.code.splitlines() == [
        "compare.py: plain 0",
        "compare.py: ohem 1",
        "compare.py: no seed has bbox/AP for all of plain, ohem",
    ]


@pytest.mark.parametrize("arguments", [[], [*ARMS, "--jobs", "0"]])
def test_what_cannot_be_parsed_shows_the_usage(compare, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main([*arguments, "--output", "out"])
    assert stop.value.code == 2 and "usage: " in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_ends_the_training_with_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    write_toy(tmp_path)
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump({"_BASE_": str(ROOT / "configs/Base-FastRCNN-small.yaml")})
    )
    long = ["SOLVER.MAX_ITER", "300", "SOLVER.STEPS", "(200,)", "DATASETS.TEST", "('toy_wide',)"]
    arguments = [
        "--base",
        "base.yaml",
        "--arm",
        "plain",
        "--output",
        "out",
        "--",
        *toy_options(tmp_path),
        *long,
    ]
    command = [sys.executable, str(ROOT / "tools/compare.py"), *arguments]
    console = tmp_path / "out/plain/seed0/console.txt"
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while time.time() < deadline and not (console.exists() and "iter: " in console.read_text()):
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(timeout=120) == 75
    assert "SIGTERM: stopped after" in console.read_text()  # the training has ended before compare.py
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0 and "| plain | 1 | " in again.stdout
    assert console.read_text().count("Starting training from iteration 0\n") == 1
