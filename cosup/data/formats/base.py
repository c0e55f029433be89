"""What the format modules share: their result, typed look-ups that name the place, and passages kept once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cosup.data.jsonl import iter_jsonl, read_json
from cosup.data.reading import passage_from_dict
from cosup.data.writing import JsonRecord
from cosup.errors import InputError, did_you_mean
from cosup.records import Passage, Question

T = TypeVar("T")

_EXPECTED = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a format module read.

    Attributes:
        files: records by the name of the file they belong in, `passages.jsonl` first; a text is written as a line of
            its own. A format that streams gives an iterator, which reads on only while its file is written.
        skipped: how many things were left out, by reason; whole once the files were read to their end.
        noted: how many things were written but not as they were, so too.
    """

    files: Mapping[str, Iterable[JsonRecord | str]]
    skipped: Mapping[str, int] = field(default_factory=Counter)
    noted: Mapping[str, int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be converted.

    Attributes:
        source: the file or folder to read.
        output: where the user wants the result: a folder, or a file.
        passages: `passages.jsonl`, or its folder, where it lies beside neither.
        gold: the published file with the gold answers that an output repeats.
    """

    source: Path
    output: Path
    passages: Path | None = None
    gold: Path | None = None

    def source_file(self, name: str) -> Path:
        """Return the source, or the file of this name in it if it is a folder."""
        return self.source / name if self.source.is_dir() else self.source

    def passages_file(self) -> Path | None:
        """Return the `passages.jsonl` that was named, else the one in or beside the source or the output."""
        if self.passages is not None:
            return self.passages / "passages.jsonl" if self.passages.is_dir() else self.passages
        return self.beside("passages.jsonl")

    def beside(self, name: str) -> Path | None:
        """Return the file of this name in or beside the source, else in or beside the output, else None."""
        folders = [place if place.is_dir() else place.parent for place in (self.source, self.output)]
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something stands: a line, or a path inside a JSON document such as `data[3].title`."""

    path: Path
    inside: str = ""
    line: int | None = None

    def at(self, step: str) -> Place:
        """Return the place one step further in."""
        return Place(self.path, f"{self.inside}{step}".removeprefix("."), self.line)

    def error(self, message: str) -> InputError:
        """Return an error that names this place."""
        return InputError(f"{self.inside}: {message}" if self.inside else message, self.path, self.line)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put this place into an `InputError` of the block that names no file."""
        try:
            yield
        except InputError as error:
            raise error if error.path is not None else self.error(str(error)) from None


def iter_records(source: Path) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield the objects of a file and their places: JSON lines, read one at a time, or a `.json` document.

    A document is a list of objects, or an object with such a list in its field `data`.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    if source.suffix.lower() != ".json" or source.is_dir():
        for line, record in iter_jsonl(source):
            yield record, Place(source, line=line)
        return
    root, value = Place(source), read_json(source)
    if isinstance(value, dict):
        value, root = get(value, "data", list, root), root.at("data")
    for index, item in enumerate(as_type(value, list, root)):
        place = root.at(f"[{index}]")
        yield as_type(item, dict, place), place


def iter_passages(path: Path) -> Iterator[tuple[Passage, Place]]:
    """Yield the passages of a `passages.jsonl` and their places, one at a time.

    Raises:
        InputError: a record is wrong; names file and line.
    """
    for line, record in iter_jsonl(path):
        place = Place(path, line=line)
        with place.named():
            passage = passage_from_dict(record)
        yield passage, place


def as_type(value: Any, kind: type[T], place: Place) -> T:
    """Return `value` if it is of `kind`, else raise `InputError`."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    shown = repr(value)
    found = f"found {type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
    raise place.error(f"{found}; expected {_EXPECTED.get(kind, kind.__name__)}")


def get(record: Mapping[str, Any], name: str, kind: type[T], place: Place, default: T | None = None) -> T:
    """Return a field of `record` if it is there and of `kind`, else raise `InputError`.

    Where there is a `default`, it stands for a field that is missing or null.
    """
    if default is not None and record.get(name) is None:
        return default
    if name not in record:
        found = ", ".join(map(repr, record)) or "none"
        raise place.error(f"no field '{name}'{did_you_mean(name, record)}; found {found}")
    return as_type(record[name], kind, place.at(f".{name}"))


def objects(record: Mapping[str, Any], name: str, place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield the objects of a list and their places; the list may be missing or null."""
    at = place.at(f".{name}")
    for index, item in enumerate(get(record, name, list, place, default=[])):
        here = at.at(f"[{index}]")
        yield as_type(item, dict, here), here


class PassagePool:
    """Gathers passages: the same title and text is one passage, and ids stay distinct."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}
        self._taken: Counter[str] = Counter()
        self.passages: dict[str, Passage] = {}

    def add(self, title: str, text: str, name: str = "") -> str:
        """Keep a passage and return its id: `name` or its title, numbered from the second text under that name on."""
        key = (title, text)
        if key not in self._ids:
            self._ids[key] = self._new_id(name or title.strip() or "untitled")
            self.passages[self._ids[key]] = Passage(self._ids[key], title, text)
        return self._ids[key]

    def _new_id(self, name: str) -> str:
        while True:
            self._taken[name] += 1
            number = self._taken[name]
            candidate = name if number == 1 else f"{name}#{number}"
            if candidate not in self.passages:
                return candidate


class QuestionPool:
    """The questions of a conversion, each id once, and why others were skipped."""

    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}
        self.skipped: Counter[str] = Counter()

    def add(self, outcome: Question | str, place: Place) -> None:
        """Take a question, or the reason to skip it.

        Raises:
            InputError: the question's id is empty or was there before.
        """
        if isinstance(outcome, str):
            self.skipped[outcome] += 1
        elif not outcome.id.strip():
            raise place.error("the id is empty; expected one that no other question has")
        elif outcome.id in self.questions:
            raise place.error(f"id {outcome.id!r} again; expected distinct ids")
        else:
            self.questions[outcome.id] = outcome

    def converted(self, passages: PassagePool) -> Converted:
        """Return what the conversion gives, with the passages of `passages`."""
        files: dict[str, Iterable[JsonRecord | str]] = {
            "passages.jsonl": list(passages.passages.values()),
            "questions.jsonl": list(self.questions.values()),
        }
        return Converted(files, self.skipped)
