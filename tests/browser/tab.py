"""A tab with the page in it: asked, waited for, and looked at with axe."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.servers import Running, wait_for

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
ASKED = "Where was the author of Red Tide born?"


class Tab:
    """The page, with everything it asked for and complained about."""

    def __init__(self, browser: Any, server: Running, width: int = 1280, height: int = 860, **options: Any) -> None:
        self.address = server.address
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.sent: list[Any] = []  # what was posted
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(server.address)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:")):
            self.foreign.append(request.url)
        if request.method == "POST":
            self.sent.append(request.post_data_json)

    def ask(self, question: str = ASKED) -> None:
        self.page.fill("#question", question)
        self.page.keyboard.press("Enter")

    def done(self) -> str:
        """Wait for the end of the answer and return the last one's text."""
        self.until("document.getElementById('status').textContent.startsWith('Done')")
        text: str = self.page.locator(".answer").last.inner_text()
        return text

    def until(self, condition: str) -> None:
        """Wait until an expression holds; the page's policy lets nobody evaluate one in it again and again."""
        wait_for(lambda: self.page.evaluate(condition), 15)

    def notice(self) -> str:
        self.page.locator("#notice").wait_for(state="visible")
        text: str = self.page.locator("#notice").inner_text()
        return text

    def violations(self) -> list[str]:
        """Return what axe-core finds against WCAG 2 A and AA."""
        found = axe.Axe().run(
            self.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        )
        return [f"{v['id']}: {[n['html'][:120] for n in v['nodes']]}" for v in found.response["violations"]]

    def close(self, expected: tuple[str, ...] = ()) -> None:
        """Close, and assert that nothing was asked of others and nothing unforeseen was complained about."""
        assert self.foreign == []
        assert [c for c in self.complaints if not any(word in c for word in expected)] == []
        assert not self.page.evaluate("'hacked' in window")
        self.context.close()
