"""An answer's text while it is being written, just as it will stand in the end."""

from __future__ import annotations

from cosup.generation.citations import Part, compose
from cosup.generation.events import Event, Finished, Retrieved, TextDelta
from cosup.records import Answer, Question, Retrieval


class LiveText:
    """Turns the events of `Engine.stream` into pieces of text that, joined, are the answer's `text`.

    A claim's closing full stop is held back until its `[n]` mark can go before it.

    Args:
        question: what is asked.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.shown = ""
        self.answer: Answer | None = None
        self._parts = [Part()]

    def add(self, event: Event) -> str:
        """Take an event and return the text that is new and certain."""
        if isinstance(event, Finished):
            self.answer = event.answer
            begun = event.answer.text.startswith(self.shown)
            return self._show(event.answer.text) if begun else f"\n{event.answer.text}"
        if isinstance(event, Retrieved):
            self._parts.append(Part(retrieval=Retrieval(0, event.hits, event.read)))
        elif isinstance(event, TextDelta):
            if not event.claim and self._parts[-1].retrieval is not None:
                self._parts.append(Part(continues=event.continues))
            self._parts[-1].text += event.text
        return self._show(self._certain())

    def _certain(self) -> str:
        draft = compose(self.question, self._parts, "")
        last = self._parts[-1]
        open_claim = last.retrieval is not None and last.retrieval.read and last.text.strip()
        return draft.text[: draft.citations[-1].end] if open_claim else draft.text

    def _show(self, text: str) -> str:
        new = text[len(self.shown) :]
        self.shown = text if len(text) > len(self.shown) else self.shown
        return new
