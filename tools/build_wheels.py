#!/usr/bin/env python
"""Gather the wheels that a machine with torch, torchvision and numpy, and without a package index, lacks.

    python tools/build_wheels.py wheels          # here, with an index
    python3 tools/gpu_day.py 1 --wheels wheels   # there, in a checkout with this folder

Versions are those of constraints.txt. Detectron2 is the pure-Python 0.6 of install_detectron2.py, which needs
torch here as well. OpenCV, SciPy and matplotlib are not among them: tests that need these are skipped. Wheels
that are in the folder already are removed first.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# Source archives on the index: built here, pure Python.
BUILT = ("antlr4-python3-runtime", "fvcore", "iopath")
DOWNLOADED = (
    # for Detectron2 and the project
    "cloudpickle", "hydra-core", "omegaconf", "packaging", "portalocker", "pycocotools", "PyYAML",
    "safetensors", "tabulate", "termcolor", "tqdm", "yacs",
    # for the log of a training
    "absl-py", "protobuf", "tensorboard",
    # for the tests
    "hypothesis", "iniconfig", "pluggy", "Pygments", "pytest", "sortedcontainers",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the wheels")
    parser.add_argument("--python", default="3.12", help="version there (default 3.12)")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    for old in args.folder.glob("*.whl"):
        old.unlink()
    for step in steps(args.folder, args.python):
        code = subprocess.run([sys.executable, *map(str, step)]).returncode
        if code:
            sys.exit(f"build_wheels.py: {' '.join(map(str, step))} failed with exit status {code}")
    wheels = list(args.folder.glob("*.whl"))
    mebibytes = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{args.folder}: {len(wheels)} wheels, {mebibytes:.1f} MiB")


def steps(folder: Path, python: str) -> list[list]:
    """What this Python is called with: to build, to download, and to make Detectron2's wheel."""
    common = ["--quiet", "--disable-pip-version-check", "--no-deps", "--constraint", CONSTRAINTS]
    target = ["--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    return [
        ["-m", "pip", "wheel", *common, "--wheel-dir", folder, *BUILT],
        ["-m", "pip", "download", *common, "--only-binary", ":all:", *target, "--dest", folder, *DOWNLOADED],
        [ROOT / "tools/install_detectron2.py", "--wheel-dir", folder],
    ]


if __name__ == "__main__":
    main()
