"""Next-sequence prediction: InfoNCE between `[Ret]` states and passage embeddings, over all processes.

Shapes: R queries and M candidates of this rank; Q queries and C candidates (each once) of all ranks; D the width.

Every rank gives the summed loss of its own queries, and these sums together are the loss of the whole step: the trainer
divides by the step's retrievals, and multiplies by the number of ranks, because DDP and FSDP average gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from cosup.losses.gather import Gradient, agree, alone, gather

Temperature = float | torch.Tensor


@dataclass
class NSPResult:
    """What the queries of this rank came to.

    Attributes:
        loss_sum: scalar of full precision, with the graph; 0 without queries.
        correct: int64 scalar, queries whose positive scored higher than every negative.
        negatives: int64 scalar, negatives of all queries together (each query's candidates but its own and the masked).
    """

    loss_sum: torch.Tensor
    correct: torch.Tensor
    negatives: torch.Tensor


@dataclass
class Contrast:
    """One rank's queries and candidates.

    Attributes:
        queries: [R, D] states at `[Ret]`.
        candidates: [M, D] passage embeddings, on the device and of the type of the queries.
        positives: [R] the query's candidate, counted among this rank's.
        candidate_keys: [M] int64; equal keys are one passage.
        answer_keys: [R] int64, the final answer of the query's example; 0 for none.
        example_keys: [R] int64, the query's example.
    """

    queries: torch.Tensor
    candidates: torch.Tensor
    positives: torch.Tensor
    candidate_keys: torch.Tensor
    answer_keys: torch.Tensor
    example_keys: torch.Tensor


@dataclass(frozen=True)
class ContrastOptions:
    """How queries and candidates are set against each other.

    Attributes:
        gather: whose gradient a vector gets when candidates come from all ranks (see `losses.gather`); None: every rank
            keeps to its own.
        mask_same_passage: candidates of equal key are one, the first; else a passage that stands twice is a negative.
        mask_same_answer: the positive of a query of another example with the same answer is no negative.
        symmetric: the mean of two directions, query to passage and passage to query.
    """

    gather: Gradient | None = "full"
    mask_same_passage: bool = True
    mask_same_answer: bool = False
    symmetric: bool = False


def info_nce(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    temperature: Temperature = 1.0,
    masked: torch.Tensor | None = None,
) -> NSPResult:
    """Return `-sum log( exp(s(q, c+)/t) / sum_c exp(s(q, c)/t) )` with inner-product similarity (paper, section 3.2).

    For cosine similarity the vectors come in at unit length. The sum, not the mean: the trainer divides by the
    retrievals of the global batch. A query counts as correct where no other candidate scores as high. Scores are of
    full precision, under autocast too.

    Args:
        queries: [R, D] states at `[Ret]`.
        candidates: [M, D] passage embeddings; the negatives of a query are all candidates but its positive.
        positives: [R] each query's candidate.
        temperature: t, above 0, a number or a scalar tensor that is learned; the paper has none, that is 1.
        masked: [R, M] bool, candidates that are no negatives of that query; None for none.
    """
    scores_RM = _scores(queries, candidates, temperature)
    if masked is not None:
        scores_RM = scores_RM.masked_fill(masked, float("-inf"))
    best = scores_RM.gather(1, positives[:, None])
    rivals = (scores_RM >= best).sum(dim=1) - 1
    negatives = torch.tensor(len(queries) * (len(candidates) - 1), device=queries.device)
    return NSPResult(
        cross_entropy(scores_RM, positives, reduction="sum"),
        (rivals == 0).sum(),
        negatives if masked is None else negatives - masked.sum(),
    )


def contrast(local: Contrast, options: ContrastOptions, temperature: Temperature = 1.0) -> NSPResult:
    """Return InfoNCE of this rank's queries among the candidates of all ranks: the sum over these queries.

    A collective, forward and backward: with `options.gather`, every rank calls it, also one that has no query or no
    candidate, and every rank backpropagates the loss it gets.

    The direction from passage to query is `-sum log( exp(s(q, c+)/t) / sum_q' exp(s(q', c+)/t) )` over the queries q'
    of all ranks for which c+ is a negative, and q itself.

    Args:
        local: what this rank brings.
        options: see there.
        temperature: as for `info_nce`; equal on all ranks.
    """
    joint = _of_all_ranks(local, options)
    columns = joint.columns[joint.own]
    rows = slice(None) if options.symmetric else joint.own
    masked = _same_answer(joint, rows) if options.mask_same_answer else None
    masked_RC = masked[joint.own] if masked is not None and options.symmetric else masked
    result = info_nce(local.queries, joint.candidates, columns, temperature, masked_RC)
    if options.symmetric:
        backward = _passage_to_query(joint, columns, masked, temperature)
        result.loss_sum = (result.loss_sum + backward.loss_sum) / 2
    return result


def join(parts: Sequence[Contrast]) -> Contrast:
    """Return the queries and candidates of several micro-batches as one; at least one part, any of them empty."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.candidates))
    return Contrast(
        torch.cat([p.queries for p in parts]),
        torch.cat([p.candidates for p in parts]),
        torch.cat([p.positives + start for p, start in zip(parts, starts, strict=False)]),
        torch.cat([p.candidate_keys for p in parts]),
        torch.cat([p.answer_keys for p in parts]),
        torch.cat([p.example_keys for p in parts]),
    )


@dataclass
class _Joint:
    """The candidates of all ranks, each once, and what must be known of the queries of all ranks.

    Attributes:
        candidates: [C, D].
        columns: [Q] each query's positive among them.
        answers: [Q] answer keys.
        examples: [Q] example keys.
        queries: [Q, D] where the other direction needs them, else this rank's [R, D].
        own: this rank's among the Q.
    """

    candidates: torch.Tensor
    columns: torch.Tensor
    answers: torch.Tensor
    examples: torch.Tensor
    queries: torch.Tensor
    own: slice


def _of_all_ranks(local: Contrast, options: ContrastOptions) -> _Joint:
    """Gather what each rank brings (one exchange of sizes, one collective a tensor); make equal candidates one."""
    queries, candidates = _full(local.queries), _full(local.candidates)
    slots = agree(queries, candidates) if options.gather else [alone(queries), alone(candidates)]
    gradient: Gradient = options.gather or "own"
    every, offset = gather(candidates, gradient, slots[1])
    facts = torch.stack([local.positives + offset, local.answer_keys, local.example_keys], dim=1)
    facts, start = gather(facts, gradient, slots[0])
    if options.symmetric:
        queries, _ = gather(queries, gradient, slots[0])
    columns, answers, examples = facts.unbind(dim=1)
    if options.mask_same_passage:
        keys, _ = gather(local.candidate_keys, gradient, slots[1])
        first, group = _first_of_each(keys)
        every, columns = every.index_select(0, first), group[columns]
    return _Joint(every, columns, answers, examples, queries, slice(start, start + len(local.queries)))


def _first_of_each(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each distinct key stands first ([C], by key), and each key's number among these ([M])."""
    values, group = torch.unique(keys, return_inverse=True)
    order = torch.arange(len(keys), device=keys.device)
    return torch.full_like(values, len(keys)).scatter_reduce_(0, group, order, "amin"), group


def _same_answer(joint: _Joint, rows: slice) -> torch.Tensor:
    """Return which candidates are right for another example of the same answer: [`rows` of the Q, C] bool."""
    answers, columns = joint.answers[rows], joint.columns[rows]
    alike = (answers[:, None] == joint.answers) & (answers != 0)[:, None]
    alike &= joint.examples[rows][:, None] != joint.examples
    count = torch.zeros(len(alike), len(joint.candidates), dtype=torch.int32, device=alike.device)
    count.index_add_(1, joint.columns, alike.int())
    return (count > 0).scatter_(1, columns[:, None], False)


def _passage_to_query(
    joint: _Joint, columns: torch.Tensor, masked_QC: torch.Tensor | None, temperature: Temperature
) -> NSPResult:
    """Return InfoNCE in which each of this rank's positives must pick its query among those of all ranks."""
    rows = torch.arange(joint.own.start, joint.own.stop, device=columns.device)
    masked_RQ = columns[:, None] == joint.columns
    if masked_QC is not None:
        masked_RQ |= masked_QC.T[columns]
    masked_RQ.scatter_(1, rows[:, None], False)
    return info_nce(joint.candidates[columns], joint.queries, rows, temperature, masked_RQ)


def _scores(queries: torch.Tensor, candidates: torch.Tensor, temperature: Temperature) -> torch.Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        return _full(queries) @ _full(candidates).T / temperature


def _full(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as float32, or as float64 where it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
