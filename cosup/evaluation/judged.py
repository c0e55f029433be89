"""Citations and claims of our own predictions under a judge of entailment, by ALCE's definitions.

A prediction becomes a record of ALCE: its `[n]` marks point into the passages that it cites, renumbered from 1 where
numbers are left out; a mark without a citation points nowhere. Scores lie in 0..1; what the judge leaves undecided
takes no part and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.evaluation.alce_citations import ClaimVerdict, SentenceVerdict, score_citations, score_claims
from cosup.evaluation.alce_records import AlceRecord, remove_citations
from cosup.evaluation.judging.base import Judge
from cosup.records import Answer, Passage, Question

_NOWHERE = Path("predictions")
_MARK = re.compile(r"\[(\d+)\]")
_LONGEST = 18  # digits of a mark


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge found in a list of predictions.

    Attributes:
        scores: of each prediction: `nli_citation_recall`, `nli_citation_precision` and, where its question has claims,
            `claim_recall`; one that was left undecided is absent.
        sentences: of each prediction, the verdict on every sentence.
        claims: of each prediction, the verdict on every claim of its question.
        counts: of sentences and claims by what became of them.
    """

    scores: tuple[dict[str, float], ...]
    sentences: tuple[tuple[SentenceVerdict, ...], ...]
    claims: tuple[tuple[ClaimVerdict, ...], ...]
    counts: dict[str, int]


def judge_answers(
    answers: Sequence[Answer], questions: Sequence[Question], passages: Mapping[str, Passage], judge: Judge
) -> Judged:
    """Judge every prediction; one without a sentence, or that cites nothing, scores 0.

    Args:
        answers: one for each question, in their order; an empty one where it is missing.
        questions: with `claims` where there are any.
        passages: by id, at least those that are cited.
        judge: asked in few, large lots.

    Raises:
        UsageError: the judge fails, or the sentence splitter is not installed.
    """
    pairs = list(zip(answers, questions, strict=True))
    records = [_record(i, answer, question, passages) for i, (answer, question) in enumerate(pairs)]
    cited = score_citations(records, judge)
    with_claims = [record for record in records if record.has("claims") and record.output]
    claims = score_claims(with_claims, judge)
    scores: list[dict[str, float]] = []
    spoken = {verdict.record for verdict in cited.verdicts}
    for i in range(len(records)):
        own = {}
        for name, found in (("nli_citation_recall", cited.recall), ("nli_citation_precision", cited.precision)):
            if i in found or i not in spoken:
                own[name] = found.get(i, 0.0)
        if i in claims.recall or (records[i].has("claims") and not records[i].output):
            own["claim_recall"] = claims.recall.get(i, 0.0)
        scores.append(own)
    sentences = tuple(tuple(group) for group in _by_record(cited.verdicts, len(records)))
    return Judged(
        tuple(scores),
        sentences,
        tuple(tuple(group) for group in _by_record(claims.verdicts, len(records))),
        cited.counts | claims.counts,
    )


def _by_record(verdicts: Sequence[SentenceVerdict] | Sequence[ClaimVerdict], count: int) -> list[list[Any]]:
    groups: list[list[Any]] = [[] for _ in range(count)]
    for verdict in verdicts:
        groups[verdict.record].append(verdict)
    return groups


def _record(index: int, answer: Answer, question: Question, passages: Mapping[str, Passage]) -> AlceRecord:
    numbered = {citation.n: passages[citation.passage_id] for citation in answer.citations}
    places = {n: str(place) for place, n in enumerate(sorted(numbered), start=1)}
    docs = [{"title": numbered[n].title, "text": numbered[n].text} for n in sorted(numbered)]
    beyond = str(len(docs) + 1)

    def renumbered(mark: re.Match[str]) -> str:
        return f"[{places.get(int(mark[1][:_LONGEST]), beyond)}]"

    output = _MARK.sub(renumbered, " ".join(answer.text.split()))
    fields = {"question": question.question, "output": output, "docs": docs}
    fields |= {"claims": list(question.claims)} if question.claims else {}
    return AlceRecord(_NOWHERE, index, fields, output, remove_citations(output))
