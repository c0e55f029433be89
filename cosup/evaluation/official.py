"""Files in the formats of KILT and ALCE, scored as the options of `cosup evaluate` say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import UsageError
from cosup.evaluation.alce import QAMPARI, AlceSettings, alce_report
from cosup.evaluation.judging.base import Judge
from cosup.evaluation.kilt import kilt_report
from cosup.evaluation.statistics import intervals


@dataclass(frozen=True, slots=True)
class Scored:
    """A file in an official format, scored.

    Attributes:
        metrics: on the official scales.
        intervals: 95%, on the same scales; of what is an average over questions.
        record: the form of `report.json`.
        questions: a line for each.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, list[float]]
    record: Mapping[str, Any]
    questions: Sequence[Mapping[str, Any]]


def score_kilt_file(path: Path, official: Mapping[str, Any]) -> Scored:
    """Score a file in KILT's format.

    Raises:
        UsageError: there is no gold file, or a package is not installed.
        InputError: a file is wrong.
    """
    if official["gold"] is None:
        raise UsageError("--format kilt compares with a gold file; give --gold FILE")
    report = kilt_report(official["gold"], path, official["rouge"])
    parts = {"downstream": report.downstream, "kilt": report.kilt, "retrieval": report.retrieval}
    metrics = {f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}
    scores = [
        {f"{part}.{name}": value for part in parts for name, value in getattr(question, part).items()}
        for question in report.questions
    ]
    lines = [
        {"id": question.id, "answer": question.answer, "scores": own}
        for question, own in zip(report.questions, scores, strict=True)
    ]
    return Scored(metrics, _intervals(scores, metrics), report.to_dict(), lines)


def score_alce_file(path: Path, official: Mapping[str, Any], judge: Judge | None) -> Scored:
    """Score a file of ALCE outputs.

    Raises:
        UsageError: an option does not fit the file, a judge is needed and there is none, or a package is not installed.
        InputError: the file is wrong.
    """
    settings = AlceSettings(
        citations=official["citations"],
        claims_nli=official["claims"],
        mauve=official["mauve"] is not None,
        rouge=official["rouge"],
        qampari=official["qampari"],
        at_most_citations=official["at_most_citations"],
        mauve_model=official["mauve"],
    )
    if settings.mauve and (settings.qampari or (settings.qampari is None and QAMPARI in str(path))):
        raise UsageError(f"--mauve does not go with lists, which {path} holds; leave it out, or give --no-qampari")
    if judge is None and (settings.citations or settings.claims_nli):
        raise UsageError("--citations and --claims need a judge of entailment; give --judge")
    report = alce_report(path, settings, judge)
    lines: list[dict[str, Any]] = [{"record": i, "scores": own} for i, own in enumerate(report.records)]
    for kind, verdicts in (("sentences", report.sentences), ("claims", report.claims)):
        for verdict in verdicts:
            lines[verdict.record].setdefault(kind, []).append(verdict.to_dict())
    return Scored(report.metrics, _intervals(report.records, report.metrics), report.to_dict(), lines)


def _intervals(scores: Sequence[Mapping[str, float]], names: Iterable[str]) -> dict[str, list[float]]:
    """Return the 95% interval of each average, on the scale of the scores; none for what no single question has."""
    found = intervals(scores, list(names))
    return {name: [end / 100 for end in ends] for name, ends in found.items()}
