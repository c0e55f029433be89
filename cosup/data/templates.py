"""Templates: how a question with its gold evidence becomes a training example."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cosup.data.reading import unknown_passage
from cosup.data.sentences import sentences
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.records import Evidence, Example, Passage, Question, RetrievalSegment, Segment, TextSegment


def question_to_example(question: Question, passages: Mapping[str, Passage], template: str = "claims") -> Example:
    """Turn a question into a training example.

    Templates:
        `claims`: evidence is merged by passage in order of first appearance; each passage renders `[Ret]` passage
        `[Cs]` claim `[Ce]`; the claim is its gold sentences, or where they are null the passage's first sentence that
        holds an answer (as whole words, if any does), else its first sentence. Then comes `answers[0]`, or
        `long_answer` where there are no answers.
        `claims_long`: the same with `long_answer` first, for tasks whose answers are all wanted.

    Raises:
        UsageError: no such template.
        InputError: the evidence names a passage that is not there, or the question has nothing to be learnt.
    """
    if template not in TEMPLATES:
        hint = did_you_mean(template, TEMPLATES)
        raise UsageError(f"no template '{template}'{hint}; there are {', '.join(TEMPLATES)}")
    output: list[Segment] = [
        RetrievalSegment(passage_id, _claim(evidence, question, passages))
        for passage_id, evidence in _by_passage(question).items()
    ]
    final = TEMPLATES[template](question)
    if final:
        output.append(TextSegment(final))
    if not output:
        raise InputError(f"question '{question.id}' has neither evidence nor an answer; nothing can be learnt from it")
    return Example(question.id, question.question, tuple(output), instruction=question.instruction)


def _by_passage(question: Question) -> dict[str, list[Evidence]]:
    merged: dict[str, list[Evidence]] = {}
    for evidence in question.evidence:
        merged.setdefault(evidence.passage_id, []).append(evidence)
    return merged


def _claim(evidence: list[Evidence], question: Question, passages: Mapping[str, Passage]) -> str:
    passage = passages.get(evidence[0].passage_id)
    if passage is None:
        raise unknown_passage("evidence", question.id, evidence[0].passage_id, len(passages))
    parts = [e.sentence if e.sentence else _likely_sentence(passage, question.answers) for e in evidence]
    return " ".join(dict.fromkeys(part.strip() for part in parts))


def _likely_sentence(passage: Passage, answers: tuple[str, ...]) -> str:
    """The first sentence with an answer as whole words, else one with an answer inside a word, else the first."""
    found = sentences(passage.text)
    spelled = [re.escape(answer.strip()) for answer in answers if answer.strip()]
    for pattern in (rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)", "|".join(spelled)):
        for sentence in found if spelled else ():
            if re.search(pattern, sentence, flags=re.IGNORECASE):
                return sentence
    return found[0] if found else passage.text


def _short_answer(question: Question) -> str | None:
    return question.answers[0] if question.answers else question.long_answer


def _long_answer(question: Question) -> str | None:
    return question.long_answer or _short_answer(question)


TEMPLATES: dict[str, Callable[[Question], str | None]] = {"claims": _short_answer, "claims_long": _long_answer}
