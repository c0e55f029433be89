"""Is the answer right: exact match, token F1, and whether the output contains the answer.

Text is compared after SQuAD's normalisation (lower case, no ASCII punctuation, no articles, single spaces). Where
that leaves nothing of a gold answer ("The", "A", "?"), less is taken away from both sides: first the articles
stay, then the punctuation too. Scores lie in 0..1; percentages are made in `report`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from cosup.data.keys import PUNCTUATION, normalised
from cosup.records import Answer, Question

ANSWER_METRICS = ("exact_match", "f1", "contains_answer", "contains_answer_raw", "answer_correct", "answers_found")

normalise = lru_cache(maxsize=16384)(normalised)  # a gold answer is compared with many texts, and they with others
_MARK = re.compile(r"\s*\[\d+\]")
_MARK_BEFORE_WORD = re.compile(r"\s*\[\d+\]([.!?]*)(?=\w)")


def _lower(text: str) -> str:
    return " ".join(text.lower().split())


def _without_punctuation(text: str) -> str:
    return " ".join(PUNCTUATION.sub("", text.lower()).split())


def without_marks(text: str) -> str:
    """Return `text` without its `[n]` marks and the white space before them; the words around a mark stay apart.

    >>> without_marks("Born in Oslo [1]. Lived in Rome[2].She left.")
    'Born in Oslo. Lived in Rome. She left.'
    """
    return _MARK.sub("", _MARK_BEFORE_WORD.sub(r"\1 ", text)) if "[" in text else text


def gold_answers(question: Question) -> tuple[str, ...]:
    """Return the question's answers that are not blank."""
    return tuple(a for a in question.answers if a.strip())


def exact_match(prediction: str, gold: str) -> bool:
    """Whether both are the same once normalised; never for a blank gold answer."""
    ours, theirs = _comparable(prediction, gold)
    return bool(theirs) and ours == theirs


def token_f1(prediction: str, gold: str) -> float:
    """Return the F1 of the normalised tokens both have in common, repeats counted (SQuAD); 0 for a blank gold."""
    ours, theirs = (text.split() for text in _comparable(prediction, gold))
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def contains(text: str, gold: str) -> bool:
    """Whether the gold answer's normalised tokens stand in the text one after the other, as whole tokens.

    >>> contains("Go north.", "no"), contains("Go north, no?", "No")
    (False, True)
    """
    ours, theirs = _comparable(text, gold)
    return bool(theirs) and f" {theirs} " in f" {ours} "


def contains_raw(text: str, gold: str) -> bool:
    """Whether the normalised gold answer is a substring of the normalised text, within a word too (the paper's).

    >>> contains_raw("Go north.", "no")
    True
    """
    ours, theirs = _comparable(text, gold)
    return bool(theirs) and theirs in ours


def answer_scores(answer: Answer, question: Question) -> dict[str, float]:
    """Score one prediction against the question's answers: every one of `ANSWER_METRICS`, in 0..1.

    `exact_match` and `f1` score `answer.answer`, the others `answer.text`, all without `[n]` marks. `answer_correct`
    is `contains_answer`, but `exact_match` where the gold answers are yes or no, words that stand in many a text. All
    but the last take the best of the gold answers (aliases of one answer); `answers_found` is the share of them that
    the text contains (tasks where all are wanted).

    Returns:
        The scores, or nothing where the question has no gold answer: it cannot be scored here.
    """
    golds = gold_answers(question)
    if not golds:
        return {}
    final, text = without_marks(answer.answer), without_marks(answer.text)
    found = [contains(text, gold) for gold in golds]
    exact = any(exact_match(final, gold) for gold in golds)
    polar = all(normalise(gold) in ("yes", "no") for gold in golds)
    return {
        "exact_match": float(exact),
        "f1": max(token_f1(final, gold) for gold in golds),
        "contains_answer": float(any(found)),
        "contains_answer_raw": float(any(contains_raw(text, gold) for gold in golds)),
        "answer_correct": float(exact if polar else any(found)),
        "answers_found": share(found),
    }


def share(flags: Sequence[bool]) -> float:
    """Return the share of true flags in 0..1; 0 where there are none."""
    return sum(flags) / len(flags) if flags else 0.0


def _comparable(text: str, gold: str) -> tuple[str, str]:
    """Normalise both as far as leaves something of the gold answer, which is empty only where it is blank."""
    for form in (normalise, _without_punctuation):
        theirs = form(gold)
        if theirs:
            return form(text), theirs
    return _lower(text), _lower(gold)
