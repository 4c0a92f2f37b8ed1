"""What can be said of the web inbox without a browser: it is small, and made so that its strict policy holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mailfarm

WEB = Path(mailfarm.__file__).parent / "web"
FILES = sorted(WEB.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 75_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|from ["'](?!\./)|url\(""", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_nothing_is_parsed_as_html_or_script(path: Path) -> None:
    parsing = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    assert not re.search(parsing + r"|\beval\b|new Function", path.read_text())


def test_the_page_has_no_script_and_no_style_in_line() -> None:
    page = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
