"""KILT tasks, and predictions as KILT wants them.

Format (facebookresearch/KILT), one line a question: `{"id", "input", "output": [{"answer", "provenance":
[{"wikipedia_id", "title", "start_paragraph_id", "start_character", "end_paragraph_id", "end_character", ..}]}],
"meta"}`. An entry of `output` may hold an answer, provenance, or both; a blind test set has no `output`.

Questions keep all distinct answers in their order; an answer of FEVER (`SUPPORTS`, `REFUTES`) is the `label` too, and
the first of ELI5 and Wizard of Wikipedia (by the file's name; elsewhere the first of ten words or more) the
`long_answer`. Where several outputs have provenance, each is one of the `evidence_sets`, of which one is enough.
What the evidence names depends on whether there is a `passages.jsonl` made by `kilt-knowledge` (given, or in the
folder of the tasks or of the output):

- without one, pages: `passage_id` is the `wikipedia_id`;
- with one, the passages that overlap the provenance (its paragraphs, and the characters in them where they are
  given), found by reading the passages once. Where the provenance is part of one paragraph of a passage, the evidence
  has the sentence around it. A provenance that names a page alone, a title or a heading has the passage that follows;
  one that is not in `passages.jsonl` is left out and counted.

A submission has the page of each retrieved passage, best first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from cosup.data.formats.base import Converted, Job, Place, as_type, get, iter_passages, objects
from cosup.data.formats.kilt_knowledge import page_id_of
from cosup.data.formats.squad import sentence_around
from cosup.data.formats.trec import ranking
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import line_of, read_answers
from cosup.errors import InputError
from cosup.records import Answer, Evidence, Passage, Question

_LABELS = frozenset({"SUPPORTS", "REFUTES", "NOT ENOUGH INFO"})
_LONG_TASKS = ("eli5", "wow")
_LONG = 10  # words from which on an answer is a long one
_NO_INPUT = "questions without text"
_NO_PAGE = "provenances without a page"
_NOT_THERE = "provenances that are not in passages.jsonl"
_NO_ANSWER = "answers are empty (KILT's scorer refuses such a file)"
_PAGE_UNKNOWN = "passages do not tell their page (their id stands for it)"
_END = 2**53  # past the end of every paragraph
_SPAN_FIELDS = ("start_paragraph_id", "start_character", "end_paragraph_id", "end_character")

Position: TypeAlias = tuple[int, int]  # paragraph, character


@dataclass(frozen=True, slots=True)
class Span:
    """A provenance: a page and the part of it from `start` to before `end`."""

    page: str
    start: Position
    end: Position


@dataclass(frozen=True, slots=True)
class _Task:
    place: Place
    question: Question  # without evidence
    sets: tuple[tuple[Span, ...], ...]  # one for each output that has provenance: any of them is enough
    without_page: int

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(dict.fromkeys(span for spans in self.sets for span in spans))


def read_kilt(job: Job) -> Converted:
    """Read questions of one task into `questions.jsonl`, of a folder of tasks into `questions.<task>.jsonl`.

    Args:
        job: the source is a task file, or a folder with files `<task>-kilt.jsonl`; `passages` is optional.

    Raises:
        InputError: a record is wrong, an id comes twice, or `passages.jsonl` has none of the provenance.
    """
    tasks = _task_files(job.source)
    passages = job.passages_file()
    evidence = None if passages is None else _covering(passages, list(tasks.values()))
    skipped: Counter[str] = Counter()
    return Converted({name: _questions(path, evidence, skipped) for name, path in tasks.items()}, skipped)


def _task_files(source: Path) -> dict[str, Path]:
    """Return the task files by the name of what they become."""
    if not source.is_dir():
        return {"questions.jsonl": source}
    files = sorted([*source.glob("*-kilt.jsonl"), *source.glob("*-kilt.jsonl.gz")])
    if not files:
        raise InputError("found no file <task>-kilt.jsonl there; expected KILT's task files", source)
    return {f"questions.{file.name.split('-kilt.jsonl')[0]}.jsonl": file for file in files}


def _questions(path: Path, evidence: Mapping[Span, list[Evidence]] | None, skipped: Counter[str]) -> Iterator[Question]:
    seen: set[str] = set()
    for task in _read_tasks(path):
        question = task.question
        if question.id in seen:
            raise task.place.error(f"id {question.id!r} again; expected distinct ids")
        seen.add(question.id)
        if not question.question.strip():
            skipped[_NO_INPUT] += 1
            continue
        skipped.update({_NO_PAGE: task.without_page} if task.without_page else {})
        found: dict[Evidence, None] = {}
        sets: dict[tuple[str, ...], None] = {}
        for spans in task.sets:
            named = {span: [Evidence(span.page)] if evidence is None else evidence.get(span, []) for span in spans}
            found |= dict.fromkeys(e for own in named.values() for e in own)
            if ids := tuple(dict.fromkeys(e.passage_id for own in named.values() for e in own)):
                sets[ids] = None
        lost = [span for span in task.spans if evidence is not None and not evidence.get(span)]
        skipped.update([_NOT_THERE] * len(lost))
        with_sentence = {e.passage_id for e in found if e.sentence is not None}
        told = tuple(e for e in found if e.sentence is not None or e.passage_id not in with_sentence)
        yield replace(question, evidence=told, evidence_sets=tuple(sets) if len(sets) > 1 else ())


def _read_tasks(path: Path) -> Iterator[_Task]:
    for line, record in iter_jsonl(path):
        place = Place(path, line=line)
        with place.named():
            question = Question.from_dict({"id": get(record, "id", object, place), "question": "?"})
        text = get(record, "input", str, place).strip()
        outputs = list(objects(record, "output", place))
        answers = [get(entry, "answer", str, at, default="").strip() for entry, at in outputs]
        answers = list(dict.fromkeys(answer for answer in answers if answer))
        label = answers[0] if len(answers) == 1 and answers[0] in _LABELS else None
        groups = [list(objects(entry, "provenance", at)) for entry, at in outputs]
        sets = [
            tuple(dict.fromkeys(_span(e, at) for e, at in group if e.get("wikipedia_id") is not None))
            for group in groups
        ]
        known = Question(question.id, text, tuple(answers), _long_answer(path, answers), label=label)
        without_page = sum(entry.get("wikipedia_id") is None for group in groups for entry, _ in group)
        yield _Task(place, known, tuple(dict.fromkeys(own for own in sets if own)), without_page)


def _long_answer(path: Path, answers: Sequence[str]) -> str | None:
    """Return the first answer of a task of long answers: ELI5 and Wizard of Wikipedia by the file's name."""
    is_long = path.name.lower().startswith(_LONG_TASKS)
    return next((a for a in answers if is_long or len(a.split()) >= _LONG), None)


