import json
import threading

import pytest

from ohem_d2.comparison import Stopped, Sweep, Variant, check_records, keep_settings, make_runs, read_records


def record(folder, seed, ap=1.0):
    return {"arm": "config", "seed": seed, "figures": {"bbox/AP": ap}}


class Launch:
    """Makes runs in no time; `failing` are folders whose run fails."""

    def __init__(self, failing=(), error=RuntimeError):
        self.called, self.failing, self.error = [], failing, error

    def __call__(self, config, seed, folder, opts, eval_only, gpu):
        self.called.append((folder.parent.name if not eval_only else folder.name, seed, tuple(opts), gpu))
        if str(folder).endswith(self.failing or "never"):
            raise self.error(f"{folder} failed")
        return record(folder, seed)


def runs(*arms, seeds=(0, 1), data=None):
    data = data or [Variant("")]
    return make_runs("base.yaml", [Variant(arm, ("ARM", arm)) for arm in arms], seeds, data)


def rows(output, name="results.json"):
    return [(r["folder"], r["arm"], r["seed"]) for r in read_records(output / name)]


def test_further_arms_and_seeds_keep_the_rows_of_earlier_calls(tmp_path):
    assert Sweep(runs("plain"), tmp_path, launch=Launch()).train() == []
    assert Sweep(runs("ohem", "plain", seeds=[2, 0]), tmp_path, launch=Launch()).train() == []
    assert rows(tmp_path) == [
        *(("plain/seed0", "plain", 0), ("plain/seed1", "plain", 1), ("plain/seed2", "plain", 2)),
        *(("ohem/seed0", "ohem", 0), ("ohem/seed2", "ohem", 2)),
    ]


