"""How many seeds and how long a schedule fit into a given time, and what difference they could tell apart."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..utils.text_files import read_json
from .arms import Run
from .intervals import detectable_difference
from .pairs import Pairs
from .runs import write_json
from .trials import Trial

__all__ = [
    "KNOWN_SPREAD",
    "Plan",
    "describe_plan",
    "keep_plan",
    "make_plan",
    "measured_spread",
    "parse_duration",
    "shorten",
]

logger = logging.getLogger(__name__)
# Of paired differences in AP: standard deviation, and whose. The largest of the three pairs of arms there.
KNOWN_SPREAD = (
    0.7,
    "as on BCCD, 13 objects an image; on sparse or few test images it can be ten times as much",
)

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(d|h|min|s))+")
# Tried in this order: at least so many seeds, of at least this part of the schedule.
_LEVELS = ((5, 0.5), (3, 0.25), (2, 0.1))
_MAX_SEEDS = 20
_RESERVE = 0.1  # of the time, since a short trial foretells no more than roughly


@dataclass(frozen=True)
class Plan:
    """What fits.

    Attributes:
        num_seeds: seeds of every arm on every data set.
        part: of the configs' schedules, in (0, 1].
        seconds: that it takes, as foretold.
        quarters: whether runs that are tested once are tested after each quarter, for their learning curve.
    """

    num_seeds: int
    part: float
    seconds: float
    quarters: bool = False


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30min", "2h", "1h30min" or "1d".

    Raises:
        ValueError: it is none of these.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; valid: 90s, 30min, 2h, 1h30min, 1d")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(d|h|min|s)", text))


def make_plan(trials: Sequence[Trial], seconds: float, jobs: int = 1, num_seeds: int | None = None) -> Plan:
    """Fit seeds and schedule into a time.

    Five seeds come first, then the whole schedule, then more seeds. What does not fit is shortened: five
    seeds of half a schedule, three of a quarter, two of a tenth. Tests in between are added where they cost
    little.

    Args:
        trials: of each arm on each data set, with their times.
        seconds: there are.
        jobs: runs at a time.
        num_seeds: so many and no others; None: as many as fit.

    Raises:
        ValueError: not even the least fits; says what would.
    """
    available = seconds * (1 - _RESERVE)
    try:
        tested = _fit([_tested(trial, True) for trial in trials], available, jobs, num_seeds)
    except _TooShortError:
        tested = None
    if tested is not None and all(_is_cheap(trial, tested.part) for trial in trials):
        return replace(tested, quarters=True)
    try:
        return _fit(trials, available, jobs, num_seeds)
    except _TooShortError as error:
        left = f"{max(seconds, 0) / 60:.0f} min, left after the trials"
        raise ValueError(f"{left}, are too short: {error}") from None


class _TooShortError(ValueError):
    """Of a time into which not even the least fits; says how long that takes."""


def _fit(trials: Sequence[Trial], available: float, jobs: int, num_seeds: int | None) -> Plan:
    fixed = sum(trial["start_seconds"] + _num_tests(trial) * trial["test_seconds"] for trial in trials)
    iterating = sum(trial["seconds_per_iteration"] * _max_iter(trial) for trial in trials)

    def rounds(num: int) -> float:
        """How many times as long as one seed of all, one by one; jobs that find no run left wait."""
        return math.ceil(num * len(trials) / jobs) / len(trials)

    def duration(num: int, part: float) -> float:
        return rounds(num) * (fixed + part * iterating)

    for least, least_part in _LEVELS if num_seeds is None else ((num_seeds, _LEVELS[-1][1]),):
        part = min(1.0, (available / rounds(least) - fixed) / iterating)
        part = math.floor(100 * part + 1e-6) / 100  # a round number
        if part < least_part:
            continue
        num = least
        while num_seeds is None and part == 1 and num < _MAX_SEEDS and duration(num + 1, 1) <= available:
            num += 1
        return Plan(num, part, duration(num, part))
    needed = math.ceil(duration(least, least_part) / (1 - _RESERVE) / 60)
    raise _TooShortError(
        f"{least} seeds of {least_part:.0%} of the schedule take {needed} min, {jobs} at a time"
    )


def keep_plan(output: Path, plan: Plan | None) -> Plan | None:
    """Keep the plan of an output folder in OUTPUT/plan.json; the one that is there already wins."""
    file = output / "plan.json"
    if file.exists():
        return Plan(**read_json(file))
    if plan is not None:
        write_json(file, asdict(plan))
    return plan


def shorten(runs: Sequence[Run], trials: Mapping[tuple[str, str], Trial], plan: Plan) -> list[Run]:
    """The runs with their part of the schedules, and the tests in between."""
    scaled = {key: _scale(_tested(t, plan.quarters)["schedule"], plan.part) for key, t in trials.items()}
    return [replace(run, opts=(*run.opts, *scaled[run.data, run.arm])) for run in runs]


def measured_spread(compared: Sequence[Pairs]) -> tuple[float, str] | None:
    """The largest standard deviation of a paired difference; None where there are not two pairs of any."""
    known = [pairs for pairs in compared if pairs.deviation is not None]
    if not known:
        return None
    widest = max(known, key=lambda pairs: pairs.deviation or 0.0)
    return (
        widest.deviation or 0.0,
        f"{widest.arm} against {widest.reference}, {len(widest.values)} seeds so far",
    )


def _max_iter(trial: Trial) -> int:
    return int(trial["schedule"]["SOLVER.MAX_ITER"])


def _num_tests(trial: Trial) -> int:
    period = trial["schedule"]["TEST.EVAL_PERIOD"]
    return math.ceil(_max_iter(trial) / period) if period > 0 else 1


def _is_cheap(trial: Trial, part: float) -> bool:
    """Whether three tests more take no more than a tenth of the time of this part of the training."""
    return 3 * trial["test_seconds"] <= 0.1 * trial["seconds_per_iteration"] * part * _max_iter(trial)


def _tested(trial: Trial, quarters: bool) -> Trial:
    """The trial of a run that is tested after each quarter, unless the config says when."""
    schedule = trial["schedule"]
    if not quarters or schedule["TEST.EVAL_PERIOD"] > 0:
        return trial
    return {**trial, "schedule": {**schedule, "TEST.EVAL_PERIOD": math.ceil(_max_iter(trial) / 4)}}


def _scale(schedule: Mapping[str, Any], part: float) -> list[str]:
    """``KEY VALUE`` overrides for this part of a schedule."""
    scaled = {
        key: [max(1, round(part * v)) for v in value] if isinstance(value, list) else math.ceil(part * value)
        for key, value in schedule.items()
    }
    return [word for key, value in scaled.items() for word in (key, str(value))]


def describe_plan(
    plan: Plan, trials: Mapping[tuple[str, str], Trial], jobs: int, spread: tuple[float, str]
) -> str:
    """Lines: what is trained, how long it takes, and what difference it could tell apart.

    Args:
        plan: see `make_plan`.
        trials: (data set, arm) -> its trial.
        jobs: runs at a time.
        spread: standard deviation of a paired difference in AP, and where it is from.
    """
    lines = [
        f"Plan: {plan.num_seeds} seeds x {len(trials)} configs, {jobs} at a time, {plan.part:.0%} of the "
        f"schedule: about {math.ceil(plan.seconds / 60)} min"
    ]
    for (data, arm), trial in trials.items():
        trial = _tested(trial, plan.quarters)
        iterations, seconds = math.ceil(plan.part * _max_iter(trial)), trial["seconds_per_iteration"]
        tests = f"{_num_tests(trial)} test(s) of {trial['test_seconds']:.0f} s"
        name = "/".join(part for part in (data, arm) if part)
        lines.append(f"  {name}: {iterations} iterations of {seconds:.2f} s, {tests}")
    if plan.part < 1:
        lines.append(
            "  A shortened schedule answers for itself alone: the order of the arms may change with it."
        )
    if plan.num_seeds < 2:
        return "\n".join([*lines, "  One seed tells nothing apart."])
    deviation, source = spread
    difference = detectable_difference(deviation, plan.num_seeds)
    lines.append(
        f"  It tells a difference of {difference:.1f} AP from none in four of five cases, if paired "
        f"differences spread by {deviation:.1f} AP ({source})"
    )
    return "\n".join(lines)
