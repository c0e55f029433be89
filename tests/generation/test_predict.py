"""Answering a file: whole at the end, resumable in between, never mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cosup.data.reading import read_answers
from cosup.errors import InputError, UsageError
from cosup.generation import predict
from cosup.generation.predict import partial_path
from cosup.generation.settings import GenerationSettings
from cosup.index.filters import Filter
from cosup.records import Answer, Question

QUESTIONS = [Question(f"q{i}", f"what is {i}?") for i in range(5)]
IDENTITY = {"model": "m", "settings.seed": 0}


class Scripted:
    """Answers without a model, each batch from its end, and stops after `limit` batches as if interrupted."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.asked: list[str] = []

    def finished(self, questions: Sequence[Question], batch_size: int) -> Iterator[tuple[int, Answer]]:
        for number, start in enumerate(range(0, len(questions), batch_size)):
            if number == self.limit:
                raise KeyboardInterrupt
            batch = questions[start : start + batch_size]
            self.asked += [q.id for q in batch]
            for place, q in reversed(list(enumerate(batch))):
                yield start + place, Answer(q.id, q.question, f"answer ü {q.id}", q.id)

    def check(self, question: Question) -> None:
        if question.id == "q3":
            raise InputError("question 'q3' is too long")


def answer(engine: Scripted, output: Path, **changes: Any) -> list[Answer]:
    identity = {**IDENTITY, **changes}
    return predict.predict(engine, QUESTIONS, output, identity, batch_size=2)  # type: ignore[arg-type]


def interrupted(output: Path, batches: int = 1) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(Scripted(batches), output)


def test_an_interrupted_run_goes_on_and_gives_what_an_uninterrupted_one_gives(tmp_path: Path) -> None:
    answer(Scripted(), tmp_path / "whole.jsonl")
    interrupted(tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()
    engine = Scripted()
    answer(engine, tmp_path / "p.jsonl")
    assert engine.asked == ["q2", "q3", "q4"]
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.jsonl", "whole.jsonl"]


def test_a_run_with_a_filter_goes_on(tmp_path: Path) -> None:
    """What is read back from the file is compared with what was given: lists there, tuples here."""
    settings = asdict(GenerationSettings(filter=Filter.parse({"year": [1, 2]})))
    with pytest.raises(KeyboardInterrupt):
        answer(Scripted(1), tmp_path / "p.jsonl", **settings)
    assert len(answer(Scripted(), tmp_path / "p.jsonl", **settings)) == 5


def test_a_line_cut_off_by_a_crash_is_answered_again(tmp_path: Path) -> None:
    output = tmp_path / "p.jsonl"
    interrupted(output, batches=2)
    data = partial_path(output).read_bytes()
    partial_path(output).write_bytes(data[:-9])
    engine = Scripted()
    answers = answer(engine, output)
    assert engine.asked == ["q2", "q4"]
    assert [a.id for a in read_answers(output)] == [a.id for a in answers] == [q.id for q in QUESTIONS]


@pytest.mark.parametrize("kept", [0, 4])
def test_a_crash_within_the_first_line_begins_anew(tmp_path: Path, kept: int) -> None:
    output = tmp_path / "p.jsonl"
    interrupted(output)
    partial_path(output).write_bytes(partial_path(output).read_bytes()[:kept])
    assert len(answer(Scripted(), output)) == 5


def test_answers_of_other_settings_are_never_mixed_in(tmp_path: Path) -> None:
    output = tmp_path / "p.jsonl"
    interrupted(output)
    before = partial_path(output).read_bytes()
    with pytest.raises(UsageError, match=r"holds 2 answers .* differs in settings\.seed;"):
        answer(Scripted(), output, **{"settings.seed": 1})
    assert partial_path(output).read_bytes() == before


def test_a_damaged_partial_file_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "p.jsonl"
    interrupted(output)
    with partial_path(output).open("a") as stream:
        stream.write("{nonsense\n")
    with pytest.raises(UsageError, match="damaged"):
        answer(Scripted(), output)


def test_progress_begins_with_what_was_done(tmp_path: Path) -> None:
    interrupted(tmp_path / "p.jsonl")
    told: list[tuple[int, int]] = []
    engine: Any = Scripted()
    predict.predict(engine, QUESTIONS, tmp_path / "p.jsonl", IDENTITY, 2, lambda done, n, _: told.append((done, n)))
    assert told == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output, message in ((tmp_path, "it is a folder"), (tmp_path / "file" / "p.jsonl", "is a file")):
        engine = Scripted()
        with pytest.raises(UsageError, match=message):
            answer(engine, output)
        assert engine.asked == []


def test_a_question_that_does_not_fit_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(f'{{"id": "{q.id}", "question": "x"}}' for q in QUESTIONS), encoding="utf-8")
    engine: Any = Scripted()
    with pytest.raises(InputError, match=r"q\.jsonl:4: question 'q3' is too long"):
        predict.check_questions(engine, QUESTIONS, path)
