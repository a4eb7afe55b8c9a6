import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, load_proposals_into_dataset
from detectron2.modeling import build_model

from ohem_d2.engine import load_config
from ohem_d2.proposals import Proposals, read_proposals, selective_search, write_proposals
from ohem_d2.proposals.formats import write_detectron2
from tests.builders import TinyBackbone  # noqa: F401 (registers it)

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "prepare_proposals.py"

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
pytestmark = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")

OBJECT = (
    "<object><name>box</name><difficult>0</difficult><bndbox><xmin>21</xmin><ymin>11</ymin>"
    "<xmax>50</xmax><ymax>40</ymax></bndbox></object>"
)
XML = f"<annotation><size><width>80</width><height>60</height><depth>3</depth></size>{OBJECT}</annotation>"


@pytest.fixture
def catalog(tmp_path):
    """A catalogue of ``toy_train`` (2 images) and ``toy_test`` (1), each image a rectangle on noise."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, image_id in enumerate(["a", "b", "c"]):
        image = np.random.default_rng(seed).integers(40, 70, (60, 80, 3)).astype(np.uint8)
        image[10:40, 20:50] = (30, 200, 220)
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{image_id}.jpg"), image)
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(XML)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("c\n")
    entry = (
        "{format: voc, root: ., splits: [train, test], classes: [box], proposals: './p/{split}.safetensors'}"
    )
    (tmp_path / "catalog.yaml").write_text(f"toy: {entry}")
    return tmp_path / "catalog.yaml"


@pytest.fixture
def main(load_script):
    """``main(*arguments)`` runs the script."""
    script = load_script("datasets/prepare_proposals.py")
    return lambda *arguments: script.main([str(argument) for argument in arguments])


@pytest.fixture
def generate(main, catalog):
    """``generate(*options)`` runs ``generate selective-search`` with the catalogue and one worker."""
    return lambda *options: main(
        "generate", "selective-search", "--catalog", catalog, "--workers", "1", *options
    )


def test_each_data_set_gets_the_proposal_file_of_its_catalogue(generate, tmp_path):
    generate("--dataset", "toy_train", "toy_test")
    assert set(read_proposals(tmp_path / "p/train.safetensors")) == {"a", "b"}
    assert set(read_proposals(tmp_path / "p/test.safetensors")) == {"c"}


def test_output_takes_all_data_sets(generate, tmp_path):
    generate("--dataset", "toy_train", "toy_test", "--output", tmp_path / "new/all.safetensors")
    assert set(read_proposals(tmp_path / "new/all.safetensors")) == {"a", "b", "c"}
    assert not (tmp_path / "p").exists()


def test_the_summary_counts_images_and_boxes_and_gives_recall_and_file(generate, tmp_path, capsys):
    generate("--dataset", "toy_test", "--output", tmp_path / "x.safetensors")
    count = len(read_proposals(tmp_path / "x.safetensors")["c"][0])
    out = capsys.readouterr().out
    assert "1 of 1 images" in out and f"{count} to {count} boxes per image (median {count})" in out
    assert "recall 1.000 at IoU 0.5" in out and f"written to {tmp_path / 'x.safetensors'}" in out


def test_mode_scale_and_largest_side_reach_the_search(generate, tmp_path):
    counts = []
    for name, options in (
        ("f", []),
        ("q", ["--mode", "quality"]),
        ("s", ["--scale", "0.01"]),
        ("m", ["--max-side", "1"]),
    ):
        generate("--dataset", "toy_test", "--output", tmp_path / name, *options)
        counts.append(len(read_proposals(tmp_path / name)["c"][0]))
    assert counts[1] > counts[0] > counts[2] == counts[3] == 1  # a search in one pixel finds the whole image


def test_an_existing_file_stays_unless_overwrite_is_given(generate, tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_text("precious")
    with pytest.raises(SystemExit, match=r"x\.safetensors exists; --overwrite"):
        generate("--dataset", "toy_test", "--output", target)
    assert target.read_text() == "precious"
    generate("--dataset", "toy_test", "--output", target, "--overwrite")
    assert set(read_proposals(target)) == {"c"}


@pytest.mark.parametrize("output, message", [("file/x.safetensors", "cannot write to"), (".", "is a folder")])
def test_an_output_that_cannot_be_written_is_found_before_the_search(
    generate, tmp_path, monkeypatch, output, message
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ohem_d2.proposals.selective_search._search", lambda *_: pytest.fail("searched"))
    with pytest.raises(SystemExit, match=message):
        generate("--dataset", "toy_test", "--output", tmp_path / output)


def test_a_folder_that_takes_no_files_is_found_before_the_search(generate, tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("ohem_d2.proposals.selective_search._search", lambda *_: pytest.fail("searched"))
    with pytest.raises(SystemExit, match=f"cannot write to {tmp_path}: Permission denied"):
        generate("--dataset", "toy_test", "--output", tmp_path / "x.safetensors")


def test_an_interrupt_leaves_no_unfinished_file_and_the_same_command_goes_on(generate, tmp_path, monkeypatch):
    calls = []

    def interrupt_second(image, mode):
        calls.append(mode)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.array([[0, 0, 80, 60]])

    monkeypatch.setattr("ohem_d2.proposals.selective_search._search", interrupt_second)
    with pytest.raises(SystemExit, match="interrupted: .* goes on where it stopped"):
        generate("--dataset", "toy_train")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["train.safetensors.parts"]
    generate("--dataset", "toy_train")
    assert len(calls) == 3 and [path.name for path in (tmp_path / "p").iterdir()] == ["train.safetensors"]


def test_an_unknown_data_set_is_named_with_the_nearest(generate):
    with pytest.raises(SystemExit, match=r"'toy_val' is not registered; did you mean toy_train[?,]"):
        generate("--dataset", "toy_val")


@pytest.mark.parametrize("names", [["toy_train"], ["toy_test", "toy_train"]])
def test_two_data_sets_of_one_file_do_not_overwrite_each_other(generate, catalog, tmp_path, names):
    catalog.write_text(catalog.read_text().replace("{split}", "all"))
    message = "'toy_(train|test)' and 'toy_(test|train)' have the same proposal file .*all.safetensors"
    with pytest.raises(SystemExit, match=message):
        generate("--dataset", *names)
    assert not (tmp_path / "p").exists()
    generate("--dataset", "toy_train", "toy_test", "--output", tmp_path / "p/all.safetensors")
    assert set(read_proposals(MetadataCatalog.get("toy_test").proposal_file)) == {"a", "b", "c"}


def test_a_data_set_without_a_proposal_file_needs_output(generate, tmp_path):
    DatasetCatalog.register("bare", lambda: [])
    MetadataCatalog.get("bare").set(thing_classes=["box"])
    with pytest.raises(SystemExit, match="'bare' has no proposal file.*--output"):
        generate("--dataset", "bare")


def test_a_wrong_option_and_a_broken_image_end_with_one_line(generate, tmp_path):
    with pytest.raises(SystemExit, match="error: scale is -1"):
        generate("--dataset", "toy_test", "--scale", "-1")
    (tmp_path / "JPEGImages/c.jpg").write_text("no image")
    with pytest.raises(SystemExit, match=r"error: .*c\.jpg cannot be read as an image"):
        generate("--dataset", "toy_test")
    assert not (tmp_path / "p/test.safetensors").exists()


def test_convert_says_what_it_did_and_export_goes_back(load_script, catalog, tmp_path, capsys, caplog):
    script = load_script("datasets/prepare_proposals.py")
    object_box = np.array(
        [[20.0, 10, 50, 40], [-3, 0, 80, 60], [0, 0, 1, 60]]
    )  # the second reaches beyond its image
    write_detectron2(tmp_path / "p.pkl", Proposals([(i, object_box, [1, 2, 3]) for i in "ab"]))
    options = ["--catalog", str(catalog), "--dataset", "toy_train"]
    with caplog.at_level("INFO"):
        script.main(["convert", str(tmp_path / "p.pkl"), str(tmp_path / "q.safetensors"), *options])
    assert (
        "4 boxes of 2 images (Detectron2 or Detectron, xyxy0): 2 clipped; removed: 0 duplicates, 2 too small"
        in caplog.text
    )
    assert (
        "proposals for 2 of 2 images, 2 to 2 boxes per image (median 2), recall 1.000"
        in capsys.readouterr().out
    )
    script.main(["export", str(tmp_path / "q.safetensors"), str(tmp_path / "r.pkl")])
    (record,) = load_proposals_into_dataset([{"image_id": "a"}], str(tmp_path / "r.pkl"))
    assert record["proposal_boxes"].tolist() == [[0, 0, 80, 60], [20, 10, 50, 40]]
    with pytest.raises(SystemExit, match=r"error: .*q\.safetensors exists; --overwrite"):
        script.main(["convert", str(tmp_path / "p.pkl"), str(tmp_path / "q.safetensors")])


def test_shards_lie_beside_the_output_and_merge_to_the_whole(generate, main, tmp_path):
    generate("--dataset", "toy_train", "--output", tmp_path / "whole.safetensors")
    for shard in ("1/2", "2/2"):
        generate("--dataset", "toy_train", "--output", tmp_path / "x.safetensors", "--shard", shard)
    shards = sorted(tmp_path.glob("x.shard-*-of-2.safetensors"))
    assert [list(read_proposals(path)) for path in shards] == [["a"], ["b"]]
    main("merge", tmp_path / "x.safetensors", *shards)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="x.safetensors exists; --overwrite"):
        main("merge", tmp_path / "x.safetensors", *shards)
    with pytest.raises(SystemExit, match="error: .*1 shards are missing: 2/2"):
        main("merge", tmp_path / "y.safetensors", shards[0])
    with pytest.raises(SystemExit, match="error: shard 3/2 does not exist"):
        generate("--dataset", "toy_train", "--output", tmp_path / "y.safetensors", "--shard", "3/2")


def test_a_task_of_slurms_array_makes_its_shard_and_a_given_one_wins(
    generate, main, tmp_path, monkeypatch, caplog, capsys
):
    for name, value in {"MIN": 0, "MAX": 1, "COUNT": 2, "ID": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    caplog.set_level("INFO")
    output = ("--output", tmp_path / "x.safetensors")
    generate("--dataset", "toy_train", *output)
    assert caplog.text.count("shard 2/2, by SLURM's job array") == 1
    generate("--dataset", "toy_train", *output, "--shard", "1/2")
    assert caplog.text.count("by SLURM's job array") == 1
    pattern = tmp_path / "x.shard-*-of-2.safetensors"
    assert list(read_proposals(pattern)) == ["a", "b"]
    capsys.readouterr()
    main("inspect", pattern)
    assert ["images", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    with pytest.raises(SystemExit, match="error: give --shard i/n: only a job array 0-N or 1-N"):
        generate("--dataset", "toy_train", *output)


def test_a_data_set_that_reads_several_files_needs_output(generate, catalog):
    catalog.write_text(catalog.read_text().replace("{split}", "{split}.shard-*"))
    with pytest.raises(
        SystemExit, match=r"'toy_test' reads several proposal files, .*shard-\*.*give --output"
    ):
        generate("--dataset", "toy_test")


def test_inspect_prints_two_files_side_by_side_and_draws_them(main, catalog, tmp_path, capsys):
    write_proposals(tmp_path / "good", {"c": ([[20, 10, 50, 40]], [1])})
    write_proposals(tmp_path / "bad", {"c": ([[20, 10, 50, 25], [20, 10, 50, 25]], [1, 1])})  # IoU 0.5
    files = (tmp_path / "good", tmp_path / "bad")
    main("inspect", *files, "--catalog", catalog, "--dataset", "toy_test", "--output", tmp_path / "x.png")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == [str(file) for file in files]
    assert ["duplicates", "0", "1"] in rows and ["recall", "at", "IoU", "0.5", "1.000", "1.000"] in rows
    assert ["recall", "at", "IoU", "0.6", "1.000", "0.000"] in rows
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_needs_no_data_set_and_names_a_missing_file(main, tmp_path, capsys):
    write_proposals(tmp_path / "x", {"c": ([[0, 0, 9, 9]], [1])})
    main("inspect", tmp_path / "x")
    assert "recall" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: proposal file .*none does not exist"):
        main("inspect", tmp_path / "none")


def test_rpn_writes_the_boxes_of_a_model_and_nothing_to_its_output_folder(
    main, catalog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.yaml").write_text(
        "MODEL:\n  DEVICE: cpu\n  BACKBONE: {NAME: TinyBackbone}\n  RPN: {IN_FEATURES: [p2, p3]}\n"
        "  PROPOSAL_GENERATOR: {NAME: OHEMRPN}\n  ROI_HEADS: {NAME: OHEMRes5ROIHeads}\n"
        "  ANCHOR_GENERATOR: {SIZES: [[16], [32]]}\nINPUT: {MIN_SIZE_TEST: 60}\nVERSION: 2\n"
    )
    cfg = load_config(str(tmp_path / "model.yaml"), ["OUTPUT_DIR", str(tmp_path / "out")]).clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    model = ("--config-file", tmp_path / "model.yaml", "--weights", tmp_path / "model.pth")
    common = ("generate", "rpn", "--catalog", catalog, "--dataset", "toy_test", *model)
    main(*common, "--output", tmp_path / "rpn.safetensors", "--top-k", "7")
    proposals = read_proposals(tmp_path / "rpn.safetensors")
    assert len(proposals["c"][0]) == 7 and '"top_k": 7' in proposals.metadata["parameters"]
    assert not (tmp_path / "output").exists()
    with pytest.raises(SystemExit, match="error: command line: unknown key MODEL.RPM"):
        main(*common, "--output", tmp_path / "y", "MODEL.RPM", "1")


KILLED = """
import os, runpy, signal, sys
from ohem_d2.proposals import generation, selective_search
generation._PART_IMAGES = 1
search, calls = selective_search._search, []
def killed(*args):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return search(*args)
selective_search._search = killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_real_images_in_three_shards_of_which_one_is_killed_are_byte_equal_to_one_run(
    real_data, main, tmp_path, monkeypatch
):
    """The first 12 images of BCCD, at a quarter of their size."""
    lines = (real_data / "BCCD/ImageSets/Main/trainval.txt").read_text().splitlines()[:12]
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / "cells" / folder).parent.mkdir(exist_ok=True)
        (tmp_path / "cells" / folder).symlink_to(real_data / "BCCD" / folder)
    (tmp_path / "cells/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "cells/ImageSets/Main/few.txt").write_text("\n".join(lines))
    entry = "{format: voc, root: ./cells, splits: [few], classes: [RBC, WBC, Platelets]}"
    (tmp_path / "cells.yaml").write_text(f"cells: {entry}")
    generate = [
        "generate",
        "selective-search",
        "--catalog",
        str(tmp_path / "cells.yaml"),
        "--dataset",
        "cells_few",
    ]
    generate += ["--scale", "0.25", "--workers", "1", "--output"]
    whole, merged = tmp_path / "whole.safetensors", tmp_path / "merged.safetensors"
    main(*generate, whole)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        KILLED,
        str(SCRIPT),
        *generate,
        str(merged),
        "--shard",
        "2/3",
    ]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "merged.shard-2-of-3.safetensors.parts")) == 2
    searched = count_searches(monkeypatch)
    for shard in ("1/3", "2/3", "3/3"):
        main(*generate, merged, "--shard", shard)
    assert len(searched) == 4 + 2 + 4
    main("merge", merged, *tmp_path.glob("merged.shard-*"))
    assert merged.read_bytes() == whole.read_bytes() and len(read_proposals(merged)) == 12


