"""A report as text: its tables, what was left out of it, Markdown; and the folder with its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosup.data.writing import json_text, write_jsonl, write_text
from cosup.errors import UsageError, needs_extra
from cosup.evaluation.left_out import shown_ids
from cosup.evaluation.report import Report
from cosup.evaluation.scoring import (
    CORRECTNESS,
    IF_RETRIEVED,
    KILT,
    metric_names,
)


def measures_of(report: Report) -> list[str]:
    """Return the names of the report's measures that stand by themselves, in order: no task's own, no recounts."""
    return [name for name in metric_names() if name in report.metrics]


def table_rows(report: Report) -> list[list[str]]:
    """Return the report as a table of text, its header first: measure, all, interval, each task, counted apart.

    Percentages have one decimal; `-` stands where no question could be judged.
    """
    tasks = report.per_task
    rows = [["measure", "all", "95% interval", *tasks, "counted apart"]]
    for name in measures_of(report):
        cells = [_shown_percent(scores.metrics.get(name)) for scores in tasks.values()]
        low, high = report.intervals.get(name, (None, None))
        span = f"{_shown_percent(low)} to {_shown_percent(high)}"
        rows.append([name, _shown_percent(report.metrics[name]), span, *cells, str(report.apart.get(name, 0))])
    counts = [str(scores.count) for scores in tasks.values()]
    return [*rows, ["questions", str(report.count), "", *counts, ""]]


def recount_rows(report: Report) -> list[list[str]]:
    """Return correctness and its recounts as a table of text, its header first (and alone where there are none).

    Each figure stands with its 95% interval.
    """
    rows = [["measure", "all [95% interval]", "if a right passage was retrieved", "if R-precision is 1 (KILT)"]]
    for names in recounted(report):
        figures = (with_interval(report.metrics.get(name), report.intervals.get(name)) for name in names)
        rows.append([names[0], *figures])
    return rows


def recounted(report: Report) -> list[tuple[str, str, str]]:
    """Return the names of each recounted measure: itself, where a right passage was retrieved, by KILT's rule."""
    found = [(name, name + IF_RETRIEVED, KILT + name) for name in CORRECTNESS if name in report.metrics]
    return [names for names in found if any(name in report.metrics for name in names[1:])]


def comparison_rows(report: Report) -> list[list[str]]:
    """Return the comparison with other predictions as a table of text, its header first."""
    rows = [["measure", "ours", "theirs", "difference", "95% interval", "p", "questions"]]
    alone = set(metric_names())
    for own in report.comparison:
        if own.name in alone:
            span = f"{own.low:+.1f} to {own.high:+.1f}"
            numbers = [f"{own.ours:.1f}", f"{own.theirs:.1f}", f"{own.difference:+.1f}", span, f"{own.p_value:.4f}"]
            rows.append([own.name, *numbers, str(own.count)])
    return rows


def markdown(report: Report) -> str:
    """Return the report as Markdown tables with notes on what was left out."""
    lines = ["# Evaluation", "", *markdown_table(table_rows(report)), ""]
    lines += ["Averages over questions, in percent. *Counted apart*: questions that a measure cannot judge.", ""]
    if len(again := recount_rows(report)) > 1:
        lines += ["## Counted only where retrieval was right", "", *markdown_table(again), ""]
    if len(compared := comparison_rows(report)) > 1:
        lines += ["## Against the other predictions", "", *markdown_table(compared), ""]
        lines += ["*p*: of a paired randomisation test, two-sided, each measure by itself.", ""]
    lines += [f"- {note}" for note in notes(report)]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the header first, as lines of a Markdown table."""
    shown = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    shown.insert(1, ["---", *("---:" for _ in rows[0][1:])])
    return ["| " + " | ".join(row) + " |" for row in shown]


def with_interval(value: float | None, ends: tuple[float, float] | None) -> str:
    """Return a percentage with its interval behind it, if it has one; `-` where there is none."""
    return _shown_percent(value) + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def _shown_percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def notes(report: Report) -> list[str]:
    """Return one line for each kind of prediction that was missing, empty or left out; none where all is well."""
    lines = [f"{len(ids)} {what}: {shown_ids(ids)}" for ids, what in report.left_out.kinds()]
    others = report.against.kinds() if report.against else []
    lines += [f"of the other predictions, {len(ids)} {what}: {shown_ids(ids)}" for ids, what in others]
    if "text_f1" in report.metrics and "rouge_l" not in report.metrics:
        lines.append(needs_extra("rouge_l is left out: it", "eval", "rouge"))
    for name in ("sentences", "claims"):
        if undecided := report.judged.get(f"{name}_undecided"):
            lines.append(f"{undecided} of {report.judged[name]} {name} left undecided by the judge, counted apart")
    return lines


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json`, `report.md` and `per_question.jsonl` into a folder, each whole or not at all.

    Returns:
        The path of `report.json`, which is written last.

    Raises:
        UsageError: the folder cannot be written to.
        InputError: the settings hold something that is not JSON.
    """
    place = Path(folder)
    path = place / "report.json"
    if place.exists() and not place.is_dir():
        raise UsageError(f"cannot write a report to {place}: it is a file; expected a folder")
    text = json_text(report.to_dict(), path)  # before anything is written
    write_jsonl(place / "per_question.jsonl", report.results)
    write_text(place / "report.md", markdown(report))
    write_text(path, text)
    return path
