"""TREC run files: what was retrieved for each question, as `trec_eval` reads it.

One line a passage, `question Q0 passage rank score tag`, the question's passages best first and ranks from 1. An id
with white space, which would break the line, is written with `%20` for a space and so on, as in an address.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from urllib.parse import quote

from cosup.data.formats.base import Converted, Job
from cosup.data.reading import read_answers
from cosup.records import Answer

TAG = "cosup"
_NOTHING = "predictions that retrieved nothing"
_SPACES = "ids have white space (written as in an address, %20)"


def ranking(answer: Answer) -> list[tuple[str, float]]:
    """Return the distinct passages of a prediction with their scores, best first.

    With one search, its hits as they were found. With several, first what each search gave to read, in order; then
    what was cited without being among them; then what the searches kept besides, by rank, the first search's first.
    """
    searches = [(retrieval.hits[: retrieval.read], retrieval.hits[retrieval.read :]) for retrieval in answer.retrievals]
    hits = [hit for read, _ in searches for hit in read]
    hits += [hit for rank in zip_longest(*(rest for _, rest in searches)) for hit in rank if hit is not None]
    read_count = sum(len(read) for read, _ in searches)
    found = [(hit.passage_id, hit.score) for hit in hits]
    known = {passage_id for passage_id, _ in found}
    found[read_count:read_count] = [(c.passage_id, c.score) for c in answer.citations if c.passage_id not in known]
    first: dict[str, float] = {}
    for passage_id, score in found:
        first.setdefault(passage_id, score)
    return list(first.items())


def write_trec(job: Job) -> Converted:
    """Turn `predictions.jsonl` into `run.trec`.

    Scores are those of the search where they fall from rank to rank, since `trec_eval` sorts by them; else 1 / rank.

    Raises:
        InputError: a prediction is wrong; names file and line.
    """
    skipped, noted = Counter[str](), Counter[str]()
    answers = read_answers(job.source_file("predictions.jsonl"))
    return Converted({"run.trec": _lines(answers, skipped, noted)}, skipped, noted)


def _lines(answers: Sequence[Answer], skipped: Counter[str], noted: Counter[str]) -> Iterator[str]:
    for answer in answers:
        ranked = ranking(answer)
        skipped.update([] if ranked else [_NOTHING])
        for rank, ((passage_id, _), score) in enumerate(zip(ranked, _scores(ranked), strict=True), start=1):
            question, passage = (_without_spaces(name, noted) for name in (answer.id, passage_id))
            yield f"{question} Q0 {passage} {rank} {score!r} {TAG}"


def _scores(ranked: Sequence[tuple[str, float]]) -> list[float]:
    scores = [score for _, score in ranked]
    falling = all(left > right for left, right in pairwise(scores))
    return scores if falling else [1 / rank for rank in range(1, len(scores) + 1)]


def _without_spaces(name: str, noted: Counter[str]) -> str:
    if not re.search(r"\s", name):
        return name
    noted[_SPACES] += 1
    return re.sub(r"[\s%]", lambda found: quote(found[0]), name)
