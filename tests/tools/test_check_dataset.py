import pytest


@pytest.fixture
def check(load_script, make_voc, tmp_path):
    """``check(*arguments)`` runs the script on the catalogue of ``good_train`` and ``bad_train``."""
    for name in ("good", "bad"):
        make_voc({"a": [("dog", (3, 4, 20, 25))]}, name=name)
    (tmp_path / "bad/JPEGImages/a.jpg").unlink()
    text = "{{format: voc, root: ./{0}, splits: [train], classes: [dog]}}"
    (tmp_path / "c.yaml").write_text("".join(f"{name}: {text.format(name)}\n" for name in ("good", "bad")))
    script = load_script("tools/check_dataset.py")
    return lambda *arguments: script.main([*arguments, "--catalog", str(tmp_path / "c.yaml")])


def test_a_data_set_without_fault_ends_well(check, capsys):
    check("good_train")
    assert (
        capsys.readouterr().out == "good_train: 1 images, 1 objects (0 difficult), no proposals, no problem\n"
    )


def test_problems_of_all_data_sets_are_printed_with_their_files_and_the_status_is_1(check, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        check("bad_train", "good_train")
    assert caught.value.code == 1
    bad, total, good = capsys.readouterr().out.splitlines()
    assert bad == f"{tmp_path}/bad/JPEGImages/a.jpg: the image does not exist"
    assert (
        total.startswith("bad_train: ") and total.endswith("1 problems") and good.startswith("good_train: ")
    )


def test_proposals_can_be_given(check, capsys):
    with pytest.raises(SystemExit):
        check("good_train", "--proposals", "none.pkl")
    assert "none.pkl: proposal file none.pkl does not exist" in capsys.readouterr().out


def test_images_are_decoded_if_asked(check, capsys, tmp_path):
    image = tmp_path / "good/JPEGImages/a.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    check("good_train")
    with pytest.raises(SystemExit):
        check("good_train", "--decode")
    assert f"{image}: cannot be read as an image: image file is truncated" in capsys.readouterr().out


def test_an_unknown_name_is_one_line(check):
    message = r"^error: data set 'good_tarin' is not registered; did you mean good_train[,?]"
    with pytest.raises(SystemExit, match=message):
        check("good_tarin")
