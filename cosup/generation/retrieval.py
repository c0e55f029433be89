"""Who answers a `[Ret]`: the contract between the engine and a search, and the ways that stand on a vector index.

Other ways (words alone, models of sentence-transformers) are in `retrievers/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cosup.data.padding import pad_right
from cosup.data.sentences import sentences
from cosup.errors import UsageError, did_you_mean
from cosup.index.base import UNSAVED, VectorIndex, check_embedder
from cosup.index.filters import Filter
from cosup.modeling import CoSupervisedModel
from cosup.records import Hit, Passage

QUERY_TEXTS = ("text", "question", "last_sentence")


@dataclass(frozen=True)
class RetrievalRequest:
    """One row's `[Ret]`.

    Attributes:
        state: [H] the generator's last hidden state at `[Ret]`.
        token_ids: the row's context up to and including `[Ret]`.
        candidates: passage ids the search is limited to, or None.
        filter: what a passage's metadata must meet, or None.
        question: what was asked.
        text: the question and what has been written so far, without passages: see `text_so_far`.
    """

    state: torch.Tensor
    token_ids: Sequence[int]
    candidates: Sequence[str] | None = None
    filter: Filter | None = None
    question: str = ""
    text: str = ""


class Retriever(Protocol):
    """Finds passages for `[Ret]` tokens."""

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Return k hits a request, best first; fewer only where fewer passages are allowed for it, or none."""
        ...

    def passage(self, passage_id: str) -> Passage:
        """Return a passage that a search found. Raises `InputError` where there is none of this id."""
        ...


class TextEmbedder(Protocol):
    """What turns a query that is text into a vector."""

    @property
    def fingerprint(self) -> str | None:
        """Names the embedder, as the index that it made does."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed queries: [len(texts), D] float32, on the CPU."""
        ...


def text_so_far(question: str, written: Sequence[str]) -> str:
    """Join a question and the stretches of text that followed it by spaces."""
    return " ".join(part.strip() for part in (question, *written) if part.strip())


def query_text(request: RetrievalRequest, choice: str) -> str:
    """Return what a retriever that reads text is asked.

    Args:
        request: of a `[Ret]`.
        choice: `text`, all so far (the paper's); `question`, alone; `last_sentence`, the question and the last
            sentence that was written.
    """
    if choice == "text":
        return request.text or request.question
    if choice == "question":
        return request.question or request.text
    last = sentences(request.text.removeprefix(request.question.strip()).strip())[-1:]
    return text_so_far(request.question, last)


def check_query_text(choice: str) -> None:
    """Check the name of a choice of query text.

    Raises:
        UsageError: there is none of this name.
    """
    if choice not in QUERY_TEXTS:
        hint = did_you_mean(choice, QUERY_TEXTS)
        raise UsageError(f"query text is '{choice}'{hint}; expected one of {', '.join(QUERY_TEXTS)}")


def retriever_for(model: CoSupervisedModel, index: VectorIndex) -> Retriever:
    """Return the pair's own way to search an index: by the state at `[Ret]`, or by text where it says so.

    Raises:
        InputError: the index was made by another embedder.
    """
    return StateRetriever(model, index) if model.settings.query == "state" else TextRetriever(model, index)


class StateRetriever:
    """Searches with the generator's own hidden state (the method of the paper).

    Args:
        model: the pair.
        index: an index that the pair's embedder made.

    Raises:
        InputError: the index was made by another embedder.
    """

    def __init__(self, model: CoSupervisedModel, index: VectorIndex) -> None:
        check_embedder(index.embedder_fingerprint, model.fingerprint or UNSAVED)
        self.model = model
        self.index = index

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Search all requests in one call."""
        states = torch.stack([r.state for r in requests])
        return search_index(self.index, self.model.to_query(states), requests, k)

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
        states = last_states(self.model, [r.token_ids for r in requests])
        return search_index(self.index, self.model.to_query(states), requests, k)


class TextRetriever:
    """Searches with the embedding of a text: of a pair that queries by text, or of a model beside the pair.

    Args:
        embedder: embeds the queries.
        index: an index that it made.
        query: what of a request is asked: see `query_text`.

    Raises:
        InputError: the index was made by another embedder.
        UsageError: `query` is none of `QUERY_TEXTS`.
    """

    def __init__(self, embedder: TextEmbedder, index: VectorIndex, query: str = "text") -> None:
        check_query_text(query)
        check_embedder(index.embedder_fingerprint, embedder.fingerprint or UNSAVED)
        self.embedder = embedder
        self.index = index
        self.query = query

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Embed all requests' texts and search them in one call."""
        queries = self.embedder.embed_queries([query_text(r, self.query) for r in requests])
        return search_index(self.index, queries, requests, k)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage of the index."""
        return self.index.passage(passage_id)


def last_states(model: CoSupervisedModel, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the generator's states at the ends of token lists: [len(ids), H]."""
    rows, mask = (t.to(model.device) for t in pad_right([list(one) for one in ids], 0))
    states = model.hidden_states(rows, mask)
    return states[torch.arange(len(ids)), mask.sum(dim=1) - 1]


def search_index(
    index: VectorIndex, queries: torch.Tensor, requests: Sequence[RetrievalRequest], k: int
) -> list[list[Hit]]:
    """Search a vector index for all requests, in one call for each filter that they have.

    Args:
        index: searched.
        queries: [len(requests), D], on any device.
        requests: whose candidates and filters are obeyed.
        k: hits a request.
    """
    vectors = queries.float().cpu().numpy()
    groups: dict[Filter | None, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.filter, []).append(place)
    found: dict[int, list[Hit]] = {}
    for filter, places in groups.items():
        candidates = [requests[place].candidates for place in places]
        limited = candidates if any(c is not None for c in candidates) else None
        found |= zip(places, index.search(vectors[places], k, limited, filter), strict=True)
    return [found[place] for place in range(len(requests))]
