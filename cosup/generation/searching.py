"""Searching without writing: what a `[Ret]` right after a question finds.

Shapes: Q questions, D the width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosup.generation.engine import Engine
from cosup.generation.retrieval import RetrievalRequest, last_states
from cosup.index.filters import Filter
from cosup.records import Hit, Question


@torch.inference_mode()
def search(engine: Engine, questions: Sequence[Question], k: int, filter: Filter | None = None) -> list[list[Hit]]:
    """Return k hits a question, best first, by the engine's own way to retrieve.

    Args:
        engine: over the index.
        questions: what is asked; `candidates` limit a question's search.
        k: hits a question, at most.
        filter: what a passage's metadata must meet.

    Raises:
        InputError: a question does not fit into the context.
    """
    ids = [engine.prompt(question) for question in questions]
    states = last_states(engine.model, ids)
    return engine.retriever.search(
        [
            RetrievalRequest(state, tokens, asked.candidates, filter, asked.question, asked.question)
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
    return model.to_query(last_states(model, [engine.prompt(question) for question in questions])).float().cpu()
