"""What a model writes, and predictions that others have written: citations, events, scores, reports, pages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from cosup.data.reading import read_answers, read_passages, read_questions
from cosup.errors import CosupError, InputError
from cosup.evaluation import evaluate, write_report
from cosup.evaluation.alce_records import list_items, read_alce
from cosup.evaluation.html import write_html
from cosup.evaluation.judging.base import Decision
from cosup.evaluation.judging.cache import VerdictFile
from cosup.evaluation.kilt_records import read_golds, read_guesses
from cosup.generation.events import ClaimClosed, EventStream, Finished, answer_of
from cosup.generation.predict import predict
from cosup.generation.rows import Piece, Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.info.describe import describe
from cosup.records import Answer, Hit, Passage, Question
from cosup.tokens import ControlTokenIds
from tests.fuzz.damage import as_json, cases
from tests.fuzz.formats import ALCE, KILT
from tests.fuzz.readers import ANSWER, LINE, PASSAGES, QUESTION, named, write
from tests.fuzz.running import Run, Target

WORDS = (
    "Ada ",
    " was",
    "born",
    " in",
    " Elm.",
    ".",
    "!",
    " ",
    "\n",
    "",
    "[1]",
    " [2].",
    "\ufffd",
    "木",
    "。",
    "a",
    "\u0301",
)
CONTROL = ControlTokenIds(ret=100, cs=101, ce=102, eos=103)
STATES = torch.zeros(1, 1)


def _decode(piece: Piece) -> str:
    """Return a piece's text as the engine does; the words are the tokens."""
    before, whole = (("".join(WORDS[token] for token in ids)) for ids in (piece.before, (*piece.before, *piece.ids)))
    return whole[len(before.rstrip("\ufffd")) :] if piece.before else whole


def _written(data: bytes) -> tuple[Row, list[Any]]:
    """Drive a row by bytes as the engine does, and return it with its events: the first three are settings."""
    left = iter(data[3:])
    options = [*data[:3], 0, 0, 0]
    settings = GenerationSettings(
        ret_first=bool(options[0] & 1),
        ctx_truncate=bool(options[0] & 2),
        max_retrievals=1 + options[1] % 6,
        max_new_tokens=1 + options[2],
        draft_tokens=0,
    )
    row = Row(Question("q", "Where?"), [0, 1], CONTROL, settings, 80 + options[1])
    stream = EventStream(row, _decode, lambda passage_id: Passage(passage_id, "", "x"))
    events: list[Any] = []
    while row.stage is not Stage.DONE:
        row.take(1000)
        if row.stage is not Stage.RETRIEVING:
            row.react(STATES, lambda row, _: _chosen(row, left))
        if row.stage is Stage.RETRIEVING:
            _search(row, next(left, 0))
        events += stream.news()
    return row, [*events, *stream.news()] if not any(isinstance(e, Finished) for e in events) else events


def _chosen(row: Row, left: Iterator[int]) -> int:
    """Return a token that may come next; where the bytes have ended, the end."""
    for byte in left:
        token = 100 + byte % 4 if byte >= 200 else byte % len(WORDS)
        if token not in row.banned():
            return token
    return CONTROL.eos


