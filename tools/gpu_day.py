#!/usr/bin/env python
"""Test and measure on the GPU of this machine: parts of at most nine minutes, each packed into one archive.

    make gpu                                                     # parts 1, 2 and 3
    python3 tools/gpu_day.py 2 --wheels wheels --archives DIR    # part 2 on a machine without package index

Part 1: the tests marked `cuda`, file by file. Part 2: a training iteration and mining alone, with VGG16 and
R50-FPN. Part 3: R50-C4 and the other benchmarks. Part 4: trainings on real images, in the folder that
OHEM_D2_DATA names.

What fails or takes too long does not stop the rest. Called again, a part does what it did not reach, then
what failed, and nothing that is done; an archive unpacked in OUTPUT counts. A part writes OUTPUT/partN and
partN.tar.gz, smaller than 16 MiB: results, logs, commands, hardware, versions, commit. The wheels, which
tools/build_wheels.py gathers, go to OUTPUT/site; nothing else is installed. Without a GPU it is a rehearsal:
the tests run on a pretended one, the benchmarks with a small model.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpu_archive import GpuDayError, describe, environment, install, pack, source_version, write_whole

ROOT = Path(__file__).resolve().parent.parent
# A job is not begun when less of the part's time is left.
MIN_SECONDS = 20
MARKED = re.compile(r"^(@|pytestmark = )pytest\.mark\.cuda\b", re.MULTILINE)
BENCHMARK = "benchmarks/run.py"
BCCD = [f"configs/BCCD/fast_rcnn_{arm}.yaml" for arm in ("heuristic", "bg0", "ohem")]
VOC_SAMPLE = [f"benchmarks/voc_sample/fast_rcnn_VGG16_{arm}.yaml" for arm in ("bg0.1", "ohem")]
# Catalogue -> data set, its splits, and options with which its proposals are generated.
PROPOSALS = {
    "configs/BCCD/catalog.yaml": ("bccd", ("trainval", "test"), " --scale 0.5"),
    "benchmarks/voc_sample/catalog.yaml": ("voc_sample", ("train", "test"), ""),
}


@dataclass(frozen=True)
class Job:
    """A command, from the folder of the checkout, with its limit in seconds."""

    name: str
    command: list[str]
    seconds: int


# ---- what each part does


def jobs_of(part: int, folder: Path, env: dict[str, str]) -> list[Job]:
    """The jobs of a part, which write to `folder`."""
    if part == 1:
        return test_jobs(folder)
    return trainings(folder, env) if part == 4 else benchmark_jobs(part, folder, env)


def test_jobs(folder: Path) -> list[Job]:
    """One for each file with tests that are marked `cuda`."""
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if MARKED.search(file.read_text())]
    options = ["-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "-ra", "--durations=5"]
    jobs = []
    for file in files:
        path = file.relative_to(ROOT)
        name = "_".join(path.with_suffix("").parts[1:])
        jobs.append(Job(name, [*options, str(path), f"--junitxml={folder / name}.xml"], 180))
    return jobs


def benchmark_jobs(part: int, folder: Path, env: dict[str, str]) -> list[Job]:
    """One for each benchmark of benchmarks/run.py that belongs to the part."""
    listed = subprocess.run(
        [sys.executable, BENCHMARK, "--list"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if listed.returncode:
        last = (listed.stderr.splitlines() or ["no message"])[-1]
        raise GpuDayError(f"{BENCHMARK} --list failed: {last}")
    names = [line.split(":")[0] for line in listed.stdout.splitlines()]
    chosen = [name for name in names if part_of(name) == part]
    return [Job(name, [BENCHMARK, "--only", name, "--output", str(folder)], 240) for name in chosen]


def part_of(benchmark: str) -> int:
    """The part that a benchmark belongs to, by its name."""
    return 2 if re.match(r"(train_step|mining)_(?!r50_c4)", benchmark) else 3


def trainings(folder: Path, env: dict[str, str]) -> list[Job]:
    """BCCD with ten seeds, one a job, and VGG16 on sample images of VOC, in float32 and with AMP."""
    check_data(env)
    compare = "tools/compare.py"
    voc = [compare, "--arms", *VOC_SAMPLE, "--output"]
    jobs = [
        Job("voc_sample", [*voc, str(folder / "voc_sample")], 300),
        Job(
            "voc_sample_amp", [*voc, str(folder / "voc_sample_amp"), "--", "SOLVER.AMP.ENABLED", "True"], 300
        ),
    ]
    for seed in range(10):
        bccd = [
            compare,
            "--arms",
            *BCCD,
            "--seeds",
            str(seed),
            "--jobs",
            "3",
            "--output",
            str(folder / "bccd"),
        ]
        jobs.append(Job(f"bccd_seed{seed}", bccd, 300))
    return jobs


def check_data(env: dict[str, str]) -> None:
    """Raise GpuDayError unless images and proposals are there."""
    if "OHEM_D2_DATA" not in env:
        raise GpuDayError("part 4 needs OHEM_D2_DATA, the folder with BCCD and voc_sample")
    datasets = ROOT / env.get("DETECTRON2_DATASETS", "datasets")
    for catalog, (name, splits, options) in PROPOSALS.items():
        for file in (datasets / f"{name}_proposals" / f"{split}.safetensors" for split in splits):
            if not file.is_file():
                made = f"prepare_proposals.py generate selective-search --catalog {catalog} --dataset"
                made += "".join(f" {name}_{split}" for split in splits) + options
                raise GpuDayError(f"{file} does not exist; made, where OpenCV is, by: python datasets/{made}")


# ---- running


def run_part(part: int, output: Path, env: dict[str, str], minutes: float) -> bool:
    """Run what was not done yet, as far as the time reaches; True if all is done."""
    end = time.monotonic() + 60 * minutes
    folder = output / f"part{part}"
    jobs, status, commit = jobs_of(part, folder, env), read_status(folder), source_version()
    folder.mkdir(parents=True, exist_ok=True)
    for job in in_order(jobs, status):
        left = end - time.monotonic()
        if left < MIN_SECONDS:
            break
        print(f"part {part}: {job.name}", flush=True)
        state, seconds = run_job(job, folder, env, min(job.seconds, left))
        if state == "too slow" and seconds < job.seconds:
            break  # the part's time is over, not the job's: it counts as not reached
        command = " ".join(["python", *job.command])
        status[job.name] = {
            "state": state, "seconds": round(seconds, 1), "command": command, "commit": commit
        }  # fmt: skip
        write_whole(folder / "status.json", json.dumps(status, indent=1) + "\n")
        print(f"part {part}: {job.name}: {state}, {seconds:.0f} s", flush=True)
    return report(part, jobs, status)


def in_order(jobs: Iterable[Job], status: dict[str, dict]) -> list[Job]:
    """What was never tried comes first, then what failed; what is done is left out."""
    left = [job for job in jobs if status.get(job.name, {}).get("state") != "done"]
    return sorted(left, key=lambda job: job.name in status)


def run_job(job: Job, folder: Path, env: dict[str, str], seconds: float) -> tuple[str, float]:
    """Run a job with its output in NAME.log; its state, and the seconds it took."""
    begin = time.monotonic()
    with open(folder / f"{job.name}.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, *job.command], cwd=ROOT, env=env,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
            state = "done" if code == 0 else f"failed with exit status {code}"
        except subprocess.TimeoutExpired:
            state = "too slow"
        finally:
            kill_group(process)
    return state, time.monotonic() - begin


def kill_group(process: subprocess.Popen) -> None:
    """End a job and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def report(part: int, jobs: list[Job], status: dict[str, dict]) -> bool:
    """Say what is done, failed and left; True if nothing failed or is left."""
    states = {job.name: status.get(job.name, {}).get("state", "not reached") for job in jobs}
    wrong = [f"{name} ({state})" for name, state in states.items() if state != "done"]
    print(f"part {part}: {len(states) - len(wrong)} of {len(states)} done", *wrong, sep="\n  ", flush=True)
    return not wrong


