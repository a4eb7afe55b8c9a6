#!/usr/bin/env python
"""Run the fast tests on combinations of Python, torch, NumPy and Detectron2, and write the table of docs.

    python tools/try_versions.py --work FOLDER --main CHECKOUT [--only python3.10 ...]

Each combination gets an environment of its own in FOLDER (6 GB), which is removed after its tests. Only the
versions of the table are pinned; of everything else pip takes what it takes for a user. Detectron2 0.6 is
that of install_detectron2.py, its main branch the checkout, in front on PYTHONPATH; neither has its compiled
extension. Needs the Pythons as python3.10 and so on in PATH.

benchmarks/results/versions.json has a row for each combination, and docs/versions.md its table. Those that
have a row are left out, unless --only names them: the beginnings of their names, such as python3.12-torch2.4.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/versions.json"
TABLE = ROOT / "docs/versions.md"
EXTRAS = "dev,proposals"
TITLE = """# Versions

The fast tests on the oldest and the newest versions that are meant to work, on the CPU. Written by
`tools/try_versions.py`; Detectron2 is without its compiled extension. Continuous integration runs all tests
on the pins of `constraints.txt`.
"""
COLUMNS = ("Python", "torch", "torchvision", "NumPy", "Detectron2", "passed", "skipped", "failed")


class VersionsError(Exception):
    """Something the user can mend, told in one line."""


class Combination(NamedTuple):
    """What is installed for one row of the table."""

    python: str
    torch: str
    torchvision: str
    numpy: str
    detectron2: str  # "0.6" or "main"

    @property
    def name(self) -> str:
        """Of its folder and its row."""
        return f"python{self.python}-torch{self.torch}-numpy{self.numpy}-detectron2-{self.detectron2}"


OLDEST, NEWEST = ("2.4.0", "0.19.0"), ("2.14.1", "0.29.1")
# Each end of torch, NumPy and Detectron2 with each end of the others; torch 2.4 has no build for Python 3.13.
COMBINATIONS = (
    Combination("3.10", *OLDEST, "1.26.4", "0.6"),
    Combination("3.10", *NEWEST, "2.2.6", "main"),
    Combination("3.11", *NEWEST, "1.26.4", "main"),
    Combination("3.12", *OLDEST, "2.2.6", "main"),
    Combination("3.12", *NEWEST, "1.26.4", "0.6"),
    Combination("3.13", *NEWEST, "2.4.6", "0.6"),
    Combination("3.13", *NEWEST, "2.4.6", "main"),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--main", type=Path, help="checkout of Detectron2's main branch")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="beginnings of names")
    parser.add_argument("--workers", type=int, default=2, help="processes that run the tests; default 2")
    args = parser.parse_args(argv)
    try:
        run(args)
    except (VersionsError, OSError) as error:
        sys.exit(f"try_versions.py: {error}")


def run(args: argparse.Namespace) -> None:
    """Try what is chosen, each row written when it is known."""
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    chosen = choose(args.only, rows)
    for combination in chosen:
        check(combination, args.main)
    for combination in chosen:
        print(combination.name, flush=True)
        folder = args.work.resolve() / combination.name
        try:
            rows[combination.name] = try_combination(combination, folder, args)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        TABLE.write_text(render(rows))


def choose(only: list[str], rows: dict[str, Any]) -> list[Combination]:
    """Those that `only` names, or that have no row."""
    if not only:
        return [x for x in COMBINATIONS if x.name not in rows]
    unknown = [name for name in only if not any(x.name.startswith(name) for x in COMBINATIONS)]
    if unknown:
        names = ", ".join(x.name for x in COMBINATIONS)
        raise VersionsError(f"no combination begins with {unknown[0]}; there are: {names}")
    return [x for x in COMBINATIONS if x.name.startswith(tuple(only))]


def check(combination: Combination, main_branch: Path | None) -> None:
    """Raise VersionsError where a combination cannot be tried."""
    if shutil.which(f"python{combination.python}") is None:
        raise VersionsError(f"{combination.name} needs python{combination.python} in PATH")
    if combination.detectron2 == "main" and not (main_branch and (main_branch / "detectron2").is_dir()):
        raise VersionsError(f"{combination.name} needs --main, a checkout of Detectron2; it is {main_branch}")


def try_combination(combination: Combination, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Install, test, and return the row."""
    python = install(combination, folder)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OHEM_D2_DATA": os.environ.get("OHEM_D2_DATA", "")}
    if combination.detectron2 == "main":
        env["PYTHONPATH"] = str(args.main.resolve())
    report = folder / "tests.xml"
    options = ["-q", "-n", str(args.workers), "--dist", "worksteal", "-m", "not slow", f"--junitxml={report}"]
    subprocess.run([python, "-m", "pytest", *options, "tests"], cwd=ROOT, env=env)
    if not report.exists():
        raise VersionsError(f"{combination.name}: pytest ended without a report")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {**combination._asdict(), "commit": commit.stdout.strip(), **read_report(report)}


def install(combination: Combination, folder: Path) -> Path:
    """Make the environment and return its Python; raise VersionsError naming the step that failed."""
    python = folder / "bin/python"
    pins = folder / "pins.txt"

    def step(what: str, *command: str | Path) -> None:
        if subprocess.run(list(map(str, command)), cwd=ROOT).returncode:
            raise VersionsError(f"{combination.name}: {what} failed; the message stands above")

    step("making the environment", f"python{combination.python}", "-m", "venv", "--clear", folder)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    step("pip and setuptools", *pip, "--upgrade", "pip", "setuptools", "wheel")
    numbers = {name: getattr(combination, name) for name in ("torch", "torchvision", "numpy")}
    pins.write_text("".join(f"{name}=={number}\n" for name, number in numbers.items()))
    step("installing", *pip, "--constraint", pins, *numbers, "--editable", f"{ROOT}[{EXTRAS}]")
    step("Detectron2", python, ROOT / "tools/install_detectron2.py", "--constraint", pins)
    return python


def read_report(report: Path) -> dict[str, Any]:
    """How many tests passed, were skipped and failed, and the names of these."""
    cases = list(ET.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": names}


def render(rows: dict[str, Any]) -> str:
    """The page: a row for each combination that was tried, in the order of COMBINATIONS."""
    lines = [TITLE, f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in (rows[x.name] for x in COMBINATIONS if x.name in rows):
        cells = [row[name.lower()] for name in COLUMNS[:-1]]
        lines.append(f"| {' | '.join(map(str, cells))} | {'<br>'.join(row['failed']) or 0} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
