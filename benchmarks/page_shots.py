"""Pictures of the page for the documents: what a served pair's answers look like in a headless Chromium.

python benchmarks/page_shots.py --model runs/demo/model --index runs/demo/index --output docs/images
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from serving import server

QUESTIONS = [
    "What is Copper Cove known for making?",
    "Which river flows through the town that Daphne Ellis comes from?",
]


def shoot(page: Any, address: str, questions: list[str], path: Path, show: str = "") -> None:
    """Ask questions one after another, and keep the picture."""
    page.goto(address)
    for question in questions:
        page.fill("#question", question)
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        page.wait_for_selector("#stop", state="hidden")
    if show:
        page.locator(show).last.hover()
        page.wait_for_selector("#pop:visible")
        page.wait_for_timeout(300)
    page.screenshot(path=str(path))


def main() -> None:
    """Serve, ask, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "index", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--question", action="append", default=[])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    asked = args.question or QUESTIONS
    with server(args.model, args.index) as (port, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for name, width, height, scheme in (
            ("page", 1280, 800, "light"),
            ("page-dark", 1280, 800, "dark"),
            ("page-phone", 390, 800, "light"),
        ):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            show = "a.claim" if width > 600 else ""
            shoot(context.new_page(), f"http://127.0.0.1:{port}", asked, args.output / f"{name}.png", show)
        browser.close()


if __name__ == "__main__":
    main()
