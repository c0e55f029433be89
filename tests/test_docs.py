"""The documentation without building it: pages are reachable, links lead somewhere, what is generated is up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cosup

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # where the scripts are that write pages

import docs_figures

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


def leaves_of(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for item in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves_of(item)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)["nav"]
    assert sorted(leaves_of(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_pictures_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_api_pages_have_every_public_name_once() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: cosup\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted(shown) == sorted(name for name in cosup.__all__ if name != "__version__")


@pytest.mark.parametrize("name", docs_figures.FIGURES)
def test_a_figure_is_as_its_script_draws_it(name: str) -> None:
    assert (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8") == str(docs_figures.FIGURES[name]())


def test_the_site_asks_no_other_host_for_anything() -> None:
    """Neither pages, styles and scripts of our own nor the configuration fetch from elsewhere; links may lead there."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert config["theme"]["font"] == "false"
    assert not any("://" in script for script in config["extra"]["polyfills"])
    for page in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(\w+:|<(img|script|link|iframe)\b", prose(page)), page
    for asset in (DOCS / "assets").iterdir():
        assert "://" not in asset.read_text(encoding="utf-8"), asset
