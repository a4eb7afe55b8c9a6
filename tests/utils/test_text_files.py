"""Text and JSON that cannot be read."""

import pytest

from ohem_d2.utils.text_files import read_json, read_text


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffä\n".encode())
    assert read_text(tmp_path / "a.txt") == "ä\n"


def test_another_encoding_is_refused_with_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("ä".encode("latin1"))
    with pytest.raises(ValueError, match="a.txt: not text in UTF-8: "):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_json_that_is_malformed_or_too_deep_is_refused_with_the_file(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="a.json: malformed JSON: "):
        read_json(tmp_path / "a.json")
