"""What the first pages say and can be tested: lines, links, code, figures."""

import json
import re

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY

from ..conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "MODEL_ZOO.md", "benchmarks/README.md")
COUNTS = {"VGG16": "vgg16", "R50-FPN": "r50_fpn", "R50-C4": "r50_c4"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def rows(page, first_cell):
    """Cells of the rows of tables on a page, by the first word of the first cell."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith(f"| {first_cell} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_first_page_is_short():
    lines = README.splitlines()
    assert len(lines) < 150
    assert max(map(len, lines)) <= 120


def test_prose_of_the_other_pages_keeps_to_the_columns():
    for page in PAGES:
        text = [line for line in (ROOT / page).read_text().splitlines() if not line.startswith("|")]
        assert [line for line in text if len(line) > 120] == [], page


@pytest.mark.parametrize("page", [*PAGES, "docs/tutorial.ipynb"])
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            path, _, heading = target.partition("#")
            file = (ROOT / page).parent / path
            assert file.exists(), target
            headings = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE) if heading else []
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
            assert not heading or heading in slugs, target


def test_the_picture_is_small_and_drawn_by_the_script_that_is_named():
    assert (ROOT / "docs/sampling.jpg").stat().st_size < 200_000
    assert "(docs/sampling.jpg)" in README and (ROOT / "benchmarks/draw_sampling.py").is_file()


def test_the_code_of_the_core_runs_and_selects_what_it_says():
    (code,) = (block for block in blocks("python") if "select_hard_rois" in block)
    names = {}
    exec(code, names)
    assert names["hard"].tolist() == [1, 3]
    assert "# 1 and 3" in code


def test_the_code_that_switches_a_pipeline_over_names_registered_heads():
    (code,) = (block for block in blocks("python") if "add_ohem_config" in block)
    cfg = get_cfg()
    exec(code, {"cfg": cfg})
    assert cfg.MODEL.OHEM.NMS_THRESH == 0.7
    heads = re.findall(r"^\| `(\w+)`.*\| `(\w+)` \|$", README, re.MULTILINE)
    assert len(heads) == 3 and cfg.MODEL.ROI_HEADS.NAME in dict(heads).values()
    for plain, mined in heads:
        assert issubclass(ROI_HEADS_REGISTRY.get(mined), ROI_HEADS_REGISTRY.get(plain))


@pytest.mark.parametrize("model", COUNTS)
def test_the_operations_are_those_that_were_counted(model):
    arms = json.loads((ROOT / f"benchmarks/results/counts/{COUNTS[model]}.json").read_text())["arms"]
    counted = [f"{arms[arm]['GFLOP']:,.0f}" for arm in ("standard", "ohem")]
    ratio = f"{arms['ohem']['GFLOP'] / arms['standard']['GFLOP']:.2f}"
    others = [f"{arms[arm][key]:,}" for key in ("ATen calls", "syncs") for arm in ("standard", "ohem")]
    others.append(f"{arms['ohem']['memory ratio']:.3f}")
    (first,), (full,) = rows("README.md", model), rows("benchmarks/README.md", model)
    assert first[1:] == [*counted, ratio]
    assert full[1:] == [*counted, ratio, *others]


def test_the_floor_of_r50_c4_is_what_was_counted():
    floor = json.loads((ROOT / "benchmarks/results/counts/mining_r50_c4.json").read_text())["floor"]
    rois, feature_maps = 2 * 64, 2 * 1024 * 50 * 84 * 4 / 1e6
    megabytes = {part: 1000 * gigabytes for part, gigabytes in floor["GB"].items()}
    parts = {
        "convolutions": f"{floor['GFLOP'] / rois:.2f} GFLOP",
        "its batch norms,": f"{megabytes['the rest'] / rois:.1f} MB",
        "pooling": f"{(megabytes['pooling'] - feature_maps) / rois:.1f} MB",
    }
    for part, text in parts.items():
        ((_, per_roi, _),) = rows("benchmarks/README.md", part)
        assert per_roi == text


def test_the_ratio_on_the_cpu_is_the_measured_one():
    arms = json.loads((ROOT / "benchmarks/results/cpu/train_step_small.json").read_text())["arms"]
    ratio = arms["ohem"]["ms"] / arms["standard"]["ms"]
    assert f"{ratio:.2f} times as long" in " ".join(README.split())
    assert rows("benchmarks/README.md", "OHEM")[0][1] == f"{ratio:.2f}"


def test_the_configs_of_the_zoo_are_counted():
    table = [line for line in (ROOT / "docs/zoo.md").read_text().splitlines() if ".yaml |" in line]
    trained = [line for line in table if line.split("|")[3].strip() == "ok"]
    assert f"{len(trained)} of the {len(table)} R-CNN configs" in README
    assert f"the other {len(table) - len(trained)} need the compiled deformable" in " ".join(README.split())


def test_one_model_tested_by_two_evaluators_differs_by_no_more_than_is_said():
    first, second = (
        json.loads((ROOT / f"benchmarks/results/bccd/{name}.json").read_text())
        for name in ("results", "testing")
    )
    by_run = {(run["arm"], run["seed"]): run["figures"] for run in first}
    plain = [run for run in second if run["test"] == "plain"]
    most = max(
        abs(run["figures"][f"bbox/{metric}"] - by_run[run["arm"].split()[0], run["seed"]][f"bbox/{metric}"])
        for run in plain
        for metric in ("AP", "AP50", "AP75")
    )
    assert f"differs by {most:.2f} at most" in " ".join((ROOT / "MODEL_ZOO.md").read_text().split())