def _span(entry: dict[str, Any], place: Place) -> Span:
    """Return where a provenance stands: whole paragraphs without characters, the page's beginning without both."""
    first, start, last, end = (_number(entry, name, place) for name in _SPAN_FIELDS)
    page = page_id_of(entry, place)
    if first is None:
        return Span(page, (0, 0), (0, 0))
    last = first if last is None or last < first else last
    begin = (first, start or 0)
    finish = (last, _END if end is None else end)
    return Span(page, begin, max(finish, (first, begin[1] + 1)))


def _number(entry: Mapping[str, Any], name: str, place: Place) -> int | None:
    """Return a paragraph or character, None where it is not given (null or negative)."""
    value = entry.get(name)
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    number = None if value is None else as_type(value, int, place.at(f".{name}"))
    return None if number is None or number < 0 else min(number, _END)


def _covering(path: Path, tasks: list[Path]) -> dict[Span, list[Evidence]]:
    """Return for each provenance of the tasks the passages that overlap it, read from `passages.jsonl` once."""
    spans = {span for file in tasks for task in _read_tasks(file) for span in task.spans}
    wanted: dict[str, list[Span]] = {}
    for span in spans:
        wanted.setdefault(span.page, []).append(span)
    found: dict[Span, list[Evidence]] = {}
    following: dict[Span, Evidence] = {}
    for passage, place in iter_passages(path):
        for span in wanted.get(page_of(passage), ()):
            start, end = (_position(passage, side, place) for side in ("start", "end"))
            if start < span.end and span.start < end:
                found.setdefault(span, []).append(Evidence(passage.id, _sentence(passage, span, start, end)))
            elif span.start <= start:
                following.setdefault(span, Evidence(passage.id))
    if spans and not found and not following:
        message = "found no passage of a page that the tasks name; expected the passages made by kilt-knowledge"
        raise InputError(message, path)
    return {span: [evidence] for span, evidence in following.items()} | found


