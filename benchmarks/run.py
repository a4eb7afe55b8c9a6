#!/usr/bin/env python
"""Run the benchmarks one after the other; each writes its JSON and its table to one folder.

    python benchmarks/run.py --output benchmarks/results/h100 [--only mining_vgg16 scale_r50_fpn] [--list]

With a GPU: the paper's and current models at full size, minutes each. Without one: a small model. A benchmark
that fails does not stop the others and is named at the end; one whose JSON exists is not run again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent

# Needs the data set of `python datasets/prepare_demo.py`.
RANKING = "ranking_demo"
# With and without a GPU.
EVERYWHERE: dict[str, str] = {
    RANKING: "bm_ranking.py --config-file configs/demo/ohem.yaml",
    "loader": "bm_loader.py",
    "proposals": "bm_proposals.py --images 5000",
    "mask_memory": "bm_mask_memory.py",
}
CPU: dict[str, str] = {
    "train_step_small": "bm_train_step.py --model small",
    "mining_small": "bm_mining.py --model small",
    "testing_small": "bm_testing.py --model small --repeats 10",
    "mined_log_small": "bm_mined_log.py --model small",
    "scale_small": "bm_scale.py --model small --size 120 160 --repeats 5 --warmup 1",
    **EVERYWHERE,
}
MODELS = {"vgg16": "vgg16", "r50_fpn": "r50-fpn", "r50_c4": "r50-c4"}  # name in files -> `--model`
GPU: dict[str, str] = {
    **{
        f"train_step_{name}_{precision}": f"bm_train_step.py --model {model} --precision {precision}"
        for name, model in MODELS.items()
        for precision in ("fp32", "default", "amp")
    },
    **{f"mining_{name}": f"bm_mining.py --model {model}" for name, model in MODELS.items()},
    **{
        f"mined_log_{name}": f"bm_mined_log.py --model {model} --precision amp"
        for name, model in MODELS.items()
    },
    "testing_vgg16": "bm_testing.py --model vgg16 --precision default --size 600 800",
    "testing_r50_fpn": "bm_testing.py --model r50-fpn --precision default",
    "scale_r50_fpn": "bm_scale.py --model r50-fpn --precision default",
    **EVERYWHERE,
}


def main() -> None:
    benchmarks = available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument(
        "--only", nargs="+", choices=list(benchmarks), default=list(benchmarks), metavar="NAME"
    )
    parser.add_argument("--list", action="store_true", help="print what would run")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name}: {benchmarks[name]}" for name in args.only))
        return
    if not args.output:
        parser.error("--output is required")
    args.output.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.only if not run(name, benchmarks[name].split(), args.output)]
    if failed:
        sys.exit(f"run.py: failed: {', '.join(failed)}; see {args.output}/NAME.log")


def available() -> dict[str, str]:
    """The benchmarks of this machine; says which is left out for want of data."""
    benchmarks = dict(GPU if torch.cuda.is_available() else CPU)
    if not (Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "demo").is_dir():
        benchmarks.pop(RANKING, None)
        print(f"{RANKING}: left out; needs `python datasets/prepare_demo.py`", file=sys.stderr)
    return benchmarks


def run(name: str, command: list[str], output: Path) -> bool:
    """Run a benchmark and write its table to NAME.md; False if it failed."""
    result = output / f"{name}.json"
    if result.exists():
        print(f"{name}: done before")
        return True
    script, *options = command
    with open(output / f"{name}.log", "w") as log:
        done = subprocess.run(
            [sys.executable, os.path.relpath(FOLDER / script), *options, "--output", result],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    if done.returncode or not result.exists():
        return False
    (output / f"{name}.log").unlink()
    (output / f"{name}.md").write_text(f"`python benchmarks/{' '.join(command)}`\n\n{done.stdout}")
    print(f"{name}\n\n{done.stdout}")
    return True


if __name__ == "__main__":
    main()
