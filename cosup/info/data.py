"""What files of passages, questions, examples or predictions hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import read_answers, read_examples, read_passages, read_questions, references_of
from cosup.errors import InputError, did_you_mean
from cosup.info.base import Info, Rows, share, spread
from cosup.records import Answer, Example, Passage, Question

_FIELDS = ("text", "question", "prompt", "output")  # what tells the kinds of records apart


def data_info(folder: Path) -> Info:
    """Describe a folder with passages, questions, examples or predictions in cosup's own form.

    Where it has passages, what names others than these is counted: training and evaluating would refuse it.
    """
    known: set[str] = set()
    parts: list[tuple[str, Info, list[str]]] = []
    for file in sorted(folder.glob("*.jsonl")):
        records = _records(file)
        known |= {r.id for r in records if isinstance(r, Passage)}
        naming = (r for r in records if isinstance(r, Question | Example | Answer))
        parts.append((file.name, _info(records), [passage_id for r in naming for _, passage_id in references_of(r)]))
    rows: Rows = []
    for name, info, named in parts:
        rows += [(name, info.kind), *((f"  {key}", value) for key, value in info.rows)]
        absent = len(set(named) - known)
        rows += [("  passages named that are not there", f"{absent:,}")] if known and absent else []
    return Info("data folder", tuple(rows))


def jsonl_info(path: Path) -> Info:
    """Describe a JSONL file of passages, questions, examples or predictions, by the fields of its first record."""
    return _info(_records(path))


def _records(path: Path) -> Sequence[Any]:
    """Read a file of one kind: records, or the scores by question as they are."""
    first = next((record for _, record in iter_jsonl(path)), None)
    if first is None:
        raise InputError("found no records; expected at least one line", path)
    if "scores" in first and "gold_ids" in first:
        return [record for _, record in iter_jsonl(path)]
    if "prompt" in first and "output" in first:
        return read_examples(path)
    if "text" in first and not {"segments", "citations", "retrievals", "answer"}.isdisjoint(first):
        return read_answers(path)
    if "question" in first:
        return read_questions(path)
    if "text" in first:
        return read_passages(path)
    missing = [field for field in _FIELDS if field not in first]
    found = ", ".join(f"{name!r}{did_you_mean(name, missing)}" for name in first) or "no field"
    raise InputError(f"found {found}; expected passages, questions, examples or predictions", path, 1)


def _info(records: Sequence[Any]) -> Info:
    first = records[0]
    if isinstance(first, Passage):
        return passages_info(records, "passages")
    if isinstance(first, Question):
        return questions_info(records)
    if isinstance(first, Example):
        return examples_info(records)
    return answers_info(records) if isinstance(first, Answer) else scores_info(records)


def passages_info(passages: Sequence[Passage], kind: str) -> Info:
    """Describe a corpus."""
    rows = [
        ("passages", f"{len(passages):,}"),
        ("with a title", share(sum(bool(p.title) for p in passages), len(passages))),
        ("words", spread([len(p.text.split()) for p in passages])),
        ("distinct texts", f"{len({p.rendered for p in passages}):,}"),
    ]
    return Info(kind, tuple(rows))


def questions_info(questions: Sequence[Question]) -> Info:
    """Describe questions."""
    total = len(questions)
    sentences = sum(bool(q.evidence) and all(e.sentence for e in q.evidence) for q in questions)
    rows = [
        ("questions", f"{total:,}"),
        ("words", spread([len(q.question.split()) for q in questions])),
        ("with answers", share(sum(bool(q.answers) for q in questions), total)),
        ("with a long answer", share(sum(q.long_answer is not None for q in questions), total)),
        ("with evidence", share(sum(bool(q.evidence) for q in questions), total)),
        ("with all evidence sentences", share(sentences, total)),
        ("with two or more gold passages", share(sum(len(q.gold_ids) > 1 for q in questions), total)),
        ("with candidates", share(sum(q.candidates is not None for q in questions), total)),
    ]
    return Info("questions", tuple(rows))


def examples_info(examples: Sequence[Example]) -> Info:
    """Describe training examples."""
    rows = [
        ("examples", f"{len(examples):,}"),
        ("words of a prompt", spread([len(e.prompt.split()) for e in examples])),
        ("retrievals an example", spread([len(e.passage_ids) for e in examples])),
        ("with negatives", share(sum(bool(e.negatives) for e in examples), len(examples))),
    ]
    return Info("training examples", tuple(rows))


def answers_info(answers: Sequence[Answer]) -> Info:
    """Describe predictions."""
    ends = Counter(answer.finish_reason for answer in answers)
    rows = [
        ("predictions", f"{len(answers):,}"),
        ("words", spread([len(a.text.split()) for a in answers])),
        ("retrievals an answer", spread([len(a.retrievals) for a in answers])),
        ("citations an answer", spread([len(a.citations) for a in answers])),
        ("finished by", ", ".join(f"{reason} {count:,}" for reason, count in ends.most_common())),
    ]
    return Info("predictions", tuple(rows))


def scores_info(records: Sequence[Mapping[str, Any]]) -> Info:
    """Describe the scores by question that `cosup evaluate` writes."""
    missing = sum(record.get("missing") is True for record in records)
    rows = [("questions", f"{len(records):,}"), ("without a prediction", share(missing, len(records)))]
    return Info("scores by question", tuple(rows))
