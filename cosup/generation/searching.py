"""Searching without writing: what a `[Ret]` right after a question finds.

Shapes: Q questions, H the generator's width, D that of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosup.data.padding import pad_right
from cosup.generation.engine import Engine
from cosup.generation.retrieval import RetrievalRequest
from cosup.index.filters import Filter
from cosup.records import Hit, Question


@torch.inference_mode()
def search(engine: Engine, questions: Sequence[Question], k: int, where: Filter | None = None) -> list[list[Hit]]:
    """Return k hits a question, best first, by the engine's own way to retrieve.

    Args:
        engine: over the index.
        questions: what is asked; `candidates` limit a question's search.
        k: hits a question, at most.
        where: what a passage's metadata must meet.

    Raises:
        InputError: a question does not fit into the context.
    """
    ids = [engine.prompt(question) for question in questions]
    states = _states(engine, ids)
    return engine.retriever.search(
        [
            RetrievalRequest(state, tokens, asked.candidates, where, asked.question, asked.question)
            for state, tokens, asked in zip(states, ids, questions, strict=True)
        ],
        k,
    )


@torch.inference_mode()
def query_vectors(engine: Engine, questions: Sequence[Question]) -> torch.Tensor:
    """Return what an index of the pair is asked for each question: [Q, D] float32, on the CPU.

    Raises:
        InputError: a question does not fit into the context.
    """
    model = engine.model
    if model.settings.query == "text":
        return model.embed_queries([question.question for question in questions]).float().cpu()
    return model.to_query(_states(engine, [engine.prompt(question) for question in questions])).float().cpu()


def _states(engine: Engine, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the generator's states at the ends of token lists: [Q, H]."""
    model = engine.model
    rows, mask = (tensor.to(model.device) for tensor in pad_right(ids, 0))
    states = model.hidden_states(rows, mask)
    return states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
