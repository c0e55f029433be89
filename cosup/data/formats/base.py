"""What the format modules share: their result, typed look-ups that name the place, and passages kept once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cosup.data.writing import JsonRecord
from cosup.errors import InputError, did_you_mean
from cosup.records import Passage, Question

T = TypeVar("T")

_EXPECTED = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a format module read.

    Attributes:
        files: records by the name of the file they belong in, `passages.jsonl` first.
        skipped: how many things were left out, by reason.
    """

    files: Mapping[str, Sequence[JsonRecord]]
    skipped: Mapping[str, int] = field(default_factory=Counter)


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


def as_type(value: Any, kind: type[T], place: Place) -> T:
    """Return `value` if it is of `kind`, else raise `InputError`."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    shown = repr(value)
    found = f"found {type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
    raise place.error(f"{found}; expected {_EXPECTED.get(kind, kind.__name__)}")


def get(record: Mapping[str, Any], name: str, kind: type[T], place: Place) -> T:
    """Return a field of `record` if it is there and of `kind`, else raise `InputError`."""
    if name not in record:
        found = ", ".join(map(repr, record)) or "none"
        raise place.error(f"no field '{name}'{did_you_mean(name, record)}; found {found}")
    return as_type(record[name], kind, place.at(f".{name}"))


class PassagePool:
    """Gathers passages: the same title and text is one passage, and ids stay distinct."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}
        self._taken: Counter[str] = Counter()
        self.passages: dict[str, Passage] = {}

    def add(self, title: str, text: str) -> str:
        """Keep a passage and return its id: its title, numbered from the second text under that title on."""
        key = (title, text)
        if key not in self._ids:
            self._ids[key] = self._new_id(title or "untitled")
            self.passages[self._ids[key]] = Passage(self._ids[key], title, text)
        return self._ids[key]

    def _new_id(self, title: str) -> str:
        while True:
            self._taken[title] += 1
            number = self._taken[title]
            candidate = title if number == 1 else f"{title}#{number}"
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
            InputError: the question's id was there before.
        """
        if isinstance(outcome, str):
            self.skipped[outcome] += 1
        elif outcome.id in self.questions:
            raise place.error(f"id {outcome.id!r} again; expected distinct ids")
        else:
            self.questions[outcome.id] = outcome

    def converted(self, passages: PassagePool) -> Converted:
        """Return what the conversion gives, with the passages of `passages`."""
        files: dict[str, Sequence[JsonRecord]] = {
            "passages.jsonl": list(passages.passages.values()),
            "questions.jsonl": list(self.questions.values()),
        }
        return Converted(files, self.skipped)
