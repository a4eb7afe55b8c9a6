"""The sections of a report on how runs were trained: configs, curves, time and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ...utils.mined_rois import MinedRoIs
from .charts import Line, draw_lines
from .page import Block, Cell, Note, Section, Table

__all__ = ["ArmCurves", "class_shares", "is_drawn", "training_sections"]

Curve = Sequence[tuple[int, float]]
MAX_CLASSES = 6  # lines of what is mined
_MINED, _ALL = "ohem/fg_fraction", "ohem/candidates_fg_fraction"
_SAMPLED = ("roi_head/num_fg_samples", "roi_head/num_bg_samples")


@dataclass(frozen=True)
class ArmCurves:
    """What the runs of an arm wrote while they trained."""

    name: str
    runs: Sequence[str]  # their names
    curves: Sequence[Mapping[str, Curve]]  # of each run: key of metrics.json -> (iterations, value)
    memory_mib: Sequence[int | None]
    problems: Sequence[Sequence[str]]
    mined: Mapping[
        str, Curve
    ]  # of the first run that records it: class -> (iterations, share of what is mined)


def training_sections(arms: Sequence[ArmCurves], lines: Mapping[str, Sequence[Any]]) -> list[Section]:
    """What differs, what was not read, and how the training went.

    Args:
        arms: in the order of their colours.
        lines: key of the config -> its value in each arm that has a config, for those that differ.
    """
    return [
        Section("Runs", [*_problems(arms), _differences(arms, lines), _resources(arms)]),
        Section("Training", _curves(arms) or [Note("No run has measured anything yet.")]),
    ]


def is_drawn(key: str) -> bool:
    """Whether a key of metrics.json has a part in the sections."""
    others = (
        "time",
        "data_time",
        "total_loss",
        "ohem/all_roi_loss",
        "ohem/mean_loss",
        "ohem/mean_selected_loss",
    )
    return key in (*others, _MINED, _ALL, *_SAMPLED) or key.rpartition("/")[2] == "AP"


def _problems(arms: Sequence[ArmCurves]) -> list[Block]:
    pairs = [pair for arm in arms for pair in zip(arm.runs, arm.problems)]
    return [Note(f"{run}: {problem}.") for run, of_run in pairs for problem in of_run]


def _differences(arms: Sequence[ArmCurves], lines: Mapping[str, Sequence[Any]]) -> Block:
    names = [arm.name for arm in arms if not any("no config" in p for p in arm.problems[0])]
    if not lines:
        return Note(
            "The configs of all arms are the same." if len(names) > 1 else "One config: nothing differs."
        )
    rows = [[Cell(key), *(Cell(str(value)) for value in values)] for key, values in lines.items()]
    note = "Lines that differ between arms; runs of one arm differ in seed and output folder alone."
    return Table("Config", ["key", *names], rows, note)


def _resources(arms: Sequence[ArmCurves]) -> Block:
    aps = _ap_keys(arms)
    columns = [
        "run",
        "arm",
        "iterations",
        *aps,
        "s / iteration",
        "s of it for data",
        "hours",
        "GPU memory, GiB",
    ]
    rows = []
    for arm in arms:
        for run, curves, memory in zip(arm.runs, arm.curves, arm.memory_mib):
            done = max((curve[-1][0] for curve in curves.values() if curve), default=0)
            seconds, data = (_median(curves.get(key, ())) for key in ("time", "data_time"))
            hours = None if seconds is None else seconds * done / 3600
            last = [(curves[key][-1][1] if curves.get(key) else None, 1) for key in aps]
            numbers = [(done, 0), *last, (seconds, 3), (data, 3), (hours, 2), (memory and memory / 1024, 2)]
            rows.append([Cell(run), Cell(arm.name), *(number_cell(*number) for number in numbers)])
    note = (
        "AP in percent, of the last test while training. Seconds are medians over the rows of metrics.json; "
        "hours of training are iterations times that, without tests. Memory is empty for runs on a CPU."
    )
    return Table("AP, time and memory", columns, rows, note, choices=["arm"])


def _median(curve: Curve) -> float | None:
    return median(value for _, value in curve) if curve else None


def number_cell(value: float | None, decimals: int) -> Cell:
    """A cell with a number, or an empty one."""
    return Cell("", "") if value is None or value != value else Cell(f"{value:,.{decimals}f}", float(value))


def _curves(arms: Sequence[ArmCurves]) -> list[Block]:
    blocks = [
        draw_lines(f"ap_{k}", f"{key} while training", _lines(arms, key), "iterations", "AP in percent")
        for k, key in enumerate(_ap_keys(arms))
    ]
    blocks.append(
        draw_lines(
            "roi_loss",
            "Mean loss over all RoIs (figure 3 of the paper)",
            _lines(arms, "ohem/all_roi_loss"),
            "iterations",
            "loss",
        )
    )
    blocks.append(
        draw_lines(
            "mined_loss",
            "Loss of what is mined, dotted: of all candidates",
            _both(arms),
            "iterations",
            "loss",
        )
    )
    blocks.append(
        draw_lines(
            "foreground",
            "Foreground among the RoIs trained on, dotted: among all candidates",
            [*_foreground(arms), *_lines(arms, _ALL, " (all)", is_faint=True)],
            "iterations",
            "fraction",
        )
    )
    blocks.append(
        draw_lines(
            "total_loss",
            "Training loss (of what was sampled or mined)",
            _lines(arms, "total_loss"),
            "iterations",
            "loss",
        )
    )
    for number, arm in enumerate(arms):
        lines = [Line(name, [curve], k) for k, (name, curve) in enumerate(arm.mined.items())]
        title = f"What {arm.name} mines"
        blocks.append(draw_lines(f"mined_{number}", title, lines, "iterations", "share of the mined RoIs"))
    return [block for block in blocks if block is not None]


def class_shares(mined: MinedRoIs, class_names: Sequence[str], num_parts: int = 40) -> dict[str, Curve]:
    """The share of each class in what was mined, over time.

    Args:
        mined: what a training recorded, by iteration.
        class_names: (K,); label K is the background.
        num_parts: parts of equally many RoIs that a share is of.

    Returns:
        name -> (iterations done at the end of the part, share), the most frequent first; of more than six the
        others are one, "others".
    """
    names = [*class_names, "background"]
    iterations = np.repeat(mined.iterations, np.diff(mined.offsets)) + 1
    ends = np.unique(np.linspace(0, len(iterations), num_parts + 1).astype(int))[1:]
    parts = np.split(mined.labels, ends[:-1]) if len(ends) else []
    counts = np.array([np.bincount(part, minlength=len(names)) for part in parts]).reshape(-1, len(names))
    order = [k for k in np.argsort(-counts.sum(axis=0), kind="stable") if counts[:, k].any()]
    shown, rest = (
        (order, []) if len(order) <= MAX_CLASSES else (order[: MAX_CLASSES - 1], order[MAX_CLASSES - 1 :])
    )
    columns = {names[k]: counts[:, k] for k in shown} | (
        {"others": counts[:, rest].sum(axis=1)} if rest else {}
    )
    done = iterations[ends - 1].tolist() if len(ends) else []
    totals = counts.sum(axis=1)
    return {name: list(zip(done, (column / totals).tolist())) for name, column in columns.items()}


def _ap_keys(arms: Sequence[ArmCurves]) -> list[str]:
    """The keys of mean AP: "bbox/AP", with several test sets "NAME/bbox/AP"."""
    keys = dict.fromkeys(key for arm in arms for curves in arm.curves for key in curves)
    return [key for key in keys if key.rpartition("/")[2] == "AP"]


def _lines(arms: Sequence[ArmCurves], key: str, suffix: str = "", is_faint: bool = False) -> list[Line]:
    return [
        Line(arm.name + suffix, [curves[key] for curves in arm.curves if curves.get(key)], style, is_faint)
        for style, arm in enumerate(arms)
    ]


def _both(arms: Sequence[ArmCurves]) -> list[Line]:
    return [
        *_lines(arms, "ohem/mean_selected_loss"),
        *_lines(arms, "ohem/mean_loss", " (all)", is_faint=True),
    ]


def _foreground(arms: Sequence[ArmCurves]) -> list[Line]:
    """The share of foreground in what was mined, or by Detectron2's sampler."""
    return [Line(arm.name, [_share(curves) for curves in arm.curves], k) for k, arm in enumerate(arms)]


def _share(curves: Mapping[str, Curve]) -> Curve:
    if curves.get(_MINED):
        return curves[_MINED]
    foreground, background = (dict(curves.get(key, ())) for key in _SAMPLED)
    both = [(i, n, background[i]) for i, n in foreground.items() if i in background]
    return [(i, n / (n + m)) for i, n, m in both if n + m > 0]
