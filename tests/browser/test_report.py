"""The report's page in a real browser: 2,000 questions, hostile text, narrow and wide, keyboard alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosup.evaluation import Report, evaluate
from cosup.evaluation.alce_citations import CitationVerdict, ClaimVerdict, SentenceVerdict
from cosup.evaluation.html import write_html
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval
from tests.browser.chromium import MARKS, browser
from tests.browser.watched import Watched
from tests.evaluation.invented import invented_report

pytestmark = MARKS
__all__ = ["browser"]
COUNT = 2000
WIDTHS = (380, 768, 1440)
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
    "<svg onload='window.hacked = 3'></svg><b>bold</b>"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "report.html"
    assert write_html(*invented_report(COUNT), path) == COUNT
    assert path.stat().st_size < 20_000_000
    return path


def test_two_thousand_questions_are_there_at_once(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    assert watched.count() == "2,000 questions"
    assert watched.page.locator("#list [role=option]").count() == COUNT
    ready = watched.page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert ready < 5000  # milliseconds; about 400 on an idle machine
    watched.check()


def test_failures_stand_first_and_the_first_is_open(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    assert "No prediction" in watched.page.locator("#row-0").text_content()
    assert "No prediction" in watched.page.locator("#detail .badge").inner_text()
    assert "Nothing wrong" in watched.page.locator(f"#row-{COUNT - 1}").text_content()
    assert watched.page.locator("#row-0").get_attribute("aria-selected") == "true"
    watched.check()


def test_search_and_filters_narrow_the_list_and_tell_how_many(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    page = watched.page
    page.fill("#search", "test-00012 ")
    assert watched.count() == "1 of 2,000 questions"
    assert "test-00012" in page.locator("#detail").inner_text()
    page.fill("#search", "no such words anywhere")
    assert watched.count() == "0 of 2,000 questions"
    assert "No question fits." in page.locator("#list").text_content()
    page.click("#clear")
    assert watched.count() == "2,000 questions"

    page.select_option("#task", "=two_hop")
    both = watched.count()
    page.select_option("#outcome", "failed")
    failed = int(watched.count().split()[0])
    assert 0 < failed < int(both.split()[0])
    page.select_option("#outcome", "missing")
    missing = page.locator("#list [role=option]")
    assert all("No prediction" in text for text in missing.all_text_contents())
    watched.check()


def test_questions_can_be_chosen_by_a_measure_being_right_or_wrong(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    page = watched.page
    assert not page.locator("#score").is_visible()
    page.select_option("#measure", label="exact_match")
    counts = []
    for score in ("one", "between", "zero", "none"):
        page.select_option("#score", score)
        counts.append(int(watched.count().split()[0].replace(",", "")))
    assert sum(counts) == COUNT
    assert counts[1] == counts[3] == 0
    page.select_option("#score", "zero")
    assert page.locator("#list [role=option]").count() == counts[2]
    scores = page.locator("#detail .scores div").all_inner_texts()
    assert ["exact_match", "0"] in [score.split() for score in scores]
    watched.check()


def test_an_outcome_of_the_figure_shows_its_questions(browser: Any, large: Path) -> None:
    watched = Watched(browser, large, reduced_motion="reduce")
    legend = watched.page.locator(".legend button", has_text="Citation wrong")
    expected = legend.locator("b").inner_text()
    legend.click()
    assert watched.count() == f"{expected} of 2,000 questions"
    assert "Citation wrong" in watched.page.locator("#detail .badge").inner_text()
    watched.check()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_the_page_does_not_scroll_sideways(browser: Any, large: Path, width: int) -> None:
    watched = Watched(browser, large, width=width)
    page = watched.page
    assert watched.overflow() <= 0
    assert watched.cut() == []
    for outcome in ("answer", "retrieval", "citation", "good"):
        page.select_option("#outcome", outcome)
        page.locator("#list [role=option]").first.click()
        for summary in page.locator("#detail summary").all():
            summary.click()
        assert watched.overflow() <= 0
        assert watched.cut() == []
        if width < 900:
            page.click(".back")
    watched.check()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_last_question_can_be_reached_and_read(browser: Any, large: Path, width: int) -> None:
    watched = Watched(browser, large, width=width)
    page = watched.page
    last = page.locator("#list [role=option]").last
    last.scroll_into_view_if_needed()
    last.click()
    heading = page.locator("#detail h3")
    assert heading.inner_text() == last.locator(".row-question").text_content()
    box = heading.bounding_box()
    assert 0 <= box["y"] < 900
    assert page.locator("#detail .place").inner_text() == "2,000 of 2,000"
    watched.check()


def test_the_keyboard_suffices(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    page = watched.page
    page.focus("#clear")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "row-0"
    for key, row in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", COUNT - 1), ("Home", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"row-{row}"
        assert page.locator("[aria-selected=true]").get_attribute("id") == f"row-{row}"
        shown = page.evaluate(
            """() => { const list = document.getElementById("list").getBoundingClientRect();
                const row = document.activeElement.getBoundingClientRect();
                return row.top >= list.top - 1 && row.bottom <= list.bottom + 1; }"""
        )
        assert shown
    page.keyboard.press("PageDown")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "H3"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.className") == "next"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    watched.check()


def test_a_mark_shows_the_passage_that_is_cited(browser: Any, large: Path) -> None:
    watched = Watched(browser, large, reduced_motion="reduce")
    page = watched.page
    page.select_option("#task", "=two_hop")
    page.select_option("#outcome", "good")
    second = page.locator(".mark").nth(1)
    assert second.get_attribute("aria-label").startswith("Citation 2: ")
    second.click()
    chosen = page.locator(".passage.chosen")
    assert chosen.count() == 1
    assert chosen.locator("h5 .number").inner_text() == "[2]"
    gold = chosen.locator("mark.gold").first.inner_text()
    claim = page.locator(".verdict").nth(1).locator("q").inner_text()
    assert gold == claim
    assert page.locator(".cited.chosen").inner_text() == claim.rstrip(".")
    watched.check()


def test_on_a_phone_a_question_opens_and_back_leads_to_the_list(browser: Any, large: Path) -> None:
    watched = Watched(browser, large, width=380, height=780)
    page = watched.page
    assert not page.locator("#detail").is_visible()
    row = page.locator("#row-100")
    row.scroll_into_view_if_needed()
    row.click()
    assert page.locator("#detail h3").is_visible()
    assert not page.locator("#summary").is_visible()
    page.click(".next")
    assert page.locator("#detail .place").inner_text().startswith("102 of")
    page.go_back()
    assert page.locator("#row-101").is_visible()
    assert not page.locator("#detail").is_visible()
    watched.check()


def test_the_address_names_the_question(browser: Any, large: Path) -> None:
    watched = Watched(browser, large)
    watched.page.fill("#search", "test-00700")
    watched.page.locator("#list [role=option]").first.click()
    assert watched.page.url.endswith("#q=test-00700")
    again = Watched(browser, large)
    again.page.goto(watched.page.url)
    again.page.reload()
    assert "test-00700" in again.page.locator("#detail").inner_text()
    again.page.locator("#questions").scroll_into_view_if_needed()
    again.page.wait_for_timeout(200)
    row, listed = (again.page.locator(name).bounding_box() for name in ("[aria-selected=true]", "#list"))
    assert listed["y"] <= row["y"]
    assert row["y"] + row["height"] <= listed["y"] + listed["height"] + 1
    again.context.close()
    watched.check()


def hostile_report() -> tuple[Report, dict[str, Passage]]:
    passage = Passage(HOSTILE, HOSTILE, f"{HOSTILE} An end.")
    question = Question(HOSTILE, HOSTILE, (HOSTILE,), HOSTILE, (Evidence(HOSTILE, HOSTILE),), None, HOSTILE, HOSTILE)
    cited = (
        Citation(1, HOSTILE, HOSTILE, 3, 60, 1.0),
        Citation(2, HOSTILE, HOSTILE, 20, 10_000, 1.0),
        Citation(3, HOSTILE, HOSTILE, -10, 0, 1.0),
    )
    found = (Retrieval(0, (Hit(HOSTILE, 1.0),)),)
    answer = Answer(HOSTILE, "", f"{HOSTILE} [1] [2] [3] [99]", HOSTILE, (), cited, found, HOSTILE)
    extra = Answer(f"extra {HOSTILE}", "", "", "")
    report = evaluate([answer, extra], [question], [passage], {HOSTILE: HOSTILE}, task_of=lambda _: HOSTILE)
    return report, {HOSTILE: passage}


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_text_is_text(browser: Any, tmp_path: Path, width: int) -> None:
    path = tmp_path / "hostile.html"
    assert write_html(*hostile_report(), path) == 1
    watched = Watched(browser, path, width=width)
    page = watched.page
    page.fill("#search", HOSTILE)
    page.locator("#list [role=option]").first.click()
    for summary in page.locator("#detail summary").all():
        summary.click()
    for mark in page.locator(".mark").all():
        mark.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, svg[onload], b b, #detail b").count() == 0
    assert page.locator("#detail h3").inner_text() == HOSTILE
    assert page.locator("#detail .written .prose").text_content().startswith(HOSTILE)
    assert "[99]" in page.locator("#detail .written .prose").text_content()
    assert page.locator("#detail .passage .prose").first.text_content() == f"{HOSTILE} An end."
    assert watched.overflow() <= 0
    watched.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(browser: Any, large: Path, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG 2 AA) for the words of the list and of an opened question."""
    watched = Watched(browser, large, color_scheme=scheme)
    page = watched.page
    for outcome in ("answer", "retrieval", "citation"):
        page.select_option("#outcome", outcome)
        low = page.evaluate(CONTRAST)
        assert low == []
    watched.check()


CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("header *, main *, .chooser *, #detail *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest(":disabled, [hidden], option") || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${element.className} ${element.textContent.slice(0, 30)}`);
  }
  return [...new Set(low)].slice(0, 10);
}"""


def test_a_screenshot_is_not_blank(browser: Any, large: Path, tmp_path: Path) -> None:
    watched = Watched(browser, large)
    picture = watched.page.screenshot(path=tmp_path / "report.png")
    assert len(picture) > 30_000  # bytes; an empty page has about 5,000
    watched.check()


def test_without_scripts_the_figures_are_still_there(browser: Any, large: Path) -> None:
    watched = Watched(browser, large, java_script_enabled=False)
    assert watched.page.locator("table.measures tbody tr").count() > 10
    assert "does not run" in watched.page.locator("noscript").inner_text()
    watched.check()


def test_repeated_marks_point_to_their_own_claims_each_time(browser: Any, tmp_path: Path) -> None:
    """Two claims cited to one passage: the first [1] belongs to the first claim, also when opened again."""
    passages = {"p": Passage("p", "P", "One is so. Two is so.")}
    cited = (Citation(1, "p", "One is so.", 0, 9, 1.0), Citation(1, "p", "Two is so.", 15, 24, 1.0))
    answer = Answer("q1", "", "One is so [1]. Two is so [1].", "", (), cited)
    questions = [Question("q1", "What?"), Question("q2", "And?")]
    path = tmp_path / "report.html"
    write_html(evaluate([answer, Answer("q2", "", "No.", "No.")], questions, passages.values()), passages, path)
    watched = Watched(browser, path)
    for row in ("#row-0", "#row-1", "#row-0"):
        watched.page.click(row)
    for turn, claim in enumerate(("One is so", "Two is so")):
        watched.page.locator(".mark").nth(turn).click()
        assert watched.page.locator(".cited.chosen").all_inner_texts() == [claim]
    watched.check()


@pytest.mark.parametrize("width", [380, 1440])
def test_a_judges_verdicts_are_told_with_their_reasons(browser: Any, tmp_path: Path, width: int) -> None:
    report, passages = invented_report(40)
    citations = (CitationVerdict(1, True, "it alone entails"), CitationVerdict(2, False, "the others entail"))
    sentences = (
        SentenceVerdict(0, "One <b>is</b> so [1][2].", "One is so.", (1, 2), True, True, "entailment 0.981", citations),
        SentenceVerdict(0, "Two is so.", "Two is so.", (), False, False, "cites nothing"),
    )
    claims = (ClaimVerdict(0, "A good answer says so.", None, "the judge timed out"),)
    results = tuple(replace(r, sentences=sentences, claims=claims) for r in report.results)
    path = tmp_path / "judged.html"
    write_html(replace(report, results=results, judged={"judge": "some judge"}), passages, path)
    watched = Watched(browser, path, width=width)
    watched.page.click("#row-5")
    judged = " ".join(watched.page.locator(".judged").all_inner_texts()).split()
    for words in (
        "✓ Supported",
        "✗ Not supported",
        "[1] ✓ Needed",
        "[2] ✗ Not needed",
        "? Undecided",
        "One <b>is</b> so",
    ):
        assert words in " ".join(judged)
    assert "cites nothing" in " ".join(judged).lower()
    assert watched.overflow() <= 0
    assert watched.cut() == []
    watched.check()


def test_on_paper_stand_the_figures_and_the_opened_question(browser: Any, large: Path) -> None:
    watched = Watched(browser, large, width=700, color_scheme="dark")
    page = watched.page
    page.locator("#row-3").scroll_into_view_if_needed()
    page.click("#row-3")
    page.emulate_media(media="print")
    assert page.locator("table.measures").is_visible()
    assert page.locator("#detail h3").is_visible()
    assert not page.locator("#list").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert watched.overflow() <= 0
    watched.check()
