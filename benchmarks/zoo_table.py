#!/usr/bin/env python
"""Write the table of Detectron2's model zoo from the reports of its test, one for each Detectron2.

pytest tests/modeling/test_zoo.py --junitxml=0.6.xml
python benchmarks/zoo_table.py 0.6=0.6.xml main=main.xml > docs/zoo.md
"""

import argparse
import sys
import xml.etree.ElementTree as ET

TITLE = """# Detectron2's model zoo, mined

Every R-CNN config of the model zoo with `MODEL.ROI_HEADS.NAME` changed, made tiny (ResNet-50 of few
channels), on the CPU: one training step (all losses and gradients finite) and one inference. Made by
`benchmarks/zoo_table.py` from reports of `tests/modeling/test_zoo.py`.
"""


def read_report(path: str) -> dict[str, dict[str, str]]:
    """What the test recorded for each config: ``heads``, ``step``, ``inference``, or why it was skipped.

    Raises:
        ValueError: not a report of this test.
    """
    try:
        cases = ET.parse(path).iter("testcase")
    except ET.ParseError as error:
        raise ValueError(f"{path} is no JUnit report: {error}") from None
    rows = {}
    for case in cases:
        record = {p.get("name"): p.get("value") for p in case.iter("property")}
        skipped = case.find("skipped")
        if "heads" in record:
            record.update({"step": skipped.get("message"), "inference": ""} if skipped is not None else {})
            rows[case.get("name").split("[")[1].rstrip("]")] = record
    if not rows:
        raise ValueError(f"{path} has no result of tests/modeling/test_zoo.py")
    return rows


def make_table(reports: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    """Lines of Markdown: a row for each config, two columns for each Detectron2 of `reports`."""
    columns = ["config", "heads", *(f"{name}: {part}" for name in reports for part in ("step", "inference"))]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for config in sorted({config for rows in reports.values() for config in rows}):
        records = [rows.get(config, {}) for rows in reports.values()]
        heads = next(record["heads"] for record in records if record)
        cells = [
            record.get(part, "failed" if record else "not in it")
            for record in records
            for part in ("step", "inference")
        ]
        lines.append(f"| {' | '.join([config, heads, *cells])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "reports", nargs="+", metavar="NAME=FILE", help="a version of Detectron2 and its JUnit report"
    )
    args = parser.parse_args()
    if not all("=" in report for report in args.reports):
        parser.error("each report is given as NAME=FILE")
    try:
        reports = {
            name: read_report(path) for name, _, path in (report.partition("=") for report in args.reports)
        }
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(TITLE, *make_table(reports), sep="\n")


if __name__ == "__main__":
    main()
