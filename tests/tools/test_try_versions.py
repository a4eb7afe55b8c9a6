"""The trial of other versions: what is chosen, what a row says, what is refused; nothing is installed."""

import json

import pytest

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="one"/>
<testcase classname="tests.test_a" name="two"><skipped message="no GPU"/></testcase>
<testcase classname="tests.test_b" name="three[x]"><failure message="1 != 2"/></testcase>
<testcase classname="tests.test_b" name="four"><error message="no file"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def versions(load_script, tmp_path, monkeypatch):
    script = load_script("tools/try_versions.py")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "versions.json")
    monkeypatch.setattr(script, "TABLE", tmp_path / "versions.md")
    monkeypatch.setattr(script.shutil, "which", lambda name: f"/bin/{name}")
    return script


def test_report(versions, tmp_path):
    (tmp_path / "tests.xml").write_text(REPORT)
    failed = ["tests.test_b::three[x]", "tests.test_b::four"]
    assert versions.read_report(tmp_path / "tests.xml") == {"passed": 1, "skipped": 1, "failed": failed}


def test_combinations_hold_each_pair_of_ends(versions):
    """But Python 3.13 with the oldest torch, which has no build for it."""
    ends = [
        (x.python, x.torch == versions.OLDEST[0], x.numpy.split(".")[0], x.detectron2)
        for x in versions.COMBINATIONS
    ]
    assert {python for python, *_ in ends} == {"3.10", "3.11", "3.12", "3.13"}
    for first, second in ((1, 2), (1, 3), (2, 3)):
        assert len({(end[first], end[second]) for end in ends}) == 4


def test_those_without_a_row_are_tried_and_each_row_is_kept_at_once(versions, tmp_path, monkeypatch):
    first, second, *_ = versions.COMBINATIONS
    done = {x.name: {**x._asdict(), "passed": 7, "skipped": 1, "failed": []} for x in versions.COMBINATIONS}
    last = versions.COMBINATIONS[-1].name
    del done[last]
    (tmp_path / "versions.json").write_text(json.dumps(done))
    tried = []

    def try_combination(combination, folder, args):
        tried.append(combination.name)
        if len(tried) == 2:
            raise versions.VersionsError("no network")
        return {**combination._asdict(), "passed": 5, "skipped": 0, "failed": ["a::b", "c::d"]}

    monkeypatch.setattr(versions, "try_combination", try_combination)
    (tmp_path / "main/detectron2").mkdir(parents=True)
    common = ["--work", str(tmp_path / "work"), "--main", str(tmp_path / "main")]
    versions.main(common)
    assert tried == [last]
    lines = (tmp_path / "versions.md").read_text().splitlines()[-len(versions.COMBINATIONS) :]
    assert lines[0] == "| 3.10 | 2.4.0 | 0.19.0 | 1.26.4 | 0.6 | 7 | 1 | 0 |"
    assert lines[-1] == "| 3.13 | 2.14.1 | 0.29.1 | 2.4.6 | main | 5 | 0 | a::b<br>c::d |"
    with pytest.raises(SystemExit, match="^try_versions.py: no network$"):
        versions.main([*common, "--only", "python3.10-torch2.4"])
    assert tried == [last, first.name] and "a::b" in (tmp_path / "versions.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--only", "python2"], "no combination begins with python2; there are: python3.10-torch2.4.0-"),
        (["--only", "python3.11"], "-main needs --main, a checkout of Detectron2; it is None"),
        (["--only", "python3.11", "--main", "nowhere"], "a checkout of Detectron2; it is nowhere"),
    ],
)
def test_what_cannot_be_tried_is_told_first(arguments, error, versions, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "try_combination", lambda *args: pytest.fail("tried"))
    with pytest.raises(SystemExit, match=error):
        versions.main(["--work", str(tmp_path), *arguments])


def test_a_python_that_is_missing_is_named(versions, tmp_path, monkeypatch):
    monkeypatch.setattr(versions.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="needs python3.10 in PATH"):
        versions.main(["--work", str(tmp_path), "--only", "python3.10-torch2.4"])


def test_a_step_that_fails_is_named_and_its_environment_removed(versions, tmp_path, monkeypatch):
    class Failed:
        returncode = 1

    monkeypatch.setattr(versions.subprocess, "run", lambda command, **kwargs: Failed())
    with pytest.raises(SystemExit, match="detectron2-0.6: making the environment failed"):
        versions.main(["--work", str(tmp_path / "work"), "--only", "python3.10-torch2.4"])
    assert not list((tmp_path / "work").glob("*"))
