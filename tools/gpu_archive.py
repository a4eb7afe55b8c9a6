"""What surrounds the parts of gpu_day.py: wheels, variables, the machine's description, the archive."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
# Of one archive, before it is packed, so that it is smaller than 16 MiB.
ARCHIVE_BYTES = 15 * MIB
PACKED = {".json", ".log", ".md", ".txt", ".xml", ".yaml"}
HARDWARE = (
    "nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,compute_cap --format=csv",
    "nvidia-smi -q -d CLOCK,ECC,MEMORY,PERFORMANCE,POWER,TEMPERATURE,UTILIZATION",
    "lscpu",
    "free -m",
)
VERSIONS = """
import importlib.metadata as metadata, json, platform
versions = {"python": platform.python_version(), "platform": platform.platform()}
for name in ("torch", "torchvision", "numpy", "detectron2", "fvcore", "triton", "pytest", "hypothesis"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        versions[name] = None
try:
    import torch
    versions.update(torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    versions["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
except ImportError as error:
    versions["torch"] = str(error)
print(json.dumps(versions, indent=1))
"""


class GpuDayError(Exception):
    """Something the user can mend, told in one line."""


def install(wheels: Path, site: Path) -> None:
    """Install the wheels into the folder `site`, unless it holds just these."""
    names = sorted(wheel.name for wheel in wheels.glob("*.whl"))
    if not names:
        raise GpuDayError(f"{wheels} has no wheels; tools/build_wheels.py gathers them")
    installed = site / "installed.json"
    if installed.exists() and json.loads(installed.read_text()) == names:
        return
    shutil.rmtree(site, ignore_errors=True)
    pip = "-m pip --quiet --disable-pip-version-check install --no-index --no-deps --no-compile --target"
    paths = [str(wheels / name) for name in names]
    if code := subprocess.run([sys.executable, *pip.split(), str(site), *paths]).returncode:
        raise GpuDayError(f"pip failed with exit status {code} for the wheels of {wheels}")
    write_whole(installed, json.dumps(names))


def environment(site: Path | None) -> dict[str, str]:
    """The variables of the jobs: they import from `site`, then from the checkout."""
    paths = [str(path) for path in (site, ROOT) if path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def source_version() -> str:
    """The commit, marked where files differ from it; without git the version."""
    commit = output_of("git rev-parse HEAD").strip()
    if commit:
        return commit + (" with changes" if output_of("git status --porcelain") else "")
    return "no commit; " + (ROOT / "ohem_d2/version.py").read_text().splitlines()[-1]


def output_of(command: str) -> str:
    """What a command, called in the checkout, prints; empty if there is no such command or it fails."""
    try:
        done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def describe(folder: Path, env: dict[str, str]) -> None:
    """Write hardware, versions and commit."""
    (folder / "hardware.txt").write_text("\n".join(f"$ {c}\n{output_of(c)}" for c in HARDWARE))
    versions = subprocess.run([sys.executable, "-c", VERSIONS], env=env, capture_output=True, text=True)
    (folder / "versions.txt").write_text(f"{source_version()}\n{versions.stdout or versions.stderr}")


def pack(folder: Path, archive: Path) -> None:
    """Pack the small text files of a part, the smallest first, as far as they are below 16 MiB together."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.suffix in PACKED]
    size, archive_part = 0, archive.with_name(f"{archive.name}.part")
    with tarfile.open(archive_part, "w:gz") as tar:
        for file in sorted(files, key=lambda file: file.stat().st_size):
            size += file.stat().st_size
            if size <= ARCHIVE_BYTES:
                tar.add(file, arcname=str(file.relative_to(folder.parent)))
            else:
                print(f"{archive.name} leaves out {file}: {file.stat().st_size / MIB:.1f} MiB")
    os.replace(archive_part, archive)
    print(f"{archive}: {archive.stat().st_size / MIB:.2f} MiB", flush=True)


def write_whole(file: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text)
    os.replace(part, file)
