"""The documentation as it is built, opened from the disk in a real browser: nothing of it comes from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import MARKS, browser

ROOT = Path(__file__).parents[2]
pytestmark = [
    *MARKS,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("material", "mkdocstrings")), reason="needs the extra docs"
    ),
]
__all__ = ["browser"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture
def page(browser: Any) -> Any:
    """Return a page that fails the test if it asks another host for something or complains."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, wrong = context.new_page(), []
    local = ("file:", "data:", "about:", "blob:")
    opened.on("request", lambda request: None if request.url.startswith(local) else wrong.append(request.url))
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert wrong == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 380)])
def test_every_page_is_whole_and_fits(site: Path, page: Any, scheme: str, width: int) -> None:
    """Figures are there, the asked scheme is taken, and only tables and code scroll sideways."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    pages = [file for file in sorted(site.rglob("*.html")) if file.name != "404.html"]
    assert len(pages) > 20
    for file in pages:
        page.goto(file.as_uri())
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), file
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file
        wanted = {"light": "default", "dark": "slate"}[scheme]
        assert page.locator("body").get_attribute("data-md-color-scheme") == wanted


def test_the_search_works_on_pages_of_the_disk(site: Path, page: Any) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").click()
    page.get_by_text("Type to start searching").wait_for(state="attached")
    page.keyboard.type("micro_batch_tokens")
    page.locator(".md-search-result__link[href*='scaling.html']").first.wait_for(state="attached")


def test_files_of_the_repository_that_pages_link_to_are_in_the_site(site: Path, page: Any) -> None:
    page.goto((site / "recipes.html").as_uri())
    page.get_by_role("link", name="squad-lora.yaml").first.click()
    page.wait_for_url("**/files/recipes/squad-lora.yaml.txt")
    assert page.content().count("adapters: lora") == 1
