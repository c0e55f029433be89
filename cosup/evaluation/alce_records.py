"""Records of a file in ALCE's format: outputs as its scorer cuts them, other fields checked when they are used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cosup.data.jsonl import read_json, read_text
from cosup.errors import InputError

T = TypeVar("T")
END_OF_TURN = "<|im_end|>"
_MARK = re.compile(r"\[\d+")
_SPACED_MARK = re.compile(r" \[\d+")
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class AlceRecord:
    """One answered question.

    Attributes:
        path: the file.
        index: 0-based place in its list `data`.
        fields: the record as it stands in the file.
        output: the answer that is scored: stripped, up to the first line break, without `<|im_end|>`.
        plain: the same without citations.
    """

    path: Path
    index: int
    fields: Mapping[str, Any]
    output: str
    plain: str

    @property
    def is_cut(self) -> bool:
        """Whether the output went on after a line break."""
        return "\n" in self.fields["output"].strip()

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.fields.get(name) is not None

    def text(self, name: str) -> str:
        """Return a field that must be a text; raises `InputError`."""
        text: str = self._checked(name, _is_text, "a text")
        return text

    def texts(self, name: str) -> list[str]:
        """Return a field that must be a list of texts, not empty; raises `InputError`."""
        texts: list[str] = self._checked(name, _is_texts, "a list of texts with at least one")
        return texts

    def answer_sets(self) -> list[list[str]]:
        """Return `answers`: each wanted answer's aliases (QAMPARI); raises `InputError`."""
        sets: list[list[str]] = self._checked("answers", _is_alias_lists, "a list of lists of texts with at least one")
        return sets

    def short_answers(self) -> list[list[str]]:
        """Return the aliases of each question in `qa_pairs` (ASQA); raises `InputError`."""
        pairs = self._checked("qa_pairs", _is_objects, "a list of objects with at least one")
        lists: list[Any] = [pair.get("short_answers") for pair in pairs]
        if not _is_alias_lists(lists):
            raise self.refused("a 'short_answers' of 'qa_pairs' is not a list of texts")
        return lists

    def references(self) -> list[str]:
        """Return the long answers to compare with: the first two of `annotations`, else `answer`."""
        if not self.has("annotations"):
            return [self.text("answer")]
        annotations = self._checked("annotations", _is_objects, "a list of objects with at least two")
        found: list[Any] = [annotation.get("long_answer") for annotation in annotations[:2]]
        if len(found) < 2 or not _is_texts(found):
            raise self.refused("'annotations' has not two entries whose 'long_answer' is a text")
        return found

    def documents(self) -> list[str]:
        """Return `docs` as the judge reads them: `Title: TITLE`, a line break, and `sent` or else `text`."""
        docs = self.fields.get("docs")
        if not isinstance(docs, list) or not all(isinstance(doc, dict) for doc in docs):
            raise self.refused("field 'docs' is not a list of objects")
        if any("title" not in doc or ("sent" not in doc and "text" not in doc) for doc in docs):
            raise self.refused("an entry of 'docs' has no 'title' or no 'text'")
        return [f"Title: {doc['title']}\n{doc['sent'] if 'sent' in doc else doc['text']}" for doc in docs]

    def refused(self, message: str) -> InputError:
        """Return the error that names this record and its line."""
        return _refused(self.path, self.index, message)

    def _checked(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        if name not in self.fields:
            raise self.refused(f"there is no field '{name}'; expected {expected}")
        if not fits(self.fields[name]):
            raise self.refused(f"field '{name}' is not {expected}")
        return self.fields[name]


def read_alce(path: Path) -> list[AlceRecord]:
    """Read a file of ALCE outputs: `{"data": [{"question", "output", ..}], ..}`.

    Raises:
        InputError: it cannot be read, has another form, or a record has no `output`.
    """
    content = read_json(path)
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        found = "a bare list" if isinstance(content, list) else "no list 'data' with records"
        raise InputError(f'found {found}; expected {{"data": [{{"question": .., "output": ..}}, ..]}}', path)
    return [_record(path, index, fields) for index, fields in enumerate(data)]


def remove_citations(text: str) -> str:
    """Take citations out as ALCE's scorer does: `[n` with a space before it, ` |`, and every `]`.

    >>> remove_citations("Oslo [1][2]. Rome [3].")
    'Oslo. Rome.'
    """
    return _MARK.sub("", _SPACED_MARK.sub("", text)).replace(" |", "").replace("]", "")


def list_items(output: str) -> list[str]:
    """Return the items of an answer that is a list with commas, as ALCE's scorer cuts it (QAMPARI); never none."""
    return [item.strip() for item in output.rstrip().rstrip(".").rstrip(",").split(",")]


def _record(path: Path, index: int, fields: Any) -> AlceRecord:
    if not isinstance(fields, dict) or not isinstance(fields.get("output"), str):
        raise _refused(path, index, "there is no 'output' that is a text")
    output = fields["output"].strip().split("\n")[0].replace(END_OF_TURN, "")
    return AlceRecord(path, index, fields, output, remove_citations(output))


def _refused(path: Path, index: int, message: str) -> InputError:
    return InputError(f"data[{index}]: {message}", path, _line_of(read_text(path), index))


def _line_of(text: str, index: int) -> int:
    """Return the 1-based line on which record `index` of the list `data` (the last, as JSON has it) begins."""
    position = _after_space(text, dict(_members(text))["data"] + 1)
    for _ in range(index):
        position = _after_space(text, _value(text, position)[1])
        position = _after_space(text, position + 1)
    return text.count("\n", 0, position) + 1


def _members(text: str) -> Iterator[tuple[Any, int]]:
    """Yield each key of the outermost object with the position of its value."""
    position = _after_space(text, _after_space(text, 0) + 1)
    while position < len(text) and text[position] == '"':
        key, position = _value(text, position)
        start = _after_space(text, _after_space(text, position) + 1)
        yield key, start
        position = _after_space(text, _value(text, start)[1])
        position = _after_space(text, position + 1)


def _value(text: str, position: int) -> tuple[Any, int]:
    return json.JSONDecoder().raw_decode(text, position)


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _is_alias_lists(value: Sequence[Any]) -> bool:
    def fits(aliases: Any) -> bool:
        return isinstance(aliases, list) and all(isinstance(alias, str) for alias in aliases)

    return isinstance(value, list) and bool(value) and all(map(fits, value))
