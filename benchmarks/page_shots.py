"""Pictures for the documents, by a headless Chromium: the page of a served pair, and a question of a report.

    python benchmarks/page_shots.py --model runs/demo/model --index runs/demo/index --output docs/images
    python benchmarks/page_shots.py --report runs/demo/report.html --output docs/images

The first makes page.png, page-dark.png and page-phone.png, the second report.png: of the first question (failures come
first) that has both a right and a wrong citation, else of the first.
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


def shoot_report(browser: Any, report: Path, path: Path, tried: int = 20) -> None:
    """Open a report at a question, and keep the picture."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(report.resolve().as_uri() + "#questions")
    rows = page.locator("#list [role=option]")
    marks = [page.locator(f"#detail .mark.is-{verdict}") for verdict in ("right", "wrong")]
    for place in range(min(tried, rows.count())):
        rows.nth(place).click()
        if all(mark.count() for mark in marks):
            break
    else:
        rows.first.click()
    page.evaluate("document.activeElement.blur()")
    page.locator("#questions").evaluate("element => element.scrollIntoView()")
    page.screenshot(path=str(path))


def shoot_pages(browser: Any, port: int, asked: list[str], output: Path) -> None:
    """Ask on the page, wide and narrow, light and dark, and keep the pictures."""
    for name, width, scheme in (("page", 1280, "light"), ("page-dark", 1280, "dark"), ("page-phone", 390, "light")):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        show = "a.claim" if width > 600 else ""
        shoot(context.new_page(), f"http://127.0.0.1:{port}", asked, output / f"{name}.png", show)


def main() -> None:
    """Serve and ask, or open the report; keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--model", type=Path, help="model folder to serve, with --index")
    parser.add_argument("--index", type=Path, help="its index")
    parser.add_argument("--question", action="append", default=[], help="asked on the page, in place of the usual ones")
    parser.add_argument("--report", type=Path, help="report.html of an evaluation")
    args = parser.parse_args()
    if args.report is None and (args.model is None or args.index is None):
        parser.error("name --model and --index, or --report")
    args.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        if args.report is not None:
            shoot_report(browser, args.report, args.output / "report.png")
        if args.model is not None and args.index is not None:
            with server(args.model, args.index) as (port, _):
                shoot_pages(browser, port, args.question or QUESTIONS, args.output)
        browser.close()


if __name__ == "__main__":
    main()
