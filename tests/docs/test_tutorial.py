"""The tutorial runs from start to end, from the folder of the documents, and shows what it promises."""

import ast

import pytest

from ..conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
NotebookClient = pytest.importorskip("nbclient", reason="needs nbclient").NotebookClient

NOTEBOOK = ROOT / "docs/tutorial.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_kept_without_outputs_and_its_code_parses():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(code_cells(notebook)) > 5
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None and cell.metadata == {}, cell.id
        ast.parse(cell.source)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Name -> cell of the notebook, run in docs/ with a folder of its own for what it writes."""
    folder = tmp_path_factory.mktemp("tutorial")
    text = NOTEBOOK.read_text()
    assert text.count('Path(\\"output/tutorial\\")') == 1
    text = text.replace("output/tutorial", str(folder))
    notebook = nbformat.reads(text, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert (folder / "data/catalog.yaml").is_file()
    return {cell.id: cell for cell in code_cells(notebook)}


@pytest.mark.slow
def test_it_finds_its_folder_from_the_root_too():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (setup,) = (cell for cell in notebook.cells if cell.id == "setup")
    setup.source += "\nprint(Path.cwd())"
    notebook.cells = [setup]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert printed(setup).strip() == str(ROOT)


def outputs(cell, kind):
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.slow
def test_every_cell_ran_and_the_pictures_and_figures_are_there(executed):
    assert all(cell.execution_count for cell in executed.values())
    pictures = ("look-at-data", "plot-curve", "plot-losses", "draw-rois", "draw-duplicates")
    for name in pictures:
        assert len(outputs(executed[name], "image/png")) == 1, name
    (table,) = outputs(executed["train-arms"], "text/markdown")
    rows = {row.split("|")[1].strip(): row.split("|") for row in table.splitlines() if row.startswith("| ")}
    assert rows["heuristic"][2].strip() == rows["ohem"][2].strip() == "1"
    assert "mean loss over all RoIs" in table


@pytest.mark.slow
def test_what_is_mined_is_harder_than_a_random_sample(executed):
    losses = {
        line.split(":")[0]: float(line.rsplit(" ", 1)[1])
        for line in printed(executed["inspect"]).splitlines()
    }
    assert losses["mined"] > losses["random"]
    assert "duplicates of harder ones" in printed(executed["draw-duplicates"])
