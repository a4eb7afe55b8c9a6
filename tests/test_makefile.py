"""The Makefile, with a shell script in place of Python: what it runs, in which order, and what it leaves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PREREQUISITES = (
    "setup.py",
    "pyproject.toml",
    "constraints.txt",
    "tools/install_detectron2.py",
    "tools/detectron2_patches.py",
)
# Logs its arguments; makes an "environment" that holds itself; fails where FAIL is part of its arguments.
FAKE_PYTHON = """\
#!/bin/bash
echo "$*" >> "$LOG"
if [[ -n "$FAIL" && "$*" == *"$FAIL"* ]]; then exit 3; fi
if [[ "$1 $2" == "-m venv" ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
if [[ "$2" == *purelib* ]]; then echo "$PWD"; fi
if [[ "$*" == *" list --format=freeze"* ]]; then echo "torch==2.1.0+cu118"; fi
"""
# Of a make that runs these tests; they must not reach the make that is tested.
OWN_VARIABLES = {
    "OHEM_D2_DATA",
    "DETECTRON2",
    "VENV",
    "PYTHON",
    "TESTS",
    "WORKERS",
    "MAKEFLAGS",
    "MAKEOVERRIDES",
    "MAKELEVEL",
    "MFLAGS",
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Project:
    """A folder with the Makefile and empty files in place of all that it installs from."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder / "project", folder / "log"
        for name in PREREQUISITES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text("")
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def make(self, *arguments: str, fail: str = "", **env: str):
        """Run make; return the completed process and the arguments of every call of the fake Python."""
        self.log.write_text("")
        env = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES} | env
        done = subprocess.run(
            ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={self.python}", *arguments],
            cwd=self.folder,
            env=env | {"LOG": str(self.log), "FAIL": fail},
            capture_output=True,
            text=True,
        )
        return done, self.log.read_text().splitlines()

    def venv(self, name: str = "") -> Path:
        return self.folder / ".venv" / name


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def position(calls, part):
    """The index of the only call that has `part` in it."""
    found = [index for index, call in enumerate(calls) if part in call]
    assert len(found) == 1, (part, calls)
    return found[0]


def test_first_call_installs_pinned_packages_then_detectron2_then_tests(project):
    done, calls = project.make("test")
    assert done.returncode == 0, done.stderr
    parts = (
        "-m venv",
        "pip setuptools wheel",
        "--editable .[dev,proposals]",
        "install_detectron2.py",
        "-m pytest",
    )
    order = [position(calls, part) for part in parts]
    assert order == sorted(order)
    installs = [call for call in calls if " install " in call]
    assert len(installs) == 2 and all("--constraint constraints.txt" in call for call in installs)


@pytest.mark.parametrize(
    "goal, work",
    [
        ("test", "-m pytest -n 2 --dist worksteal -m not slow tests"),
        ("test-all", "-m pytest -n 2 --dist worksteal tests"),
        ("torture", "-m pytest -n 2 --dist worksteal --torture tests/torture"),
        ("demo", "tools/demo.py"),
        ("lint", "-m ruff check|-m ruff format --check|-m mypy"),
        ("docs", "-m sphinx -W --keep-going -b html docs docs/_build/html"),
    ],
)
def test_second_call_only_does_the_work(project, goal, work):
    (project.folder / "docs").mkdir()
    project.make("install")
    done, calls = project.make(goal)
    assert done.returncode == 0 and calls == work.split("|")


@pytest.mark.parametrize("name", PREREQUISITES)
def test_change_of_what_is_installed_installs_again(project, name):
    project.make("install")
    newer = project.venv(".installed").stat().st_mtime + 5
    os.utime(project.folder / name, (newer, newer))
    _, calls = project.make("install")
    assert position(calls, "--editable") >= 0 and not any("-m venv" in call for call in calls)


@pytest.mark.parametrize("step", ["-m venv", "--editable", "install_detectron2.py"])
def test_failed_install_is_an_error_and_is_taken_up_again(project, step):
    done, calls = project.make("test", fail=step)
    assert done.returncode != 0 and not any("pytest" in call for call in calls)
    assert not project.venv(".installed").exists()
    done, calls = project.make("test")
    assert done.returncode == 0 and position(calls, "--editable") < position(calls, "-m pytest")


def test_exit_status_of_the_tests_is_kept(project):
    done, _ = project.make("test", fail="pytest")
    assert done.returncode != 0 and "Error 3" in done.stderr


def test_environment_of_the_user_is_neither_used_nor_removed(project):
    project.venv("bin").mkdir(parents=True)
    done, calls = project.make("test")
    assert done.returncode != 0 and ".venv was not made by make" in done.stderr and calls == []
    assert project.make("clean")[0].returncode == 0
    assert project.venv("bin").is_dir()


def test_clean_removes_what_make_made_and_nothing_else(project):
    project.make("install")
    (project.folder / "output").mkdir()
    done, calls = project.make("clean")
    assert done.returncode == 0 and calls == []
    assert not project.venv().exists() and (project.folder / "output").is_dir()


def test_installed_detectron2_is_used_and_its_environment_stays_as_it_is(project):
    done, calls = project.make("DETECTRON2=installed", "install")
    assert done.returncode == 0, done.stderr
    assert position(calls, "import pip, torch, detectron2") < position(calls, "-m venv")
    assert not any("install_detectron2.py" in call or "constraints.txt" in call for call in calls)
    assert f"--constraint {Path('.venv/.present.txt')}" in calls[position(calls, "--editable")]
    assert project.venv(".present.txt").read_text() == "torch==2.1.0+cu118\n"
    assert (project.folder / "user-environment.pth").exists()


def test_python_without_detectron2_is_refused_before_anything_is_made(project):
    done, _ = project.make("DETECTRON2=installed", "install", fail="import pip, torch, detectron2")
    assert done.returncode != 0 and "cannot import torch, detectron2 and pip" in done.stderr
    assert not project.venv().exists()


@pytest.mark.parametrize(
    "given, passed",
    [
        ("git+https://example.org/detectron2.git", "git+https://example.org/detectron2.git"),
        ("d2", "{folder}/d2"),
    ],
)
def test_path_or_url_is_given_to_pip_after_torch(project, given, passed):
    (project.folder / "d2").mkdir()
    done, calls = project.make(f"DETECTRON2={given}", "install")
    assert done.returncode == 0, done.stderr
    install = position(calls, "--no-build-isolation " + passed.format(folder=project.folder))
    assert position(calls, "--editable") < install
    assert not any("install_detectron2.py" in call for call in calls)


def test_environment_remembers_its_detectron2_and_refuses_another(project):
    project.make("DETECTRON2=installed", "install")
    assert project.make("test")[1][0].startswith("-m pytest")
    done, calls = project.make("DETECTRON2=", "test")
    assert done.returncode != 0 and "DETECTRON2='installed'" in done.stderr and calls == []


def test_only_the_environment_says_where_the_data_is(project):
    show = ["--eval=show: ; @echo data=$$OHEM_D2_DATA threads=$$OMP_NUM_THREADS", "show"]
    env = {"OMP_NUM_THREADS": "3"}
    (project.folder.parent / "shared" / "data").mkdir(parents=True)
    assert project.make(*show, **env)[0].stdout == "data= threads=3\n"
    assert project.make(*show, OHEM_D2_DATA="/elsewhere", **env)[0].stdout == "data=/elsewhere threads=3\n"


def test_help_needs_nothing_and_names_every_goal(project):
    done, calls = project.make("help")
    assert done.returncode == 0 and calls == []
    goals = ("demo", "test", "test-all", "lint", "docs", "install", "clean")
    for word in (*(f"make {goal} " for goal in goals), "PYTHON=", "VENV=", "DETECTRON2="):
        assert word in done.stdout


# ---- what continuous integration runs


@pytest.fixture
def ci_run(project):
    """``ci_run(**env)`` runs .ci/run with a make that logs goal and data folder; goal FAIL fails."""
    folder = project.folder / ".ci"
    folder.mkdir()
    shutil.copy(ROOT / ".ci/run", folder)
    make = project.folder.parent / "bin" / "make"
    make.parent.mkdir()
    make.write_text('#!/bin/bash\necho "$* data=$OHEM_D2_DATA" >> "$LOG"\n[[ "$1" != "$FAIL" ]]\n')
    make.chmod(0o755)

    def run(**env):
        project.log.write_text("")
        own = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        env = own | {"LOG": str(project.log), "PATH": f"{make.parent}:{own['PATH']}"} | env
        done = subprocess.run([folder / "run"], env=env, capture_output=True, text=True)
        return done, project.log.read_text().splitlines()

    return run


def test_continuous_integration_names_each_step_and_stops_at_the_first_that_fails(ci_run):
    done, calls = ci_run()
    assert done.returncode == 0 and calls == ["lint data=", "docs data=", "test-all data="]
    steps = [line for line in done.stdout.splitlines() if line.startswith("==")]
    assert steps == ["== make lint", "== make docs", "== make test-all"]
    done, calls = ci_run(FAIL="docs")
    assert done.returncode != 0 and calls == ["lint data=", "docs data="]


def test_continuous_integration_finds_the_data_beside_the_checkout_unless_one_is_set(ci_run, project):
    data = project.folder.parent / "shared" / "data"
    data.mkdir(parents=True)
    assert ci_run()[1][0] == f"lint data={data}"
    assert ci_run(OHEM_D2_DATA="/elsewhere")[1][0] == "lint data=/elsewhere"
    assert ci_run(OHEM_D2_DATA="")[1][0] == "lint data="


def test_the_gpu_is_measured_in_the_environment(project):
    done, calls = project.make("gpu", "PARTS=2 3", OUT="archives")
    assert done.returncode == 0, done.stderr
    assert calls[-1] == "tools/gpu_day.py 2 3 --archives archives"
    assert project.venv("bin/python").exists()


def test_with_wheels_the_given_python_measures_and_no_environment_is_made(project):
    done, calls = project.make("gpu", "WHEELS=carried", OUT="")
    assert done.returncode == 0, done.stderr
    assert calls == ["tools/gpu_day.py --wheels carried"]
    assert not project.venv().exists()
