"""How far runs are, from what Detectron2 writes while it trains: config.yaml and metrics.json."""

import math
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TextIO

from ..utils.metrics import read_metrics

_MAX_ITER = re.compile(r"^SOLVER:\n(?:  .*\n)*?  MAX_ITER: (\d+)$", re.MULTILINE)
# Seconds between two looks: of a line on a terminal that is renewed, and of lines in a log.
_RENEWED, _LOGGED = 1.0, 30.0


@dataclass(frozen=True)
class Progress:
    """Of one run: iterations done, their number in all (0: not known yet), and the seconds that are left."""

    name: str
    iterations: int = 0
    max_iter: int = 0
    seconds_left: float | None = None

    @property
    def is_trained(self) -> bool:
        return 0 < self.max_iter <= self.iterations


def read_progress(name: str, folder: Path) -> Progress:
    """What the files of a run say; of one that has just begun they say nothing yet."""
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    found = _MAX_ITER.search(config.read_text()) if config.exists() else None
    last = (read_metrics(metrics) or [{}])[-1]
    max_iter = int(found.group(1)) if found else 0
    return Progress(name, min(last.get("iteration", -1) + 1, max_iter), max_iter, last.get("eta_seconds"))


def describe_progress(runs: Sequence[Progress]) -> str:
    """In one line: "heuristic 120/600, ohem 110/600, about 3 min left"."""
    parts = [f"{r.name} {r.iterations}/{r.max_iter}" if r.max_iter else f"{r.name} starts" for r in runs]
    training = [run.seconds_left for run in runs if not run.is_trained]
    if not training:
        parts.append("testing")
    elif None not in training:
        parts.append(_time_left(max(training)))
    return ", ".join(parts)


def _time_left(seconds: float) -> str:
    return f"about {math.ceil(seconds / 60)} min left" if seconds > 60 else "less than a minute left"


@contextmanager
def show_progress(folders: Mapping[str, Path], stream: TextIO | None = None) -> Iterator[None]:
    """Show how far runs are for the length of the block.

    On a terminal one line is renewed every second; elsewhere a line is added every half minute.

    Args:
        folders: name -> folder of a run.
        stream: default: the standard error.
    """
    over = Event()
    thread = Thread(target=_show, args=(folders, stream or sys.stderr, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show(folders: Mapping[str, Path], stream: TextIO, over: Event) -> None:
    is_renewed, text = stream.isatty(), ""
    while not over.wait(_RENEWED if is_renewed else _LOGGED):
        text = describe_progress([read_progress(name, folder) for name, folder in folders.items()])
        width = shutil.get_terminal_size().columns - 1
        stream.write(f"\r{text[:width]:<{width}}" if is_renewed else f"{text}\n")
        stream.flush()
    if is_renewed and text:
        stream.write("\n")