def _search(row: Row, byte: int) -> None:
    hits = [Hit(f"p{(byte + n) % 5}", 1.0 - n / 10) for n in range(byte % 4)]
    read = min(len(hits), byte // 4 % 3)
    if read:
        row.read(hits, [[0] * (byte // 12)] * read)
    else:
        row.abstain(hits)


def _citations(_: Path) -> Run:
    def run(data: bytes) -> None:
        row, events = _written(data)
        answer = answer_of(row, _decode)
        check_answer(answer)
        closed = [citation for event in events if isinstance(event, ClaimClosed) for citation in event.citations]
        assert tuple(closed) == answer.citations, (closed, answer)
        assert events[-1] == Finished(answer)

    return run


def check_answer(answer: Answer) -> None:
    """Check that spans, marks and numbers of an answer are what the documents say."""
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    first: dict[str, int] = {}
    for c in answer.citations:
        assert c.n == first.setdefault(c.passage_id, len(first) + 1)
        claim = answer.text[c.start : c.end]
        assert claim.strip() == claim or not claim.strip()
        assert c.claim.startswith(claim)
        assert len(c.claim[len(claim) :].strip()) <= 1
        assert f"[{c.n}]" in answer.text[c.end :]
    assert all(0 <= r.position <= len(answer.text) for r in answer.retrievals)


def _evaluated(folder: Path) -> Run:
    """Predictions of other systems: scored, written as a report and as a page, described."""
    path, output = folder / "predictions.jsonl", folder / "out"
    write(folder / "questions.jsonl", as_json(QUESTION) + b"\n")
    write(folder / "passages.jsonl", PASSAGES["passages.jsonl"].encode())
    questions = read_questions(folder / "questions.jsonl")
    passages = {passage.id: passage for passage in read_passages(folder / "passages.jsonl")}

    def run(data: bytes) -> None:
        write(path, data)
        with named(folder):
            answers = read_answers(path)
        report = evaluate(answers, questions, passages.values())
        assert all(0 <= value <= 100 for value in report.metrics.values() if value is not None)
        write_report(report, output)
        write_html(report, passages, output / "report.html")
        describe(output)
        describe(path)

    return run


def _official(read: Callable[[Path], Any], name: str) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        path = folder / name

        def run(data: bytes) -> None:
            write(path, data)
            with named(folder):
                read(path)

        return run

    return prepare


def _alce(path: Path) -> None:
    for record in read_alce(path):
        list_items(record.output)
        for look in ("answer_sets", "short_answers", "references", "documents"):
            with contextlib.suppress(InputError):
                getattr(record, look)


def _report(folder: Path) -> Run:
    path = folder / "report.json"

    def run(data: bytes) -> None:
        write(path, data)
        describe(path)
        describe(folder)

    return run


def _partial(folder: Path) -> Run:
    """Answers of an interrupted run: gone on with, or refused; never lost."""
    output = folder / "predictions.jsonl"
    partial = folder / ".predictions.jsonl.partial"

    class Ready:
        """An engine that has nothing left to answer, or gives empty answers."""

        def finished(self, questions: list[Question], _size: int) -> Iterator[tuple[int, Answer]]:
            return ((n, Answer(q.id, q.question, "", "")) for n, q in enumerate(questions))

    def run(data: bytes) -> None:
        output.unlink(missing_ok=True)
        write(partial, data)
        try:
            predict(Ready(), [Question("q1", "Where?")], output, identity={"index": "x"}, batch_size=1)  # type: ignore[arg-type]
        except CosupError:
            assert partial.exists()
            assert not output.exists()
            raise
        assert [answer.id for answer in read_answers(output)] == ["q1"]

    return run


def _verdicts(folder: Path) -> Run:
    """Kept verdicts of a judge: what is damaged is asked again."""
    kept = VerdictFile(folder, "judge")
    kept.add({"00": Decision(True)})
    (path,) = (p for p in folder.rglob("*") if p.is_file() and p.suffix == ".jsonl")

    def run(data: bytes) -> None:
        write(path, data)
        kept.read()

    return run


PARTIAL = b'{"index": "x"}\n' + as_json(ANSWER) + b"\n"
REPORT = {"metrics": {"em": 50.0, "f1": 1}, "count": 2, "per_task": {}, "settings": {"a": "b", "k": [1, 2]}}
SCORED = {"data": [ALCE | {"output": "In Elm [1]. Yes.", "id": "1"}]}
GUESS = {"id": "k1", "output": [KILT["output"][0]]}

OUTPUTS = (
    Target(
        "citations", _citations, st.binary(min_size=3, max_size=60), (bytes([3, 5, 90, 200, 9, 1, 2, 202, 5, 103]),)
    ),
    Target("evaluate", _evaluated, cases([as_json(ANSWER) + b"\n"], ANSWER, around=LINE), (as_json(ANSWER) + b"\n",)),
    Target(
        "kilt-gold",
        _official(read_golds, "in.jsonl"),
        cases([as_json(KILT)], KILT, around=LINE),
        (as_json(KILT) + b"\n",),
    ),
    Target(
        "kilt-guess",
        _official(read_guesses, "in.jsonl"),
        cases([as_json(GUESS)], GUESS, around=LINE),
        (as_json(GUESS) + b"\n",),
    ),
    Target("alce-scored", _official(_alce, "in.json"), cases([as_json(SCORED)], SCORED), (as_json(SCORED),)),
    Target("report", _report, cases([as_json(REPORT)], REPORT), (as_json(REPORT),)),
    Target("predictions-partial", _partial, cases([PARTIAL], ANSWER, around=(b'{"index": "x"}\n', b"\n")), (PARTIAL,)),
)