def page_of(passage: Passage) -> str:
    """Return the Wikipedia page of a passage: in its metadata, or its id, of `page:number` what is before the colon."""
    return str(passage.metadata.get("wikipedia_id", page_of_id(passage.id)))


def page_of_id(passage_id: str) -> str:
    """Return the page in an id `page:number`; another id is that of a page."""
    page, colon, number = passage_id.rpartition(":")
    return page if colon and page and number.isdecimal() else passage_id


def _position(passage: Passage, side: str, place: Place) -> Position:
    """Return where a passage starts or ends; one that does not say so is the whole page."""
    at, whole = place.at(".metadata"), (0 if side == "start" else _END)
    paragraph = _number(passage.metadata, f"{side}_paragraph_id", at)
    character = _number(passage.metadata, f"{side}_character", at)
    return (whole if paragraph is None else paragraph, whole if character is None else character)


def _sentence(passage: Passage, span: Span, start: Position, end: Position) -> str | None:
    """Return the sentence around a provenance that is a part of a passage of one paragraph, else None."""
    finish = min(span.end, end) if span.end <= (end[0], end[1] + 1) else span.end  # past a passage comes white space
    inside = start <= span.start and finish <= end and (start, end) != (span.start, finish)
    if not inside or start[0] != end[0] or len(passage.text) != end[1] - start[1]:
        return None
    offset = span.start[1] - start[1]
    length = finish[1] - span.start[1]
    if not passage.text[offset : offset + length].strip():
        return None
    around = sentence_around(passage.text, offset, length)
    return None if around == passage.text else around


def write_kilt_submission(job: Job) -> Converted:
    """Turn predictions into the file that KILT scores: `{"id", "output": [{"answer", "provenance": [..]}]}` a line.

    The answer is the prediction's `answer`. Its provenance are the distinct pages of what was retrieved, best first
    (see `trec.ranking`). The page of a passage is told by the metadata in `passages.jsonl`, if there is one, else by
    its id.

    Raises:
        InputError: a prediction is wrong, or a passage is not in `passages.jsonl`.
    """
    source = job.source_file("predictions.jsonl")
    answers = read_answers(source)
    ranked = {answer.id: [passage_id for passage_id, _ in ranking(answer)] for answer in answers}
    path = job.passages_file()
    known = None if path is None else _known(path, {i for ids in ranked.values() for i in ids})
    for name, ids in ranked.items():
        if known is not None and (lost := [passage_id for passage_id in ids if passage_id not in known]):
            message = f"{name!r} names the passage {lost[0]!r}; expected one of those in {path}"
            raise InputError(message, source, line_of(source, name))
    noted: Counter[str] = Counter()
    return Converted({"kilt-submission.jsonl": _guesses(answers, ranked, known, noted)}, noted=noted)


def _known(path: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Return the provenance of the passages that are wanted, by id, as far as they are there."""
    known = {}
    for passage, _ in iter_passages(path):
        if passage.id in wanted:
            where = {name: passage.metadata[name] for name in _SPAN_FIELDS if name in passage.metadata}
            known[passage.id] = {"wikipedia_id": page_of(passage), "title": passage.title, **where}
    return known


def _guesses(
    answers: Iterable[Answer],
    ranked: Mapping[str, list[str]],
    known: Mapping[str, dict[str, Any]] | None,
    noted: Counter[str],
) -> Iterator[dict[str, Any]]:
    for answer in answers:
        provenance: dict[str, dict[str, Any]] = {}
        for passage_id in ranked[answer.id]:
            entry = {"wikipedia_id": page_of_id(passage_id)} if known is None else known[passage_id]
            provenance.setdefault(entry["wikipedia_id"], entry)
        noted.update([] if answer.answer.strip() else [_NO_ANSWER])
        noted.update(_PAGE_UNKNOWN for page in provenance if not page.isdecimal())
        output = {"answer": answer.answer.strip(), "provenance": list(provenance.values())}
        yield {"id": answer.id, "input": answer.question, "output": [output]}
