"""What all scripts have in common."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("tools", "datasets", "benchmarks")
MOVED = [
    "datasets/check.py",
    *(f"tools/{name}.py" for name in ("render_tables", "reproduce", "run_arms", "zoo_table")),
]
FILES = [str(file.relative_to(ROOT)) for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
COMMANDS = ["train_net.py", *(file for file in FILES if "__main__" in (ROOT / file).read_text())]


def imports(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_script_is_a_command_a_module_of_one_or_an_answer_that_it_moved():
    used = {f"{Path(file).parent}/{name}.py" for file in COMMANDS for name in imports(file)}
    assert len(COMMANDS) > 15
    assert set(FILES) <= {*COMMANDS, *MOVED, *used}


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_printed_and_nothing_else_is_done(path, monkeypatch, tmp_path, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError(f"{path} --help runs {args}")

    if "cv2" in imports(path):
        pytest.importorskip("cv2", reason="needs OpenCV")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str((ROOT / path).parent))  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert stop.value.code in (None, 0)
    assert capsys.readouterr().out.startswith(f"usage: {Path(path).name}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", MOVED)
def test_a_script_that_moved_names_its_new_place(path):
    done = subprocess.run([sys.executable, str(ROOT / path), "--help"], capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    old, new = done.stderr.strip().removesuffix(" (since 0.2.0)").split(" is now ")
    assert old == path and (ROOT / new).is_file()


@pytest.mark.parametrize("path", FILES)
def test_a_script_imports_none_of_another_folder(path):
    others = {Path(file).stem for file in [*FILES, "train_net.py"] if Path(file).parent != Path(path).parent}
    beside = {Path(file).stem for file in FILES if Path(file).parent == Path(path).parent}
    assert not set(imports(path)) & (others - beside)
    assert "sys.path" not in (ROOT / path).read_text()


@pytest.mark.parametrize("path", ["train_net.py", *FILES])
def test_ohem_d2_comes_before_detectron2_whose_warnings_it_keeps_off_the_console(path):
    order = list(imports(path))
    if "detectron2" in order:
        before = order[: order.index("detectron2")]
        beside = [str(Path(path).parent / f"{name}.py") for name in before]
        assert "ohem_d2" in before or any("ohem_d2" in imports(file) for file in beside if file in FILES)


USED = (
    "tools/visualize.py",
    "tools/demo.py",
    "tools/compare.py",
    "tools/check_dataset.py",
    "datasets/prepare_demo.py",
)


@pytest.mark.parametrize(
    "path",
    [
        "train_net.py",
        "datasets/prepare_proposals.py",
        *(pytest.param(f, marks=pytest.mark.slow) for f in USED),
    ],
)
def test_a_command_shows_no_future_warning_of_another_package(path):
    command = [sys.executable, "-W", "error::FutureWarning", str(ROOT / path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
