"""Measures of tasks that want more than one short answer: lists, labels, long answers.

Scores lie in 0..1; a measure that cannot judge a question gives nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from importlib.util import find_spec

from cosup.evaluation.answers import contains, contains_raw, normalise, share, token_f1, without_marks
from cosup.evaluation.qampari import qampari_scores
from cosup.records import Answer, Question

SET_METRICS = ("str_em", "str_hit")
LIST_METRICS = ("qampari_prec", "qampari_rec", "qampari_rec_top5", "qampari_f1", "qampari_f1_top5")
LABEL_METRICS = ("accuracy",)
LONG_METRICS = ("text_f1", "rouge_l")
FEVER = frozenset({"SUPPORTS", "REFUTES"})  # both, though a file may hold only one of them


def set_scores(answer: Answer, question: Question) -> dict[str, float]:
    """Score the output against answers that are all wanted, as ALCE does for ASQA.

    `str_em`: the share of the question's answer sets of which an alias, normalised, occurs in the normalised output
    (within a word too, as there); `str_hit`: whether that is all of them.
    """
    if not question.answer_sets:
        return {}
    text = without_marks(answer.text)
    found = [any(contains_raw(text, alias) for alias in aliases) for aliases in question.answer_sets]
    return {"str_em": share(found), "str_hit": float(all(found))}


def list_scores(answer: Answer, question: Question) -> dict[str, float]:
    """Score the output as a list with commas against answers that are all wanted (`qampari.qampari_scores`).

    Not for questions with a long answer: theirs is prose.
    """
    if not question.answer_sets or (question.long_answer or "").strip():
        return {}
    scores = qampari_scores(without_marks(answer.text), question.answer_sets)
    return {name: scores[name] for name in LIST_METRICS}


def label_scores(answer: Answer, question: Question, labels: Collection[str]) -> dict[str, float]:
    """Say whether the prediction names the question's label (`accuracy`).

    The label that counts is what the final answer is, once normalised; else the only one of the labels that the final
    answer contains as whole tokens, else the only one that the whole text does. Text that names two names none.

    Args:
        labels: all that occur among the questions.
    """
    if question.label is None:
        return {}
    return {"accuracy": float(_named(answer, labels) == question.label)}


def long_scores(answer: Answer, question: Question) -> dict[str, float]:
    """Score the output against long answers.

    `text_f1`: the unigram F1 of the whole output, normalised, repeats counted; `rouge_l`: ROUGE-L as KILT has it
    (`rouge.rouge_l`); absent where the package `rouge` is not installed. Each takes the best of the long answer and the
    short ones.
    """
    if not (question.long_answer and question.long_answer.strip()):
        return {}
    golds = [question.long_answer, *(a for a in question.answers if a.strip())]
    text = without_marks(answer.text)
    scores = {"text_f1": max(token_f1(text, gold) for gold in golds)}
    if has_rouge():
        from cosup.evaluation.rouge import rouge_l

        scores["rouge_l"] = max(rouge_l(text, gold) for gold in golds)
    return scores


@lru_cache(maxsize=1)
def has_rouge() -> bool:
    """Whether the package `rouge` is installed."""
    return find_spec("rouge") is not None


def _named(answer: Answer, labels: Collection[str]) -> str | None:
    labels = {*labels, *FEVER} if FEVER.issuperset(labels) else labels
    final = without_marks(answer.answer)
    exact = [label for label in labels if normalise(label) == normalise(final)]
    for found in (exact, *([n for n in labels if contains(text, n)] for text in (final, without_marks(answer.text)))):
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None
