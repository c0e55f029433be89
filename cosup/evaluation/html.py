"""The report as one page, `report.html`: opens offline, asks for nothing, shows every text as text.

The page's policy forbids every request, and every script and style but its own two, which it names by their hashes.
All words of questions, answers and passages stand in a block of JSON that the script inserts as text; what is written
into the page itself goes through `markup.element`, which escapes it. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cosup.data.writing import write_text
from cosup.errors import UsageError
from cosup.evaluation import figures
from cosup.evaluation.markup import Markup, element, escape_json, fill, join
from cosup.evaluation.outcomes import Outcome, failures_first, left_undecided
from cosup.evaluation.page_data import Detail, entry, page_data, shorten
from cosup.evaluation.report import Report
from cosup.evaluation.report_text import measures_of
from cosup.records import Passage

MOST_BYTES = 19_500_000
MOST_IDS = 200  # of each kind that was left out, listed on the page
# Tried in turn until the page fits; after the last one questions are left out from the end.
DETAILS = (
    Detail(passage=8000, text=20_000, hits=10, hit_texts=True),
    Detail(passage=4000, text=8000, hits=10, hit_texts=False),
    Detail(passage=1500, text=4000, hits=5, hit_texts=False),
    Detail(passage=700, text=2000, hits=3, hit_texts=False),
)


def write_html(report: Report, passages: Mapping[str, Passage], path: Path, limit: int = 2000) -> int:
    """Write the page, whole or not at all; it stays under 20 MB.

    Args:
        passages: by id; those that questions cite, retrieved or have as evidence are looked up.
        limit: the most questions to keep. Failures come first (`outcomes`), so what is left out went well, if
            anything did.

    Returns:
        How many questions the page keeps; fewer than asked for where it would have grown too large.

    Raises:
        UsageError: the limit is negative, or `path` cannot be written to.
    """
    text, kept = render(report, passages, limit)
    write_text(path, text)
    return kept


def render(
    report: Report, passages: Mapping[str, Passage], limit: int = 2000, most_bytes: int = MOST_BYTES
) -> tuple[str, int]:
    """Return the page and how many questions it keeps; see `write_html`.

    Where the page would be larger than `most_bytes`, texts are shortened and hits left out (`DETAILS`), then questions
    are left out from the end; without any question it is as large as it has to be.
    """
    if limit < 0:
        raise UsageError(f"the page's limit is {limit} questions; expected 0 or more")
    ranked = failures_first(report.results)
    outcomes = [outcome for _, outcome in ranked]
    entries = [entry(result, outcome, passages) for result, outcome in ranked[:limit]]
    parts = _still_parts(report, outcomes)
    text = ""
    for kept, detail in _attempts(len(entries)):
        data = page_data(entries[:kept], passages, measures_of(report), detail)
        text = _page(parts, data, _kept_note(report, kept, detail))
        if len(text.encode("utf-8")) <= most_bytes:
            return text, kept
    return text, 0


def _attempts(count: int) -> Iterator[tuple[int, Detail]]:
    """Give how many questions to keep in which detail, from the fullest page down to one without questions."""
    for detail in DETAILS:
        yield count, detail
    while count:
        count = count * 4 // 5
        yield count, DETAILS[-1]


def _page(parts: Mapping[str, str], data: Mapping[str, Any], note: Markup) -> str:
    written = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return fill(_resource("report.html"), {**parts, "note": note, "data": escape_json(written)})


def _still_parts(report: Report, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return all parts of the page but the questions."""
    style, script = _resource("report.css"), _resource("question.js") + _resource("report.js")
    comparison = figures.comparison_table(report)
    recounted = [part for part in (figures.retrieval_figure(report.results), figures.recount_table(report)) if part]
    return {
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "lead": join(_lead(report)),
        "contents": _contents(bool(comparison), bool(recounted)),
        "left_out": _left_out(report),
        "settings": _settings(report),
        "measures": figures.measures_table(report),
        "apart_note": _apart_note(report),
        "comparison": _section("comparison", "Compared with other predictions", _COMPARISON, comparison),
        "outcomes": figures.outcome_figure(outcomes),
        "split": _section("by-retrieval", "Right answers and right retrieval", _SPLIT, join(*recounted)),
    }


