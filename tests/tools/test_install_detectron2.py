"""The script that builds Detectron2, without network: on tiny archives made here."""

import hashlib
import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPT = TOOLS / "install_detectron2.py"


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path, script):
    """A source archive with the members that the script relies on and one file to patch."""
    top = tmp_path / "made" / f"{script.NAME}-{script.VERSION}"
    files = {
        "setup.py": "raise SystemExit",
        "setup.cfg": "",
        "PKG-INFO": "",
        "old.egg-info/PKG-INFO": "",
        "detectron2/__init__.py": "",
        "detectron2/projects/__init__.py": "",
        "detectron2/a.py": "x = np.bool\ny = np.bool\n",
    }
    files.update({f"{folder}/__init__.py": f"name = {name!r}\n" for name, folder in script.PROJECTS.items()})
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    path = tmp_path / f"{top.name}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(top, arcname=top.name)
    return path


def patch(script, count, file="detectron2/a.py"):
    return script.Substitution(file, count, "np.bool removed", old="np.bool", new="bool")


def make_package(folder, stub=None):
    """A folder that is imported as detectron2, with the text of its `_C.py`."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    if stub is not None:
        (package / "_C.py").write_text(stub)
    return package


def test_archive_of_another_hash_is_refused_with_both_hashes(script, archive):
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    script.check_archive(archive, expected=found)
    with pytest.raises(script.InstallError) as error:
        script.check_archive(archive)
    assert str(error.value) == f"{archive}: wrong SHA-256 {found}, {script.ARCHIVE_SHA256} expected"


def test_archive_of_another_hash_is_neither_built_nor_installed(script, archive, monkeypatch):
    steps = []
    monkeypatch.setattr(script, "run_pip", lambda step, *arguments, tools=None: steps.append(step))
    monkeypatch.setattr(script, "find_detectron2", lambda: None)
    with pytest.raises(SystemExit) as stop:
        script.main(["--archive", str(archive)])
    assert "wrong SHA-256" in str(stop.value) and "\n" not in str(stop.value)
    assert steps == []


def test_download_of_another_hash_is_refused_whatever_pip_says(script, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "run_pip", lambda step, *arguments, tools=None: None)
    with pytest.raises(script.InstallError, match="wrong SHA-256"):
        script.download_archive(archive.parent, tools=tmp_path)
    assert f"--hash=sha256:{script.ARCHIVE_SHA256}" in (tmp_path / "requirement.txt").read_text()


def test_missing_archive_is_named(script, tmp_path):
    with pytest.raises(script.InstallError, match="none.tar.gz: no such archive"):
        script.check_archive(tmp_path / "none.tar.gz")


def test_python_without_torch_is_refused_in_one_line():
    """-S: no site-packages, so neither torch nor pip; -I: no user site and no PYTHONPATH."""
    code = f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import install_detectron2 as s; s.main([])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "has no torch: install it first" in done.stderr


def test_archive_is_patched_as_stated(script, archive, tmp_path):
    source = script.unpack(archive, tmp_path / "out")
    script.prepare_source(source, [patch(script, count=2)])
    assert (source / "detectron2/a.py").read_text() == "x = bool\ny = bool\n"
    assert (source / "pyproject.toml").read_text() == script.PYPROJECT
    assert (source / "detectron2/projects/deeplab/__init__.py").read_text() == "name = 'deeplab'\n"
    assert script.installed_build_id(source / "detectron2") == script.build_id()
    removed = {"setup.py", "setup.cfg", "PKG-INFO", "old.egg-info"}
    assert not removed & {path.name for path in source.iterdir()}


@pytest.mark.parametrize("count", [1, 3])
def test_substitution_found_another_number_of_times_is_refused(script, archive, tmp_path, count):
    source = script.unpack(archive, tmp_path / "out")
    with pytest.raises(script.InstallError) as error:
        script.substitute(source, patch(script, count))
    assert str(error.value) == f"detectron2/a.py: 'np.bool' found 2 times, {count} expected"
    assert (source / "detectron2/a.py").read_text() == "x = np.bool\ny = np.bool\n"


def test_missing_member_is_named(script, archive, tmp_path):
    source = script.unpack(archive, tmp_path / "out")
    with pytest.raises(script.InstallError, match="the archive has no detectron2/b.py"):
        script.substitute(source, patch(script, 1, file="detectron2/b.py"))
    (source / "setup.cfg").unlink()
    with pytest.raises(script.InstallError, match="the archive has no setup.cfg"):
        script.prepare_source(source, [])


def test_archive_without_its_top_folder_is_refused(script, tmp_path):
    path = tmp_path / "empty.tar.gz"
    tarfile.open(path, "w:gz").close()
    (tmp_path / "out").mkdir()
    with pytest.raises(script.InstallError, match=f"the archive has no {script.NAME}-{script.VERSION}"):
        script.unpack(path, tmp_path / "out")


def test_patched_archive_builds_into_a_wheel_with_the_stand_in(script, archive, tmp_path):
    source = script.unpack(archive, tmp_path / "out")
    script.prepare_source(source, [patch(script, 2)])
    script.run_pip(
        "building",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        tmp_path,
        source,
        tools=tmp_path / "no-tools",
    )
    script.run_pip(
        "unpacking",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        tmp_path / "site",
        tmp_path / script.WHEEL,
    )
    package = tmp_path / "site" / "detectron2"
    assert script.installed_build_id(package) == script.build_id()
    assert (package / "projects/point_rend/__init__.py").is_file()


def test_pip_that_fails_is_told_with_the_step(script):
    with pytest.raises(script.InstallError, match=r"fetching failed: .*exit status"):
        script.run_pip("fetching", "install", "--no-index", "no-such-package-here")


def test_pip_of_the_tools_folder_is_the_one_that_runs(script, tmp_path):
    tools = tmp_path / "tools"
    (tools / "pip").mkdir(parents=True)
    (tools / "pip" / "__main__.py").write_text("raise SystemExit(77)")
    (tools / "pip" / "__init__.py").write_text("")
    with pytest.raises(script.InstallError, match="exit status 77"):
        script.run_pip("download", "--version", tools=tools)


def test_detectron2_is_found_without_being_imported(script, tmp_path, monkeypatch):
    package = make_package(tmp_path)
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert script.find_detectron2() == package


def test_detectron2_of_the_user_is_kept_unless_forced(script, tmp_path, monkeypatch):
    package = make_package(tmp_path)
    monkeypatch.setattr(script, "find_detectron2", lambda: package)
    monkeypatch.setattr(script, "build_wheel", lambda *arguments: pytest.fail("built"))
    with pytest.raises(SystemExit) as stop:
        script.main([])
    message = str(stop.value)
    assert "\n" not in message and str(package) in message and "make DETECTRON2=installed" in message
    assert script.is_up_to_date(package, force=True) is False


def test_own_build_is_kept_and_said(script, tmp_path, monkeypatch, capsys):
    package = make_package(tmp_path, stub=f'BUILD_ID = "{script.build_id()}"\n')
    monkeypatch.setattr(script, "find_detectron2", lambda: package)
    monkeypatch.setattr(script, "build_wheel", lambda *arguments: pytest.fail("built"))
    script.main([])
    assert f"is installed already: {package}" in capsys.readouterr().out


@pytest.mark.parametrize("stub", ['BUILD_ID = "0123456789abcdef"\n', "IS_STUB = True\n"])
def test_own_build_of_other_patches_is_replaced(script, tmp_path, monkeypatch, stub):
    calls = []
    monkeypatch.setattr(script, "find_detectron2", lambda: make_package(tmp_path, stub))
    monkeypatch.setattr(script, "build_wheel", lambda work, archive: Path("d.whl"))
    monkeypatch.setattr(script, "run_pip", lambda step, *arguments, tools=None: calls.append(arguments))
    script.main(["--constraint", "pins.txt"])
    assert calls == [
        ("install", "--constraint", Path("pins.txt"), Path("d.whl")),
        ("install", "--force-reinstall", "--no-deps", Path("d.whl")),
    ]


def test_build_id_changes_with_the_substitutions(script, monkeypatch):
    before = script.build_id()
    monkeypatch.setattr(script, "SUBSTITUTIONS", script.SUBSTITUTIONS[:-1])
    assert script.build_id() != before


def test_wheel_dir_gets_the_wheel_and_nothing_is_installed(script, tmp_path, monkeypatch, capsys):
    def build(work, archive):
        (work / script.WHEEL).write_bytes(b"wheel")
        return work / script.WHEEL

    monkeypatch.setattr(script, "build_wheel", build)
    monkeypatch.setattr(script, "install_wheel", lambda *a, **k: pytest.fail("installed"))
    script.main(["--wheel-dir", str(tmp_path / "new" / "folder")])
    assert (tmp_path / "new" / "folder" / script.WHEEL).read_bytes() == b"wheel"


def test_every_substitution_has_a_reason_and_changes_something(script):
    for substitution in script.SUBSTITUTIONS:
        assert substitution.why and substitution.count >= 1 and substitution.old != substitution.new
