"""The page in a real browser: ask, see it stream, look at what it rests on, go on; plain errors; hostile text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosup.index.build import build_index
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage
from cosup.serving.settings import Limits
from tests import pairs
from tests.browser.chromium import MARKS, browser
from tests.browser.tab import ASKED, Tab
from tests.serving.servers import Running, running, toy, toy_model, wait_for

pytestmark = MARKS
__all__ = ["browser", "toy", "toy_model"]
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> [Ret] [Cs] [Ce] '
    "<svg onload='window.hacked = 3'></svg> \U0001f600 &amp;"
)


@pytest.fixture(scope="module")
def server(toy: Path, toy_model: CoSupervisedModel) -> Iterator[Running]:
    with running(toy_model, toy / "index") as found:
        yield found


# -- asking -----------------------------------------------------------------------------------------------------------


def test_an_answer_streams_in_with_claims_and_searches(toy: Path, toy_model: CoSupervisedModel, browser: Any) -> None:
    """Text comes before the end; each claim is underlined as it closes; the searches stand beside it with bars."""
    with running(toy_model, toy / "index") as slow:
        scheduler, go_on = slow.served.runner._lanes[-1].scheduler, threading.Event()
        step = scheduler.step

        def held() -> Any:
            if scheduler.rows and scheduler.rows[0].retrievals == 2:  # one claim is closed, the other is not
                go_on.wait(60)
            return step()

        scheduler.step = held  # type: ignore[method-assign]
        tab = Tab(browser, slow)
        tab.ask()
        tab.page.wait_for_selector("a.claim")
        assert tab.page.locator("#status").inner_text().startswith("Reading ")
        assert tab.page.locator(".answer.writing").count() == 1
        assert tab.page.locator("a.claim").count() == 1
        go_on.set()
        text = tab.done()
        expected = slow.chat().json["choices"][0]["message"]
        assert text == expected["content"]
        claims = tab.page.locator("a.claim")
        spans = [a["url_citation"] for a in expected["annotations"]]
        assert [claims.nth(i).inner_text() for i in range(claims.count())] == [
            expected["content"][c["start_index"] : c["end_index"]] for c in spans
        ]
        assert tab.page.locator(".cite").all_inner_texts() == ["[1]", "[2]"]
        searches = tab.page.locator(".searches > ol > li")
        assert searches.count() == 2
        assert searches.first.locator(".hits button").count() == 10
        assert searches.first.locator("li.read .title").inner_text() == spans[0]["title"]
        widths = [e.bounding_box()["width"] for e in searches.first.locator(".bar i").all()]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] > widths[-1] > 0
        assert tab.page.locator(".answer.writing").count() == 0
        tab.close()


def test_a_claim_shows_its_passage_with_the_supporting_sentence(server: Running, browser: Any) -> None:
    """By the mouse and by the keyboard alone; Escape puts it away, Enter opens the passage whole."""
    tab = Tab(browser, server)
    tab.ask()
    tab.done()
    tab.page.locator("a.claim").first.hover()
    tab.page.wait_for_selector("#pop:visible")
    assert tab.page.locator("#pop mark").inner_text() == "It was written by Ada Vale."
    assert "Red Tide is a book." in tab.page.locator("#pop").inner_text()
    tab.page.mouse.move(5, 5)
    tab.page.wait_for_selector("#pop", state="hidden")
    tab.page.locator("a.claim").nth(1).focus()
    tab.page.wait_for_selector("#pop:visible")
    assert tab.page.locator("#pop mark").inner_text() == "Ada Vale was born in Northport."
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#pop", state="hidden")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#passage[open]")
    assert tab.page.locator("#passage mark").inner_text() == "Ada Vale was born in Northport."
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#passage", state="hidden")
    tab.page.wait_for_timeout(300)
    assert not tab.page.locator("#pop").is_visible()  # focus is back on the claim
    tab.page.locator(".hits button").nth(1).click()
    tab.page.wait_for_selector("#passage[open]")
    tab.close()


def test_the_whole_page_is_reached_by_tab(server: Running, browser: Any) -> None:
    """Asking, claims and hits, in the order of reading, without a trap; on a narrow screen the options unfold."""
    tab = Tab(browser, server)
    assert tab.page.evaluate("document.activeElement.id") == "question"
    tab.ask()
    tab.done()
    tab.page.mouse.click(2, 2)
    seen = []
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        seen.append(tab.page.evaluate("(document.activeElement.id || document.activeElement.className || 'body')"))
    for wanted in ("theme", "claim", "question", "send", "share", "decoding", "top-k", "min-score", "ret-first"):
        assert wanted in seen, wanted
    assert seen.index("theme") < seen.index("claim") < seen.index("question")
    tab.close()


def test_a_follow_up_sends_the_conversation(server: Running, browser: Any) -> None:
    tab = Tab(browser, server)
    tab.ask()
    tab.done()
    tab.page.click("#new")
    tab.page.check("#follow")
    tab.ask()
    first = tab.done()
    tab.until("document.getElementById('question').value === ''")
    tab.ask("Where was the author of Blue Hour born?")
    tab.until("document.querySelectorAll('.turn').length === 2")
    tab.done()
    assert [m["role"] for m in tab.sent[2]["messages"]] == ["user", "assistant", "user"]
    assert tab.sent[2]["messages"][1]["content"] == first
    tab.page.uncheck("#follow")
    tab.ask()
    tab.until("document.querySelectorAll('.turn').length === 3")
    tab.done()
    assert [m["role"] for m in tab.sent[3]["messages"]] == ["user"]
    tab.close()


def test_what_cannot_be_asked_is_said_before_it_is_sent(server: Running, browser: Any) -> None:
    tab = Tab(browser, server)
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#status").inner_text() == "Type a question first."
    tab.page.click("#share")
    assert "Type a question first" in tab.page.locator("#status").inner_text()
    for value in ("0", "101", "1.5"):
        tab.page.fill("#top-k", value)
        tab.ask()
        assert tab.page.locator(".turn").count() == 0
    assert tab.sent == []
    tab.close()


def test_controls_reach_the_request(server: Running, browser: Any) -> None:
    tab = Tab(browser, server)
    tab.ask()
    tab.done()
    assert tab.sent[0].keys() == {"model", "messages", "cosup", "stream"}  # all else is as the server was started
    assert tab.sent[0]["cosup"] == {"hits": True}
    tab.page.select_option("#decoding", "sampled")
    tab.page.fill("#top-k", "3")
    tab.page.fill("#min-score", "0.25")
    tab.page.check("#ret-first")
    tab.page.click("#new")
    tab.ask()
    tab.done()
    assert tab.sent[1]["temperature"] == 0.7
    assert tab.sent[1]["cosup"] == {"hits": True, "top_k": 3, "ret_first": True, "min_score": 0.25}
    assert tab.page.locator(".searches > ol > li").first.locator(".hits button").count() == 3
    tab.close()


# -- what the browser keeps -------------------------------------------------------------------------------------------


def test_history_is_kept_and_drawn_as_it_was(server: Running, browser: Any) -> None:
    tab = Tab(browser, server)
    tab.ask()
    text = tab.done()
    tab.page.reload()
    assert tab.page.locator(".turn").count() == 0
    tab.page.click("#open-history")
    tab.page.click("#past button")
    assert tab.page.locator(".answer").inner_text() == text
    assert tab.page.locator("a.claim").count() == 2
    assert tab.page.locator(".searches > ol > li").count() == 2
    tab.page.click("#open-history")
    tab.page.click("#forget")
    tab.page.reload()
    tab.page.click("#open-history")
    assert tab.page.locator("#past").inner_text() == "Nothing yet."
    tab.close()


def test_a_shared_link_brings_the_question(server: Running, browser: Any) -> None:
    tab = Tab(browser, server, permissions=["clipboard-read", "clipboard-write"])
    tab.page.fill("#question", "Where & why? #1 \u00fc")
    tab.page.click("#share")
    tab.until("document.getElementById('status').textContent.includes('clipboard')")
    link = tab.page.evaluate("navigator.clipboard.readText()")
    tab.page.goto("about:blank")
    tab.page.goto(link)
    assert tab.page.input_value("#question") == "Where & why? #1 \u00fc"
    assert tab.page.locator(".turn").count() == 0
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".turn")
    tab.until("document.getElementById('send').disabled === false")
    tab.close(expected=("about:blank",))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_errors_are_told_in_plain_words(toy: Path, toy_model: CoSupervisedModel, browser: Any) -> None:
    """A full queue, a question too long, nothing near enough, a server that goes in the middle and one that is gone."""
    with running(toy_model, toy / "index", Limits(batch_size=1, queue=0), pace=0.1) as server:
        tab = Tab(browser, server)
        other = Tab(browser, server)
        other.ask()
        wait_for(lambda: server.served.runner.running == 1)
        tab.ask()
        assert tab.notice() == "The server is busy: its queue is full. Try again in a few seconds."
        assert tab.page.input_value("#question") == ASKED
        other.page.click("#stop")
        assert other.page.locator(".remark").inner_text() == "Stopped."
        server.wait_until_idle(3)
        tab.ask("why " * 600)
        tab.until("document.getElementById('notice').textContent.includes('tokens')")
        tab.page.fill("#min-score", "9")
        tab.ask()
        tab.done()
        assert "No passage was near enough to be cited" in tab.page.locator(".remark").last.inner_text()
        assert tab.page.locator("li.nothing").count() > 0
        tab.page.fill("#min-score", "")
        tab.page.click("#new")
        scheduler = server.served.runner._lanes[-1].scheduler
        step = scheduler.step

        def breaks() -> Any:
            if scheduler.rows and scheduler.rows[0].retrievals == 2:
                raise RuntimeError("broken")
            return step()

        scheduler.step = breaks  # type: ignore[method-assign]
        tab.ask()
        assert "The answer broke off: the engine failed" in tab.notice()
        assert tab.page.locator(".remark").last.inner_text() == "This answer is not whole."
        assert tab.page.locator("a.claim").count() == 1
        other.close(expected=("Failed to load resource",))
    tab.ask()
    tab.until("document.getElementById('notice').textContent.includes('cannot be reached')")
    tab.close(expected=("Failed to load resource",))


def test_a_key_is_asked_for_and_used(toy: Path, toy_model: CoSupervisedModel, browser: Any) -> None:
    with running(toy_model, toy / "index", api_keys=frozenset({"secret"})) as server:
        tab = Tab(browser, server)
        assert "needs an API key" in tab.notice()
        tab.ask()
        tab.page.wait_for_selector("#settings[open]")
        tab.page.fill("#key", "secret")
        tab.page.keyboard.press("Enter")
        tab.until("document.getElementById('model').textContent === 'toy'")
        tab.done()  # the question that waited for the key is asked
        tab.page.locator("a.claim").first.hover()
        tab.page.wait_for_selector("#pop mark")
        assert tab.page.evaluate("JSON.stringify(localStorage).includes('secret')") is False
        tab.close(expected=("Failed to load resource",))


# -- hostile text -----------------------------------------------------------------------------------------------------


def test_passages_questions_and_titles_are_shown_as_text(
    toy: Path, toy_model: CoSupervisedModel, browser: Any, tmp_path: Path
) -> None:
    """HTML, scripts and control tokens in a passage, in its title and in a question: letters, nothing else."""
    passages = [Passage(p.id, p.title + HOSTILE, p.text + " " + HOSTILE) for p in pairs.PASSAGES]
    build_index(toy_model, passages, tmp_path / "index")
    with running(toy_model, tmp_path / "index") as server:
        tab = Tab(browser, server)
        tab.page.check("#ret-first")
        tab.ask(f"{ASKED} {HOSTILE}")
        tab.done()
        assert tab.page.locator(".asked").inner_text() == f"{ASKED} {HOSTILE}"
        tab.page.locator(".hits button").first.click()
        tab.page.wait_for_selector("#passage[open]")
        assert HOSTILE in tab.page.locator("#passage-text").inner_text()
        assert HOSTILE in tab.page.locator("#passage-title").inner_text()
        assert tab.page.locator("main script, main img, main svg, dialog img, dialog svg, dialog script").count() == 0
        tab.close()


def test_marks_stand_right_behind_characters_that_are_two_in_browsers(
    toy: Path, toy_model: CoSupervisedModel, browser: Any, tmp_path: Path
) -> None:
    passages = [Passage(p.id, p.title, f"\U0001f600\U0001f600 {p.text}") for p in pairs.PASSAGES]
    build_index(toy_model, passages, tmp_path / "index")
    with running(toy_model, tmp_path / "index") as server:
        found = server.chat(cosup={"ret_first": True}).json["choices"][0]["message"]["annotations"]
        tab = Tab(browser, server)
        tab.page.check("#ret-first")
        tab.ask()
        tab.done()
        cited = found[0]["url_citation"]
        start, end = cited["marks"][0]
        tab.page.locator("a.claim").first.hover()
        tab.page.wait_for_selector("#pop mark")
        assert (
            tab.page.locator("#pop mark").inner_text()
            == server.served.corpus.passage(cited["passage_id"]).text[start:end]
        )
        tab.close()


# -- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    server: Running, browser: Any, scheme: str, width: int
) -> None:
    """Empty, answered, with a passage open, with an error: WCAG AA in both schemes, at three widths."""
    tab = Tab(browser, server, width=width, color_scheme=scheme, reduced_motion="reduce")
    assert tab.page.evaluate("document.documentElement.dataset.theme") == scheme
    assert tab.violations() == []
    tab.ask()
    tab.done()
    assert tab.violations() == []
    tab.page.locator("a.claim").first.focus()
    tab.page.wait_for_selector("#pop:visible")
    assert tab.violations() == []
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#passage[open]")
    assert tab.violations() == []
    tab.page.keyboard.press("Escape")
    tab.ask("why " * 600)
    tab.notice()
    assert tab.violations() == []
    assert tab.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    tab.page.click("#open-settings")
    assert tab.violations() == []
    tab.close(expected=("Failed to load resource",))


def test_the_theme_is_kept(server: Running, browser: Any) -> None:
    tab = Tab(browser, server, color_scheme="light")
    tab.page.click("#theme")
    tab.page.reload()
    assert tab.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.page.locator("#theme").inner_text() == "Light"
    tab.close()
