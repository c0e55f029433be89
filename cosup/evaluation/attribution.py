"""Do the citations hold: citation precision and recall against gold evidence, with a reason for each verdict.

A citation is right only if its passage is a gold passage of the question and its claim either is a substring of that
passage's text (white space aside) or has a token F1 of at least 0.5 with a gold sentence there. Scores lie in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cosup.evaluation.answers import normalise, share, token_f1
from cosup.records import Answer, Citation, Passage, Question

CITATION_METRICS = ("citation_precision", "citation_recall")
F1_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one citation is right, and why.

    Attributes:
        n: the citation's mark.
        reason: one line, the measured F1 included where it decided.
    """

    n: int
    passage_id: str
    claim: str
    right: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def has_gold_sentences(question: Question) -> bool:
    """Whether any evidence of the question marks a sentence; without one its citations are not judged."""
    return any(e.sentence and e.sentence.strip() for e in question.evidence)


def judge_citations(answer: Answer, question: Question, passages: Mapping[str, Passage]) -> tuple[Verdict, ...]:
    """Judge each citation of a prediction, in its order; none where the question has no gold sentence.

    Args:
        passages: by id, at least those that are both gold and cited.
    """
    if not has_gold_sentences(question):
        return ()
    return tuple(_judge(citation, question, passages) for citation in answer.citations)


def citation_scores(verdicts: tuple[Verdict, ...], question: Question) -> dict[str, float]:
    """Turn verdicts into scores.

    `citation_precision`: the share of the citations that are right; `citation_recall`: the share of the gold
    passages with at least one right citation. Both are 0 where nothing is cited.

    Returns:
        The scores, or nothing where the question has no gold sentence.
    """
    if not has_gold_sentences(question):
        return {}
    cited = {v.passage_id for v in verdicts if v.right}
    return {
        "citation_precision": share([v.right for v in verdicts]),
        "citation_recall": share([g in cited for g in question.gold_ids]),
    }


def _judge(citation: Citation, question: Question, passages: Mapping[str, Passage]) -> Verdict:
    right, reason = _support(citation, question, passages)
    return Verdict(citation.n, citation.passage_id, citation.claim, right, reason)


def _support(citation: Citation, question: Question, passages: Mapping[str, Passage]) -> tuple[bool, str]:
    claim = " ".join(citation.claim.split())
    if citation.passage_id not in question.gold_ids:
        return False, "the passage is not gold"
    if not normalise(claim):
        return False, "the claim has no words"
    if claim in " ".join(passages[citation.passage_id].text.split()):
        return True, "the claim stands in the passage"
    sentences = _gold_sentences(question, citation.passage_id)
    if not sentences:
        return False, "the claim does not stand in the passage, which has no gold sentence"
    f1 = max(token_f1(claim, sentence) for sentence in sentences)
    verb = "reaches" if f1 >= F1_THRESHOLD else "is below"
    return f1 >= F1_THRESHOLD, f"token F1 {f1:.3f} with the nearest gold sentence {verb} {F1_THRESHOLD}"


def _gold_sentences(question: Question, passage_id: str) -> list[str]:
    """Return the gold sentences of a passage; where there are several, also joined, as the `claims` template does."""
    marked = [e.sentence for e in question.evidence if e.passage_id == passage_id and e.sentence]
    sentences = list(dict.fromkeys(s for s in marked if s.strip()))
    return [*sentences, " ".join(sentences)] if len(sentences) > 1 else sentences
