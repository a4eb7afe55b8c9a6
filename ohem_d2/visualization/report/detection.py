"""The section of a report on what was detected in a data set: precision, errors, confusion, galleries.

Shape letters: K = foreground classes, S = chosen scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .charts import Line, draw_bars, draw_lines, draw_precisions
from .page import Block, Cell, Chart, Gallery, Note, Section, Table
from .training import number_cell

__all__ = ["ArmErrors", "DatasetErrors", "RunErrors", "detection_section"]

MAX_CHARTS = 12  # of precision and recall; of more classes those with the most objects have one
MAX_MATRIX = 12  # classes up to which confusion is a matrix; of more the most frequent pairs are listed
MAX_PAIRS = 30


class RunErrors(NamedTuple):
    """Of one run; all at one IoU."""

    ap: float  # in percent
    gains: Mapping[str, float]  # kind of error -> AP that is gained without it, in percent
    num_errors: Mapping[str, int]  # kind of error -> number
    precisions: np.ndarray  # (K, R) at the recalls; NaN for a class without objects
    num_right: np.ndarray  # (S, K) detections of the scores or more
    num_wrong: np.ndarray  # (S, K)
    confusions: np.ndarray  # (S, K + 1, K + 1), objects in rows, detections in columns, background last


@dataclass(frozen=True)
class ArmErrors:
    """Runs of an arm that were tested on the data set."""

    name: str
    runs: Sequence[RunErrors]


@dataclass(frozen=True)
class DatasetErrors:
    """What is drawn of a data set."""

    name: str
    classes: Sequence[str]  # (K,)
    num_images: int
    num_objects: np.ndarray  # (K,)
    recalls: np.ndarray  # (R,) of the precisions
    scores: Sequence[float]  # (S,)
    arms: Sequence[ArmErrors]  # in the order of their colours; some may have no runs
    galleries: Sequence[Gallery]
    problems: Sequence[str]  # what could not be read


def detection_section(data: DatasetErrors, number: int = 0) -> Section:
    """The section of a data set; `number` keeps the names of its charts apart from those of others."""
    title, notes = f"Detections on {data.name}", [Note(f"{problem}.") for problem in data.problems]
    arms = [arm for arm in data.arms if arm.runs]
    if not arms:
        return Section(title, [*notes, Note("There is nothing to analyse.")])
    intro = (
        f"{data.num_images:,} images, {data.num_objects.sum():,} objects, {len(data.classes):,} classes. "
        "A detection is right at an IoU of 0.5 or more with an object of its class that no better one has "
        "found. Ignored objects count neither way. Of several seeds: mean, in brackets lowest and highest."
    )
    prefix = f"detections_{number}"
    blocks: list[Block] = [Note(intro), _kinds_chart(prefix, data), _kinds_table(arms)]
    blocks += [_classes_table(data, arms), *_precision_charts(prefix, data)]
    blocks += [
        _scores_chart(prefix, data),
        _scores_table(data, arms),
        _confusion(data, arms),
        *data.galleries,
    ]
    return Section(title, [*notes, *(block for block in blocks if block is not None)])


def spread_cell(values: Sequence[float], decimals: int = 1, sign: str = "") -> Cell:
    """The mean, and in brackets the lowest and highest of several."""
    known = [value for value in values if value == value]
    if not known:
        return Cell("", "")
    mean = float(np.mean(known))
    text = f"{mean:{sign},.{decimals}f}"
    if len(known) > 1:
        text += f" ({min(known):{sign},.{decimals}f} to {max(known):{sign},.{decimals}f})"
    return Cell(text, mean)


def _kinds_chart(prefix: str, data: DatasetErrors) -> Chart:
    kinds = next(list(arm.runs[0].gains) for arm in data.arms if arm.runs)
    bars = {
        arm.name: np.array([list(run.gains.values()) for run in arm.runs]) if arm.runs else None
        for arm in data.arms
    }
    return draw_bars(
        f"{prefix}_errors", "What each kind of error costs (TIDE)", kinds, bars, "AP gained without it"
    )


def _kinds_table(arms: Sequence[ArmErrors]) -> Table:
    rows = [
        [
            Cell(arm.name),
            Cell(kind),
            spread_cell([run.gains[kind] for run in arm.runs], 2, "+"),
            spread_cell([run.num_errors[kind] for run in arm.runs], 0),
        ]
        for arm in arms
        for kind in arm.runs[0].gains
    ]
    note = (
        "localisation: IoU of 0.1 to 0.5 with an object of its class; classification: 0.5 or more with one "
        "of another class; duplicate: of an object that is found; background: 0.1 or less with all; both: "
        "the rest; missed: objects that nothing aims at. AP gained is at IoU 0.5, with that kind corrected."
    )
    return Table(
        "Kinds of errors (TIDE)", ["arm", "kind", "AP gained", "number"], rows, note, choices=["arm"]
    )


def _classes_table(data: DatasetErrors, arms: Sequence[ArmErrors]) -> Table:
    rows = [
        [Cell("all"), Cell(f"{data.num_objects.sum():,}", float(data.num_objects.sum()))]
        + [spread_cell([run.ap for run in arm.runs]) for arm in arms]
    ]
    for k, name in enumerate(data.classes):
        of_arms = [[100 * run.precisions[k].mean() for run in arm.runs] for arm in arms]
        rows.append([Cell(name), number_cell(data.num_objects[k], 0), *map(spread_cell, of_arms)])
    note = "AP in percent, as COCO's at IoU 0.5: the mean of the precision at 101 recalls."
    return Table("AP50 of each class", ["class", "objects", *(arm.name for arm in arms)], rows, note)


def _precision_charts(prefix: str, data: DatasetErrors) -> list[Block]:
    order = np.argsort(-data.num_objects, kind="stable")
    shown = [k for k in order if data.num_objects[k] > 0][:MAX_CHARTS]
    charts: list[Block] = []
    for k in shown:
        curves = {
            arm.name: np.array([run.precisions[k] for run in arm.runs]).reshape(-1, len(data.recalls))
            for arm in data.arms
        }
        title = f"{data.classes[k]}: precision and recall"
        charts.append(draw_precisions(f"{prefix}_precision_{k}", title, data.recalls, curves))
    if len(shown) < len(data.classes):
        charts.append(
            Note(f"Curves of the {len(shown)} classes with the most objects; AP of all in the table.")
        )
    return charts


def _scores_chart(prefix: str, data: DatasetErrors) -> Chart | None:
    lines = []
    for style, arm in enumerate(data.arms):
        runs = [
            list(zip(data.scores, (run.num_wrong.sum(axis=1) / data.num_images).tolist())) for run in arm.runs
        ]
        lines.append(Line(arm.name, runs, style))
    return draw_lines(
        f"{prefix}_false", "False positives per image", lines, "score of at least", "false positives"
    )


def _scores_table(data: DatasetErrors, arms: Sequence[ArmErrors]) -> Table:
    rows, total = [], max(int(data.num_objects.sum()), 1)
    for arm in arms:
        for s, score in enumerate(data.scores):
            right, wrong = (
                [int(x[s].sum()) for x in of]
                for of in ([r.num_right for r in arm.runs], [r.num_wrong for r in arm.runs])
            )
            precision = [100 * r / (r + w) if r + w else float("nan") for r, w in zip(right, wrong)]
            cells = [
                spread_cell([w / max(data.num_images, 1) for w in wrong], 2),
                spread_cell([100 * r / total for r in right]),
                spread_cell(precision),
            ]
            rows.append([Cell(arm.name), number_cell(score, 2), *cells])
    columns = ["arm", "score", "false positives an image", "recall, %", "precision, %"]
    return Table("False positives at chosen scores", columns, rows, choices=["arm", "score"])


def _confusion(data: DatasetErrors, arms: Sequence[ArmErrors]) -> Table:
    names, is_matrix, rows = [*data.classes, "background"], len(data.classes) <= MAX_MATRIX, []
    for arm in arms:
        for s, score in enumerate(data.scores):
            counts = np.mean([run.confusions[s] for run in arm.runs], axis=0)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
            cells = _matrix if is_matrix else _pairs
            rows += [[Cell(arm.name), number_cell(score, 2), *row] for row in cells(counts, shares, names)]
    note = (
        "Objects in rows, and as what they are detected; means over seeds. Objects that are not found are "
        "detected as background, and false positives on the background have the object background."
    )
    columns = [f"as {name}" for name in names] if is_matrix else ["detected as", "number", "% of the objects"]
    if not is_matrix:
        note += f" The {MAX_PAIRS} most frequent confusions."
    return Table("Confusion", ["arm", "score", "object", *columns], rows, note, choices=["arm", "score"])


def _matrix(counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> list[list[Cell]]:
    cells = [[Cell(_count(n), float(n), float(s)) for n, s in zip(*row)] for row in zip(counts, shares)]
    return [[Cell(name), *row] for name, row in zip(names, cells)]


def _count(mean: float) -> str:
    """A mean of counts: whole numbers without decimals."""
    return f"{mean:,.1f}".removesuffix(".0")


def _pairs(counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> list[list[Cell]]:
    """The most frequent confusions, without what is right."""
    wrong = counts * (1 - np.eye(len(names)))
    order = [i for i in np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS] if wrong.flat[i] > 0]
    places = [divmod(int(i), len(names)) for i in order]
    return [
        [
            Cell(names[a]),
            Cell(names[b]),
            Cell(_count(counts[a, b]), float(counts[a, b])),
            number_cell(100 * shares[a, b], 1),
        ]
        for a, b in places
    ]
