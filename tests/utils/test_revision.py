import shutil
import subprocess

import pytest

from ohem_d2.utils import revision
from ohem_d2.utils.revision import read_revision

UNKNOWN = {"commit": "unknown", "tree": "unknown"}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit of one file, as if the package lay in it."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "repository").mkdir()
    monkeypatch.setattr(revision, "_ROOT", tmp_path / "repository")
    (tmp_path / "repository/code.py").write_text("1\n")
    user = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "code.py"], [*user, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path / "repository", check=True)
    return tmp_path / "repository"


def test_the_commit_and_whether_tracked_files_differ_from_it(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert read_revision() == {"commit": head.strip(), "tree": "clean"}
    (checkout / "results.json").write_text("{}")
    assert read_revision()["tree"] == "clean"
    (checkout / "code.py").write_text("2\n")
    assert read_revision() == {"commit": head.strip(), "tree": "changed"}


def test_the_commit_of_a_repository_around_the_package_is_not_its_own(checkout, monkeypatch):
    (checkout / "site-packages").mkdir()
    monkeypatch.setattr(revision, "_ROOT", checkout / "site-packages")
    assert read_revision() == UNKNOWN


def test_outside_git_and_without_it_the_commit_is_unknown(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert read_revision() == UNKNOWN
    monkeypatch.undo()
    monkeypatch.setattr(revision, "_ROOT", tmp_path)
    assert read_revision() == UNKNOWN
