"""Answering a whole file of questions, resumably: one run, one partial file, one whole file at the end.

Finished answers are appended to `.NAME.partial` beside the output. Its first line says what made them: model, index,
questions and settings; answers of different runs never mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosup.data.jsonl import parse_object
from cosup.data.reading import line_of
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.generation.engine import Engine
from cosup.generation.settings import GenerationSettings
from cosup.index.base import file_checksum
from cosup.model_folder import PairSettings, fingerprint_of
from cosup.records import Answer, Question
from cosup.version import __version__

Progress = Callable[[int, int, str], None]
"""Called with the number of questions answered, the number of all, and a note."""


def predict(
    engine: Engine,
    questions: Sequence[Question],
    output: str | Path,
    identity: Mapping[str, Any],
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answer `questions` into `output`, a `predictions.jsonl`; the same call goes on after an interruption.

    Args:
        engine: writes the answers.
        questions: with distinct ids.
        output: written whole at the end, in the order of the questions.
        identity: what decides the answers, as JSON; see `identity_of`.
        batch_size: questions at once; does not change the answers.
        progress: called at the start and after each batch.

    Raises:
        UsageError: `output` is no place for a file, answers of another run wait beside it, or the disk is full.
        InputError: a question does not fit into the context.
    """
    output = Path(output)
    check_output(output)
    partial = partial_path(output)
    identity = json.loads(json.dumps(identity))  # as it will be read back: no tuples
    answers = {answer.id: answer for answer in _finished(partial, identity)}
    pending = [question for question in questions if question.id not in answers]
    if progress:
        progress(len(answers), len(questions), "")
    for _, answer in engine.finished(pending, batch_size):
        _append(partial, identity, [answer])
        answers[answer.id] = answer
        if progress:
            progress(len(answers), len(questions), "")
    ordered = [answers[question.id] for question in questions]
    write_jsonl(output, ordered)
    partial.unlink(missing_ok=True)
    return ordered


def identity_of(model: Path, index: str, questions: Path, settings: GenerationSettings, dtype: str) -> dict[str, Any]:
    """Return what decides the answers of a run: checksums of its inputs, the index's `identity`, and its settings."""
    return {
        "cosup_version": __version__,
        "model": fingerprint_of(model / "generator", PairSettings()) + file_checksum(model / "cosup.json"),
        "index": index,
        "questions": file_checksum(questions),
        "dtype": dtype,
        **{f"settings.{name}": value for name, value in asdict(settings).items()},
    }


def partial_path(output: Path) -> Path:
    """Return where the finished answers of a run wait until all are there."""
    return output.with_name(f".{output.name}.partial")


def check_output(path: Path) -> None:
    """Make sure that a file can be written, before work begins; nothing is created.

    Raises:
        UsageError: it is a folder, or stands where no file can be.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; expected a file name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UsageError(f"cannot write {path}: {above} is a file")
    if not os.access(above, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write into {above}")


def check_questions(engine: Engine, questions: Sequence[Question], path: Path) -> None:
    """Check that every question fits into the context and names only passages of the index.

    Raises:
        InputError: names file and line of the first that does not.
    """
    for question in questions:
        try:
            engine.check(question)
        except InputError as error:
            raise InputError(str(error), path, line_of(path, question.id)) from None


def _finished(partial: Path, identity: Mapping[str, Any]) -> list[Answer]:
    """Read the answers of an interrupted run; a last line that was cut off is dropped from the file."""
    if not partial.is_file():
        return []
    lines = partial.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole:
        partial.unlink()
        return []
    try:
        header, *records = [parse_object(line, partial, number) for number, line in enumerate(whole, start=1)]
        answers = [Answer.from_dict(record) for record in records]
    except InputError:
        raise UsageError(f"{partial} is damaged; delete it to answer all questions again") from None
    differing = sorted(key for key in {*header, *identity} if header.get(key) != identity.get(key))
    if differing:
        raise UsageError(
            f"{partial} holds {len(answers)} answers of an interrupted run that differs in {', '.join(differing)}; "
            "finish it with its own command, delete it, or choose another --output"
        )
    if len(whole) < len(lines):
        os.truncate(partial, sum(map(len, whole)))
    return answers


def _append(partial: Path, identity: Mapping[str, Any], answers: Sequence[Answer]) -> None:
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        begins = not partial.exists()
        with partial.open("a", encoding="utf-8", newline="\n") as stream:
            records = [*([dict(identity)] if begins else []), *(answer.to_dict() for answer in answers)]
            stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    except OSError as error:
        raise UsageError(f"cannot write {partial}: {error.strerror or error}; finished answers are kept") from error
