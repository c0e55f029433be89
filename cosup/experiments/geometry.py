"""The two spaces of a pair over its training: states at `[Ret]` and passage embeddings, as they lie to each other.

Distances are measured on vectors of length 1. Shapes: R retrievals, P distinct passages, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cosup.data.collate import CoSupervisionCollator, model_inputs
from cosup.data.reading import check_references, evenly, read_passages, read_questions
from cosup.data.templates import question_to_example
from cosup.data.writing import write_text

if TYPE_CHECKING:
    from cosup.experiments.plan import GeometrySettings
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage

GEOMETRY = "geometry.json"
BATCH = 8  # examples at once
SHOWN = 150  # points of each space in a projection


@dataclass(frozen=True)
class Spaces:
    """What a pair makes of some examples.

    Attributes:
        states: [R, D] generator's states at `[Ret]`, as the pair compares them (of length 1 under cosine).
        passages: [P, D] embeddings likewise.
        wanted: [R] row of each state's own passage in `passages`.
    """

    states: torch.Tensor
    passages: torch.Tensor
    wanted: torch.Tensor


@torch.no_grad()
def spaces_of(model: CoSupervisedModel, examples: Sequence[Example], passages: Mapping[str, Passage]) -> Spaces:
    """Return the states and embeddings of examples, each read with its own passages before it (teacher forcing).

    Args:
        model: the pair, in evaluation mode.
        examples: with at least one `[Ret]` among them.
        passages: by id.
    """
    encoder = model.example_encoder()
    pads = (int(model.generator_tokenizer.pad_token_id), int(model.embedder_tokenizer.pad_token_id))
    collate = CoSupervisionCollator(passages, model.passage_encoder(), *pads, packing=model.can_pack)
    states, rows = list[torch.Tensor](), list[int]()
    found: dict[int, torch.Tensor] = {}  # passage by its key, in the order of their first [Ret]
    places: dict[int, int] = {}
    for begin in range(0, len(examples), BATCH):
        for pack in collate([encoder.example(e, passages) for e in examples[begin : begin + BATCH]])["packs"]:
            inputs = model_inputs(pack, labels=False)
            output = model(**{name: values.to(model.device) for name, values in inputs.items()})
            if output.queries is None or output.passages is None:
                continue
            states.append(output.queries.float().cpu())
            vectors, keys = output.passages[pack["candidates"]].float().cpu(), pack["candidate_keys"].tolist()
            for row in pack["positives"].tolist():
                found.setdefault(keys[row], vectors[row])
                rows.append(places.setdefault(keys[row], len(places)))
    return Spaces(torch.cat(states), torch.stack(list(found.values())), torch.tensor(rows))


def measure(spaces: Spaces) -> dict[str, float]:
    """Return how the two spaces lie.

    `alignment`: mean squared distance of a state to its own passage (0..4, less is closer); `uniformity_states` and
    `uniformity_passages`: log of the mean of exp(-2 d^2) over pairs (0 for a point, less is more even), both after Wang
    and Isola (2020, section 4.1); `rank_states` and `rank_passages`: effective rank, exp of the entropy of the
    normalised singular values (Roy and Vetterli 2007, section 2), after the mean is taken away; `gap`: distance of the
    two means; `recall@1`: share of states whose own passage scores highest of `passages`, by the pair's similarity.
    """
    scores = spaces.states @ spaces.passages.T
    own = scores.gather(1, spaces.wanted[:, None])
    states, passages = _unit(spaces.states), _unit(spaces.passages)
    cosines = (states * passages[spaces.wanted]).sum(1)
    return {
        "alignment": float((2 - 2 * cosines).mean()),
        "uniformity_states": _uniformity(states),
        "uniformity_passages": _uniformity(passages),
        "rank_states": effective_rank(states),
        "rank_passages": effective_rank(passages),
        "gap": float((states.mean(0) - passages.mean(0)).norm()),
        "recall@1": float(((scores >= own).sum(1) == 1).float().mean()),
        "states": len(states),
        "passages": len(passages),
    }


def effective_rank(vectors: torch.Tensor) -> float:
    """Return the effective rank of [N, D] vectors around their mean; 1 where they are one point."""
    values = torch.linalg.svdvals((vectors - vectors.mean(0)).double())
    shares = values / values.sum() if values.sum() > 0 else values
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def projection(spaces: Spaces) -> dict[str, Any]:
    """Return a 2-D view of both spaces: the first two principal components of all their points together.

    Returns:
        `states` and `passages`, up to `SHOWN` points [x, y] each (states with their own passages first), `wanted`, the
        passage of each state among them, and `share`, the part of the variance that the two components hold.
    """
    states, wanted = _unit(spaces.states[:SHOWN]), spaces.wanted[:SHOWN]
    rows = list(dict.fromkeys(wanted.tolist()))
    passages = _unit(spaces.passages[rows])
    together = torch.cat([states, passages]).double()
    centred = together - together.mean(0)
    _, values, components = torch.linalg.svd(centred, full_matrices=False)
    points = [[round(x, 4) for x in point] for point in (centred @ components[:2].T).tolist()]
    return {
        "states": points[: len(states)],
        "passages": points[len(states) :],
        "wanted": [rows.index(row) for row in wanted.tolist()],
        "share": float((values[:2] ** 2).sum() / (values**2).sum()),
    }


def _uniformity(vectors: torch.Tensor) -> float:
    """Return log mean exp(-2 d^2) over the pairs of distinct rows; 0 where there is no pair."""
    if len(vectors) < 2:
        return 0.0
    squared = torch.pdist(vectors.double()) ** 2
    return float(torch.logsumexp(-2 * squared, 0) - torch.log(torch.tensor(float(len(squared)))))


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


class Watcher:
    """Measures both spaces while a pair is trained, into `geometry.json` of the run folder.

    The file is a list of `step` with what `measure` returns; the first and the last one have a `projection` too. A run
    that goes on after a kill goes on with it.

    Args:
        settings: what to measure with, and how often.
        template: how its questions become examples.
        folder: the run folder.

    Raises:
        InputError: a file cannot be used.
    """

    def __init__(self, settings: GeometrySettings, template: str, folder: Path) -> None:
        self.every, self.path = settings.every, folder / GEOMETRY
        self.passages = {passage.id: passage for passage in read_passages(settings.passages)}
        questions = evenly(read_questions(settings.questions), settings.limit)
        check_references(questions, self.passages, settings.questions)
        self.examples = [question_to_example(question, self.passages, template) for question in questions]

    def __call__(self, step: int, steps: int, model: CoSupervisedModel) -> None:
        """Measure, if it is time."""
        if step % self.every and step != steps:
            return
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else []
        spaces = spaces_of(model, self.examples, self.passages)
        found: dict[str, Any] = {"step": step, **measure(spaces)}
        if step in (0, steps):
            found["projection"] = projection(spaces)
        kept = [record for record in known if record["step"] < step]
        write_text(self.path, json.dumps([*kept, found]) + "\n")
