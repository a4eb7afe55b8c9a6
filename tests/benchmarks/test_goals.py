import json

import pytest


@pytest.fixture
def goals(load_script):
    return load_script("benchmarks/goals.py")


def write(folder, name, gpu="H200", **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"environment": {"gpu": gpu}, **content}))


def cells(table, row):
    line = next(line for line in table.splitlines() if line.startswith(f"| {row}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_what_was_not_measured_on_a_gpu_has_no_figure(goals, tmp_path):
    write(tmp_path, "train_step_r50_fpn_fp32", gpu="none", arms={"ohem": {"ratio": 1.5}})
    write(tmp_path, "mining_r50_fpn", gpu="none", selection={"ms": 9})
    table = goals.render_goals(tmp_path)
    assert table == goals.render_goals(tmp_path / "absent")
    assert table.count("no GPU yet") == 15  # 4 rows of 3 precisions, R50-C4 in float32, selection, floor
    assert cells(table, "R50-FPN, 800 x 1333, b = 512: time")[:2] == ["<= 1.03", "no GPU yet"]


def test_measured_ratios_stand_beside_their_goals(goals, tmp_path):
    for precision, ratio in (("fp32", 1.021), ("default", 1.07)):
        arms = {"ohem": {"ratio": ratio, "memory ratio": 1.004}}
        write(tmp_path / "part2", f"train_step_vgg16_{precision}", arms=arms)
    write(tmp_path / "part3", "train_step_r50_c4_amp", arms={"ohem": {"ratio": 2.5}})
    write(tmp_path, "train_step_r50_fpn_amp", arms={"standard": {"ms": 1.0}})  # mined: out of memory
    table = goals.render_goals(tmp_path)
    assert cells(table, "VGG16, 600 x 1000, b = 64: time") == [
        "<= 1.09", "1.021", "<= 1.25", "1.070", "<= 1.35", "no GPU yet"
    ]  # fmt: skip
    assert cells(table, "VGG16, 600 x 1000, b = 64: peak memory")[1] == "1.004"
    assert cells(table, "R50-C4")[-2:] == ["", "2.500"]
    assert cells(table, "R50-FPN, 800 x 1333, b = 512: time")[-1] == "no GPU yet"


def test_selection_and_the_floor_are_told_in_milliseconds(goals, tmp_path):
    write(tmp_path, "mining_r50_fpn", selection={"ms": 0.423})
    floor = {"ms": {"products in float16": 6.96, "pooling": 0.71, "the rest": 5.02}}
    write(tmp_path, "mining_r50_c4", floor=floor, steps={"as it is": {"ms": 90.12}})
    table = goals.render_goals(tmp_path)
    assert "<= 0.5 ms, measured: 0.42 ms." in table
    floors = "products in float16 7.0 ms, pooling 0.7 ms, the rest 5.0 ms"
    assert f"R50-C4, mining alone: 90.1 ms; its floor: {floors}." in table


def test_the_goals_name_results_that_the_runner_writes(goals, load_script):
    names = set(load_script("benchmarks/run.py").GPU)
    for (model, _), of_precision in goals.GOALS.items():
        assert {f"train_step_{model}_{precision}" for precision in of_precision} <= names
    assert {"mining_r50_fpn", "mining_r50_c4"} <= names
