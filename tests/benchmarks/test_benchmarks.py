"""The benchmarks run at a tiny size on the CPU, and their figures mean what they say."""

import json
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

import ohem_d2.modeling.mixin
from ohem_d2.data import read_proposals, write_proposals
from ohem_d2.engine import OHEMTrainer, load_config
from ohem_d2.utils.revision import read_revision

from ..builders import tiny_cfg
from ..conftest import ROOT

CATALOG = "toy: {format: voc, root: voc, splits: [train], classes: [cat, dog], proposals: ./p.safetensors}\n"
CONFIG = """
_BASE_: {base}
MODEL: {{ROI_HEADS: {{NAME: OHEMROIHeads, NUM_CLASSES: 2, BATCH_SIZE_PER_IMAGE: 4}}}}
DATASETS: {{CATALOG: ["{folder}/catalog.yaml"], TRAIN: [toy_train], TEST: [toy_train]}}
INPUT: {{MIN_SIZE_TRAIN: [32]}}
"""
TINY = ("--device", "cpu", "--size", "64", "64", "--proposals", "40", "--repeats", "1", "--warmup", "0")


@pytest.fixture
def run(load_script, monkeypatch, tmp_path):
    """``run("bm_scale", *options)`` runs a benchmark and returns what it wrote."""

    def run(name, *options):
        file = tmp_path / "results" / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [name, *options, "--output", str(file)])
        load_script(f"benchmarks/{name}.py").main()
        return json.loads(file.read_text())

    return run


