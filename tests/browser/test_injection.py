"""Script in every field of data, in a real browser with the pages' own policy switched off: letters, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosup.evaluation import evaluate
from cosup.evaluation.html import write_html
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval
from tests.browser.chromium import MARKS, browser

pytestmark = MARKS
__all__ = ["browser"]

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


def opened(browser: Any, path: Path) -> Any:
    page = browser.new_context(bypass_csp=True, viewport={"width": 1200, "height": 900}).new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    page.goto(path.as_uri())
    return page


def test_the_browser_runs_what_is_not_escaped(browser: Any, tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    (tmp_path / "page.html").write_text(f"<body>{PAYLOADS[0]}{PAYLOADS[4]}</body>")
    page = opened(browser, tmp_path / "page.html")
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
    page = opened(browser, tmp_path / "report.html")
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
