import csv
import json
import logging

from detectron2.evaluation import DatasetEvaluator

from ohem_d2.evaluation import ReportedEvaluators

NAN = float("nan")


class Fixed(DatasetEvaluator):
    def __init__(self, results):
        self.results = results

    def evaluate(self):
        return self.results


def test_results_are_rows_in_json_and_in_csv_and_a_table_in_the_log(tmp_path, caplog):
    voc = Fixed(
        {
            "voc07": {
                "AP": 1 / 3,
                "AP50": 50.0,
                "AP-cat": 25.0,
                "AP50-cat": 50.0,
                "AP-semi-truck": NAN,
                "AP50-semi-truck": NAN,
            }
        }
    )
    coco = Fixed({"bbox": {"AP": 20.0, "APs": NAN, "AP-cat": 20.0, "AP-semi-truck": 20.0}})
    with caplog.at_level(logging.INFO):
        results = ReportedEvaluators([voc, coco], str(tmp_path / "pets")).evaluate()
    assert list(results) == ["voc07", "bbox"]
    rows = json.loads((tmp_path / "pets/results.json").read_text())
    assert [tuple(row.values()) for row in rows] == [
        ("voc07", "", "AP", 1 / 3),
        ("voc07", "", "AP50", 50.0),
        ("voc07", "cat", "AP", 25.0),
        ("voc07", "cat", "AP50", 50.0),
        ("voc07", "semi-truck", "AP", None),
        ("voc07", "semi-truck", "AP50", None),
        ("bbox", "", "AP", 20.0),
        ("bbox", "", "APs", None),
        ("bbox", "cat", "AP", 20.0),
        ("bbox", "semi-truck", "AP", 20.0),
    ]
    with open(tmp_path / "pets/results.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [{**row, "value": float(row["value"]) if row["value"] else None} for row in read] == rows
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in caplog.text.splitlines()
        if line.startswith("|")
    ]
    assert table[0] == ["class", "voc07 AP", "voc07 AP50", "bbox AP", "bbox APs"]
    assert table[2:] == [
        ["all", "0.33", "50.00", "20.00", ""],
        ["cat", "25.00", "50.00", "20.00", ""],
        ["semi-truck", "", "", "20.00", ""],
    ]


def test_another_run_replaces_the_files_and_leaves_nothing_else(tmp_path):
    for value in (1.0, 2.0):
        ReportedEvaluators([Fixed({"bbox": {"AP": value}})], str(tmp_path)).evaluate()
    assert (tmp_path / "results.csv").read_text() == "evaluator,class,metric,value\nbbox,,AP,2.0\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


def test_nothing_is_written_where_there_are_no_results(tmp_path):
    assert ReportedEvaluators([Fixed({}), Fixed(None)], str(tmp_path)).evaluate() == {}
    assert not list(tmp_path.iterdir())
