#!/usr/bin/env python
"""Time and memory of a training iteration, mined and not, on synthetic images, proposals and weights.

    python benchmarks/bm_train_step.py --model r50-fpn --precision amp --output r50_fpn.json

All arms are built in one process and take turns; time and memory are also given relative to the first arm
(``standard``). An arm that does not fit into the GPU's memory is left out and named. Runs on the CPU
(``--model small``) and on CUDA.
"""

import torch
from arms import ARMS, MODELS, build_arm, get_parser, make_batch, set_precision
from measure import count_operations, peak_memory, stage_times, time_in_turns, write_report

COLUMNS = ("ms", "ratio", "spread", "memory MiB", "memory ratio", "GFLOP", "ATen calls", "launches", "syncs")


def main() -> None:
    parser = get_parser(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument(
        "--count",
        action="store_true",
        help="no times: only operations and memory, in an iteration of each arm",
    )
    args = parser.parse_args()
    set_precision(args.precision)
    batch = make_batch(args)
    steps, results = {}, {}
    for name in args.arms:
        step = build_arm(name, args).step(batch)
        if counts := count_if_it_fits(step, args.device):
            steps[name], results[name] = step, counts
    too_large = [name for name in args.arms if name not in results]
    if not args.count:
        add_times(steps, results, args)
    add_ratios(results, args.arms[0])
    write_report({"arms": results, "out of memory": too_large}, args.output)
    print(table(results, args))
    if too_large:
        print(f"Out of memory: {', '.join(too_large)}.")


def count_if_it_fits(step, device: str) -> dict[str, float]:
    """Operations and memory of a step, in its first runs; empty if the GPU's memory is too small for it."""
    try:
        return {**count_operations(step, device), **peak_memory(step, device)}
    except torch.OutOfMemoryError:
        pass  # outside this block nothing holds the tensors of the step any more
    torch.cuda.empty_cache()
    return {}


def add_times(steps, results, args) -> None:
    for name, times in time_in_turns(steps, args.device, args.repeats, args.warmup).items():
        results[name].update(times, stages_ms=stage_times(steps[name], args.device))


def add_ratios(results, base: str) -> None:
    """Add time and memory of each arm relative to `base`."""
    for ratio, quantity in (("ratio", "ms"), ("memory ratio", "memory MiB")):
        for of_arm in results.values():
            if results.get(base, {}).get(quantity):
                of_arm[ratio] = of_arm[quantity] / results[base][quantity]


def table(results, args) -> str:
    columns = [c for c in COLUMNS if any(c in of_arm for of_arm in results.values())]
    lines = ["| arm | " + " | ".join(columns) + " | stages |", "|---" * (len(columns) + 2) + "|"]
    for name, of_arm in results.items():
        stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in of_arm.get("stages_ms", {}).items())
        lines.append(
            f"| {name} | {' | '.join(_cell(column, of_arm.get(column)) for column in columns)} | {stages} |"
        )
    height, width = args.size or MODELS[args.model].size
    timed = "" if args.count else f"; median of {args.repeats}, ms"
    lines.append(
        f"\n{args.model}, {args.images} images of {height} x {width}, {args.proposals} proposals each, "
        f"{args.precision}, {args.device}{timed}."
    )
    return "\n".join(lines)


def _cell(column: str, value) -> str:
    if value is None:
        return ""
    if column == "spread":
        return f"{value[0]:.1f} to {value[1]:.1f}"
    return f"{value:.{3 if 'ratio' in column else 1 if column in ('ms', 'GFLOP') else 0}f}"


if __name__ == "__main__":
    main()
