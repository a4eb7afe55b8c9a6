import io
import json
import time

import pytest
from detectron2.config import get_cfg

from ohem_d2.comparison import describe_progress, progress, read_progress, show_progress
from ohem_d2.comparison.progress import Progress


def write_run(folder, *records, max_iter=600):
    folder.mkdir(exist_ok=True)
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = max_iter
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "metrics.json").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    "runs, text",
    [
        ([("a",), ("b",)], "a starts, b starts"),
        ([("a", 0, 600), ("b",)], "a 0/600, b starts"),
        ([("a", 120, 600, 125.0), ("b", 110, 600, 190.0)], "a 120/600, b 110/600, about 4 min left"),
        ([("a", 120, 600, 125.0), ("b", 0, 600)], "a 120/600, b 0/600"),  # nothing is known of b
        ([("a", 600, 600, 0.0), ("b", 590, 600, 9.0)], "a 600/600, b 590/600, less than a minute left"),
        ([("a", 600, 600), ("b", 590, 600, 61.0)], "a 600/600, b 590/600, about 2 min left"),  # a is trained
        ([("a", 600, 600, 0.0), ("b", 600, 600, 0.0)], "a 600/600, b 600/600, testing"),
    ],
)
def test_progress_is_one_line(runs, text):
    assert describe_progress([Progress(*run) for run in runs]) == text


def test_progress_is_read_from_what_a_run_writes(tmp_path):
    assert read_progress("a", tmp_path / "none") == Progress("a")
    write_run(tmp_path)
    assert read_progress("a", tmp_path) == Progress("a", 0, 600)
    write_run(tmp_path, {"iteration": 19, "eta_seconds": 99.0}, {"iteration": 39, "eta_seconds": 90.5})
    assert read_progress("a", tmp_path) == Progress("a", 40, 600, 90.5)


def test_a_line_half_written_is_not_read(tmp_path):
    write_run(tmp_path, {"iteration": 19, "eta_seconds": 99.0})
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 39, "eta_sec')
    assert read_progress("a", tmp_path) == Progress("a", 20, 600, 99.0)


def test_the_figures_of_the_test_are_no_iteration_more(tmp_path):
    write_run(tmp_path, {"iteration": 599, "eta_seconds": 0.0}, {"iteration": 600, "bbox/AP": 5.0})
    assert read_progress("a", tmp_path).iterations == 600 and read_progress("a", tmp_path).is_trained


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, begin", [(Terminal(), "\r"), (io.StringIO(), "")])
def test_a_line_is_renewed_on_a_terminal_and_added_elsewhere(stream, begin, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_RENEWED" if begin else "_LOGGED", 0.01)
    monkeypatch.setenv("COLUMNS", "60")
    write_run(tmp_path, {"iteration": 19, "eta_seconds": 99.0})
    with show_progress({"ohem": tmp_path}, stream):
        deadline = time.time() + 20
        while stream.getvalue().count("20/600") < 3 and time.time() < deadline:
            time.sleep(0.01)
    shown, text = stream.getvalue(), "ohem 20/600, about 2 min left"
    lines = shown.removesuffix("\n").split("\r")[1:] if begin else shown.splitlines()
    assert len(lines) >= 3 and set(lines) == {f"{text:<59}" if begin else text}
    assert shown.endswith("\n") and shown.count("\n") == (1 if begin else len(lines))


def test_nothing_is_shown_of_what_takes_no_time(tmp_path):
    stream = Terminal()
    with show_progress({"ohem": tmp_path}, stream):
        pass
    assert stream.getvalue() == ""
