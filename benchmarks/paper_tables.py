"""The tables that benchmarks/paper/tables.yaml describes: the runs of their rows, and their Markdown."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml

from ohem_d2.comparison import check_equal_tests, describe_environment

# Column of a row -> the settings of the test that it stands for.
TESTED_WITH = {"+M": "TEST.AUG.", "+B": "TEST.BOX_VOTING."}


@dataclass(frozen=True)
class Run:
    """A training with its test; or the test alone of what another run has trained."""

    config: str
    opts: tuple[str, ...] = ()
    trained: Optional["Run"] = None

    @property
    def name(self) -> str:
        """Of its folder; equal runs, of whatever tables, have the same."""
        return re.sub(r"[^\w.+-]+", "_", "-".join([Path(self.config).stem, *self.opts])).strip("_")


def load_tables(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> table, as the head of tables.yaml describes it."""
    return yaml.safe_load(file.read_text())


def load_results(file: Path) -> list[dict[str, Any]]:
    """The records of the runs that were made so far; none if there is no such file."""
    return read_json(file) if file.exists() else []


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: no JSON; names the file.
    """
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def get_table(tables: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The table of this name.

    Raises:
        ValueError: no such table; names the valid ones.
    """
    if name not in tables:
        raise ValueError(f"there is no table {name!r}; valid: {', '.join(tables)}")
    return tables[name]


def run_of(table: dict[str, Any], row: dict[str, Any]) -> Run:
    """The run that measures a row."""
    run = Run(f"{table['configs']}/{row['config']}.yaml", tuple(row.get("opts", ())))
    return Run(run.config, run.opts + tuple(row["test"]), run) if "test" in row else run


def render_rows(tables: dict[str, dict[str, Any]], name: str, runs: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown: published figures beside ours, which are empty where nobody measured.

    Args:
        tables: of `load_tables`.
        name: of the table.
        runs: records of runs, of all tables.

    Raises:
        ValueError: no such table; rows that are compared were tested with different settings.
    """
    table = get_table(tables, name)
    by_folder = {run["folder"]: run for run in runs}
    measured = [by_folder.get(run_of(table, row).name) for row in table["rows"]]
    _check(name, table, measured)
    published = [f"{', '.join(table['figures'])}: {source}" for source in table["sources"].values()]
    head = ["", *table["columns"], *published, "ours", "config"]
    cells = [_cells(number, table, run) for number, run in enumerate(measured, start=1)]
    lines = [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *cells)]
    environments = dict.fromkeys(describe_environment(run["environment"]) for run in measured if run)
    return "\n".join([*lines, *(f"\n{text}" for text in environments)])


def _cells(number: int, table: dict[str, Any], run: dict[str, Any] | None) -> list[Any]:
    row = table["rows"][number - 1]
    decimals = [places for _, places in table["figures"].values()]
    ours = [run["figures"].get(key) if run else None for key, _ in table["figures"].values()]
    config = Path(run_of(table, row).config)
    overrides = " ".join([*row.get("opts", ()), *row.get("test", ())])
    return [
        number,
        *(row.get(column, "") for column in table["columns"]),
        *(_figures(row.get(source), decimals) for source in table["sources"]),
        _figures(ours, decimals),
        f"[{config.stem}]({config})" + (f" `{overrides}`" if overrides else ""),
    ]


def _figures(values: Sequence[float | str | None] | None, decimals: Sequence[int]) -> str:
    """The figures of a cell; a text, such as "57.2†", stands as it is."""
    if not values or all(value is None for value in values):
        return ""
    texts = [f"{x:.{n}f}" if isinstance(x, (int, float)) else x or "–" for x, n in zip(values, decimals)]
    return " / ".join(texts)


def _check(name: str, table: dict[str, Any], measured: Sequence[dict | None]) -> None:
    if table["compared"] is None:
        return
    rows = {f"table {name}, row {number}": row for number, row in enumerate(table["rows"], start=1)}
    tested = [(label, run["test_settings"]) for label, run in zip(rows, measured) if run]

    def declared(label: str, key: str) -> tuple:
        named = [column for column, keys in TESTED_WITH.items() if key.startswith(keys)]
        return tuple(rows[label].get(column) for column in [*table["compared"], *named])

    check_equal_tests(tested, declared)
