#!/usr/bin/env python
"""The goals for mining's cost on a GPU beside what was measured, as a Markdown table.

    python benchmarks/goals.py output/gpu

Reads the results of bm_train_step.py and bm_mining.py under the folder, as benchmarks/run.py names them. What
was not measured on a GPU is "no GPU yet".
"""

import argparse
import json
from pathlib import Path
from typing import Any

PRECISIONS = {"fp32": "float32", "default": "PyTorch's default", "amp": "AMP"}
TIME, MEMORY = "ratio", "memory ratio"  # of bm_train_step.py
NAMES = {
    "r50_fpn": "R50-FPN, 800 x 1333, b = 512",
    "vgg16": "VGG16, 600 x 1000, b = 64",
    "r50_c4": "R50-C4, 800 x 1333, b = 512",
}
KINDS = {
    TIME: "time of an iteration",
    MEMORY: "peak memory",
}
PAPER = {("vgg16", TIME): 1.75, ("vgg16", MEMORY): 1.36}
# Model and quantity -> the highest ratio to plain heads in the same run, by precision.
GOALS: dict[tuple[str, str], dict[str, float]] = {
    ("r50_fpn", TIME): {"fp32": 1.03, "default": 1.06, "amp": 1.08},
    ("r50_fpn", MEMORY): {"fp32": 1.01, "default": 1.01, "amp": 1.02},
    ("vgg16", TIME): {"fp32": 1.09, "default": 1.25, "amp": 1.35},
    ("vgg16", MEMORY): {"fp32": 1.01, "default": 1.01, "amp": 1.02},
    ("r50_c4", TIME): {"fp32": 1.25},
}
SELECTION_MS = 0.5
NOT_YET = "no GPU yet"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of results; searched with all folders in it")
    print(render_goals(parser.parse_args(argv).folder))


def render_goals(folder: Path) -> str:
    """The table of goals and measured values, and lines on selection and on R50-C4's floor."""
    heads = [f"{name} | measured" for name in PRECISIONS.values()]
    lines = [f"| ratio to plain heads | {' | '.join(heads)} |", "|---" * (1 + 2 * len(heads)) + "|"]
    for (model, kind), goals in GOALS.items():
        paper = f" (the paper: {PAPER[model, kind]})" if (model, kind) in PAPER else ""
        cells = [_cells(folder, model, kind, precision, goals.get(precision)) for precision in PRECISIONS]
        lines.append(f"| {NAMES[model]}: {KINDS[kind]}{paper} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _selection(folder), _floor(folder)])


def _cells(folder: Path, model: str, kind: str, precision: str, goal: float | None) -> str:
    report = _read(folder, f"train_step_{model}_{precision}")
    ratio = report and report["arms"].get("ohem", {}).get(kind)
    if goal is None:
        return f" | {ratio:.3f}" if ratio else " | "
    return f"<= {goal} | {ratio:.3f}" if ratio else f"<= {goal} | {NOT_YET}"


def _selection(folder: Path) -> str:
    report = _read(folder, "mining_r50_fpn")
    measured = f"{report['selection']['ms']:.2f} ms" if report else NOT_YET
    return f"Selection alone, 2 x 2,000 RoIs: <= {SELECTION_MS} ms, measured: {measured}."


def _floor(folder: Path) -> str:
    report = _read(folder, "mining_r50_c4")
    if report is None:
        return f"R50-C4, mining alone and its floor: {NOT_YET}."
    floors = ", ".join(f"{name} {ms:.1f} ms" for name, ms in report["floor"]["ms"].items())
    return f"R50-C4, mining alone: {report['steps']['as it is']['ms']:.1f} ms; its floor: {floors}."


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    """The report NAME.json under the folder, if it was measured on a GPU."""
    for file in sorted(folder.rglob(f"{name}.json")):
        report = json.loads(file.read_text())
        if report["environment"]["gpu"] != "none":
            return report
    return None


if __name__ == "__main__":
    main()
