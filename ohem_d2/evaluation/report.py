"""Reports the results on a data set as a table in the log and as files."""

import csv
import io
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from tabulate import tabulate

from ..utils.files import atomic_file

__all__ = ["ReportedEvaluators", "result_rows"]

logger = logging.getLogger(__name__)

COLUMNS = ("evaluator", "class", "metric", "value")


class ReportedEvaluators(DatasetEvaluators):
    """Evaluators of one data set; their results go to the log, to ``results.json`` and to ``results.csv``."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator], folder: str):
        """Combine evaluators.

        Args:
            evaluators: the names of their results must differ.
            folder: of the two files; created when they are written.
        """
        super().__init__(evaluators)
        self._folder = folder

    def evaluate(self) -> "OrderedDict[str, dict[str, float]]":
        results = super().evaluate()
        rows = result_rows(results)
        if comm.is_main_process() and rows:
            logger.info("AP per class:\n%s", _table(rows))
            _write(self._folder, rows)
        return results


def result_rows(results: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row per evaluator, class and metric, in order; class "" is the mean over all; NaN becomes None.

    Args:
        results: name of an evaluator -> {"AP": ..., "AP-CLASS": ...}.
    """
    rows = []
    for evaluator, figures in results.items():
        for key, value in figures.items():
            metric, _, name = key.partition("-")
            row = (evaluator, name, metric, value if math.isfinite(value) else None)
            rows.append(dict(zip(COLUMNS, row)))
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per class, in the order of `rows`; a column per evaluator and metric."""
    columns = dict.fromkeys((row["evaluator"], row["metric"]) for row in rows)
    lines: dict[str, dict] = {}
    for row in rows:
        lines.setdefault(row["class"], {})[row["evaluator"], row["metric"]] = row["value"]
    body = [[name or "all", *(line.get(column) for column in columns)] for name, line in lines.items()]
    headers = ["class", *map(" ".join, columns)]
    return tabulate(body, headers, tablefmt="pipe", floatfmt=".2f", disable_numparse=[0])


def _write(folder: str, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    contents = {"results.json": json.dumps(rows, indent=1) + "\n", "results.csv": text.getvalue()}
    for name, content in contents.items():
        path = os.path.join(folder, name)
        with atomic_file(path) as file:
            file.write(content.encode())
        logger.info("results written to %s", path)
