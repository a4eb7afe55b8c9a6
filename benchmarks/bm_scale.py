#!/usr/bin/env python
"""How time and memory of a training iteration grow with proposals, images and classes, mined and not.

    python benchmarks/bm_scale.py --model r50-fpn --precision amp --output scale_r50_fpn.json

One quantity at a time is swept, the others stay as given. "mining MiB" is the peak memory of mining alone,
above what the iteration holds at that point. Slopes are those of the least-squares line through a sweep.
"""

import argparse
import statistics
import sys
from unittest import mock

from arms import MODELS, build_arm, get_parser, make_batch, set_precision
from measure import peak_memory, time_in_turns, write_report

ARMS = ("standard", "ohem")
SWEEPS = {
    "proposals": [300, 1000, 2000, 5000, 20000],
    "images": [1, 2, 4, 8, 16],
    "classes": [20, 80, 1203],
}
UNITS = {"proposals": 1000, "images": 1, "classes": 100}  # of the slopes
COLUMNS = ("ms", "memory MiB")


def main() -> None:
    parser = get_parser(__doc__)
    help_text = "what to sweep and its values; may be given more than once (default: all, at usual values)"
    parser.add_argument("--sweep", nargs="+", action="append", metavar=("NAME", "VALUE"), help=help_text)
    args = parser.parse_args()
    sweeps = dict(read_sweep(words, parser) for words in args.sweep or [[name] for name in SWEEPS])
    set_precision(args.precision)
    results = {name: sweep(name, values, args) for name, values in sweeps.items()}
    write_report({"sweeps": results}, args.output)
    print(table(results, args))


def read_sweep(words, parser: argparse.ArgumentParser):
    name, *values = words
    if name not in SWEEPS or not all(v.isdecimal() and int(v) > 0 for v in values):
        parser.error(f"--sweep {' '.join(words)}; valid: one of {', '.join(SWEEPS)}, and integers > 0")
    return name, sorted({int(v) for v in values}) or SWEEPS[name]


def sweep(name: str, values, args) -> dict:
    points = {}
    for value in values:
        print(f"{name} {value}", file=sys.stderr)
        points[value] = measure(argparse.Namespace(**{**vars(args), name: value}))
    slopes = {arm: {column: slope(name, points, arm, column) for column in COLUMNS} for arm in ARMS}
    return {"points": points, "slopes": slopes, "unit": UNITS[name]}


def slope(name: str, points: dict[int, dict], arm: str, column: str) -> float | None:
    """Slope per unit of the swept quantity; None for a single point."""
    if len(points) < 2:
        return None
    return UNITS[name] * statistics.linear_regression(points, [p[arm][column] for p in points.values()]).slope


def measure(args) -> dict[str, dict]:
    batch = make_batch(args)
    steps = {name: build_arm(name, args).step(batch) for name in ARMS}
    results = time_in_turns(steps, args.device, args.repeats, args.warmup)
    for name, step in steps.items():
        results[name].update(peak_memory(step, args.device))
        for column in COLUMNS:
            results[name][column.split()[0] + " ratio"] = results[name][column] / results["standard"][column]
    results["ohem"]["mining MiB"] = mining_memory(steps["ohem"], args.device)
    return results


def mining_memory(step, device: str) -> float:
    heads, found = step.model.roi_heads, {}
    mine = heads._hard_candidates

    def measured(proposals, targets):
        found.update(peak_memory(lambda: mine(proposals, targets), device))
        return mine(proposals, targets)

    with mock.patch.object(heads, "_hard_candidates", measured):
        step()
    return found["memory MiB"]


def table(results, args) -> str:
    heads = ["sweep", "value", "standard, ms", "ohem, ms", "spread", "ratio"]
    heads += ["standard, MiB", "ohem, MiB", "ratio", "mining, MiB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, of_sweep in results.items():
        for value, arms in of_sweep["points"].items():
            standard, ohem = (arms[arm] for arm in ARMS)
            spread = " to ".join(f"{ms:.1f}" for ms in ohem["spread"])
            cells = [f"{standard['ms']:.1f}", f"{ohem['ms']:.1f}", spread]
            cells += [f"{ohem['ms ratio']:.3f}", f"{standard['memory MiB']:.1f}", f"{ohem['memory MiB']:.1f}"]
            cells += [f"{ohem['memory ratio']:.3f}", f"{ohem['mining MiB']:.1f}"]
            lines.append(f"| {name} | {value} | {' | '.join(cells)} |")
        if len(of_sweep["points"]) > 1:
            (ms, mib), (ms_mined, mib_mined) = (of_sweep["slopes"][arm].values() for arm in ARMS)
            cells = [f"{ms:.2f}", f"{ms_mined:.2f}", "", "", f"{mib:.2f}", f"{mib_mined:.2f}", "", ""]
            lines.append(f"| {name} | per {of_sweep['unit']} | {' | '.join(cells)} |")
    height, width = args.size or MODELS[args.model].size
    fixed = f"{args.images} images, {args.proposals} proposals each, {args.classes} foreground classes"
    lines.append(f"\n{args.model}, images of {height} x {width}; where not swept {fixed}; "
                 f"{args.precision}, {args.device}; median of {args.repeats}.")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
