"""All runs of a comparison: made several at a time, each recorded as soon as it is done."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from ..utils.text_files import read_json
from .arms import Run, Variant
from .children import Stopped
from .gpus import GPUs
from .runs import run_once, write_json

__all__ = ["Record", "Sweep", "check_records", "keep_settings", "read_records"]

logger = logging.getLogger(__name__)
Record = dict[str, Any]


def read_records(file: Path) -> list[Record]:
    """The rows of ``results.json``; none where there is no such file. ValueError: another file."""
    records: list[Record] = read_json(file) if file.exists() else []
    rows = records if isinstance(records, list) else [records]
    if not all(isinstance(row, dict) and {"arm", "folder"} <= row.keys() for row in rows):
        raise ValueError(f"{file}: not the records of runs: they are objects with arm and folder")
    return rows


def keep_settings(
    output: Path, base: str, opts: Sequence[str], data: Sequence[Variant], arms: Sequence[str] = ()
) -> None:
    """Keep in OUTPUT/comparison.json what all arms have in common, and their order.

    Raises:
        ValueError: OUTPUT holds runs of another base config, other overrides or other data of one name.
    """
    file = output / "comparison.json"
    now = {"base": base, "opts": list(opts), "data": {of.name: list(of.opts) for of in data}}
    has_runs = file.exists() and read_records(output / "results.json")
    was = read_json(file) if has_runs else now
    was["base"] = was["base"] or base  # config files were compared before
    for key, before, asked in [
        ("base", was["base"], base or was["base"]),
        ("overrides", was["opts"], now["opts"]),
        *(
            (f"data {name!r}", was["data"][name], now["data"][name])
            for name in was["data"].keys() & now["data"]
        ),
    ]:
        if before != asked:
            raise ValueError(f"{output} was made with {key} {before}, not {asked}; choose another --output")
    write_json(file, {**was, "data": {**was["data"], **now["data"]}, "arms": _order(output, arms)})


def _order(output: Path, arms: Sequence[str]) -> list[str]:
    """The arms of OUTPUT as the calls named them, with and without rows; then `arms`."""
    file, records = output / "comparison.json", read_records(output / "results.json")
    named = read_json(file).get("arms", []) if file.exists() and records else []
    return list(dict.fromkeys([*named, *(record["arm"] for record in records), *arms]))


def check_records(output: Path, runs: Sequence[Run]) -> None:
    """Raise ValueError if an arm has rows in OUTPUT that were made in another way than `runs` will be."""
    made: dict[tuple[str, str], Record] = {
        (record.get("data", ""), record["arm"]): record for record in read_records(output / "results.json")
    }
    for run in runs:
        record = made.get((run.data, run.arm), {})
        before, now = record.get("options", []), [run.config, *run.opts]
        if before and [before[0], *before[2:]] != now:
            raise ValueError(
                f"{record['folder']} of {output} was made with {before}, not with {now} and a seed; rename "
                "the arm or choose another --output"
            )


class Sweep:
    """Runs of one output folder, `jobs` at a time, each on a GPU of its own as far as there are enough.

    What is done is skipped, what was stopped is resumed, and the rows of earlier calls stay in the file of
    records, which alone is enough to go on elsewhere. A run that fails leaves the others alone.
    """

    def __init__(
        self, runs: Sequence[Run], output: Path, jobs: int = 1, launch: Callable[..., Record] = run_once
    ):
        """Prepare; `launch` makes one run, with the arguments of `run_once`."""
        self._runs, self._output, self._jobs, self._launch = runs, output, jobs, launch
        self._gpus = GPUs(jobs)

    def train(self) -> list[Exception]:
        """Train all, into OUTPUT/results.json.

        Returns:
            the errors of the runs that failed or were stopped.
        """

        def make(run: Run) -> Record:
            record = self._make(run, run.folder, run.opts, False)
            return {"folder": run.folder, **record, "arm": run.arm, **_data_of(run)}

        self._restore()
        calls = [lambda run=run: make(run) for run in self._runs]
        return self._make_all(calls, "results.json", self._order())

    def _order(self) -> list[str]:
        """All arms of the output folder."""
        return _order(self._output, [run.arm for run in self._runs])

    def _restore(self) -> None:
        """On another machine, where of all runs nothing but the records is left: what they say is done."""
        results = {
            self._output / record["folder"] / "result.json": record
            for record in read_records(self._output / "results.json")
        }
        if not any(result.parent.exists() for result in results):
            for result, record in results.items():
                write_json(result, record)

    def test(self, tests: Mapping[str, Sequence[str]]) -> list[Exception]:
        """Test what is trained in several ways (name -> overrides), into OUTPUT/tests.json."""

        def make(run: Run, test: str) -> Record:
            weights = ("MODEL.WEIGHTS", str(self._output / run.folder / "model_final.pth"))
            folder = f"{run.folder}/{test}"
            record = self._make(run, folder, [*run.opts, *tests[test], *weights], True)
            return {"folder": folder, **record, "arm": f"{run.arm} {test}", "test": test, **_data_of(run)}

        pairs = [(run, test) for run in self._runs for test in tests]
        calls = [lambda run=run, test=test: make(run, test) for run, test in pairs]
        order = [f"{arm} {test}" for arm in self._order() for test in tests]
        return self._make_all(calls, "tests.json", order)

    def _make(self, run: Run, folder: str, opts: Sequence[str], eval_only: bool) -> Record:
        with self._gpus.lend() as gpu:
            return self._launch(run.config, run.seed, self._output / folder, opts, eval_only, gpu=gpu)

    def _make_all(
        self, calls: Sequence[Callable[[], Record]], name: str, order: Sequence[str]
    ) -> list[Exception]:
        failed: list[Exception] = []
        lock, file = Lock(), self._output / name
        arms = list(dict.fromkeys([*order, *(record["arm"] for record in read_records(file))]))

        def make(call: Callable[[], Record]) -> None:
            try:
                record = call()
                with lock:
                    _add(file, record, arms)
            except Stopped as error:
                failed.append(error)
            except (ValueError, OSError, RuntimeError) as error:
                logger.error("%s", error)
                failed.append(error)

        with ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(make, calls))
        return failed


def _add(file: Path, record: Record, arms: Sequence[str]) -> None:
    """Put a record into its file, where rows stand by data set, arm as in `arms`, and seed."""
    records = [r for r in read_records(file) if r["folder"] != record["folder"]]
    records.append(record)
    write_json(file, sorted(records, key=lambda r: (r.get("data", ""), arms.index(r["arm"]), r["seed"])))


def _data_of(run: Run) -> dict[str, str]:
    return {"data": run.data} if run.data else {}
