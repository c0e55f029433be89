"""Files in KILT's format under its official measures: equal numbers, own code.

`downstream` is over all questions, `kilt` counts an answer only where R-precision is 1, `retrieval` is at page level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosup.errors import InputError
from cosup.evaluation.kilt_measures import answer_scores, r_precision, ranking_scores
from cosup.evaluation.kilt_records import Gold, Guess, read_golds, read_guesses


@dataclass(frozen=True, slots=True)
class KiltScores:
    """One question's scores, in 0..1.

    Attributes:
        answer: what was predicted, stripped.
        downstream: accuracy, em, f1 and, where it was asked for, rougel.
        retrieval: Rprec, precision@k, recall@k, success_rate@k.
    """

    id: str
    answer: str
    downstream: Mapping[str, float]
    retrieval: Mapping[str, float]

    @property
    def kilt(self) -> dict[str, float]:
        """The KILT versions: the answer's scores if R-precision is 1, else 0."""
        right = self.retrieval["Rprec"] == 1
        return {f"KILT-{name}": score if right else 0.0 for name, score in self.downstream.items()}


@dataclass(frozen=True, slots=True)
class KiltReport:
    """What `kilt_report` found; averages over all gold questions, in 0..1 as the official scorer prints them.

    Attributes:
        downstream: accuracy, em, f1, rougel.
        kilt: KILT-accuracy, KILT-em, KILT-f1, KILT-rougel.
        retrieval: Rprec, recall@5 and the other measures of `eval_retrieval.py` at 1, 5, 10 and 20.
        counts: how many questions there are, and how many predictions were out of the ordinary.
        extra: ids of predictions that belong to no question; they are not scored.
        questions: one for each gold question, in their order.
    """

    downstream: dict[str, float]
    kilt: dict[str, float]
    retrieval: dict[str, float]
    counts: dict[str, int]
    extra: tuple[str, ...]
    questions: tuple[KiltScores, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `report.json`: all but the scores of single questions."""
        return {
            "downstream": self.downstream,
            "kilt": self.kilt,
            "retrieval": self.retrieval,
            "counts": self.counts,
            "extra": {"count": len(self.extra), "ids": list(self.extra)},
        }


def score_kilt(gold: Path, guess: Path, rouge: bool = True) -> dict[str, Any]:
    """Score a file of predictions; `kilt_report` as a dictionary of the form of `report.json`."""
    return kilt_report(gold, guess, rouge).to_dict()


def kilt_report(gold: Path, guess: Path, rouge: bool = True) -> KiltReport:
    """Score a file of predictions in KILT's format against a gold file.

    An empty answer scores 0 but takes part in the retrieval measures; predictions without a question are listed and
    left out. Both are what the official scorer does.

    Args:
        gold: JSONL of `{"id", "input", "output": [{"answer"?, "provenance"?}]}`.
        guess: the same with exactly one output a line; ids in any order.
        rouge: whether to compute ROUGE-L, which is slow.

    Raises:
        InputError: what the official scorer stops at, with file and line: a question without a prediction, an id
            twice, other than one output, no answer field, a gold record without an answer, a wrong type.
        UsageError: ROUGE-L is wanted and `rouge` is not installed.
    """
    golds, guesses = read_golds(gold), read_guesses(guess)
    _check_matching(golds, guesses, gold, guess)
    scorer = _rouge_l() if rouge else None
    questions = tuple(_score(golds[i], guesses[i], gold, scorer) for i in golds)
    extra = tuple(i for i in guesses if i not in golds)
    return KiltReport(
        downstream=_mean(q.downstream for q in questions),
        kilt=_mean(q.kilt for q in questions),
        retrieval=_mean(q.retrieval for q in questions),
        counts=_counts(golds.values(), [guesses[i] for i in golds]) | {"extra_predictions": len(extra)},
        extra=extra,
        questions=questions,
    )


def _check_matching(golds: Mapping[str, Gold], guesses: Mapping[str, Guess], gold: Path, guess: Path) -> None:
    missing = [i for i in golds if i not in guesses]
    if len(missing) == len(golds):
        first = f"{next(iter(guesses))!r} here, {missing[0]!r} there"
        raise InputError(f"none of its ids is one of those in {gold} ({first}); is it of this task?", guess)
    if missing:
        more = f" and {len(missing) - 1} more of the {len(golds)} questions" if len(missing) > 1 else ""
        what = f"no prediction for the question {missing[0]!r} ({gold}:{golds[missing[0]].line}){more}"
        raise InputError(f'{what}; expected one for each, with the answer "" where there is none', guess)


def _score(gold: Gold, guess: Guess, path: Path, rouge: Callable[[str, str], float] | None) -> KiltScores:
    if guess.answer and not gold.answers:
        raise InputError(f"question {gold.id!r} has no gold answer; expected at least one", path, gold.line)
    downstream = answer_scores(guess.answer, gold.answers, rouge)
    retrieval = {"Rprec": r_precision(guess.pages, gold)} | ranking_scores(guess.pages, gold)
    return KiltScores(gold.id, guess.answer, downstream, retrieval)


def _rouge_l() -> Callable[[str, str], float]:
    from cosup.evaluation.rouge import rouge_l

    return rouge_l


def _counts(golds: Iterable[Gold], guesses: list[Guess]) -> dict[str, int]:
    return {
        "questions": len(guesses),
        "empty_answers": sum(not g.answer for g in guesses),
        "answers_not_text": sum(not g.is_text for g in guesses),
        "without_provenance": sum(not g.pages for g in guesses),
        "provenance_without_page": sum(g.without_page for g in guesses),
        "gold_without_answer": sum(not g.answers for g in golds),
        "gold_without_provenance": sum(not any(g.pages) for g in golds),
    }


def _mean(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    count = 0
    for of_question in scores:
        count += 1
        for name, score in of_question.items():
            sums[name] = sums.get(name, 0.0) + score
    return {name: total / count for name, total in sums.items()}
