"""Relative links in the documents lead to files and headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "MODEL_ZOO.md",
    "datasets/README.md",
    "benchmarks/README.md",
)
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of its headings, as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    texts = (LINK.sub("]", heading).replace("[", "").replace("]", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


def broken_links(page, root=ROOT):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(root):
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page):
    assert not list(broken_links(page))


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c\n[x](gone.md) [x](page.md#a-b-c) [x](#gone) [x](https://x)\n```\n# gone\n[x](gone)\n```\n"
    )
    assert list(broken_links(page, tmp_path)) == ["gone.md: no such file", "#gone: no such heading"]


def test_every_page_is_in_the_table_of_contents():
    entries = re.findall(r"^(\w+)$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert set(entries) == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
