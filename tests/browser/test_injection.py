"""Script in every field of data, in a real browser with the pages' own policy switched off: letters, nothing else."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cosup.evaluation import evaluate
from cosup.evaluation.html import write_html
from cosup.index.build import build_index
from cosup.modeling import CoSupervisedModel
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval
from tests import pairs
from tests.browser.chromium import MARKS, browser
from tests.serving.servers import running, toy, toy_model, wait_for

pytestmark = MARKS
__all__ = ["browser", "toy", "toy_model"]

ASKED = "Where was the author of Red Tide born?"

RUN = "window.hacked=(window.hacked||0)+1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<!--<script>{RUN}</script>-->",
    f"<img src=x onerror={RUN}>",
    f"'\"><svg/onload={RUN}>",
    f'" onmouseover="{RUN}" autofocus onfocus="{RUN}" x="',
    f'<a href="javascript:{RUN}">x</a>',
    f"javascript:{RUN}",
    f"[x](javascript:{RUN})",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'>",
    f"</title></style></textarea><details open ontoggle={RUN}>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"${{{RUN}}} {{{{{RUN}}}}}",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;img src=x onerror={RUN}&#62;",
    f"\\u003cscript>{RUN}\\u003c/script>",
    f"\u2028{RUN}\u2029//",
    "__proto__",
    "constructor",
)


def unharmed(page: Any) -> None:
    """Assert that nothing ran, and that nothing of the payloads became an element."""
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("Object.prototype.title === undefined && Object.prototype.text === undefined")
    assert (
        page.locator("body img, body iframe, body math, svg[onload], [onerror], [onfocus], [onmouseover]").count() == 0
    )
    assert page.locator("a[href^=javascript]").count() == 0


def opened(browser: Any, address: str) -> Any:
    page = browser.new_context(bypass_csp=True, viewport={"width": 1200, "height": 900}).new_page()
    page.set_default_timeout(15_000)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    page.goto(address)
    return page


def test_the_browser_runs_what_is_not_escaped(browser: Any, tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    (tmp_path / "page.html").write_text(f"<body>{PAYLOADS[0]}{PAYLOADS[4]}</body>")
    page = opened(browser, (tmp_path / "page.html").as_uri())
    assert page.evaluate("window.hacked") == 2
    page.context.close()


def test_a_report_shows_script_as_text(browser: Any, tmp_path: Path) -> None:
    """In ids, titles, texts, questions, answers, labels, claims, settings and groups; each question is opened."""
    passages = [Passage(text, text, f"{text} An end.", {"k": text}) for text in PAYLOADS]
    questions = [Question(text, text, (text,), text, (Evidence(text, text),), None, text, text) for text in PAYLOADS]
    answers = [
        Answer(
            text, text, f"{text} [1].", text, (), (Citation(1, text, text, 0, len(text), 1.0),),
            (Retrieval(0, tuple(Hit(other, 0.5) for other in PAYLOADS)),), text,
        )
        for text in PAYLOADS
    ]  # fmt: skip
    extra = [Answer(f"not asked {text}", "", text, text) for text in PAYLOADS]
    settings = dict(zip(PAYLOADS, PAYLOADS, strict=True))
    report = evaluate([*answers, *extra], questions, passages, settings, task_of=lambda question: question.id)
    write_html(report, {passage.id: passage for passage in passages}, tmp_path / "report.html")
    page = opened(browser, (tmp_path / "report.html").as_uri())
    rows = page.locator("#list [role=option]")
    assert rows.count() == len(PAYLOADS)
    for number in range(len(PAYLOADS)):
        rows.nth(number).click()
        for opener in page.locator("#detail summary, #detail .mark").all():
            opener.click()
    shown = page.locator("#list").text_content()
    assert all(text.split()[0] in shown for text in PAYLOADS if "\u2028" not in text)
    unharmed(page)
    page.context.close()


def test_the_served_page_shows_script_as_text(
    toy: Path, toy_model: CoSupervisedModel, browser: Any, tmp_path: Path
) -> None:
    """In every passage's id, title, text and metadata, in the question, in a shared link and in the kept history."""
    known = cycle(pairs.PASSAGES)
    passages = [
        Passage(text, next_.title + text, f"{next_.text} {text}", {"k": text})
        for text, next_ in zip(PAYLOADS, known, strict=False)
    ]
    build_index(toy_model, passages, tmp_path / "index")
    asked = f"{ASKED} {PAYLOADS[0]} {PAYLOADS[3]} {PAYLOADS[4]}"
    with running(toy_model, tmp_path / "index") as server:
        page = opened(browser, f"{server.address}/#q={quote(asked)}")
        assert page.input_value("#question").count("hacked") == asked.count("hacked")
        page.check("#ret-first")
        page.focus("#question")
        page.keyboard.press("Enter")
        status = page.locator("#status")
        wait_for(lambda: status.inner_text().startswith("Done"), 60)
        assert page.locator(".asked").inner_text().count("hacked") == asked.count("hacked")
        hits = page.locator(".hits button").all()
        assert len(hits) > 1
        for button in hits:
            button.click()
            page.wait_for_selector("#passage[open]")
            assert page.locator("#passage-title").inner_text()
            unharmed(page)
            page.keyboard.press("Escape")
        page.reload()
        page.click("#open-history")
        page.click("#past button")
        assert page.locator(".asked").inner_text().count("hacked") == asked.count("hacked")
        unharmed(page)
        page.context.close()
