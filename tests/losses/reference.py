"""InfoNCE over all ranks written out query by query, in plain loops over float64 scalars: what the code must equal."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from cosup.losses.nsp import Contrast, ContrastOptions


@dataclass
class Query:
    vector: torch.Tensor
    rank: int
    positive: Hashable
    answer: int
    example: int


@dataclass
class Expected:
    """One rank's figures; the loss has the graph of the vectors it was made of."""

    loss: torch.Tensor
    correct: int
    negatives: int


def expected(
    parts: Sequence[Contrast], options: ContrastOptions, temperature: float | torch.Tensor = 1.0
) -> list[Expected]:
    """Return each rank's share, `parts` being what the ranks bring."""
    passages, queries = _read(parts, options)

    def negatives(query: Query) -> list[Hashable]:
        wrong = set(passages) - {query.positive}
        if options.mask_same_answer and query.answer != 0:
            for other in queries:
                if other.answer == query.answer and other.example != query.example:
                    wrong.discard(other.positive)
        return [name for name in passages if name in wrong]

    def score(query: Query, name: Hashable) -> torch.Tensor:
        return (query.vector.double() * passages[name].double()).sum() / temperature

    nothing = torch.zeros((), dtype=torch.float64)
    found = [Expected(nothing, 0, 0) for _ in parts]
    for query in queries:
        right, wrong = score(query, query.positive), [score(query, name) for name in negatives(query)]
        loss = torch.log(sum((torch.exp(s - right) for s in wrong), nothing + 1))
        if options.symmetric:
            rivals = [score(q, query.positive) for q in queries if query.positive in negatives(q)]
            loss = loss / 2 + torch.log(sum((torch.exp(s - right) for s in rivals), nothing + 1)) / 2
        of_rank = found[query.rank]
        of_rank.loss = of_rank.loss + loss
        of_rank.correct += all(bool(right > s) for s in wrong)
        of_rank.negatives += len(wrong)
    return found


def _read(parts: Sequence[Contrast], options: ContrastOptions) -> tuple[dict[Hashable, torch.Tensor], list[Query]]:
    """Return the passages by name, each as it stood first, and all queries."""
    passages: dict[Hashable, torch.Tensor] = {}
    queries: list[Query] = []
    for rank, part in enumerate(parts):
        names = [key if options.mask_same_passage else (rank, i) for i, key in enumerate(part.candidate_keys.tolist())]
        for name, vector in zip(names, part.candidates, strict=True):
            passages.setdefault(name, vector)
        for i, vector in enumerate(part.queries):
            answer, example = int(part.answer_keys[i]), int(part.example_keys[i])
            queries.append(Query(vector, rank, names[int(part.positives[i])], answer, example))
    return passages, queries
