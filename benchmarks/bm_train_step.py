#!/usr/bin/env python
"""Time and memory of a training iteration, mined and not, on synthetic images, proposals and weights.

    python benchmarks/bm_train_step.py --model r50-fpn --precision amp --output benchmarks/results/r50_fpn.json

All arms are built in one process and take turns; every figure is given as a ratio to the arm ``standard`` too.
Works on CPU (``--model small``) as on CUDA.
"""
import argparse
import json
import sys
from pathlib import Path

import torch
from arms import ARMS, MODELS, build_arm, make_batch
from measure import count_operations, environment, peak_memory, stage_times, time_in_turns

COLUMNS = ("ms", "ratio", "spread", "memory MiB", "memory ratio", "ATen calls", "syncs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "amp"], default="fp32")
    parser.add_argument("--images", type=int, default=2, help="of a batch (default 2)")
    parser.add_argument("--proposals", type=int, default=2000, help="of an image (default 2000)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's")
    parser.add_argument("--classes", type=int, default=20, help="foreground classes (default 20)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    batch = make_batch(args)
    steps = {name: build_arm(name, args).step(batch) for name in args.arms}
    results = measure(steps, args)
    report = {"command": " ".join(["python", *sys.argv]), "environment": environment(), "arms": results}
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(results, args))


def measure(steps, args):
    times = time_in_turns(steps, args.device, args.repeats, args.warmup)
    results = {name: dict(of_arm) for name, of_arm in times.items()}
    for name, step in steps.items():
        results[name].update(peak_memory(step, args.device), **count_operations(step, args.device))
        results[name]["stages_ms"] = stage_times(step, args.device)
    base = results[args.arms[0]]
    for of_arm in results.values():
        of_arm["ratio"] = of_arm["ms"] / base["ms"]
        if base["memory MiB"]:
            of_arm["memory ratio"] = of_arm["memory MiB"] / base["memory MiB"]
    return results


def table(results, args) -> str:
    lines = ["| arm | " + " | ".join(COLUMNS) + " | stages |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, of_arm in results.items():
        cells = [f"{of_arm[c]:.{3 if 'ratio' in c else 1 if 'ms' in c else 0}f}" if of_arm.get(c) is not None else ""
                 for c in COLUMNS if c != "spread"]  # fmt: skip
        cells.insert(2, f"{of_arm['spread'][0]:.1f} to {of_arm['spread'][1]:.1f}")
        stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in of_arm["stages_ms"].items())
        lines.append(f"| {name} | {' | '.join(cells)} | {stages} |")
    height, width = args.size or MODELS[args.model].size
    lines.append(f"\n{args.model}, {args.images} images of {height} x {width}, {args.proposals} proposals each, "
                 f"{args.precision}, {args.device}; median of {args.repeats}, ms.")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
