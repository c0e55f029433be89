"""Conversion of published formats into cosup's own files, and back: `cosup convert FORMAT IN OUT`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cosup.data.folders import chunk_folder
from cosup.data.formats.alce import read_alce, write_alce_output
from cosup.data.formats.base import Converted, Job
from cosup.data.formats.beir import read_beir, write_beir
from cosup.data.formats.hotpotqa import read_hotpotqa
from cosup.data.formats.kilt import read_kilt, write_kilt_submission
from cosup.data.formats.kilt_knowledge import read_kilt_knowledge
from cosup.data.formats.selfrag import read_selfrag
from cosup.data.formats.squad import read_squad
from cosup.data.formats.tevatron import read_tevatron, write_tevatron
from cosup.data.formats.trec import write_trec
from cosup.data.paths import looked_up
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import JsonRecord, check_apart, write_jsonl_files
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.records import Example, Passage

_NOTHING_TO_LEARN = "questions with neither evidence nor an answer"
_FILE_SUFFIXES = frozenset({".jsonl", ".json", ".trec", ".run", ".txt"})
_OTHER_SUFFIXES = frozenset({".csv", ".gz", ".html", ".md", ".parquet", ".tsv", ".xml", ".yaml", ".yml", ".zip"})
_TAKE_PASSAGES = ("kilt", "kilt-submission", "alce-output")
_TAKE_GOLD = ("alce-output",)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        written: how many records went into each file.
        skipped: how many things were left out, by reason.
        noted: how many things were written but not as they were, by what was done.
        replaced: files that had been there before.
    """

    written: Mapping[Path, int]
    skipped: Mapping[str, int]
    noted: Mapping[str, int]
    replaced: Sequence[Path]


def convert(
    format_name: str,
    source: str | Path,
    output: str | Path,
    *,
    passages: str | Path | None = None,
    gold: str | Path | None = None,
) -> Conversion:
    """Convert a published format into cosup's files, or cosup's files into a published format.

    Files are read and written a record at a time where the format allows it (KILT, BEIR, TREC).

    Args:
        format_name: one of `FORMATS`.
        source: the file or folder to read. Formats that give predictions away take the folder of a
            `predictions.jsonl`, or that file.
        output: the folder to write into; for a format that gives one file, that file if its name ends like one
            (`.jsonl`, `.json`, `.trec`, `.run`, `.txt`).
        passages: `passages.jsonl` or its folder, for `kilt`, `kilt-submission` and `alce-output`, where it lies neither
            beside `source` nor beside `output`.
        gold: the ALCE file with the gold answers, for `alce-output`.

    Returns:
        Counts of what was written and of what was skipped, and the files that were replaced.

    Raises:
        UsageError: no such format, `output` does not fit or is what is read, or the format has no use for `passages` or
            `gold`.
        InputError: `source` is wrong or has nothing to convert. Files that were there before stay as they were.
    """
    if format_name not in FORMATS:
        hint = did_you_mean(format_name, FORMATS)
        raise UsageError(f"no format '{format_name}'{hint}; there are {', '.join(FORMATS)}")
    job = Job(looked_up(source), looked_up(output), _path(passages), _path(gold))
    _check_used(format_name, job)
    converted = FORMATS[format_name](job)
    files = {name: _started(records) for name, records in converted.files.items()}
    empty = [name for name, records in files.items() if records is None]
    if empty:
        reasons = "; ".join(f"skipped {count} {reason}" for reason, count in converted.skipped.items())
        raise InputError(f"nothing there for {', '.join(empty)}{f' ({reasons})' if reasons else ''}", source)
    targets = _targets(list(files), job.output)
    check_apart(targets.values(), (job.source, job.passages, job.gold))
    _check_folder_kept(job.source, targets)
    replaced = [target for target in targets.values() if target.exists()]
    written = write_jsonl_files({targets[name]: records for name, records in files.items() if records is not None})
    return Conversion(written, dict(converted.skipped), dict(converted.noted), replaced)


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else looked_up(name)


def _check_used(format_name: str, job: Job) -> None:
    """Refuse a file that the format does not look at."""
    for field, value, users in (("passages", job.passages, _TAKE_PASSAGES), ("gold", job.gold, _TAKE_GOLD)):
        if value is not None and format_name not in users:
            raise UsageError(f"{format_name} takes no {field}; only {', '.join(users)} do")


def _started(records: Iterable[JsonRecord | str]) -> Iterable[JsonRecord | str] | None:
    """Return the records, the first of which has been read, or None where there are none."""
    iterator = iter(records)
    for first in iterator:
        return chain([first], iterator)
    return None


def _targets(names: list[str], output: Path) -> dict[str, Path]:
    """Say where each file goes."""
    looks_like_file = output.suffix.lower() in _FILE_SUFFIXES and not output.is_dir()
    if looks_like_file and len(names) == 1:
        return {names[0]: output}
    if output.suffix.lower() in _OTHER_SUFFIXES and not output.is_dir():
        known = ", ".join(sorted(_FILE_SUFFIXES))
        raise UsageError(f"{output} is named like a file of another kind; expected a folder, or a name in {known}")
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write into {output}: it is a file; expected a folder")
    if looks_like_file:
        raise UsageError(f"this format gives {', '.join(names)}; expected a folder to put them in, not {output}")
    return {name: output / name for name in names}


def _check_folder_kept(source: Path, targets: Mapping[str, Path]) -> None:
    """Refuse to put something under another name over a file of the folder that is read."""
    for name, target in targets.items():
        inside = source.is_dir() and target.resolve().is_relative_to(source.resolve())
        if inside and target.name != name and target.exists():
            raise UsageError(
                f"{target} lies in {source}, which is read, and would be overwritten; choose another output"
            )


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


def _alone(read: Callable[[Path], Converted]) -> Callable[[Job], Converted]:
    """Make a format of a reader that needs its source alone."""
    return lambda job: read(job.source)


FORMATS: dict[str, Callable[[Job], Converted]] = {
    "folder": _alone(_folder),
    "squad": _alone(read_squad),
    "hotpotqa": _alone(read_hotpotqa),
    "selfrag": _alone(read_selfrag),
    "kilt": read_kilt,
    "kilt-knowledge": _alone(read_kilt_knowledge),
    "alce": _alone(read_alce),
    "beir": _alone(read_beir),
    "tevatron": _alone(read_tevatron),
    "parquet": _alone(_parquet),
    "examples": _alone(_examples),
    "trec": write_trec,
    "kilt-submission": write_kilt_submission,
    "alce-output": write_alce_output,
    "beir-output": _alone(write_beir),
    "tevatron-output": _alone(write_tevatron),
}