def test_the_records_alone_are_enough_to_go_on_elsewhere(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    Sweep(runs("plain"), here, launch=Launch()).train()
    there.mkdir()
    (there / "results.json").write_bytes((here / "results.json").read_bytes())
    Sweep(runs("plain", "ohem"), there, launch=Launch()).train()
    done = [f"{arm}/seed{seed}" for arm in ("plain",) for seed in (0, 1)]
    assert all(json.loads((there / run / "result.json").read_text())["figures"] for run in done)
    assert not (there / "ohem/seed0/result.json").exists()  # which is for `launch` to write


def test_a_run_whose_folder_was_removed_is_made_again(tmp_path):
    Sweep(runs("plain"), tmp_path, launch=Launch()).train()
    (tmp_path / "plain/seed1").mkdir(parents=True)  # what is left of the others
    Sweep(runs("plain"), tmp_path, launch=Launch()).train()
    assert not (tmp_path / "plain/seed0/result.json").exists()


def test_the_first_arm_stays_the_first_whichever_run_ends_first(tmp_path):
    ohem_is_done = threading.Event()

    class OhemFirst(Launch):
        def __call__(self, config, seed, folder, *args, **kwargs):
            if "plain" in str(folder):
                assert ohem_is_done.wait(20)
            result = super().__call__(config, seed, folder, *args, **kwargs)
            if "next" in str(folder):
                ohem_is_done.set()  # with one job left, the row of ohem has been written
            return result

    Sweep(runs("plain", "ohem", "next", seeds=[0]), tmp_path, jobs=2, launch=OhemFirst()).train()
    assert [arm for _, arm, _ in rows(tmp_path)] == ["plain", "ohem", "next"]


def test_the_first_arm_stays_the_first_where_it_was_stopped_before_it_had_a_row(tmp_path):
    keep_settings(tmp_path, "base.yaml", [], [], ["plain", "ohem"])
    Sweep(runs("plain", "ohem", seeds=[0]), tmp_path, launch=Launch("plain/seed0", Stopped)).train()
    assert rows(tmp_path) == [("ohem/seed0", "ohem", 0)]
    keep_settings(tmp_path, "base.yaml", [], [], ["plain", "ohem"])
    sweep = Sweep(runs("plain", "ohem", seeds=[0]), tmp_path, launch=Launch())
    sweep.train()
    assert [arm for _, arm, _ in rows(tmp_path)] == ["plain", "ohem"]
    keep_settings(tmp_path, "base.yaml", [], [], ["next", "ohem"])
    Sweep(runs("next", "ohem", seeds=[0]), tmp_path, launch=Launch()).train()
    assert [arm for _, arm, _ in rows(tmp_path)] == ["plain", "ohem", "next"]
    Sweep(runs("ohem", seeds=[0]), tmp_path, launch=Launch()).test({"x": []})
    Sweep(runs("plain", seeds=[0]), tmp_path, launch=Launch()).test({"x": []})
    assert [arm for _, arm, _ in rows(tmp_path, "tests.json")] == ["plain x", "ohem x"]


def test_rows_of_an_arm_that_was_made_in_another_way_are_not_mixed_with_new_ones(tmp_path):
    check_records(tmp_path, runs("a"))
    row = {**record(None, 0), "arm": "a", "folder": "a/seed0", "options": ["base.yaml", 0, "ARM", "a"]}
    (tmp_path / "results.json").write_text(json.dumps([row]))
    check_records(tmp_path, runs("a", "b", seeds=[5]))
    check_records(tmp_path, runs("a", data=[Variant("x", ("K", "V"))]))  # of other data
    other = make_runs("base.yaml", [Variant("a", ("ARM", "c"))], [5])
    shortened = make_runs("base.yaml", [Variant("a", ("ARM", "a", "SOLVER.MAX_ITER", "5"))], [5])
    for planned in (other, shortened, make_runs("other.yaml", [Variant("a", ("ARM", "a"))], [5])):
        with pytest.raises(
            ValueError, match="^a/seed0 of .* was made with .*; rename the arm or choose anoth"
        ):
            check_records(tmp_path, planned)


def test_rows_of_two_data_sets_do_not_replace_each_other(tmp_path):
    Sweep(runs("a", seeds=[0], data=[Variant("x"), Variant("y")]), tmp_path, launch=Launch()).train()
    assert rows(tmp_path) == [("x/a/seed0", "a", 0), ("y/a/seed0", "a", 0)]
    assert [r["data"] for r in read_records(tmp_path / "results.json")] == ["x", "y"]


def test_a_run_that_fails_is_told_and_leaves_the_others_alone(tmp_path):
    failed = Sweep(runs("a", "b"), tmp_path, jobs=2, launch=Launch("a/seed1")).train()
    assert [str(error) for error in failed] == [f"{tmp_path}/a/seed1 failed"]
    assert [folder for folder, *_ in rows(tmp_path)] == ["a/seed0", "b/seed0", "b/seed1"]


def test_what_was_stopped_is_no_row_and_no_error_of_the_log(tmp_path, caplog):
    failed = Sweep(runs("a"), tmp_path, launch=Launch("seed0", Stopped)).train()
    assert isinstance(failed[0], Stopped) and rows(tmp_path) == [("a/seed1", "a", 1)]
    assert caplog.records == []


def test_tests_are_of_the_weights_that_were_trained_and_have_rows_of_their_own(tmp_path):
    launch = Launch()
    assert Sweep(runs("a", seeds=[0]), tmp_path, launch=launch).test({"plain": [], "+B": ["K", "V"]}) == []
    weights = ("MODEL.WEIGHTS", str(tmp_path / "a/seed0/model_final.pth"))
    assert [opts for _, _, opts, _ in launch.called] == [
        ("ARM", "a", *weights),
        ("ARM", "a", "K", "V", *weights),
    ]
    assert rows(tmp_path, "tests.json") == [("a/seed0/plain", "a plain", 0), ("a/seed0/+B", "a +B", 0)]
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "visible, expected", [("3,5", ["3", "3", "5", "5"]), ("", [""] * 4), ("7", ["7"] * 4)]
)
def test_each_run_has_a_gpu_of_its_own_as_far_as_there_are_enough(visible, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    together = threading.Barrier(4, timeout=20)  # all four run at the same time

    class Waiting(Launch):
        def __call__(self, *args, **kwargs):
            together.wait()
            return super().__call__(*args, **kwargs)

    launch = Waiting()
    Sweep(runs("a", "b"), tmp_path, jobs=4, launch=launch).train()
    assert sorted(gpu for *_, gpu in launch.called) == expected


def test_an_output_folder_is_of_one_base_config_with_equal_overrides(tmp_path):
    keep_settings(tmp_path, "mistyped.yaml", ["K"], [])  # of which nothing was trained
    keep_settings(tmp_path, "base.yaml", ["K", "1"], [Variant("d", ("D", "2"))])
    Sweep(runs("a"), tmp_path, launch=Launch()).train()
    keep_settings(tmp_path, "", ["K", "1"], [Variant("e")])
    for other, message in [
        (("other.yaml", ["K", "1"], []), "base base.yaml, not other.yaml; choose another --output"),
        (("base.yaml", ["K", "2"], []), r"overrides \['K', '1'\], not \['K', '2'\]"),
        (("base.yaml", ["K", "1"], [Variant("d")]), r"data 'd' \['D', '2'\], not \[\]"),
    ]:
        with pytest.raises(ValueError, match=f"^{tmp_path} was made with {message}"):
            keep_settings(tmp_path, *other)
    assert json.loads((tmp_path / "comparison.json").read_text())["data"] == {"d": ["D", "2"], "e": []}
