"""A report's page in a browser that tells what went wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Watched:
    """A page and everything that it asked for or complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, height: int = 900, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def check(self) -> None:
        """Assert that nothing was asked for but the file itself, and that nothing went wrong; close the page."""
        assert self.complaints == []
        assert set(self.requests) == {self.address}
        self.context.close()

    def count(self) -> str:
        text: str = self.page.locator("#count").inner_text()
        return text

    def overflow(self) -> int:
        """Return how many pixels the page is wider than its window."""
        pixels: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return pixels

    def cut(self) -> list[str]:
        """Return visible elements that reach beyond the window's sides, those in scrolling tables aside."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((element) => {
                if (element.closest(".scroll, .skip, .unseen, svg, #list")) return false;
                const box = element.getBoundingClientRect();
                return box.width > 0 && (box.left < -1 || box.right > window.innerWidth + 1);
            }).map((element) => element.outerHTML.slice(0, 120))"""
        )
        return found
