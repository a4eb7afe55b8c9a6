"""Files that are damaged or made to do harm: each reader takes one, or refuses it by one line."""

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="needs h5py, which writes MATLAB 7.3 files")
pytest.importorskip("ijson", reason="needs ijson, which reads COCO results")

from ohem_d2.utils.revision import read_revision

from .fuzz import MAX_BYTES, MAX_SECONDS, Outcome, Reader, fuzz
from .readers import READERS

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results/torture"
# Cases of a reader in CI, and by `make torture`; OHEM_D2_FUZZ_CASES is another number.
QUICK, FULL = 50, 10_000


_HEAD = """\
| reader | cases | accepted | refused | foreign | most seconds | most MiB |
|---|--:|--:|--:|--:|--:|--:|
"""


def record(outcome: Outcome) -> None:
    """Put a row into the table; another process of the tests may write one too."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / "fuzz.json", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        rows = json.loads(file.read() or "{}")
        rows[outcome.reader] = {**asdict(outcome), "foreign": outcome.foreign, "code": read_revision()}
        file.truncate(0)
        file.write(json.dumps(rows, indent=1) + "\n")
        lines = [_line(rows[reader.name]) for reader in READERS if reader.name in rows]
        (RESULTS / "fuzz.md").write_text(_HEAD + "".join(lines))


def _line(row: dict) -> str:
    counts = [f"{row[key]:,}" for key in ("cases", "accepted", "refused", "foreign")]
    figures = f"{row['seconds']:.2f}", f"{row['mib']:.0f}"
    return f"| {' | '.join([row['reader'], *counts, *figures])} |\n"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.replace(" ", "_"))
def test_a_mutated_file_is_read_or_refused_by_one_line(reader, request):
    full = request.config.getoption("--torture")
    outcome = fuzz(reader, int(os.environ.get("OHEM_D2_FUZZ_CASES", FULL if full else QUICK)))
    if full:
        record(outcome)
    assert outcome.findings == {}
    assert outcome.seconds < MAX_SECONDS and outcome.mib * 2**20 < MAX_BYTES


def _fails(path: Path) -> None:
    """A reader with one fault for each case, by its number."""
    fault = _FAULTS[len(_DONE) - 1] if _DONE else None  # the first call reads the valid file
    _DONE.append(path)
    if fault is not None:
        fault(path)


_DONE: list[Path] = []


def _loop(path: Path) -> None:
    while True:
        pass


def _raise(error: Exception):
    def fault(path: Path) -> None:
        raise error

    return fault


def _refuse(path: Path) -> None:
    raise ValueError(f"{path}: it is bad")


_FAULTS = [
    _refuse,
    lambda path: None,
    _raise(TypeError("x")),
    _raise(ValueError("no file is named")),
    lambda path: _raise(ValueError(f"{path}: two\nlines"))(path),
    lambda path: bytearray(2 * MAX_BYTES),
    _loop,
    lambda path: os.abort(),
]


def _write_one(folder: Path) -> list[Path]:
    (folder / "a.txt").write_text("a")
    return [folder / "a.txt"]


def test_the_harness_finds_each_kind_of_fault(monkeypatch):
    monkeypatch.setattr("tests.torture.fuzz.MAX_SECONDS", 0.5)
    outcome = fuzz(Reader("faults", _write_one, _fails), len(_FAULTS))
    assert (outcome.cases, outcome.accepted, outcome.refused, outcome.foreign) == (8, 1, 1, 6)
    kinds = ["TypeError", "ValueError", "ValueError", "MemoryError", "_TooLong", "the process died"]
    found = sorted((number, what) for what, cases in outcome.findings.items() for number, _ in cases)
    assert [number for number, _ in found] == [2, 3, 4, 5, 6, 7]
    assert all(what.startswith(kind) for (_, what), kind in zip(found, kinds))


def test_a_case_is_the_same_in_each_run():
    first, second = (fuzz(READERS[2], 30) for _ in range(2))
    assert (first.accepted, first.refused) == (second.accepted, second.refused)
