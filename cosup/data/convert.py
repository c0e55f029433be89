"""Conversion of published formats into cosup's own files: `cosup convert FORMAT IN OUT`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cosup.data.folders import chunk_folder
from cosup.data.formats.base import Converted
from cosup.data.formats.beir import read_beir
from cosup.data.formats.hotpotqa import read_hotpotqa
from cosup.data.formats.squad import read_squad
from cosup.data.formats.tevatron import read_tevatron
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import write_jsonl_files
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.records import Example, Passage

_NOTHING_TO_LEARN = "questions with neither evidence nor an answer"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        written: how many records went into each file.
        skipped: how many things were left out, by reason.
    """

    written: Mapping[Path, int]
    skipped: Mapping[str, int]


def convert(format_name: str, source: str | Path, output: str | Path) -> Conversion:
    """Convert `source` into JSONL files.

    Args:
        format_name: one of `FORMATS`.
        source: the file or folder to read.
        output: the folder to write into; for a format that gives one file, that file if the name ends in `.jsonl`.

    Returns:
        Counts of what was written and of what was skipped.

    Raises:
        UsageError: no such format, or `output` does not fit.
        InputError: `source` is wrong or has nothing to convert. Files that were there before stay as they were.
    """
    if format_name not in FORMATS:
        hint = did_you_mean(format_name, FORMATS)
        raise UsageError(f"no format '{format_name}'{hint}; there are {', '.join(FORMATS)}")
    converted = FORMATS[format_name](Path(source))
    empty = [name for name, records in converted.files.items() if not records]
    if empty:
        reasons = "; ".join(f"skipped {count} {reason}" for reason, count in converted.skipped.items())
        raise InputError(f"nothing there for {', '.join(empty)}{f' ({reasons})' if reasons else ''}", source)
    targets = _targets(list(converted.files), Path(output))
    written = write_jsonl_files({targets[name]: records for name, records in converted.files.items()})
    return Conversion(written, dict(converted.skipped))


def _targets(names: list[str], output: Path) -> dict[str, Path]:
    """Say where each file goes."""
    if output.suffix.lower() != ".jsonl" or output.is_dir():
        if output.exists() and not output.is_dir():
            raise UsageError(f"cannot write into {output}: it is a file; expected a folder")
        return {name: output / name for name in names}
    if len(names) > 1:
        raise UsageError(f"this format gives {', '.join(names)}; expected a folder to put them in, not {output}")
    return {names[0]: output}


def _folder(source: Path) -> Converted:
    return Converted({"passages.jsonl": chunk_folder(source)})


def _parquet(source: Path) -> Converted:
    if not source.is_dir():
        return Converted({"passages.jsonl": read_passages(source)})
    parts = sorted(source.rglob("*.parquet"))
    if not parts:
        raise InputError("found no .parquet file there", source)
    passages: dict[str, Passage] = {}
    for part in parts:
        for passage in read_passages(part):
            if passage.id in passages:
                raise InputError(f"id {passage.id!r} again, after another file; expected distinct ids", part)
            passages[passage.id] = passage
    return Converted({"passages.jsonl": list(passages.values())})


def _examples(source: Path) -> Converted:
    """Turn `questions.jsonl` into `examples.jsonl`, `questions.train.jsonl` into `examples.train.jsonl`."""
    if not source.is_dir():
        raise InputError("expected a folder with passages.jsonl and questions.jsonl (or questions.train.jsonl)", source)
    files = sorted(source.glob("questions*.jsonl"))
    if not files:
        raise InputError("found no questions.jsonl or questions.*.jsonl there", source)
    passages = {passage.id: passage for passage in read_passages(source / "passages.jsonl")}
    skipped: Counter[str] = Counter()
    names = {file: "examples" + file.name.removeprefix("questions") for file in files}
    return Converted({names[file]: _examples_of(file, passages, skipped) for file in files}, skipped)


def _examples_of(file: Path, passages: Mapping[str, Passage], skipped: Counter[str]) -> list[Example]:
    from cosup.data.templates import question_to_example

    questions = read_questions(file)
    check_references(questions, passages, file)
    usable = [q for q in questions if q.evidence or q.answers or q.long_answer]
    skipped.update([_NOTHING_TO_LEARN] * (len(questions) - len(usable)))
    return [question_to_example(question, passages) for question in usable]


FORMATS: dict[str, Callable[[Path], Converted]] = {
    "folder": _folder,
    "squad": read_squad,
    "hotpotqa": read_hotpotqa,
    "beir": read_beir,
    "tevatron": read_tevatron,
    "parquet": _parquet,
    "examples": _examples,
}
