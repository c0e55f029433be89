"""Citation recall and precision as ALCE defines them, and recall of claims, by a judge of entailment.

A sentence is *supported* if the passages it cites, one after the other, entail it without its marks; one that cites
nothing, or a passage that is not there, is not. A citation of a supported sentence is *needed* if its passage alone
entails the sentence, or if the others together do not; the only citation of a supported sentence always is.
`citation_rec` is the average over answers of the share of their sentences that are supported, `citation_prec` that of
the share of their citations that are needed.

Source: Gao et al. 2023, section 4.3, and `compute_autoais` of the official scorer (princeton-nlp/ALCE), which asks
pair by pair; here the pairs of a file are asked in three lots, with the same result. What a judge leaves undecided
makes its sentence undecided: it takes no part in either measure and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cosup.evaluation.alce_records import AlceRecord, list_items, remove_citations
from cosup.evaluation.answers import share
from cosup.evaluation.judging.base import Decision, Judge, Pair
from cosup.evaluation.sentence_splitter import split_sentences

AT_MOST = 3
NO_CITATION = "cites nothing"
_CITATION = re.compile(r"\[(\d+)")
_LONGEST = 18  # digits of a citation's number

Decisions: TypeAlias = dict[Pair, Decision]


@dataclass(frozen=True, slots=True)
class CitationVerdict:
    """One citation of a supported sentence.

    Attributes:
        number: as it stands in the text; 0 is the last passage, as in the official scorer.
        needed: None where the judge left it undecided.
        reason: one line.
    """

    number: int
    needed: bool | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class SentenceVerdict:
    """One sentence, or one item of a list.

    Attributes:
        record: 0-based place of its answer in the file.
        sentence: as written, with its marks.
        claim: what was judged: the same without them.
        citations: the numbers it cites, in order, repeats kept; cut to the most that count.
        is_judged: whether it cites passages that are all there; its citations count only then.
        supported: None where the judge left it, or whether one of its citations is needed, undecided.
        reason: one line.
        verdicts: one for each citation, if the sentence is supported and has several.
    """

    record: int
    sentence: str
    claim: str
    citations: tuple[int, ...]
    is_judged: bool
    supported: bool | None
    reason: str
    verdicts: tuple[CitationVerdict, ...] = ()

    @property
    def needed(self) -> int:
        """The number of its citations that are needed."""
        if not self.supported:
            return 0
        return sum(bool(v.needed) for v in self.verdicts) if self.verdicts else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "citations": list(self.citations),
            "verdicts": [v.to_dict() for v in self.verdicts],
        }


@dataclass(frozen=True, slots=True)
class CitationScores:
    """The verdicts of a file and what follows from them.

    Attributes:
        recall: of each answer, in 0..1, by its place in the file; absent where it has no sentence that was decided.
        precision: likewise; also absent where all its citations stand in undecided sentences.
        verdicts: of every sentence, in order.
        counts: of sentences by what became of them, and of answers that take no part.
    """

    recall: dict[int, float]
    precision: dict[int, float]
    verdicts: tuple[SentenceVerdict, ...] = field(repr=False)
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """Whether an answer entails one of the claims that it should make."""

    record: int
    claim: str
    entailed: bool | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ClaimScores:
    """Recall of each answer in 0..1 by its place in the file, absent where no claim was decided; and the verdicts."""

    recall: dict[int, float]
    verdicts: tuple[ClaimVerdict, ...] = field(repr=False)
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Statement:
    """A sentence with what is asked about it; `passages` is empty where nothing is."""

    record: int
    sentence: str
    claim: str
    citations: tuple[int, ...]
    passages: tuple[str, ...]
    problem: str

    @property
    def joint(self) -> Pair:
        return "\n".join(self.passages), self.claim

    def alone(self, place: int) -> Pair:
        return self.passages[place], self.claim

    def others(self, place: int) -> Pair:
        """All passages but the first that this place cites, as the official scorer leaves a repeated one in."""
        first = self.citations.index(self.citations[place])
        return "\n".join(self.passages[:first] + self.passages[first + 1 :]), self.claim


def score_citations(
    records: Sequence[AlceRecord], judge: Judge, at_most: int | None = AT_MOST, qampari: bool = False
) -> CitationScores:
    """Judge the citations of every answer.

    Args:
        judge: decides whether passages entail a sentence; asked three times at most, about distinct pairs.
        at_most: a sentence's further citations do not count; None counts all.
        qampari: an answer is a list with commas; what is judged is the question followed by an item.

    Raises:
        InputError: a record that cites has no `docs`, or one that is no list has no `question`.
        UsageError: the judge fails, or the sentence splitter is not installed.
    """
    statements = [s for record in records for s in _statements(record, at_most, qampari)]
    known: Decisions = {}
    judged = [s for s in statements if s.passages]
    _ask(judge, (s.joint for s in judged), known)
    several = [s for s in judged if len(s.passages) > 1 and known[s.joint].entailed]
    places = [(s, place) for s in several for place in range(len(s.passages))]
    _ask(judge, (s.alone(place) for s, place in places), known)
    _ask(judge, (s.others(place) for s, place in places if not known[s.alone(place)].entailed), known)
    return _scores(len(records), [_verdict(s, known) for s in statements])


def score_claims(records: Sequence[AlceRecord], judge: Judge) -> ClaimScores:
    """Judge which of the record's `claims` its answer entails, without citations (ELI5).

    Raises:
        InputError: a record has no claims.
        UsageError: the judge fails.
    """
    pairs = [(r.index, (remove_citations(r.plain), claim)) for r in records for claim in r.texts("claims")]
    known: Decisions = {}
    _ask(judge, (pair for _, pair in pairs), known)
    verdicts = tuple(ClaimVerdict(i, pair[1], known[pair].entailed, known[pair].reason) for i, pair in pairs)
    flags: dict[int, list[bool]] = {}
    for verdict in verdicts:
        if verdict.entailed is not None:
            flags.setdefault(verdict.record, []).append(verdict.entailed)
    counts = {"claims": len(verdicts), "claims_undecided": sum(v.entailed is None for v in verdicts)}
    return ClaimScores({i: share(entailed) for i, entailed in flags.items()}, verdicts, counts)


def _ask(judge: Judge, pairs: Iterable[Pair], known: Decisions) -> None:
    """Put what the judge says of the pairs into `known`; what it was asked before is not asked again."""
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    if new:
        known.update(zip(new, judge.decide(new), strict=True))


def _statements(record: AlceRecord, at_most: int | None, qampari: bool) -> list[_Statement]:
    if qampari:
        sentences = [f"{record.text('question')} {item}" for item in list_items(record.output)]
    else:
        sentences = split_sentences(record.output)
    documents = record.documents() if any(map(_CITATION.search, sentences)) else []
    return [_statement(record.index, sentence, documents, at_most) for sentence in sentences]


def _statement(record: int, sentence: str, documents: Sequence[str], at_most: int | None) -> _Statement:
    numbers = tuple(int(digits[:_LONGEST]) for digits in _CITATION.findall(sentence))
    passages: tuple[str, ...] = ()
    problem = "" if numbers else NO_CITATION
    if numbers:
        beyond = max(numbers) if documents else min(numbers)
        if beyond > len(documents) or not documents:
            problem = f"cites [{beyond}], but there are {len(documents)} passages"
        else:
            numbers = numbers[:at_most]
            passages = tuple(documents[number - 1] for number in numbers)
    return _Statement(record, sentence, remove_citations(sentence).strip(), numbers, passages, problem)


def _verdict(s: _Statement, known: Decisions) -> SentenceVerdict:
    supported: bool | None = False
    reason = s.problem
    verdicts: tuple[CitationVerdict, ...] = ()
    if s.passages:
        supported, reason = known[s.joint].entailed, known[s.joint].reason
        if supported and len(s.passages) > 1:
            verdicts = tuple(_citation(s, place, known) for place in range(len(s.passages)))
            undecided = next((v for v in verdicts if v.needed is None), None)
            if undecided:
                supported, reason = None, f"citation [{undecided.number}] is undecided: {undecided.reason}"
    return SentenceVerdict(s.record, s.sentence, s.claim, s.citations, bool(s.passages), supported, reason, verdicts)


def _citation(s: _Statement, place: int, known: Decisions) -> CitationVerdict:
    alone, number = known[s.alone(place)], s.citations[place]
    if alone.entailed:
        return CitationVerdict(number, True, f"supports the sentence alone: {alone.reason}")
    others = known[s.others(place)]
    if others.entailed is False:
        return CitationVerdict(number, True, f"the others do not support the sentence: {others.reason}")
    if alone.entailed is None or others.entailed is None:
        return CitationVerdict(number, None, alone.reason if alone.entailed is None else others.reason)
    return CitationVerdict(number, False, f"does not support the sentence alone, the others do: {others.reason}")


def _scores(records: int, verdicts: Sequence[SentenceVerdict]) -> CitationScores:
    by_record: dict[int, list[SentenceVerdict]] = {}
    for verdict in verdicts:
        by_record.setdefault(verdict.record, []).append(verdict)
    recall: dict[int, float] = {}
    precision: dict[int, float] = {}
    for index, of_record in by_record.items():
        decided = [v for v in of_record if v.supported is not None]
        citations = sum(len(v.citations) for v in decided if v.is_judged)
        if decided:
            recall[index] = sum(bool(v.supported) for v in decided) / len(decided)
        if citations:
            precision[index] = sum(v.needed for v in decided) / citations
        elif len(decided) == len(of_record):
            precision[index] = 0.0
    several = [v for v in verdicts if v.verdicts]
    counts = {
        "sentences": len(verdicts),
        "sentences_supported": sum(v.supported is True for v in verdicts),
        "sentences_without_citation": sum(not v.citations for v in verdicts),
        "sentences_citing_out_of_range": sum(bool(v.citations) and not v.is_judged for v in verdicts),
        "sentences_undecided": sum(v.supported is None for v in verdicts),
        "sentences_with_several_citations": sum(len(v.citations) > 1 for v in verdicts),
        "citations_not_needed": sum(c.needed is False for v in several for c in v.verdicts),
        "answers_without_sentence": records - len(by_record),
        "answers_undecided": len(by_record) - len(recall),
    }
    return CitationScores(recall, precision, tuple(verdicts), counts)
