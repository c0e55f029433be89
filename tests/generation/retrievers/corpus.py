"""The toy corpus with kinds and numbers, and what is asked of a retriever over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosup.generation.retrieval import RetrievalRequest
from cosup.index.filters import Filter
from cosup.records import Hit, Passage
from tests import pairs

STATE = torch.zeros(4)
CORPUS = tuple(
    Passage(p.id, p.title, p.text, {"kind": "book" if p.id[0] == "w" else "person", "n": int(p.id[1:])})
    for p in pairs.PASSAGES
)


def request(text: str, candidates: Sequence[str] | None = None, where: Filter | None = None) -> RetrievalRequest:
    return RetrievalRequest(STATE, [1, 2], candidates, where, text, text)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]
