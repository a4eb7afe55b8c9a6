import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = {"arm": "ohem", "figures": {"bbox/AP50": 80}, "environment": {"torch": "2"}, "test_settings": {}}


def test_the_tables_of_the_documents_are_what_their_results_say(load_script):
    render_file = load_script("benchmarks/render_tables.py").render_file
    for name in ("README.md", "MODEL_ZOO.md", "benchmarks/results/laboratory/README.md"):
        text = (ROOT / name).read_text()
        assert "<!-- table: " in text
        assert render_file(ROOT / name) == text, f"run benchmarks/render_tables.py {name}"


def test_a_stale_table_is_rendered_or_reported(load_script, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(json.dumps([RUN]))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: results.json -->\nold\n<!-- end of table -->\nafter\n")
    main = load_script("benchmarks/render_tables.py").main
    monkeypatch.setattr(sys, "argv", ["render_tables.py", str(page), "--check"])
    with pytest.raises(SystemExit, match="not up to date: .*page.md"):
        main()
    assert "old" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["render_tables.py", str(page)])
    main()
    monkeypatch.setattr(sys, "argv", ["render_tables.py", str(page), "--check"])
    main()
    text = page.read_text()
    assert text.startswith("before\n<!-- table: results.json -->\n| arm |") and "old" not in text
    assert text.endswith("<!-- end of table -->\nafter\n")


def test_a_table_can_leave_out_a_column_and_names_one_that_it_has_not(load_script, tmp_path):
    run = {**RUN, "figures": {"bbox/AP50": 80, "seconds_per_iteration": 0.5}}
    (tmp_path / "results.json").write_text(json.dumps([run]))
    render_file = load_script("benchmarks/render_tables.py").render_file
    page = tmp_path / "page.md"
    for marker, head in (("", "| AP50 | s / iteration |"), (" without s / iteration", "| seeds | AP50 |")):
        page.write_text(f"<!-- table: results.json{marker} -->\n<!-- end of table -->\n")
        text = render_file(page)
        assert text.startswith(f"<!-- table: results.json{marker} -->\n") and head in text
    page.write_text("<!-- table: results.json without seconds -->\n<!-- end of table -->\n")
    with pytest.raises(ValueError, match="no column 'seconds'; valid: "):
        render_file(page)


def test_a_table_can_be_of_changes(load_script, tmp_path):
    figures = {"bbox/AP": 50.0, "bbox/AP50": 80.0, "bbox/AP75": 60.0}
    runs = [{**RUN, "arm": arm, "seed": 0, "figures": figures} for arm in ("plain", "ohem")]
    for name in ("on-dense", "on-sparse"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(runs))
    render_file, page = load_script("benchmarks/render_tables.py").render_file, tmp_path / "page.md"
    of = "<!-- table: {} changes plain:ohem -->\n<!-- end of table -->\n"
    page.write_text(of.format("on-dense/results.json"))
    assert "\n| plain -> ohem | 1 | +0.0 | +0.0 | +0.0 |" in render_file(page)
    page.write_text(of.format("on-*/results.json"))
    assert "\n| dense | plain -> ohem | 1 |" in render_file(page) and "\n| sparse | plain" in render_file(
        page
    )
    page.write_text(of.format("of-*/results.json"))
    with pytest.raises(ValueError, match="no file is .*of-"):
        render_file(page)
