"""The page of a report, block by block."""

import base64
import json
import re
from html import unescape

import pytest

pytest.importorskip("jinja2", reason="needs Jinja2")

from ohem_d2.visualization.report.page import (
    Cell,
    Chart,
    Gallery,
    Note,
    Picture,
    Section,
    Table,
    write_page,
)

from ...browser import CHROMIUM, browse

EVIL = '<b>&"x"'


@pytest.fixture
def write(tmp_path):
    """``write(*blocks)``: the text of a page of one section."""

    def write(*blocks):
        write_page("Title", [Section("One", blocks)], tmp_path / "page.html")
        return (tmp_path / "page.html").read_text()

    return write


def test_a_chart_is_in_the_page_as_it_is_and_its_png_in_the_folder_of_the_page(write, tmp_path):
    text = write(Chart("losses", "Losses", "<svg>drawn</svg>", b"png", note="A note."))
    assert "<svg>drawn</svg>" in text and "A note." in text
    assert {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()} == {"losses.png": b"png"}


def test_a_page_without_charts_makes_no_folder(write, tmp_path):
    assert "Only text." in write(Note("Only text."))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_cell_is_sorted_by_its_value_or_else_its_text_and_shaded(write):
    rows = [[Cell("12.5 %", 0.125, shade=0.4), Cell("cat")], [Cell("0", 0), Cell("none", "zzz")]]
    text = write(Table("Table", ["share", "class"], rows, choices=["class"]))
    assert re.findall(r"<td[^>]*>", text) == [
        '<td data-value="0.125" class="number" style="--shade: 0.40">',
        '<td data-value="cat">',
        '<td data-value="0" class="number">',
        '<td data-value="zzz">',
    ]
    assert 'data-choices="class"' in text and re.findall(r'<button type="button">(.*?)<', text) == [
        "share",
        "class",
    ]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_an_empty_cell_is_no_choice_since_that_is_the_choice_of_all(tmp_path):
    rows = [[Cell(text)] for text in ("cat", "", "dog")]
    write_page("Title", [Section("S", [Table("T", ["class"], rows, choices=["class"])])], tmp_path / "x.html")
    script = 'const said = {options: [...document.querySelectorAll("option")].map(o => o.textContent)};'
    said, console = browse((tmp_path / "x.html").read_text(), tmp_path, script)
    assert (said, console) == ({"options": ["all", "cat", "dog"]}, [])


def test_pictures_are_in_the_page_with_their_tags_and_captions(write):
    picture = Picture(b"jpeg", EVIL, {"class": EVIL})
    text = write(Gallery("Gallery", [picture], width=77))
    (tags,) = re.findall(r'data-tags="(.*?)"', text)
    assert json.loads(unescape(tags)) == {"class": EVIL}
    assert f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}" in text and "--width: 77px" in text
    assert EVIL not in text and text.count("&lt;b&gt;&amp;&#34;x&#34;") == 2  # alternative text and caption


def test_sections_are_linked_in_order(tmp_path):
    write_page("Title", [Section("One"), Section("Two")], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert re.findall(r'<a href="#(.*?)">(.*?)</a>', text) == [("section-1", "One"), ("section-2", "Two")]
    assert re.findall(r'<section id="(.*?)">\s*<h2>(.*?)</h2>', text) == [
        ("section-1", "One"),
        ("section-2", "Two"),
    ]
    assert "<title>Title</title>" in text and "<h1>Title</h1>" in text
