"""Wheel and sdist: what they hold, that they install offline, and that no package of the user is replaced."""

import ast
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from ohem_d2.version import __version__

ROOT = Path(__file__).resolve().parents[1]
# Imported name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "Pillow",
    "cv2": "opencv-python",
    "google": "protobuf",
    "hydra": "hydra-core",
    "yaml": "PyYAML",
}
OF_DETECTRON2 = {"detectron2", "iopath", "matplotlib"}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The files of the repository, the new ones too."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: git knows which files belong to the repository")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(files, tmp_path_factory) -> dict[str, Path]:
    """Wheel and sdist, built from a copy in which no earlier build left anything."""
    if find_spec("build") is None or Version(version("setuptools")) < Version("77"):
        pytest.skip("needs build and setuptools 77 in the environment: nothing is downloaded")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, cwd=source)
    return {"wheel": next(output.glob("*.whl")), "sdist": next(output.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def requirements(built) -> list[Requirement]:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = BytesParser().parsebytes(wheel.read(name))
    return [Requirement(text) for text in metadata.get_all("Requires-Dist")]


def test_the_wheel_holds_the_package_and_nothing_else(built, files):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in files if name.startswith("ohem_d2/")}
    assert "ohem_d2/py.typed" in names


def test_the_sdist_holds_the_repository(built, files):
    with tarfile.open(built["sdist"]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("ohem_d2.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == files


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_and_imports_in_a_fresh_environment(kind, built, tmp_path):
    """Fresh but for torch, Detectron2 and the rest, which it sees in the environment of the tests."""
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-I", "-c", show, cwd=tmp_path).strip())
    lines = "".join(f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages())
    (packages / "environment-of-the-tests.pth").write_text(lines)
    options = "--no-index --no-deps --no-build-isolation --ignore-installed".split()
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, built[kind], cwd=tmp_path)
    code = "import ohem_d2; print(ohem_d2.__file__, ohem_d2.__version__, ohem_d2.OHEMROIHeads.__name__)"
    imported = run(python, "-I", "-c", code, cwd=tmp_path).split()
    assert imported == [str(packages / "ohem_d2/__init__.py"), __version__, "OHEMROIHeads"]
    assert (packages / f"ohem_d2-{__version__}.dist-info").is_dir()


def test_an_environment_with_torch_and_detectron2_keeps_all_it_has(built, requirements, tmp_path):
    """What is installed satisfies the wheel: pip, which may download nothing, adds ohem_d2 alone."""
    needed = [requirement for requirement in requirements if requirement.marker is None]
    # Named as well, since of an installed ohem_d2 of the same version pip would read the requirements there.
    options = ["--no-index", "--dry-run", "--report", "report.json"]
    run(sys.executable, "-m", "pip", "install", *options, built["wheel"], *needed, cwd=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {item["metadata"]["name"] for item in report["install"]} <= {"ohem_d2"}


def test_requirements_are_lower_bounds(requirements):
    """An upper bound would make pip replace what is newer."""
    needed = [requirement for requirement in requirements if requirement.marker is None]
    assert {"torch", "torchvision", "fvcore"} <= {requirement.name for requirement in needed}
    for requirement in needed:
        assert {bound.operator for bound in requirement.specifier} <= {">="}, requirement
        assert not requirement.name.startswith(("opencv", "detectron2")), requirement


def test_all_that_the_package_imports_is_declared(requirements):
    declared = {requirement.name for requirement in requirements} | OF_DETECTRON2
    for file in (ROOT / "ohem_d2").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for name in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"ohem_d2"}:
                assert DISTRIBUTIONS.get(name, name) in declared, f"{file} imports {name}"


def test_one_version_and_date_everywhere():
    """version.py, the newest section of the changelog, the citation."""
    number, date = re.search(
        r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    ).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert number == citation["version"] == __version__
    assert date == str(citation["date-released"])