@pytest.fixture
def config_file(tmp_path, make_voc, monkeypatch):
    """A small Fast R-CNN that selects 4 of 31 RoIs on each of two drawn images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_voc({"000001": [("cat", (5, 5, 30, 25))], "000002": [("dog", (10, 4, 38, 28))]})
    corners = np.random.default_rng(0).uniform(0, 15, (2, 30, 2))
    boxes = np.concatenate([corners, corners + 12], axis=2).astype(np.float32)
    entries = {f"00000{i + 1}": (boxes[i], np.zeros(30, np.float32)) for i in range(2)}
    write_proposals(tmp_path / "p.safetensors", entries)
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(base=ROOT / "configs/Base-FastRCNN-small.yaml", folder=tmp_path))
    return str(file)


@pytest.fixture
def rank(run, config_file):
    options = ("--config-file", config_file, "--device", "cpu", "--images", "2", "--early-iterations", "2")
    return lambda *more: run("bm_ranking", *options, *more)


def test_a_report_says_which_code_made_it(load_script, tmp_path):
    load_script("benchmarks/measure.py").write_report({"arms": 1}, tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["code"] == read_revision() and list(report) == ["command", "code", "environment", "arms"]


def test_overlap_is_by_count_and_by_the_loss_of_float32(load_script):
    overlap = load_script("benchmarks/bm_ranking.py").overlap
    losses, reference = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]), torch.tensor([0, 1, 2, 3])
    assert overlap(torch.tensor([3, 2, 1, 0]), reference, losses) == (1, 1)
    assert overlap(torch.tensor([4, 0, 1, 2]), reference, losses) == (3 / 4, 9.5 / 10)


def test_the_worst_image_is_told_beside_the_mean(load_script):
    record = {"count": [1.0, 0.5], "mass": [0.75, 1.0], "ms": [1.0, 2.0, 9.0], "recomputed batches": 0}
    summary = load_script("benchmarks/bm_ranking.py").summary(record)
    figures = {"count": 0.75, "worst count": 0.5, "mass": 0.875, "worst mass": 0.75, "ms": 2.0}
    assert summary == {"images": 2, "recomputed batches": 0, **figures}


def test_a_precision_that_orders_the_losses_otherwise_is_seen_and_is_not_right(rank, monkeypatch):
    exact = ohem_d2.modeling.mixin.candidate_losses

    def turned_in_bfloat16(heads, features, candidates, targets, options, **kwargs):
        losses = exact(heads, features, candidates, targets, options, **kwargs)
        return losses._replace(total=100 - losses.total) if options.readonly_dtype == "bfloat16" else losses

    monkeypatch.setattr(ohem_d2.modeling.mixin, "candidate_losses", turned_in_bfloat16)
    report = rank()
    for of_model in report["models"].values():
        assert of_model["float32"]["count"] == of_model["float32"]["worst mass"] == 1
        assert of_model["bfloat16"]["worst count"] <= of_model["bfloat16"]["count"] < 0.9
        assert of_model["bfloat16"]["mass"] < 0.999
    assert "bfloat16" not in report["right"] and "float32" in report["right"]


def test_losses_that_overflow_are_recomputed_in_float32(rank, monkeypatch):
    exact = ohem_d2.modeling.mixin.candidate_losses

    def overflowing(heads, features, candidates, targets, options, **kwargs):
        losses = exact(heads, features, candidates, targets, options, **kwargs)
        return losses._replace(total=losses.total / 0) if options.readonly_dtype == "float16" else losses

    monkeypatch.setattr(ohem_d2.modeling.mixin, "candidate_losses", overflowing)
    figures = rank()["models"]["untrained"]["float16"]
    assert figures["recomputed batches"] == figures["count"] == figures["mass"] == 1


def test_checkpoints_are_ranked_under_their_names(rank, config_file, tmp_path):
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "output")])
    torch.save({"model": OHEMTrainer.build_model(cfg).state_dict()}, tmp_path / "mine.pth")
    models = rank("--weights", f"mine={tmp_path}/mine.pth")["models"]
    assert list(models) == ["untrained", "early (2 iterations)", "mine"]


@pytest.mark.parametrize(
    ["options", "message"],
    [
        (("--weights", "trained=absent.pth"), "'trained=absent.pth'; valid: NAME=PATH of an existing"),
        (("--opts", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"), "which cannot mine; valid: OHEM"),
        (("--config-file", "absent.yaml"), "config file absent.yaml does not exist"),
    ],
)
def test_what_cannot_be_ranked_is_one_clear_line(rank, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        rank(*options)
    assert message in f"{stop.value} {capsys.readouterr().err.splitlines()[-1:]}".replace('"', "")


def test_scale_gives_ratios_to_standard_and_a_slope(run):
    report = run("bm_scale", *TINY, "--images", "1", "--sweep", "proposals", "200", "40")
    points = report["sweeps"]["proposals"]["points"]
    assert list(points) == ["40", "200"]
    for arms in points.values():
        assert arms["standard"]["ms ratio"] == arms["standard"]["memory ratio"] == 1
        assert arms["ohem"]["ms ratio"] == pytest.approx(arms["ohem"]["ms"] / arms["standard"]["ms"])
    assert 0 < points["40"]["ohem"]["mining MiB"] < points["200"]["ohem"]["mining MiB"]
    more_ms = points["200"]["ohem"]["ms"] - points["40"]["ohem"]["ms"]
    assert report["sweeps"]["proposals"]["slopes"]["ohem"]["ms"] == pytest.approx(more_ms / 160 * 1000)


def test_a_sweep_of_something_else_is_one_clear_line(run, capsys):
    with pytest.raises(SystemExit):
        run("bm_scale", *TINY, "--sweep", "proposal", "40")
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "--sweep proposal 40; valid: one of proposals, images, classes" in last_line


def test_train_step_gives_ratios_to_standard(run):
    arms = run("bm_train_step", *TINY, "--images", "1", "--arms", "standard", "ohem")["arms"]
    assert arms["standard"]["ratio"] == arms["standard"]["memory ratio"] == 1
    assert arms["ohem"]["ratio"] == pytest.approx(arms["ohem"]["ms"] / arms["standard"]["ms"])


def test_an_arm_that_does_not_fit_into_memory_is_left_out_and_named(load_script, run, monkeypatch, capsys):
    load_script("benchmarks/bm_train_step.py")
    arms = sys.modules["arms"]
    build = arms.build_arm

    def built(name, args):
        arm = build(name, args)
        if name == "ohem":
            arm.step = lambda batch: too_large
        return arm

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(arms, "build_arm", built)
    report = run("bm_train_step", *TINY, "--arms", "standard", "ohem", "all RoIs")
    assert list(report["arms"]) == ["standard", "all RoIs"] and report["out of memory"] == ["ohem"]
    assert report["arms"]["all RoIs"]["ratio"] > 0 and "Out of memory: ohem." in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, products, convolutions",
    [("fp32", False, False), ("default", False, True), ("amp", False, True), ("tf32", True, True)],
)
def test_a_precision_says_what_may_round_to_tf32(load_script, name, products, convolutions):
    set_precision = load_script("benchmarks/bm_train_step.py").set_precision
    try:
        for before in ("fp32", "tf32"):
            set_precision(before)
            set_precision(name)
            assert torch.backends.cuda.matmul.allow_tf32 is products
            assert torch.backends.cudnn.allow_tf32 is convolutions
    finally:
        set_precision("default")


def test_the_ranking_is_left_out_where_there_are_no_data(load_script, monkeypatch, tmp_path, capsys):
    runner = load_script("benchmarks/run.py")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert runner.RANKING not in runner.available()
    assert "ranking_demo: left out; needs `python datasets/prepare_demo.py`" in capsys.readouterr().err
    (tmp_path / "demo").mkdir()
    assert runner.RANKING in runner.available() and capsys.readouterr().err == ""


def test_loaders_are_compared_with_detectron2(run):
    options = ("--images", "4", "--workers", "0", "--boxes", "20", "--batches", "2", "--repeats", "1")
    loaders = run("bm_loader", *options, "--short-side", "32")["boxes"]["20"]["0"]
    base, ours = loaders["Detectron2 with proposals"], loaders["ours with proposals"]
    assert base["ratio"] == 1 and ours["images/s"] == pytest.approx(4000 / ours["ms"])
    assert ours["ratio"] == pytest.approx(base["ms"] / ours["ms"])


def test_all_loaders_read_the_same_boxes_within_their_images(load_script, tmp_path):
    images = [{"image_id": name, "width": 40, "height": 30} for name in ("a", "b")]
    store, pickled = load_script("benchmarks/bm_loader.py").draw_proposals(images, 50, tmp_path)
    content = np.load(pickled, allow_pickle=True)
    for image_id, boxes in zip(content["ids"], content["boxes"]):
        read, _ = read_proposals(store)[image_id]
        assert sorted(map(tuple, read.tolist())) == sorted(map(tuple, boxes.tolist()))
        assert (boxes >= 0).all() and (boxes <= [40, 30, 40, 30]).all()
        assert (boxes[:, 2:] >= boxes[:, :2] + 1).all()


def test_the_mined_log_takes_a_share_of_the_iteration_and_writes_what_is_mined(run):
    results = run("bm_mined_log", *TINY[:-4], "--repeats", "3", "--warmup", "1")
    assert 0 < results["log ms"] < results["iteration ms"]
    assert results["share"] == results["log ms"] / results["iteration ms"]
    # Of 2 images at most 64 RoIs: 4 coordinates, an IoU and two losses of 4 bytes, label and object of 8.
    assert 2 * 40 * 28 < results["bytes"] < 2 * 64 * 60 + 2000


def test_mining_with_a_step_undone_synchronises_more(run):
    undone = ("as it is", "Detectron2's matcher", "Detectron2's pooler", "256 RoIs at a time")
    results = run("bm_mining", *TINY, "--steps", *undone)
    syncs = {name: of_step["syncs"] for name, of_step in results["steps"].items()}
    # One assertion for each of 2 images; Detectron2's pooler copies the numbers of RoIs and reads them back.
    assert syncs == {
        "as it is": 2,
        "Detectron2's matcher": 4,
        "Detectron2's pooler": 4,
        "256 RoIs at a time": 2,
    }
    assert results["steps"]["as it is"]["ratio"] == 1 and results["selection"]["syncs"] == 1
    assert set(results["floor"]["ms"]) == {"products in float32", "pooling", "the rest"}
    assert results["floor"]["GFLOP"] > 0 and min(results["floor"]["ms"].values()) > 0


def test_traffic_is_what_kernels_read_and_write(load_script):
    a, rois = torch.zeros(10, 10), torch.zeros(3, 5)
    with load_script("benchmarks/measure.py").TrafficCounter() as traffic:
        a.relu_()
        torch.mm(a, a).view(5, 20)
        torch.ops.torchvision.roi_align(a[None, None], rois, 1.0, 2, 2, 1, False)
    pooled = 3 * 2 * 2
    assert traffic.bytes == {"the rest": 4 * 200, "products": 4 * 300, "pooling": 4 * (100 + 15 + pooled)}


def test_mining_takes_the_boxes_of_a_file(run, tmp_path):
    boxes = np.float32([[0, 0, 20, 20], [10, 10, 60, 40]]).repeat(30, axis=0)
    write_proposals(
        tmp_path / "p.safetensors",
        {"a": (boxes, np.zeros(60)), "b": (boxes[:9], np.zeros(9)), "c": (boxes, np.zeros(60))},
    )
    options = (*TINY, "--steps", "as it is", "--proposal-file", str(tmp_path / "p.safetensors"))
    assert run("bm_mining", *options)["steps"]["as it is"]["ms"] > 0
    with pytest.raises(SystemExit, match="2 images have 40 boxes, 3 are needed"):
        run("bm_mining", *options, "--images", "3")


def test_an_iteration_of_each_arm_is_counted(run):
    arms = run("bm_train_step", *TINY, "--count")["arms"]
    assert len(arms) == 6 and arms["ohem"]["syncs"] == arms["standard"]["syncs"] - 6
    # All 40 RoIs of an image are within the budget: mining only adds a pass to rank them, the naive way none.
    assert arms["all RoIs"]["GFLOP"] == arms["ohem naive"]["GFLOP"] < arms["ohem"]["GFLOP"]
    assert arms["standard"]["GFLOP"] < arms["ohem"]["GFLOP"]


def test_what_box_voting_and_scales_cost_is_measured(run):
    results = run("bm_testing", *TINY)
    assert results["whole"]["plain"]["ratio"] == 1 and set(results["whole"]) == {"plain", "+B", "+M", "+M+B"}


def test_the_runner_runs_every_benchmark(load_script):
    runner = load_script("benchmarks/run.py")
    scripts = {file.name for file in (ROOT / "benchmarks").glob("bm_*.py")}
    for benchmarks in (runner.CPU, runner.GPU):
        assert {command.split()[0] for command in benchmarks.values()} == scripts


@pytest.mark.slow
def test_the_runner_runs_what_was_not_run_and_names_what_failed(load_script, monkeypatch, tmp_path, capsys):
    runner = load_script("benchmarks/run.py")
    counted = "bm_train_step.py --device cpu --size 64 64 --proposals 40 --count"
    monkeypatch.setattr(
        runner, "CPU", {"good": f"{counted} --arms standard", "bad": f"{counted} --arms unknown"}
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: bad"):
        runner.main()
    assert {p.name for p in tmp_path.iterdir()} == {"good.json", "good.md", "bad.log"}
    assert "invalid choice" in (tmp_path / "bad.log").read_text()
    assert (
        (tmp_path / "good.md")
        .read_text()
        .startswith(f"`python benchmarks/{counted} --arms standard`\n\n| arm |")
    )
    with pytest.raises(SystemExit, match="failed: bad"):
        runner.main()
    assert "good: done before" in capsys.readouterr().out


def a_candidate_set(losses, classes):
    boxes = Boxes(torch.tensor([[4.0 + 8 * i, 4, 9 + 8 * i, 20] for i in range(len(losses))]))
    fields = {"losses": torch.tensor(losses), "gt_classes": torch.tensor(classes), "proposal_boxes": boxes}
    return Instances((24, 40), **fields)


def test_the_random_sample_is_that_of_a_plain_head(load_script):
    heads = tiny_cfg("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8).MODEL.ROI_HEADS
    candidates = a_candidate_set([0.0] * 40, [0] * 20 + [heads.NUM_CLASSES] * 20)
    rows = load_script("benchmarks/draw_sampling.py").random_sample(candidates, heads)
    assert len(rows) == 8 and (rows < 20).sum() == 2  # of 8, one in four is foreground
    assert len(set(rows.tolist())) == 8


def test_a_roi_is_drawn_by_its_loss_and_its_label(load_script):
    script = load_script("benchmarks/draw_sampling.py")
    rois = a_candidate_set([0.29, 0.3, 5.0, 0.1], [1, 1, 2, 2])
    drawn = script.draw_rois(np.full((24, 40, 3), 200, np.uint8), rois.proposal_boxes.tensor, rois, 2)
    colours = [tuple(drawn[12, 4 + 8 * i]) for i in range(4)]
    assert colours == [script.EASY, script.FOREGROUND, script.BACKGROUND, script.EASY]


def test_the_picture_of_sampling_counts_the_hard_rois_of_both_arms(
    load_script, config_file, tmp_path, monkeypatch
):
    titles = []
    script = load_script("benchmarks/draw_sampling.py")
    monkeypatch.setattr(script, "tile", lambda rows, names, legend: titles.extend(names) or rows[0][1])
    samples, draw = {}, script.draw

    def spy(x, candidates, drawn, num_classes):
        samples.update({name: candidates.losses[rows].tolist() for name, rows in drawn.items()})
        samples["all"] = candidates.losses.tolist()
        return draw(x, candidates, drawn, num_classes)

    monkeypatch.setattr(script, "draw", spy)
    script.main(["--config-file", config_file, "--image", "1", "--output", str(tmp_path / "sampling.png")])
    assert (tmp_path / "sampling.png").stat().st_size > 0
    assert [title.split(" of ")[1][:7] for title in titles] == ["4 RoIs ", "4 RoIs "]
    plain, mined, of_all = samples.values()
    assert mined[0] == max(of_all) and mined == sorted(mined, reverse=True) and min(mined) > min(of_all)
    assert plain != sorted(plain, reverse=True) and np.mean(plain) < np.mean(mined)
    with pytest.raises(SystemExit, match=r"^draw_sampling.py: "):
        script.main(["--config-file", config_file, "--output", "x.png", "MODEL.OHEM.RANK_BY", "x"])
