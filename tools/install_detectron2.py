#!/usr/bin/env python
"""Build Detectron2 0.6 as a pure-Python wheel for current dependencies, and install it.

    python tools/install_detectron2.py

Detectron2 is not on the package index under its own name. This takes the source archive of v0.6 that is
there, checks its hash, applies the substitutions of detectron2_patches.py (each must match exactly as often
as it says), adds a stand-in for the compiled extension, builds a wheel and installs it with its dependencies
into the Python that runs this. What needs the extension (rotated boxes, deformable convolution) says so when
it is called.

Needs torch and pip in that Python (3.10 or newer) and constraints.txt, the project's pins, one folder up. An
existing Detectron2 is never replaced unless --force is given. Nothing is installed before the wheel is built.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from detectron2_patches import (
    ARCHIVE_SHA256,
    NAME,
    PROJECTS,
    PYPROJECT,
    STUB_C,
    SUBSTITUTIONS,
    VERSION,
    Substitution,
)

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
WHEEL = f"detectron2-{VERSION}-py3-none-any.whl"
SOURCE_DATE_EPOCH = "1635214272"  # the commit of v0.6: the same wheel on every build


class InstallError(Exception):
    """Something the user can mend, told in one line."""


def run_pip(step: str, *arguments: str | Path, tools: Path | None = None) -> None:
    """Run pip quietly in this Python; with `tools`, the pip, setuptools and wheel of that folder.

    Without `tools`, what pip (25.3 or newer) builds in isolation is built with the pinned setuptools too.
    Raises InstallError naming the step; pip's own message stands above it.
    """
    env = {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, **os.environ, "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS)}
    if tools is not None:
        del env["PIP_BUILD_CONSTRAINT"]  # pip refuses it together with --no-build-isolation
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tools), env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check"]
    code = subprocess.run(command, env=env).returncode
    if code != 0:
        raise InstallError(f"{step} failed: pip's message is above (exit status {code})")


def check_environment() -> None:
    """Raise InstallError unless torch and pip are there and the pins are where they should be."""
    hints = {
        "torch": "install it first (`pip install -c constraints.txt torch torchvision`)",
        "pip": "run `python -m ensurepip` first",
    }
    for module, hint in hints.items():
        if importlib.util.find_spec(module) is None:
            raise InstallError(f"{sys.executable} has no {module}: {hint}")
    if not CONSTRAINTS.is_file():
        raise InstallError(f"{CONSTRAINTS} is missing: run this script from a checkout of the project")


def build_id() -> str:
    """Name what goes into the wheel: an environment with a build of another id has an older one."""
    inputs = repr((ARCHIVE_SHA256, PYPROJECT, PROJECTS, STUB_C, SUBSTITUTIONS))
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def find_detectron2() -> Path | None:
    """Return the folder of the Detectron2 that this Python would import (it is not imported), or None."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def installed_build_id(package: Path) -> str | None:
    """Return the build id of a Detectron2 folder: "" for one of ours without an id, None for one not ours."""
    stub = package / "_C.py"
    if not stub.is_file():
        return None
    found = re.search(r'^BUILD_ID = "(\w+)"$', stub.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else ""


def is_up_to_date(package: Path | None, force: bool) -> bool:
    """Tell whether there is nothing to do; raise InstallError rather than replace a Detectron2 not ours."""
    if package is None or force:
        return False
    present = installed_build_id(package)
    if present is None:
        raise InstallError(
            f"another Detectron2 is installed in {package}: keep it with "
            "`make DETECTRON2=installed`, or replace it with --force"
        )
    return present == build_id()


def install_build_tools(folder: Path) -> None:
    """Put the project's pinned pip, setuptools and wheel into `folder`, apart from the user's own.

    Newer releases of pip refuse the metadata of the archive, which has an extra that names a URL.
    """
    run_pip(
        "fetching the build tools",
        "install",
        "--target",
        folder,
        "--constraint",
        CONSTRAINTS,
        "pip",
        "setuptools",
        "wheel",
    )


def download_archive(folder: Path, tools: Path) -> Path:
    """Download the source archive into `folder` and return its path; pip checks its hash first."""
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{NAME}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
    run_pip(
        f"downloading {NAME}=={VERSION}",
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        NAME,
        "--require-hashes",
        "--requirement",
        requirement,
        "--dest",
        folder,
        tools=tools,
    )
    archive = folder / f"{NAME}-{VERSION}.tar.gz"
    check_archive(archive)
    return archive


def check_archive(archive: Path, expected: str = ARCHIVE_SHA256) -> None:
    """Raise InstallError unless `archive` is a file with this SHA-256."""
    if not archive.is_file():
        raise InstallError(f"{archive}: no such archive")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        raise InstallError(f"{archive}: wrong SHA-256 {found}, {expected} expected")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the archive into `folder` and return its top folder."""
    with tarfile.open(archive) as tar:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safe)
    return member(folder, f"{NAME}-{VERSION}")


def member(folder: Path, name: str) -> Path:
    """Return `folder / name`; raise InstallError where the archive has no such member."""
    path = folder / name
    if not path.exists():
        raise InstallError(f"the archive has no {name}")
    return path


def substitute(source: Path, substitution: Substitution) -> None:
    """Apply one substitution; raise InstallError unless its text is found exactly `count` times."""
    path = member(source, substitution.file)
    text = path.read_text(encoding="utf-8")
    found = text.count(substitution.old)
    if found != substitution.count:
        raise InstallError(
            f"{substitution.file}: {substitution.old!r} found {found} times, {substitution.count} expected"
        )
    path.write_text(text.replace(substitution.old, substitution.new), encoding="utf-8")


def prepare_source(source: Path, substitutions: list[Substitution] = SUBSTITUTIONS) -> None:
    """Turn the unpacked archive into what pip can build: our recipe, projects, patches, stand-in."""
    for name in ("setup.py", "setup.cfg", "PKG-INFO"):
        member(source, name).unlink()
    for stale in source.glob("*.egg-info"):
        shutil.rmtree(stale)
    for name, folder in PROJECTS.items():
        shutil.move(member(source, folder), member(source, "detectron2/projects") / name)
    for substitution in substitutions:
        substitute(source, substitution)
    stub = f'{STUB_C}\nBUILD_ID = "{build_id()}"\n'
    (source / "detectron2" / "_C.py").write_text(stub, encoding="utf-8")
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")


def build_wheel(work: Path, archive: Path | None) -> Path:
    """Make the wheel under the folder `work` from `archive` (None: downloaded) and return its path."""
    tools = work / "tools"
    if archive is not None:
        check_archive(archive)
    install_build_tools(tools)
    archive = archive or download_archive(work / "archive", tools)
    source = unpack(archive, Path(tempfile.mkdtemp(prefix="source-", dir=work)))
    prepare_source(source)
    run_pip(
        "building the wheel",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        work,
        source,
        tools=tools,
    )
    return work / WHEEL


def install_wheel(wheel: Path, constraint: Path | None, replace: bool) -> None:
    """Install the wheel and what it depends on; `replace` also where the same version is installed."""
    pins = () if constraint is None else ("--constraint", constraint)
    run_pip("installing Detectron2 and its dependencies", "install", *pins, wheel)
    if replace:
        run_pip("replacing Detectron2", "install", "--force-reinstall", "--no-deps", wheel)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says; raise InstallError with one line where that is not possible."""
    check_environment()
    present = None if args.wheel_dir else find_detectron2()
    if is_up_to_date(present, args.force):
        print(f"Detectron2 {VERSION} (this project's build) is installed already: {present}")
        return
    with tempfile.TemporaryDirectory(prefix="detectron2-build-") as work:
        wheel = build_wheel(Path(work), args.archive)
        if args.wheel_dir:
            args.wheel_dir.mkdir(parents=True, exist_ok=True)
            print("built", shutil.copy(wheel, args.wheel_dir))
        else:
            install_wheel(wheel, args.constraint, replace=present is not None)
            print(f"installed Detectron2 {VERSION}, pure Python, into {sys.prefix}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Build Detectron2 0.6 (pure Python) and install it.")
    parser.add_argument("--archive", type=Path, help=f"a copy of {NAME}-{VERSION}.tar.gz, not downloaded")
    parser.add_argument("--constraint", type=Path, help="pip's constraints for Detectron2's dependencies")
    parser.add_argument("--wheel-dir", type=Path, help="put the wheel there and install nothing")
    parser.add_argument("--force", action="store_true", help="replace the Detectron2 that is installed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the script; a user's mistake ends it with one line on stderr and exit status 1."""
    try:
        run(parse_args(argv))
    except InstallError as error:
        sys.exit(f"install_detectron2: error: {error}")


if __name__ == "__main__":
    main()