_COMPARISON = (
    "Both sets of predictions on the same questions. p is the chance of a difference at least as large if it made no "
    "difference which of the two wrote what; each measure is tested by itself."
)
_SPLIT = (
    "An answer that is right although no retrieved passage is came from the model’s own parameters. "
    "The retrieval counts as right where at least one retrieved passage is gold or, for questions without gold "
    "passages, holds an answer."
)


def _lead(report: Report) -> str:
    tasks = f" in {len(report.per_task):,} tasks" if report.per_task else ""
    plural = "" if report.count == 1 else "s"
    return f"{report.count:,} question{plural}{tasks}. Averages over questions, in percent."


def _contents(compared: bool, recounted: bool) -> Markup:
    places = [("measures", "Measures"), ("outcomes", "Outcomes")]
    places += [("by-retrieval", "Right by retrieval")] if recounted else []
    places += [("comparison", "Comparison")] if compared else []
    links = [element("a", title, href=f"#{name}") for name, title in [*places, ("questions", "Questions")]]
    return element("nav", *links, aria_label="Contents")


def _apart_note(report: Report) -> Markup:
    words = "Bars show the averages over all questions" + (", whiskers the 95% intervals" if report.intervals else "")
    apart = any(report.apart.get(name) for name in measures_of(report))
    return join(words + ("; counted apart are questions that a measure cannot judge." if apart else "."))


def _left_out(report: Report) -> Markup:
    """Return what was missing, empty, extra, predicted twice or left undecided, with ids; in words where nothing was.

    What the other predictions lack, where there are any, comes last.
    """
    undecided = [result.question.id for result in report.results if left_undecided(result)]
    found = [_ids(ids, what) for ids, what in report.left_out.kinds()]
    found += [_ids(undecided, "of which the judge left something undecided")] if undecided else []
    others = report.against.kinds() if report.against else []
    found += [_ids(ids, f"of the other predictions: {what}") for ids, what in others]
    if not found:
        return element("p", "Every question has exactly one prediction; none was left out.", class_="soft")
    return element("div", *found, class_="left-out")


def _ids(ids: Sequence[str], what: str) -> Markup:
    items = [element("li", shorten(i, 100)) for i in ids[:MOST_IDS]]
    if len(ids) > MOST_IDS:
        items.append(element("li", f"and {len(ids) - MOST_IDS:,} more, in report.json", class_="soft"))
    summary = element("summary", element("b", f"{len(ids):,}"), f" {what}")
    return element("details", summary, element("ul", *items, class_="ids"))


def _settings(report: Report) -> Markup:
    """Return the settings, and what the report says of its judge, as a list of names and values."""
    told = report.settings | {name.replace("_", " "): value for name, value in report.judged.items()}
    pairs = [
        element("div", element("dt", shorten(str(name), 100)), element("dd", shorten(_value(value), 400)))
        for name, value in told.items()
    ]
    return element("dl", *pairs[:100], class_="settings") if pairs else Markup("")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _section(name: str, title: str, words: str, content: Markup | None) -> Markup:
    if not content:
        return Markup("")
    return element("section", element("h2", title), element("p", words, class_="soft wide"), content, id=name)


def _kept_note(report: Report, kept: int, detail: Detail) -> Markup:
    """Say which questions the page has, and what was shortened for it to stay small."""
    words = f"All {kept:,} questions" if kept == report.count else f"The first {kept:,} of {report.count:,} questions"
    words += ", failures first."
    if kept < report.count:
        words += " report.json has the figures over all of them, per_question.jsonl every one."
    if detail is not DETAILS[0]:
        words += f" To keep this page small, passages are shortened to {detail.passage:,} characters"
        words += f" and answers to {detail.text:,}, and searches to {detail.hits} hits without their texts."
    return element("p", words, class_="soft wide")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _resource(name: str) -> str:
    return resources.files("cosup.evaluation").joinpath("pages", name).read_text(encoding="utf-8")