def read_status(folder: Path) -> dict[str, dict]:
    """What an earlier call of the part wrote down."""
    file = folder / "status.json"
    return json.loads(file.read_text()) if file.exists() else {}


# ---- command line


def finish(part: int, output: Path, archives: Path, env: dict[str, str]) -> None:
    """Write what describes the part, and its archive."""
    folder = output / f"part{part}"
    describe(folder, env)
    if part in (2, 3):
        goals = subprocess.run(
            [sys.executable, "benchmarks/goals.py", str(output)], cwd=ROOT, capture_output=True, text=True
        )
        (folder / "goals.md").write_text(goals.stdout or goals.stderr)
        print(goals.stdout)
    archives.mkdir(parents=True, exist_ok=True)
    pack(folder, archives / f"part{part}.tar.gz")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", type=int, choices=(1, 2, 3, 4), metavar="PART", help="default: 1 2 3"
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), help="folder (default output/gpu)")
    parser.add_argument("--archives", type=Path, help="folder of the archives (default: that of --output)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install into OUTPUT/site")
    parser.add_argument("--minutes", type=float, default=8.5, help="for each part (default 8.5)")
    args = parser.parse_args(argv)
    args.parts = args.parts or [1, 2, 3]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    output, all_done = args.output.resolve(), True
    try:
        if args.wheels:
            install(args.wheels, output / "site")
        env = environment(output / "site" if args.wheels else None)
        for part in args.parts:
            try:
                all_done &= run_part(part, output, env, args.minutes)
            finally:
                if (output / f"part{part}").exists():
                    finish(part, output, (args.archives or output).resolve(), env)
    except GpuDayError as error:
        sys.exit(f"gpu_day.py: {error}")
    if not all_done:
        sys.exit("gpu_day.py: call it again for what failed or was not reached")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is done is packed
    main()
