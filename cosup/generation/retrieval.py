"""Who answers a `[Ret]`: the contract between the engine and a search, and two ways to keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cosup.data.padding import pad_right
from cosup.errors import UsageError
from cosup.index.base import VectorIndex
from cosup.index.filters import Filter
from cosup.modeling import CoSupervisedModel
from cosup.records import Hit, Passage


@dataclass(frozen=True)
class RetrievalRequest:
    """One row's `[Ret]`.

    Attributes:
        state: [H] the generator's last hidden state at `[Ret]`.
        token_ids: the row's context up to and including `[Ret]`.
        candidates: passage ids the search is limited to, or None.
        where: what a passage's metadata must meet, or None.
    """

    state: torch.Tensor
    token_ids: Sequence[int]
    candidates: Sequence[str] | None = None
    where: Filter | None = None


class Retriever(Protocol):
    """Finds passages for `[Ret]` tokens."""

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Return up to k hits a request, best first; none where no passage meets its filter."""
        ...

    def passage(self, passage_id: str) -> Passage:
        """Return a passage that a search found."""
        ...


class StateRetriever:
    """Searches with the generator's own hidden state (the method of the paper).

    Args:
        model: the pair.
        index: an index that the pair's embedder made.

    Raises:
        UsageError: the index was made by another embedder.
    """

    def __init__(self, model: CoSupervisedModel, index: VectorIndex) -> None:
        if index.embedder_fingerprint != model.fingerprint:
            raise UsageError(
                f"the index was made by embedder {index.embedder_fingerprint[:12]}, the model's is "
                f"{(model.fingerprint or 'unsaved')[:12]}; build it again with 'cosup index'"
            )
        self.model = model
        self.index = index

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Search all requests in one call."""
        states = torch.stack([r.state for r in requests])
        return _search(self.index, self.model.to_query(states), requests, k)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage of the index."""
        return self.index.passage(passage_id)


class SeparateRetriever(StateRetriever):
    """Searches with another pair's query model, which reads the text so far by itself ("separate supervision").

    Args:
        model: the retrieving pair; its generator's vocabulary is the writing generator's.
        index: an index that its embedder made.
    """

    @torch.inference_mode()
    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Encode every request's context, `[Ret]` last, and search all in one call."""
        ids, mask = (t.to(self.model.device) for t in pad_right([list(r.token_ids) for r in requests], 0))
        states = self.model.hidden_states(ids, mask)
        last = states[torch.arange(len(requests)), mask.sum(dim=1) - 1]
        return _search(self.index, self.model.to_query(last), requests, k)


def _search(index: VectorIndex, queries: torch.Tensor, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
    """Search for all requests, those of one filter in one call."""
    vectors = queries.float().cpu().numpy()
    found: list[list[Hit]] = [[] for _ in requests]
    for where in dict.fromkeys(request.where for request in requests):
        rows = [i for i, request in enumerate(requests) if request.where == where]
        candidates = [requests[i].candidates for i in rows]
        limited = candidates if any(c is not None for c in candidates) else None
        for i, hits in zip(rows, index.search(vectors[rows], k, limited, where), strict=True):
            found[i] = hits
    return found