def count_searches(monkeypatch):
    search, calls = selective_search._search, []
    monkeypatch.setattr(selective_search, "_search", lambda *args: calls.append(1) or search(*args))
    return calls


def test_targets_prints_an_override_that_the_config_takes(main, catalog, tmp_path, capsys):
    # the object is [20, 10, 50, 40]; a box moved by 3 pixels in x and y and larger by 3 in both
    write_proposals(tmp_path / "p.safetensors", {i: ([[17, 7, 50, 40]], [1.0]) for i in "ab"})
    main("targets", tmp_path / "p.safetensors", "--catalog", catalog, "--dataset", "toy_train")
    *table, override = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["box", "4"], ["all", "4"]]
    opts = [text.strip() for text in override.replace('"', "").split(" ", 1)]
    weights = load_config("", opts).MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
    # dx = 1.5 / 33 in every second target, mirrored: std 1.5 / 33 / sqrt(2); dw = ln(30 / 33), std half of it
    assert weights == pytest.approx((31.11, 44.0, 20.98, 20.98), abs=0.01)


def test_a_folder_of_background_has_proposals_and_no_recall(main, generate, catalog, tmp_path, capsys):
    street = "street: {format: images, root: ./JPEGImages, proposals: './p/{name}.safetensors'}"
    catalog.write_text(f"{catalog.read_text()}\n{street}")
    generate("--dataset", "street")
    printed = capsys.readouterr().out
    assert "proposals for 3 of 3 images" in printed and "no ground truth" in printed
    proposals = read_proposals(tmp_path / "p/street.safetensors")
    assert set(proposals) == {"a.jpg", "b.jpg", "c.jpg"} and all(proposals.count(i) > 0 for i in proposals)
    names = ["--catalog", catalog, "--dataset", "street", "toy_train"]
    generate("--dataset", "street", "toy_train", "--output", tmp_path / "both.safetensors")
    main("targets", tmp_path / "both.safetensors", *names)
    assert "box" in capsys.readouterr().out  # the class, of the labelled set
