"""Pictures of an untrained detector on drawn images of two sizes."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ..toy import CATALOG, toy_options, write_toy

BASE = "configs/Base-FastRCNN-small.yaml"


@pytest.fixture
def visualize(load_script, tmp_path):
    """``visualize(output, *arguments)`` draws toy_both: the wide images a and b, the tall e and f."""
    write_toy(tmp_path)
    (tmp_path / "voc/ImageSets/Main/both.txt").write_text("a\nb\ne\nf\n")
    (tmp_path / "catalog.yaml").write_text(CATALOG.replace("[wide, tall]", "[wide, tall, both]"))
    script = load_script("tools/visualize.py")
    opts = [*toy_options(tmp_path), "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]

    def visualize(output, *arguments, config=BASE, more=()):
        command = ["--config-file", config, "--dataset", "toy_both", *arguments]
        script.main([*command, "--score-thresh", "1.1", "--output", str(tmp_path / output), *opts, *more])
        return tmp_path / output

    visualize.script = script
    return visualize


# The images are 400 x 300 and 420 x 560 in the picture (10 and 14 times as large).
WIDE, TALL, FRAME, GAP = 300, 560, 28 + 28, 6


def height(*rows):
    return FRAME + sum(22 + row + GAP for row in rows) - GAP


@pytest.mark.parametrize(
    "arguments, rows",
    [((), (WIDE, TALL)), (("--num-images", "3"), (WIDE, WIDE, TALL)), (("--images", "e", "b"), (TALL, WIDE))],
)
def test_images_of_any_sizes_share_a_picture(visualize, arguments, rows):
    with Image.open(visualize("all.png", *arguments)) as picture:
        assert picture.size == (4 * ((420 if TALL in rows else 400) + GAP) - GAP, height(*rows))


def test_a_folder_gets_a_picture_of_each_image(visualize):
    folder = visualize("pictures", "--images", "e", "a")
    assert sorted(file.name for file in folder.iterdir()) == ["a.png", "e.png"]
    assert np.asarray(Image.open(folder / "e.png")).shape[0] == height(TALL)


def test_a_rule_with_a_schedule_is_drawn_as_at_its_end(visualize):
    rule = ("MODEL.OHEM.RULE", "mixed", "MODEL.OHEM.RULE_ARGS.START", "0.0")
    drawn = []
    for i, more in enumerate((rule, ())):
        torch.manual_seed(0)  # the weights are random
        drawn.append(np.asarray(Image.open(visualize(f"{i}.png", "--images", "a", more=more))))
    np.testing.assert_array_equal(*drawn)  # all are mined, as by the rule of the paper


def test_a_page_has_pictures_and_a_table_of_the_mined_rois(visualize, monkeypatch):
    """Of 32 candidates, 30 proposals and two objects, 8 are mined. The heads are plain."""
    pytest.importorskip("jinja2", reason="needs Jinja2")
    page = visualize("all.html", "--images", "e", "a").read_text()
    assert page.count("data:image/jpeg") == 2 * 4
    for title in ("ground truth", "mined RoIs", "random sample", "detections"):
        assert page.count(f"<figcaption>{title}</figcaption>") == 2
    summaries = re.findall(r"(\d+) candidates; mined (\d+), .*?; random (\d+), (\d+)% foreground", page)
    assert len(summaries) == 2 and all(int(n) <= 32 and int(m) <= 8 and p != "0" for n, m, _, p in summaries)
    tables = re.findall("<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert [table.count("<tr>") for table in tables] == [int(mined) for _, mined, *_ in summaries]
    rows = [
        [float(v) for v in re.findall('data-value="([0-9.e-]+)" class="number"', r)]
        for r in tables[0].split("</tr>")[:-1]
    ]
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    losses = [row[1] for row in rows]
    assert losses == sorted(losses, reverse=True) and losses == pytest.approx(
        [row[2] + row[3] for row in rows]
    )


@pytest.mark.parametrize("output, left", [("all.png", ["all.png"]), ("pictures", ["pictures/a.png"])])
def test_what_is_drawn_before_an_error_is_not_lost(visualize, tmp_path, output, left):
    drawn, draw = [], visualize.script._row

    def fail_at_the_second(*args):
        if drawn:
            raise ValueError("the second image")
        drawn.append(args)
        return draw(*args)

    visualize.script._row = fail_at_the_second
    with pytest.raises(SystemExit, match="^visualize.py: the second image$"):
        visualize(output)
    assert all((tmp_path / file).stat().st_size for file in left)


@pytest.mark.parametrize(
    "output, arguments, message",
    [
        ("a.svg", (), "a.svg; valid: a folder, or a file .png, .jpg, .jpeg, .html"),
        ("a.png", ("--images", "a", "e.jpg"), "1 images are not in toy_both: e.jpg .the file has 'e'"),
        ("a.png", ("--dataset", "toy_bot"), "data set 'toy_bot' is not registered; did you mean toy_both"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(visualize, tmp_path, output, arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        visualize(output, *arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / output).exists()


def test_a_python_config_is_refused_by_name(visualize, tmp_path):
    shutil.copy("configs/lazy/demo_faster_rcnn_ohem.py", tmp_path / "lazy.py")
    with pytest.raises(SystemExit, match="lazy.py is a Python config; this command takes YAML configs alone"):
        visualize("a.png", config=str(tmp_path / "lazy.py"))
