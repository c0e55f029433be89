"""Files in ALCE's format under its official measures: equal numbers, own code, the names that its scorer prints.

Scores are in percent, `length` in words and `num_preds` in items. Source: Gao et al. 2023 and the official scorer
(princeton-nlp/ALCE, `eval.py`). Its QA measures (QA-EM, QA-F1, QA-Hit), which need a QA model, are not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cosup.errors import UsageError
from cosup.evaluation.alce_citations import AT_MOST, ClaimVerdict, SentenceVerdict, score_citations, score_claims
from cosup.evaluation.alce_records import AlceRecord, read_alce
from cosup.evaluation.answers import normalise, share
from cosup.evaluation.judging.base import Judge
from cosup.evaluation.qampari import qampari_scores

QAMPARI = "qampari"
NOT_PERCENT = ("length", "num_preds")


@dataclass(frozen=True, slots=True)
class AlceSettings:
    """What to measure; the defaults are those of the official scorer.

    Attributes:
        citations: citation recall and precision; needs a judge.
        claims_nli: recall of claims; needs a judge.
        mauve: MAUVE; needs `mauve_model`.
        rouge: ROUGE-Lsum; never for QAMPARI.
        qampari: whether answers are lists; None: whether the path says "qampari", as the official scorer takes it.
        cot: for QAMPARI, whether the list follows the first colon.
        at_most_citations: the citations of a sentence that count; None counts all.
        mauve_model: name or folder of the language model that MAUVE compares with.
        mauve_device: number of the GPU it runs on, -1 for the CPU.

    Raises:
        UsageError: `at_most_citations` is below 1.
    """

    citations: bool = False
    claims_nli: bool = False
    mauve: bool = False
    rouge: bool = True
    qampari: bool | None = None
    cot: bool = False
    at_most_citations: int | None = AT_MOST
    mauve_model: str | None = None
    mauve_device: int = -1

    def __post_init__(self) -> None:
        if self.at_most_citations is not None and self.at_most_citations < 1:
            raise UsageError(f"at most {self.at_most_citations} citations a sentence leave none; expected 1 or more")


@dataclass(frozen=True, slots=True)
class AlceReport:
    """What `alce_report` found.

    Attributes:
        metrics: the official names and scales; one that could judge no answer is absent. `rougeLsum` is the median of
            a bootstrap, as there; `rouge_mean` the plain mean.
        counts: how many answers there are, and what was out of the ordinary.
        judge: the judge's name, or None.
        records: one for each answer: its scores, on the scales of `metrics`.
        sentences: what was judged of each sentence, where citations were.
        claims: what was judged of each claim, where claims were.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    judge: str | None
    rouge_mean: float | None
    records: tuple[dict[str, float], ...] = field(repr=False)
    sentences: tuple[SentenceVerdict, ...] = field(default=(), repr=False)
    claims: tuple[ClaimVerdict, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `report.json`: the metrics at top level, then the counts and the judge."""
        mean = {} if self.rouge_mean is None else {"rougeLsum_mean": self.rouge_mean}
        return {**self.metrics, **mean, "counts": self.counts, "judge": self.judge}


def score_alce(path: Path, settings: AlceSettings | None = None, judge: Judge | None = None) -> dict[str, float]:
    """Score a file of ALCE outputs; the metrics of `alce_report`."""
    return alce_report(path, settings, judge).metrics


def alce_report(path: Path, settings: AlceSettings | None = None, judge: Judge | None = None) -> AlceReport:
    """Score a file of ALCE outputs.

    Args:
        path: JSON of `{"data": [{"question", "output", "docs", "qa_pairs"?, "answer"?, ..}]}`.
        settings: what to measure.
        judge: decides entailment, for citations and claims.

    Raises:
        InputError: the file has another form, or a record lacks what a measure needs; names the line.
        UsageError: a judge or a model is needed and was not named, or a package is not installed.
    """
    chosen = settings or AlceSettings()
    if (chosen.citations or chosen.claims_nli) and judge is None:
        raise UsageError("citation and claim scores need a judge of entailment; none was named")
    records = read_alce(path)
    is_list = QAMPARI in str(path) if chosen.qampari is None else chosen.qampari
    scores: list[dict[str, float]] = [{"length": float(len(record.plain.split()))} for record in records]
    _merge(scores, _str_em(records))
    if is_list:
        _merge(scores, (_percent(qampari_scores(r.plain, r.answer_sets(), chosen.cot)) for r in records))
    metrics, mean = _means(scores), None
    if chosen.rouge and not is_list:
        metrics["rougeLsum"], mean = _rouge(records, scores)
    if chosen.mauve and not is_list:
        metrics["mauve"] = _mauve(records, chosen)
    report = AlceReport(metrics, _counts(records), judge.name if judge else None, mean, tuple(scores))
    return _judged(report, records, chosen, judge, is_list) if judge else report


def _str_em(records: Sequence[AlceRecord]) -> list[dict[str, float]]:
    """Score the short answers (ASQA): the share that the output contains, and whether it contains all.

    The first record decides whether the file has any; without them every answer scores 0, as in the official scorer.
    A normalised alias counts within a word too, and one of which nothing is left counts everywhere.
    """
    if not records[0].has("qa_pairs"):
        return [{"str_em": 0.0, "str_hit": 0.0}] * len(records)
    shares = [share([_contains(r.plain, aliases) for aliases in r.short_answers()]) for r in records]
    return [{"str_em": 100 * found, "str_hit": 100.0 * (found == 1)} for found in shares]


def _contains(text: str, aliases: Sequence[str]) -> bool:
    form = normalise(text)
    return any(normalise(alias) in form for alias in aliases)


def _rouge(records: Sequence[AlceRecord], scores: list[dict[str, float]]) -> tuple[float, float]:
    """Add ROUGE-Lsum, the best of two references, to each record's scores; return the bootstrap's median, and mean."""
    from cosup.evaluation.rouge import bootstrap_median, rouge_lsum
    from cosup.evaluation.sentence_splitter import split_sentences

    def lines(text: str) -> str:
        return "\n".join(split_sentences(text.lower()))

    score = rouge_lsum()
    values = [score(lines(record.plain), [lines(text) for text in record.references()]) for record in records]
    _merge(scores, ({"rougeLsum": 100 * value} for value in values))
    return 100 * bootstrap_median(values), 100 * sum(values) / len(values)


def _mauve(records: Sequence[AlceRecord], settings: AlceSettings) -> float:
    from cosup.evaluation.mauve_score import mauve_score

    return mauve_score(records, settings.mauve_model, settings.mauve_device)


def _judged(
    report: AlceReport, records: Sequence[AlceRecord], settings: AlceSettings, judge: Judge, is_list: bool
) -> AlceReport:
    """Add what the judge decides."""
    metrics, counts, scores = dict(report.metrics), dict(report.counts), report.records
    sentences: tuple[SentenceVerdict, ...] = ()
    claims: tuple[ClaimVerdict, ...] = ()
    if settings.citations:
        cited = score_citations(records, judge, settings.at_most_citations, is_list)
        _add(metrics, scores, "citation_rec", cited.recall)
        _add(metrics, scores, "citation_prec", cited.precision)
        sentences, counts = cited.verdicts, counts | cited.counts
    if settings.claims_nli:
        claimed = score_claims(records, judge)
        _add(metrics, scores, "claims_nli", claimed.recall)
        claims, counts = claimed.verdicts, counts | claimed.counts
    return replace(report, metrics=metrics, counts=counts, sentences=sentences, claims=claims)


def _add(metrics: dict[str, float], scores: Sequence[dict[str, float]], name: str, found: Mapping[int, float]) -> None:
    """Put a measure that may be absent for some answers into their scores, and its average into the metrics."""
    for index, score in found.items():
        scores[index][name] = 100 * score
    if found:
        metrics[name] = 100 * sum(found.values()) / len(found)


def _merge(scores: list[dict[str, float]], more: Iterable[Mapping[str, float]]) -> None:
    for known, new in zip(scores, more, strict=True):
        known.update(new)


def _percent(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: score if name in NOT_PERCENT else 100 * score for name, score in scores.items()}


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(record[name] for record in scores) / len(scores) for name in scores[0]}


def _counts(records: Sequence[AlceRecord]) -> dict[str, int]:
    return {
        "answers": len(records),
        "empty_outputs": sum(not record.output for record in records),
        "cut_at_line_break": sum(record.is_cut for record in records),
    }
