"""The report's page: escaped, offline, small, failures first, and the same for the same report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cosup.errors import UsageError
from cosup.evaluation import Report, evaluate
from cosup.evaluation.alce_citations import CitationVerdict, ClaimVerdict, SentenceVerdict
from cosup.evaluation.html import DETAILS, render, write_html
from cosup.evaluation.markup import Markup, element, escape_json, fill, join
from cosup.evaluation.statistics import Comparison
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval
from tests.evaluation.invented import invented_report

NASTY = """</script><script>alert(1)</script><img src=x onerror="alert(2)"> & {{style}} '"\u2028\0"""


class Reader(HTMLParser):
    """Reads a page: its tags, its text, and the JSON block."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.blocks: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(page)
        self.data = json.loads(self.blocks["json"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        kinds = {"style": "style", "script": "json" if dict(attrs).get("type") == "application/json" else "script"}
        self._inside = kinds.get(tag, self._inside)

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag in ("style", "script") else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


PASSAGES = {
    "sea": Passage("sea", "The Sea", "A 𝔸 note. The Sea is a novel by Ada Moor. It is long."),
    "ada": Passage("ada", "Ada Moor", "Ada Moor was born in Oslo."),
}
CLAIM = "The Sea is a novel by Ada Moor."
QUESTIONS = [
    Question("good", "Who wrote The Sea?", ("Ada Moor",), evidence=(Evidence("sea", CLAIM),)),
    Question("wrong", "Where was she born?", ("Oslo",), evidence=(Evidence("ada", "Ada Moor was born in Oslo."),)),
    Question("gone", "When?", ("1900",), evidence=(Evidence("ada"),)),
]  # fmt: skip
ANSWERS = [
    Answer("good", "", f"{CLAIM[:-1]} [1]. Ada Moor", "Ada Moor", (), (Citation(1, "sea", CLAIM, 0, 30, 0.5),),
           (Retrieval(0, (Hit("sea", 0.5), Hit("ada", 0.25))),)),
    Answer("wrong", "", "Rome", "Rome"),
    Answer("extra", "", "?", "?"),
    Answer("wrong", "", "Oslo", "Oslo"),
]  # fmt: skip


def report_of(**changes: Any) -> Report:
    return replace(evaluate(ANSWERS, QUESTIONS, PASSAGES.values(), {"model": "runs/x"}), **changes)


def read(report: Report, passages: dict[str, Passage] | None = None, **options: Any) -> Reader:
    return Reader(render(report, PASSAGES if passages is None else passages, **options)[0])


def test_a_known_report_known_data() -> None:
    data = read(report_of()).data
    assert [(q["id"], q["outcome"]) for q in data["questions"]] == [
        ("gone", "missing"), ("wrong", "answer"), ("good", "good"),
    ]  # fmt: skip
    gone, wrong, good = data["questions"]
    assert "text" not in gone
    assert wrong["text"] == [["Rome"]]
    assert good["text"] == [[CLAIM[:-1], [0]], [" "], ["[1]", [], 1], [". Ada Moor"]]
    assert good["final"] == "Ada Moor"
    sea = next(place for place, p in enumerate(data["passages"]) if p["id"] == "sea")
    assert good["gold"] == [sea]
    assert good["citations"] == [
        {"n": 1, "passage": sea, "claim": CLAIM, "verdict": "right", "reason": "the claim stands in the passage"}
    ]
    assert good["searches"][0]["hits"][0] == [sea, 0.5]
    assert good["scores"][data["measures"].index("mrr")] == 1
    assert gone["scores"][data["measures"].index("citation_recall")] is None
    start, end, kind = good["marks"][str(sea)][0]
    as_browsers_count = data["passages"][sea]["text"].encode("utf-16-le")
    assert as_browsers_count[2 * start : 2 * end].decode("utf-16-le") == CLAIM
    assert kind == "gold"


def test_what_was_left_out_is_told_with_ids() -> None:
    text = read(report_of()).text
    assert "1 without a prediction, scored 0gone1 predicted but" in text
    assert "1 predicted but not asked, not scored" in text
    assert "1 predicted more than once, the first one scored" in text
    complete = read(report_of(missing=(), extra=(), duplicate=()))
    assert "Every question has exactly one prediction" in complete.text


def test_what_was_empty_or_left_out_of_the_other_predictions_is_told() -> None:
    others = [replace(ANSWERS[0], text=""), ANSWERS[1]]
    text = read(
        evaluate([*ANSWERS[:1], Answer("gone", "", " ", "")], QUESTIONS, PASSAGES.values(), against=others)
    ).text
    assert "1 answered with an empty text, scored as it isgone" in text
    assert "1 of the other predictions: without a prediction, scored 0gone" in text
    assert "1 of the other predictions: answered with an empty text, scored as it isgood" in text


def test_undecided_citations_are_listed() -> None:
    report = report_of()
    undecided = tuple(
        replace(r, verdicts=tuple(replace(v, right=None) for v in r.verdicts))  # type: ignore[arg-type]
        for r in report.results
    )
    page = read(replace(report, results=undecided))
    assert "1 of which the judge left something undecided" in page.text
    good = next(q for q in page.data["questions"] if q["id"] == "good")
    assert (good["outcome"], good["citations"][0]["verdict"]) == ("undecided", "undecided")


def test_a_judges_verdicts_stand_with_their_reasons() -> None:
    needed = (CitationVerdict(1, True, "alone"), CitationVerdict(2, None, "no answer"))
    sentences = (
        SentenceVerdict(0, "A [1][2].", "A.", (1, 2), True, True, "entailed", needed),
        SentenceVerdict(0, "B.", "B.", (), False, False, "cites nothing"),
    )
    claims = (ClaimVerdict(0, "C.", None, "timed out"),)
    report = report_of(judged={"judge": "a <judge>", "sentences": 2, "claims_undecided": 1})
    results = tuple(
        replace(r, sentences=sentences, claims=claims) if r.question.id == "good" else r for r in report.results
    )
    page = read(replace(report, results=results))
    good = next(q for q in page.data["questions"] if q["id"] == "good")
    assert good["outcome"] == "undecided"  # the claim; one sentence of several that cites nothing is no wrong citation
    assert good["sentences"] == [
        {
            "text": "A [1][2].",
            "verdict": "right",
            "reason": "entailed",
            "citations": [[1, "right", "alone"], [2, "undecided", "no answer"]],
        },
        {"text": "B.", "verdict": "wrong", "reason": "cites nothing", "citations": []},
    ]
    assert good["judged_claims"] == [{"text": "C.", "verdict": "undecided", "reason": "timed out"}]
    assert "a <judge>" in page.text
    assert "claims undecided1" in page.text
    assert "1 of which the judge left something undecided" in page.text


def test_long_lists_of_ids_are_cut_in_words() -> None:
    page = read(report_of(extra=tuple(f"x{n}" for n in range(1234))))
    assert "and 1,034 more, in report.json" in page.text
    assert "x199" in page.text
    assert "x200" not in page.text


def test_measures_stand_with_intervals_tasks_and_comparison() -> None:
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES.values(), task_of=lambda q: "A & B" if q.id == "good" else "rest")
    intervals = {"exact_match": (12.34, 56.78), "rest.exact_match": (1.0, 2.0)}
    compared = (Comparison("f1", 40.0, 45.5, -5.5, -9.0, 0.26, 0.0004, 3),)
    text = read(replace(report, intervals=intervals, comparison=compared)).text
    assert "33.3" in text
    assert "12.3 – 56.8" in text
    assert "1.0 – 2.0" in text
    assert "A & B" in text
    assert "exact_match33.312.3 – 56.833.333.3" in text  # recounted; the recounts of this report have no intervals
    assert "−5.5" in text
    assert "−9.0 to +0.3" in text
    assert "< 0.001" in text


def test_tasks_that_have_no_room_are_told() -> None:
    """Of 31 tasks the table and the figure have thirty."""
    questions = [replace(QUESTIONS[0], id=f"q{n:02}") for n in range(31)]
    answers = [replace(ANSWERS[0], id=question.id) for question in questions]
    words = "The first 30 of 31 tasks; report.json has every task's measures."
    for count, told in ((31, 2), (30, 0)):
        asked = questions[:count]
        report = evaluate(answers[:count], asked, PASSAGES.values(), task_of=lambda q: f"task {q.id}")
        text = read(report, limit=0).text
        assert text.count(words) == told
        assert ("task q29" in text, "task q30" in text) == (True, False)


def test_the_figure_splits_right_answers_by_retrieval() -> None:
    """Of three questions one is right and retrieved; the two others have neither."""
    labels = [attributes.get("aria-label") for tag, attributes in read(report_of()).tags if tag == "svg"]
    expected = "Answer right, retrieval right 1, Answer right, retrieval wrong 0, Answer wrong, retrieval right 0"
    assert f"{expected}, Both wrong 2" in labels
    assert "No prediction 1, Answer wrong 1, Nothing wrong 1" in labels


def nasty_report() -> tuple[Report, dict[str, Passage]]:
    passage = Passage(NASTY, NASTY, NASTY + " Ada.")
    question = Question(NASTY, NASTY, (NASTY,), NASTY, (Evidence(NASTY, NASTY),), instruction=NASTY, label=NASTY)
    missing = Question("missing" + NASTY, NASTY, (NASTY,))
    cited = (Citation(1, NASTY, NASTY, 0, 40, 1.0),)
    answer = Answer(NASTY, NASTY, NASTY + "[1]", NASTY, (), cited, (Retrieval(0, (Hit(NASTY, 1.0),)),), NASTY)
    extra = Answer("extra" + NASTY, "", NASTY, NASTY)
    settings = {NASTY: NASTY, "list": [NASTY]}
    report = evaluate([answer, extra], [question, missing], [passage], settings, task_of=lambda _: NASTY)
    return report, {NASTY: passage}


def test_nothing_of_the_records_becomes_markup() -> None:
    report, passages = nasty_report()
    page, _ = render(report, passages)
    reader = Reader(page)
    known = Reader(render(report_of(), PASSAGES)[0])
    assert {tag for tag, _ in reader.tags} <= {tag for tag, _ in known.tags} | {"th", "td", "li"}
    assert [tag for tag, _ in reader.tags].count("script") == 2
    assert page.count("</script>") == 2
    assert "\0" not in page
    assert reader.data["questions"][0]["question"] == NASTY
    assert reader.data["passages"][0]["title"] == NASTY
    assert "".join(NASTY.replace("\0", "\ufffd").split()) in "".join("".join(reader.words).split())


def test_the_page_asks_for_nothing() -> None:
    report, passages = invented_report(60)
    page, _ = render(report, passages)
    reader = Reader(page)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r"//[ .-].*", "", page))
    fetching = ("src", "srcset", "action", "poster", "data", "background")
    assert not [(tag, a) for tag, a in reader.tags if any(name in a for name in fetching)]
    places = {a["id"] for _, a in reader.tags if "id" in a}
    assert all(a["href"] and a["href"].removeprefix("#") in places for _, a in reader.tags if "href" in a)
    assert not [tag for tag, _ in reader.tags if tag in ("link", "iframe", "object", "embed", "base")]


def test_the_policy_allows_the_pages_own_script_and_style_alone() -> None:
    reader = read(report_of())
    policy = next(a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = {
        kind: base64.b64encode(hashlib.sha256(reader.blocks[kind].encode()).digest()).decode()
        for kind in ("style", "script")
    }
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not [a for _, a in reader.tags if "style" in a or any(name.startswith("on") for name in a)]
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", reader.blocks["script"]
    )


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        assert write_html(*invented_report(40), tmp_path / name) == 40
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_only_the_worst_are_kept_and_that_is_said() -> None:
    report, passages = invented_report(100)
    reader = read(report, passages, limit=30)
    ranks = {o["name"]: rank for rank, o in enumerate(reader.data["outcomes"])}
    order = [ranks[q["outcome"]] for q in reader.data["questions"]]
    assert order == sorted(order)
    assert len(order) == 30
    failed = [q for q in read(report, passages).data["questions"] if q["outcome"] not in ("good", "undecided")]
    assert [q["id"] for q in reader.data["questions"]][: len(failed)] == [q["id"] for q in failed][:30]
    assert "The first 30 of 100 questions, failures first." in reader.text
    assert "All 100 questions, failures first." in read(report, passages).text


def test_a_page_without_questions_still_has_its_figures() -> None:
    page, kept = render(report_of(), PASSAGES, limit=0)
    assert kept == 0
    assert Reader(page).data["questions"] == []
    assert "exact_match" in Reader(page).text


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="limit is -1 questions"):
        render(report_of(), PASSAGES, limit=-1)


def test_a_page_that_grows_too_large_is_shortened_step_by_step() -> None:
    long = "word " * 3000 + "The Sea is a novel by Ada Moor." + " word" * 3000
    passages = PASSAGES | {"sea": replace(PASSAGES["sea"], text=long)}
    full = len(render(report_of(), passages)[0])
    page, kept = render(report_of(), passages, most_bytes=full - 1)
    reader = Reader(page)
    assert (kept, len(page) < full) == (3, True)
    assert f"passages are shortened to {DETAILS[1].passage:,} characters" in reader.text
    sea = next(place for place, p in enumerate(reader.data["passages"]) if p["id"] == "sea")
    text = reader.data["passages"][sea]["text"]
    assert len(text) == DETAILS[1].passage + 2
    good = next(q for q in reader.data["questions"] if q["id"] == "good")
    assert [text[start:end] for start, end, _ in good["marks"][str(sea)]] == [CLAIM]


def test_questions_are_left_out_where_shortening_is_not_enough() -> None:
    report, passages = invented_report(100)
    bare = len(render(report, passages, limit=0)[0].encode())
    page, kept = render(report, passages, most_bytes=bare + 20_000)
    assert 0 < kept < 100
    assert len(page.encode()) <= bare + 20_000
    assert f"The first {kept} of 100 questions" in Reader(page).text


def test_huge_records_stay_under_the_limit() -> None:
    """Questions whose every text is far too long, in characters of three bytes."""
    text = "文" * 30_000
    passages = {"p": Passage("p", text, text)}
    answer = Answer("q", text, text, text, (), (Citation(1, "p", text, 0, len(text), 1.0),))
    question = Question("q", text, (text,), text, (Evidence("p", text),))
    result = evaluate([answer], [question], passages.values()).results[0]
    results = tuple(replace(result, question=replace(question, id=f"q{n}")) for n in range(30))
    page, kept = render(report_of(results=results, count=30), passages, most_bytes=1_500_000)
    assert len(page.encode()) <= 1_500_000
    assert kept == 30


def test_a_passage_that_is_not_at_hand_is_named() -> None:
    data = read(report_of(), {}).data
    assert {"id": "sea", "title": ""} in data["passages"]
    assert all(q["marks"] == {} for q in data["questions"])


def test_hits_that_were_not_read_keep_their_texts_while_there_is_room() -> None:
    report, passages = invented_report(40)
    full = render(report, passages)[0]
    assert all("text" in p for p in Reader(full).data["passages"])
    smaller = Reader(render(report, passages, most_bytes=len(full.encode()) - 1)[0]).data
    assert any("text" not in p for p in smaller["passages"])
    read_places = {c["passage"] for q in smaller["questions"] for c in q["citations"]}
    assert all("text" in smaller["passages"][place] for place in read_places)


def test_markup_escapes_text_and_keeps_markup() -> None:
    assert element("p", "<b>", Markup("<i></i>"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i></i></p>'
    assert join("a\0", "\ud800") == "a\ufffd\ufffd"


def test_json_cannot_leave_its_script() -> None:
    text = json.dumps("</script><!--&\u2028\u2029\ud800", ensure_ascii=False)
    escaped = escape_json(text)
    assert not set("<>&\u2028\u2029\ud800").intersection(escaped)
    assert json.loads(escaped) == "</script><!--&\u2028\u2029\ufffd"


def test_a_part_that_looks_like_a_place_stays_as_it_is() -> None:
    assert fill("{{a}}-{{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}}-x"
