"""The GPU day with fake jobs: its parts, that it goes on after a failure, resumes, and what it packs."""

import json
import signal
import tarfile
import time
import zipfile
from types import SimpleNamespace

import pytest
from detectron2.data import DatasetCatalog

from ohem_d2.data import register_catalog
from ohem_d2.engine import load_config

from ..conftest import ROOT

# A job that counts its runs in a file.
COUNTED = "open({!r}, 'a').write('x')"
RUNNER = """
import sys
if "--list" in sys.argv:
    print("train_step_vgg16_fp32: a\\nmining_r50_c4: b\\nloader: c")
else:
    name = sys.argv[sys.argv.index("--only") + 1]
    folder = sys.argv[sys.argv.index("--output") + 1]
    open("calls.txt", "a").write(name + " ")
    open(folder + "/" + name + ".json", "w").write("{}")
"""


@pytest.fixture
def script(load_script):
    return load_script("tools/gpu_day.py")


@pytest.fixture
def checkout(script, tmp_path, monkeypatch):
    """A checkout of three benchmarks and three files of tests."""
    root = tmp_path / "checkout"
    files = {
        "benchmarks/run.py": RUNNER,
        "benchmarks/goals.py": "import os, sys\nprint('goals of', os.path.basename(sys.argv[1]))",
        "tests/test_marked.py": "pytestmark = pytest.mark.cuda\n",
        "tests/modeling/test_cuda.py": "@pytest.mark.cuda\ndef test_a(): pass\n",
        "tests/test_other.py": '"""Not pytest.mark.cuda."""\n',
        "ohem_d2/version.py": '__version__ = "1.2.3"\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(script, "ROOT", root)
    for name, value in (("ROOT", root), ("VERSIONS", "print('torch 2')")):  # to import torch takes seconds
        monkeypatch.setitem(script.describe.__globals__, name, value)
    return root


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    """``run({name: code or (code, seconds)}, minutes)`` runs a part of these jobs: True, and their states."""

    def run(codes, minutes=1.0):
        pairs = {name: code if isinstance(code, tuple) else (code, 30) for name, code in codes.items()}
        jobs = [script.Job(name, ["-c", code], seconds) for name, (code, seconds) in pairs.items()]
        monkeypatch.setattr(script, "jobs_of", lambda *args: jobs)
        all_done = script.run_part(1, tmp_path / "out", script.environment(None), minutes)
        status = script.read_status(tmp_path / "out/part1")
        return all_done, {name: of_job["state"] for name, of_job in status.items()}

    return run


def members(archive):
    with tarfile.open(archive) as tar:
        return {member.name: member.size for member in tar.getmembers()}


# ---- what the parts are


def test_every_benchmark_belongs_to_one_part(script, load_script):
    names = load_script("benchmarks/run.py").GPU
    parts = {part: {name for name in names if script.part_of(name) == part} for part in (2, 3)}
    steps = {f"train_step_{m}_{p}" for m in ("vgg16", "r50_fpn") for p in ("fp32", "default", "amp")}
    assert parts[2] == {*steps, "mining_vgg16", "mining_r50_fpn"}
    assert parts[2] | parts[3] == set(names) and {"mining_r50_c4", "scale_r50_fpn"} <= parts[3]


def test_the_tests_of_a_gpu_are_run_file_by_file(script, checkout, tmp_path):
    jobs = script.test_jobs(tmp_path)
    assert [job.name for job in jobs] == ["modeling_test_cuda", "test_marked"]
    assert "tests/modeling/test_cuda.py" in jobs[0].command
    assert f"--junitxml={tmp_path}/modeling_test_cuda.xml" in jobs[0].command


def test_the_files_of_this_project_that_are_marked_are_found(script, tmp_path):
    files = {name for job in script.test_jobs(tmp_path) for name in job.command if name.startswith("tests/")}
    assert {"tests/modeling/test_cuda.py", "tests/test_cuda_families.py"} <= files
    assert "tests/tools/test_gpu_day.py" not in files


def test_trainings_say_what_they_need(script, checkout):
    with pytest.raises(script.GpuDayError, match="part 4 needs OHEM_D2_DATA"):
        script.jobs_of(4, checkout, {})
    env = {"OHEM_D2_DATA": "data", "DETECTRON2_DATASETS": "mine"}
    missing = "trainval.safetensors does not exist; .* --dataset bccd_trainval bccd_test --scale 0.5$"
    with pytest.raises(script.GpuDayError, match=missing):
        script.jobs_of(4, checkout, env)
    for name, splits, _ in script.PROPOSALS.values():
        (checkout / f"mine/{name}_proposals").mkdir(parents=True)
        for split in splits:
            (checkout / f"mine/{name}_proposals/{split}.safetensors").touch()
    jobs = script.jobs_of(4, checkout, env)
    assert len({job.name for job in jobs}) == len(jobs) == 12


def test_trainings_name_configs_of_plain_and_mined_heads(script, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OHEM_D2_DATA", str(tmp_path))
    for configs in (script.BCCD, script.VOC_SAMPLE):
        models = [load_config(path, []).MODEL for path in configs]
        assert {model.ROI_HEADS.NAME for model in models} == {"OHEMROIHeads"}
        assert [model.OHEM.ENABLED for model in models] == [False] * (len(configs) - 1) + [None]
    for catalog in script.PROPOSALS:
        register_catalog(catalog)
    names = {f"{name}_{split}" for name, splits, _ in script.PROPOSALS.values() for split in splits}
    assert names <= set(DatasetCatalog)


# ---- running


def test_what_fails_crashes_or_hangs_does_not_stop_the_rest(run, tmp_path):
    crash = f"import os, signal; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    child = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', {!r}])"
    late = f"import time; time.sleep(2); {COUNTED.format(str(tmp_path / 'late'))}"
    codes = {
        "fails": "exit(3)",
        "crashes": crash,
        "hangs": (child.format(late), 0.5),
        "good": "print('all right')",
    }
    all_done, states = run(codes)
    assert not all_done
    assert states == {"fails": "failed with exit status 3", "crashes": "failed with exit status -11",
                      "hangs": "too slow", "good": "done"}  # fmt: skip
    assert (tmp_path / "out/part1/good.log").read_text() == "all right\n"
    time.sleep(2)
    assert not (tmp_path / "late").exists()  # what a job started ends with it


def test_the_next_call_does_what_was_not_reached_then_what_failed_and_nothing_twice(run, tmp_path, capsys):
    def counted(name):
        return COUNTED.format(str(tmp_path / name))

    first = {"good": counted("good"), "bad": f"{counted('bad')}; exit(1)"}
    run(first)
    capsys.readouterr()
    all_done, states = run({**first, "new": counted("new")})
    begun = [line for line in capsys.readouterr().out.splitlines() if line in ("part 1: bad", "part 1: new")]
    assert begun == ["part 1: new", "part 1: bad"] and not all_done
    assert {name: (tmp_path / name).read_text() for name in ("good", "bad", "new")} == {
        "good": "x", "bad": "xx", "new": "x"
    }  # fmt: skip
    assert run({**first, "bad": "", "new": ""})[0]


def test_a_job_that_the_end_of_the_part_stops_counts_as_not_reached(script, run, monkeypatch, capsys):
    monkeypatch.setattr(script, "MIN_SECONDS", 0.1)
    codes = {"good": "", "long": "import time; time.sleep(60)", "last": ""}
    all_done, states = run(codes, minutes=4 / 60)
    assert not all_done and states == {"good": "done"}
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "part 1: 1 of 3 done", "  long (not reached)", "  last (not reached)"
    ]  # fmt: skip


def test_nothing_is_begun_that_the_part_has_no_time_for(script, run):
    assert run({"any": ""}, minutes=0.9 * script.MIN_SECONDS / 60) == (False, {})


# ---- the whole command


def test_a_part_is_packed_and_its_archive_resumed(script, checkout, tmp_path, capsys):
    output, archives = tmp_path / "out", tmp_path / "archives"
    script.main(["3", "--output", str(output), "--archives", str(archives)])
    assert (checkout / "calls.txt").read_text().split() == ["mining_r50_c4", "loader"]
    expected = {"loader.json", "loader.log", "status.json", "versions.txt", "hardware.txt", "goals.md"}
    assert {f"part3/{name}" for name in expected} <= set(members(archives / "part3.tar.gz"))
    assert 'no commit; __version__ = "1.2.3"' in (output / "part3/versions.txt").read_text().splitlines()[0]
    assert "goals of out" in capsys.readouterr().out
    status = json.loads((output / "part3/status.json").read_text())
    assert status["loader"]["command"].startswith("python benchmarks/run.py --only loader --output ")

    with tarfile.open(archives / "part3.tar.gz") as tar:
        tar.extractall(tmp_path / "again")
    script.main(["3", "--output", str(tmp_path / "again")])
    assert len((checkout / "calls.txt").read_text().split()) == 2


def test_a_failure_is_packed_and_ends_the_call_with_one_line(script, checkout, tmp_path):
    (checkout / "benchmarks/run.py").write_text(
        RUNNER.replace('    open("calls', '    exit(7)\n    open("calls')
    )
    with pytest.raises(SystemExit, match="call it again for what failed or was not reached"):
        script.main(["2", "3", "--output", str(tmp_path / "out")])
    for part, name in ((2, "train_step_vgg16_fp32"), (3, "loader")):
        assert f"part{part}/{name}.log" in members(tmp_path / f"out/part{part}.tar.gz")


def test_benchmarks_that_cannot_be_listed_are_one_clear_line(script, checkout, tmp_path):
    (checkout / "benchmarks/run.py").write_text("import absent_package")
    with pytest.raises(SystemExit, match="run.py --list failed: ModuleNotFoundError: .*absent_package"):
        script.main(["2", "--output", str(tmp_path / "out")])


# ---- archive and wheels


def test_the_archive_holds_small_text_files_and_stays_below_its_limit(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(script.pack.__globals__, "ARCHIVE_BYTES", 1000)
    folder = tmp_path / "part1"
    (folder / "run").mkdir(parents=True)
    for name, size in {"a.log": 990, "b.json": 10, "run/c.md": 500, "run/model.pth": 5}.items():
        (folder / name).write_text("x" * size)
    script.pack(folder, tmp_path / "part1.tar.gz")
    assert members(tmp_path / "part1.tar.gz") == {"part1/b.json": 10, "part1/run/c.md": 500}
    assert "leaves out" in (out := capsys.readouterr().out) and "a.log" in out and "model.pth" not in out


def test_wheels_go_to_a_folder_of_their_own_once(script, tmp_path, monkeypatch):
    wheels, site = tmp_path / "wheels", tmp_path / "out/site"
    wheels.mkdir()
    with pytest.raises(script.GpuDayError, match="has no wheels; tools/build_wheels.py gathers them"):
        script.install(wheels, site)
    with zipfile.ZipFile(wheels / "tiny_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_wheel.py", "")
        info = {"METADATA": "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n", "RECORD": "",
                "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}  # fmt: skip
        for name, text in info.items():
            wheel.writestr(f"tiny_wheel-1.0.dist-info/{name}", text)
    script.install(wheels, site)
    assert (site / "tiny_wheel.py").is_file()
    assert script.environment(site)["PYTHONPATH"].split(":")[:2] == [str(site), str(script.ROOT)]
    monkeypatch.setattr(script.install.__globals__["subprocess"], "run", None)
    script.install(wheels, site)


@pytest.fixture
def wheels(load_script, monkeypatch):
    """The script that gathers wheels, with its calls of Python in ``calls`` instead of run."""
    script = load_script("tools/build_wheels.py")
    calls = []

    def run(command):
        calls.append(command[1:])
        return SimpleNamespace(returncode=int("wrong" in command))

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run))
    return SimpleNamespace(script=script, calls=calls)


def test_wheels_are_pinned_and_fit_the_other_machine(wheels, tmp_path, capsys):
    (tmp_path / "old-1.whl").touch()
    wheels.script.main([str(tmp_path), "--python", "3.13"])
    built, downloaded, detectron2 = wheels.calls
    for call in (built, downloaded):
        assert "--no-deps" in call and str(ROOT / "constraints.txt") in call
    assert downloaded[downloaded.index("--python-version") + 1] == "3.13"
    assert detectron2 == [str(ROOT / "tools/install_detectron2.py"), "--wheel-dir", str(tmp_path)]
    assert not (tmp_path / "old-1.whl").exists() and "0 wheels" in capsys.readouterr().out


def test_every_wheel_has_a_pin(wheels):
    pins = (ROOT / "constraints.txt").read_text().lower()
    for name in {*wheels.script.BUILT, *wheels.script.DOWNLOADED} - {"fvcore"}:
        assert f"\n{name.lower()}==" in pins, name


def test_a_step_that_fails_is_named(wheels, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels.script, "DOWNLOADED", ("wrong",))
    with pytest.raises(SystemExit, match="pip download .* wrong failed with exit status 1"):
        wheels.script.main([str(tmp_path)])
    assert len(wheels.calls) == 2
