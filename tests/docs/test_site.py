"""The site builds without a warning and shows every key and every public name."""

import importlib
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from ohem_d2.config import SECTIONS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["", ".mining", ".modeling", ".proposals", ".data", ".evaluation", ".engine", ".visualization"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", page.read_text())))


def test_every_key_is_shown(site):
    text = text_of(site / "config.html")
    for options in SECTIONS:
        for key, default in options.defaults().items():
            assert f"{options.section}.{key} (default {default!r})" in text


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_shown_or_linked(site, room):
    page = (site / "api.html").read_text()
    for name in importlib.import_module(f"ohem_d2{room}").__all__:
        assert re.search(rf'(id|href)="#?ohem_d2[a-z_.]*\.{name}"', page), name


def test_no_page_fetches_anything(site):
    for page in site.glob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not fetched, f"{page.name}: {fetched}"
