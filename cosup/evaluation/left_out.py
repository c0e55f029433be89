"""What a file of predictions lacks and what it has too much: listed, so that nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosup.records import Answer


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Ids of the questions and predictions that do not stand one to one.

    Attributes:
        missing: of questions without a prediction.
        extra: of predictions without a question; they are not scored.
        duplicate: predicted more than once; the first prediction is scored.
        empty: of questions that were answered with a blank text.
    """

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    duplicate: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    def kinds(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the ids of each kind that there is, and what happened to them in words."""
        told = [
            (self.missing, "without a prediction, scored 0"),
            (self.empty, "answered with an empty text, scored as it is"),
            (self.extra, "predicted but not asked, not scored"),
            (self.duplicate, "predicted more than once, the first one scored"),
        ]
        return [(ids, what) for ids, what in told if ids]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        listed = {name: getattr(self, name) for name in self.__slots__}
        return {name: {"count": len(ids), "ids": list(ids)} for name, ids in listed.items()}


def left_out(predictions: Sequence[Answer], given: Mapping[str, Answer], wanted: Collection[str]) -> LeftOut:
    """List what is missing, extra, duplicate or empty.

    Args:
        predictions: all of a file, in its order.
        given: those that are scored, by id.
        wanted: ids of the questions, in their order.
    """
    return LeftOut(
        missing=tuple(i for i in wanted if i not in given),
        extra=tuple(i for i in given if i not in wanted),
        duplicate=_repeated(predictions),
        empty=tuple(i for i in wanted if i in given and not given[i].text.strip()),
    )


def shown_ids(ids: Sequence[str], most: int = 3) -> str:
    """Return the first few ids as one line."""
    return ", ".join(map(repr, ids[:most])) + (", ..." if len(ids) > most else "")


def _repeated(predictions: Sequence[Answer]) -> tuple[str, ...]:
    seen: set[str] = set()
    again: dict[str, None] = {}
    for prediction in predictions:
        if prediction.id in seen:
            again[prediction.id] = None
        seen.add(prediction.id)
    return tuple(again)
