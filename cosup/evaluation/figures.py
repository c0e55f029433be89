"""The report's still parts as HTML: the table of measures with bars, comparisons, and how the questions came out.

Bars are inline SVG whose lengths are percentages, so that they stretch with the page and never distort text. Every
figure is a table or a list first: the bars say nothing that is not also said in figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cosup.evaluation.markup import Content, Markup, element, join
from cosup.evaluation.outcomes import Outcome, answer_right
from cosup.evaluation.report import QuestionResult, Report
from cosup.evaluation.report_text import measures_of, recounted
from cosup.evaluation.retrieval import retrieval_right
from cosup.evaluation.statistics import Comparison

MOST_TASKS = 30  # columns of the table and rows of the figure; what is left out is said
# What each measure tells, in a few words; docs/evaluation.md defines them.
MEANINGS = {
    "exact_match": "the final answer is a gold answer",
    "f1": "tokens shared with the nearest gold answer",
    "contains_answer": "the output holds a gold answer, whole tokens",
    "contains_answer_raw": "the same, within words too",
    "answer_correct": "holds a gold answer; yes and no exactly",
    "answers_found": "share of the gold answers in the output",
    "retrieved": "retrieved at all",
    "retrieved_first": "retrieved before writing",
    "accuracy": "the gold label is named",
    "str_em": "wanted answers that are in the output",
    "str_hit": "all wanted answers are in the output",
    "qampari_prec": "listed answers that are wanted",
    "qampari_rec": "wanted answers that are listed",
    "qampari_rec_top5": "the same, five suffice",
    "qampari_f1": "harmonic mean of precision and recall",
    "qampari_f1_top5": "the same, five suffice",
    "text_f1": "tokens shared with the nearest long answer",
    "rouge_l": "longest common subsequence with it",
    "claim_recall": "gold claims that the output supports",
    "mrr": "1 / rank of the first gold passage",
    "answer_passage_precision": "retrieved passages that hold an answer",
    "answer_passage_hit": "any retrieved passage holds an answer",
    "passage_hit": "any retrieved passage is gold",
    "passage_precision": "retrieved passages that are gold",
    "passage_recall": "gold passages that were retrieved",
    "passage_f1": "harmonic mean of the two",
    "passage_set_match": "exactly the gold passages",
    "r_precision": "of R gold passages, those among the first R",
    "page_r_precision": "the same of pages (KILT)",
    "citation_precision": "citations that are right",
    "citation_recall": "gold passages rightly cited",
    "nli_citation_precision": "citations that their sentence needs (ALCE)",
    "nli_citation_recall": "sentences that their citations support (ALCE)",
}
_OF_RETRIEVAL = re.compile(r"(retrieved|answer_passage|passage|page_|(gold_)?recall@|mrr|ndcg|r_precision)")
_SPLIT = (
    ("both", "Answer right, retrieval right"),
    ("memory", "Answer right, retrieval wrong"),
    ("missed", "Answer wrong, retrieval right"),
    ("neither", "Both wrong"),
)


def measures_table(report: Report) -> Markup:
    """Return the table of measures: percent, 95% interval, a bar, each task, and how many were counted apart."""
    names, tasks = measures_of(report), list(report.per_task)[:MOST_TASKS]
    intervals = report.intervals
    any_apart = any(report.apart.get(name) for name in names)
    heads = ["Measure", "All", *(["95% interval"] if intervals else [])]
    cells = [element("th", head, scope="col", class_=_side(place)) for place, head in enumerate(heads)]
    cells.append(element("td", class_="bar"))
    cells += [element("th", task, scope="col", class_="number task") for task in tasks]
    cells += [element("th", "Counted apart", scope="col", class_="number")] if any_apart else []
    bodies = []
    for group, members in _grouped(names).items():
        title = element("tr", element("th", group, scope="rowgroup", colspan=str(len(cells))), class_="group")
        rows = [element("tr", *_measure_row(report, name, tasks, intervals, any_apart)) for name in members]
        bodies.append(element("tbody", title, *rows))
    counts = [_number(f"{report.count:,}"), *([element("td")] if intervals else []), element("td", class_="bar")]
    counts += [_number(f"{report.per_task[task].count:,}") for task in tasks]
    counts += [element("td")] if any_apart else []
    foot = element("tfoot", element("tr", element("th", "questions", scope="row"), *counts))
    head = element("thead", element("tr", *cells))
    table = _scrolling("Measures", element("table", head, *bodies, foot, class_="measures"))
    return join(table, _tasks_note(len(tasks), len(report.per_task)))


def comparison_table(report: Report) -> Markup | None:
    """Return the table of paired comparisons with other predictions; None where there are none."""
    alone = set(measures_of(report))
    comparisons = [comparison for comparison in report.comparison if comparison.name in alone]
    if not comparisons:
        return None
    heads = ("Measure", "These", "Others", "Difference", "95% interval", "p", "Questions")
    head = element("tr", *(element("th", h, scope="col", class_=_side(place)) for place, h in enumerate(heads)))
    rows = [_comparison_row(comparison) for comparison in comparisons]
    return _scrolling("Comparison", element("table", element("thead", head), element("tbody", *rows)))


def outcome_figure(outcomes: Iterable[Outcome]) -> Markup:
    """Return a bar of all questions by outcome, and its legend: buttons with counts that filter the list."""
    counts = Counter(outcomes)
    total = max(1, sum(counts.values()))
    present = [(outcome, counts[outcome]) for outcome in Outcome if counts[outcome]]
    label = ", ".join(f"{outcome.label} {count:,}" for outcome, count in present)
    bar = _stacked([(f"fill-{outcome.value}", 100 * count / total) for outcome, count in present], label)
    legend = [
        element(
            "li",
            element(
                "button",
                element("span", class_=f"swatch back-{outcome.value}"),
                element("span", outcome.label),
                element("b", f"{count:,}"),
                element("span", f"{100 * count / total:.1f}%", class_="soft"),
                type="button",
                data_outcome=outcome.value,
            ),
        )
        for outcome, count in present
    ]
    return join(bar, element("ul", *legend, class_="legend"))


def retrieval_figure(results: Sequence[QuestionResult]) -> Markup | None:
    """Return, over all questions and for each task, right and wrong answers by whether the retrieval was right.

    This is the paper's Figure 3: a right answer without a right passage came from the model's own parameters.
    Questions of which only one of the two is judged are left out; None where none is left.
    """
    groups: dict[str, Counter[str]] = {"All": Counter()}
    for result in results:
        kind = _split_kind(result)
        if kind is not None:
            groups["All"][kind] += 1
            if result.task is not None:
                groups.setdefault(f"task {result.task}", Counter())[kind] += 1
    if not groups["All"]:
        return None
    shown = list(groups.items())[: MOST_TASKS + 1]
    note = _tasks_note(len(shown) - 1, len(groups) - 1)
    heads = ("", "Answers by retrieval", "Right", "Retrieval right too", "Questions")
    head = element("tr", *(element("th", h, scope="col", class_=_side(place, 2)) for place, h in enumerate(heads)))
    rows = [_split_row(name.removeprefix("task "), counts) for name, counts in shown]
    table = element("table", element("thead", head), element("tbody", *rows), class_="split")
    legend = [element("li", element("span", class_=f"swatch back-{kind}"), text) for kind, text in _SPLIT]
    return join(element("ul", *legend, class_="key"), _scrolling("Answers by retrieval", table), note)


def _tasks_note(shown: int, count: int) -> Markup:
    """Say so where tasks are left out of a table."""
    if shown == count:
        return Markup("")
    words = f"The first {shown:,} of {count:,} tasks; report.json has every task's measures."
    return element("p", words, class_="soft wide")


def _grouped(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"Answers": [], "Retrieval": [], "Citations": []}
    for name in names:
        about = "Citations" if "citation" in name else "Retrieval" if _OF_RETRIEVAL.match(name) else "Answers"
        groups[about].append(name)
    return {group: members for group, members in groups.items() if members}


def _measure_row(
    report: Report, name: str, tasks: Sequence[str], intervals: Mapping[str, tuple[float, float]], any_apart: bool
) -> list[Markup]:
    cells = _measure_cells(report, name, intervals) + _task_cells(report, name, tasks, intervals)
    return [*cells, _number(_apart(report, name), "soft")] if any_apart else cells


def recount_table(report: Report) -> Markup | None:
    """Return the table of correctness counted only where the retrieval was right; None where nothing is recounted."""
    rows = recounted(report)
    if not rows:
        return None
    titles = ("Measure", "All", "If a right passage was retrieved", "If R-precision is 1 (KILT)")
    cells = [element("th", title, scope="col", class_=_side(place)) for place, title in enumerate(titles)]
    lines = [
        element(
            "tr",
            element("th", element("span", names[0], class_="name"), scope="row"),
            *(_figure_cell(report.metrics.get(name), report.intervals.get(name)) for name in names),
        )
        for names in rows
    ]
    table = element("table", element("thead", element("tr", *cells)), element("tbody", *lines), class_="recounts")
    return _scrolling("Correctness recounted", table)


def _measure_cells(report: Report, name: str, intervals: Mapping[str, tuple[float, float]]) -> list[Markup]:
    value, interval = report.metrics[name], intervals.get(name)
    meaning = MEANINGS.get(name) or _meaning_at_cutoff(name)
    title = [element("span", name, class_="name"), *([element("span", meaning, class_="meaning")] if meaning else [])]
    cells = [element("th", *title, scope="row"), _number(f"{value:.1f}", "main")]
    if intervals:
        cells.append(_number(_interval(interval), "soft"))
    return [*cells, element("td", _bar(value, interval), class_="bar")]


def _task_cells(
    report: Report, name: str, tasks: Sequence[str], intervals: Mapping[str, tuple[float, float]]
) -> list[Markup]:
    return [_figure_cell(report.per_task[task].metrics.get(name), intervals.get(f"{task}.{name}")) for task in tasks]


def _figure_cell(value: float | None, interval: tuple[float, float] | None) -> Markup:
    """Return a percentage with its interval under it."""
    shown: list[Content] = ["–" if value is None else f"{value:.1f}"]
    if value is not None and interval:
        shown.append(element("span", _interval(interval), class_="under"))
    return element("td", *shown, class_="number")


def _comparison_row(comparison: Comparison) -> Markup:
    numbers = [f"{comparison.ours:.1f}", f"{comparison.theirs:.1f}", _signed(comparison.difference)]
    numbers += [f"{_signed(comparison.low)} to {_signed(comparison.high)}", _p_value(comparison.p_value)]
    cells = [_number(text) for text in [*numbers, f"{comparison.count:,}"]]
    name = element("span", comparison.name, class_="name")
    return element("tr", element("th", name, scope="row"), *cells)


def _split_kind(result: QuestionResult) -> str | None:
    answer, retrieval = answer_right(result.scores), retrieval_right(result.scores)
    if answer is None or retrieval is None:
        return None
    return {(True, True): "both", (True, False): "memory", (False, True): "missed"}.get((answer, retrieval), "neither")


def _split_row(name: str, counts: Counter[str]) -> Markup:
    total = sum(counts.values())
    shares = [(kind, 100 * counts[kind] / total) for kind, _ in _SPLIT]
    label = ", ".join(f"{text} {counts[kind]:,}" for kind, text in _SPLIT)
    bar = _stacked([(f"fill-{kind}", share) for kind, share in shares], label)
    right = counts["both"] + counts["memory"]
    cells = [_number(f"{100 * part / total:.1f}%", "main") for part in (right, counts["both"])]
    cells.append(_number(f"{total:,}", "soft"))
    return element("tr", element("th", name, scope="row"), element("td", bar, class_="bar"), *cells)


def _bar(value: float, interval: tuple[float, float] | None) -> Markup:
    parts = [_rect("track", 0, 100), _rect("value", 0, value)]
    if interval:
        low, high = (_percent(end) for end in interval)
        parts += [element("line", x1=low, x2=high, y1="6", y2="6", class_="whisker")]
        parts += [element("line", x1=end, x2=end, y1="2.5", y2="9.5", class_="whisker") for end in (low, high)]
    return element("svg", *parts, width="100%", height="12", class_="barline", aria_hidden="true")


def _stacked(shares: Sequence[tuple[str, float]], label: str) -> Markup:
    parts, start = [], 0.0
    for kind, share in shares:
        if share > 0:
            parts.append(_rect(kind, start, share, "18"))
            start += share
    return element("svg", *parts, width="100%", height="18", class_="stacked", role="img", aria_label=label)


def _rect(kind: str, start: float, width: float, height: str = "12") -> Markup:
    return element("rect", x=_percent(start), y="0", width=_percent(width), height=height, class_=kind)


def _percent(value: float) -> str:
    return f"{min(100.0, max(0.0, value)):.2f}%"


def _number(text: str, kind: str = "") -> Markup:
    return element("td", text, class_=f"number {kind}".rstrip())


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.1f} – {interval[1]:.1f}" if interval else "–"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _apart(report: Report, name: str) -> str:
    return f"{report.apart[name]:,}" if report.apart.get(name) else ""


def _meaning_at_cutoff(name: str) -> str:
    kind, _, cutoff = name.partition("@")
    meanings = {
        "recall": f"a gold passage in the first search's best {cutoff}",
        "gold_recall": f"gold passages in any search's best {cutoff}",
        "ndcg": f"gain of the first search's best {cutoff}, discounted by rank",
        "page_recall": f"gold pages among the first {cutoff} retrieved",
    }
    return meanings.get(kind, "") if cutoff else ""


def _side(place: int, words: int = 1) -> str:
    """Return the class of a column's head: the first `words` columns hold text, the others numbers."""
    return "text" if place < words else "number"


def _scrolling(label: str, table: Markup) -> Markup:
    """Put a table where it can be scrolled sideways, also with the keyboard, where the page is narrow."""
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")
