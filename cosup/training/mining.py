"""Hard negatives mined with the present models: what a `[Ret]` finds instead of its passage.

Shapes: N passages, R retrievals, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cosup.data.collate import CoSupervisionCollator
from cosup.data.encoding import EncodedExample
from cosup.data.keys import normalised
from cosup.modeling import CoSupervisedModel
from cosup.processes import gather_objects, rank, world_size
from cosup.records import Passage
from cosup.training.batches import collated
from cosup.training.config import CoSupervisionConfig
from cosup.training.sweep import embed_lists, level, query_packs

logger = logging.getLogger(__name__)

FILE = "hard_negatives.json"
_ROWS = 512


@dataclass
class Mined:
    """Passages mined for each example; shared with the data set, which adds them to the example's own negatives.

    Attributes:
        epoch: the epoch they were mined for; -1 before the first.
        negatives: passage ids by example id.
    """

    epoch: int = -1
    negatives: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint."""
        record = {"epoch": self.epoch, "negatives": {name: list(ids) for name, ids in self.negatives.items()}}
        (folder / FILE).write_text(json.dumps(record), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take them from a checkpoint, where it has some."""
        if not (folder / FILE).is_file():
            return
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        self.replace({name: tuple(ids) for name, ids in record["negatives"].items()}, record["epoch"])

    def replace(self, negatives: Mapping[str, tuple[str, ...]], epoch: int) -> None:
        """Put new ones in the place of the old."""
        self.negatives.clear()
        self.negatives.update(negatives)
        self.epoch = epoch


@dataclass(frozen=True)
class Wanted:
    """One `[Ret]` to be mined for.

    Attributes:
        example: id of its example.
        gold: the passages of its example; none of them is a negative.
        answer: the example's final answer; a passage that holds it is no negative.
    """

    example: str
    gold: tuple[str, ...]
    answer: str | None


def mine(
    model: CoSupervisedModel,
    args: CoSupervisionConfig,
    examples: Sequence[EncodedExample],
    passages: Sequence[Passage],
    collator: CoSupervisionCollator,
    epoch: int,
) -> dict[str, tuple[str, ...]]:
    """Search every example's queries among all passages with the models as they are; see `pick_negatives`.

    Args:
        model: the pair; put into evaluation mode and back.
        args: the run's settings.
        examples: the training examples, all of them on every process.
        passages: what is searched.
        collator: makes packs for measurements.
        epoch: the choice is another in each.
    """
    training = model.training
    model.eval()
    vectors = _embedded(model, passages, args.recall_batch_tokens)
    wanted, queries = _queries(model, args, examples, collator)
    model.train(training)
    count, depth = args.hard_negatives, args.hard_negatives_depth
    return pick_negatives(queries, wanted, vectors, passages, count, depth, args.seed * 1_000_003 + epoch)


def _embedded(model: CoSupervisedModel, passages: Sequence[Passage], batch_tokens: int) -> torch.Tensor:
    texts = list(dict.fromkeys(p.rendered for p in passages))
    rows = {text: row for row, text in enumerate(texts)}
    table = embed_lists(model, [model.encode_passage(text) for text in texts], batch_tokens)
    return table[[rows[p.rendered] for p in passages]]


def _queries(
    model: CoSupervisedModel,
    args: CoSupervisionConfig,
    examples: Sequence[EncodedExample],
    collator: CoSupervisionCollator,
) -> tuple[list[Wanted], torch.Tensor]:
    """Compute the queries of all examples, shared out over the devices: whose they are, and [R, D]."""
    own = [q for q in (e.queries_only() for e in examples[rank() :: world_size()]) if q is not None]
    own.sort(key=lambda e: len(e.input_ids))
    packs = collated(collator, own, args.per_device_eval_batch_size)
    order = [Wanted(e.example_id, tuple(e.passage_ids), e.answer) for e in own for _ in e.ret_positions]
    queries = query_packs(model, level(packs, collator.empty_pack(), args.device))
    parts = gather_objects((order, queries))
    return [want for wants, _ in parts for want in wants], torch.cat([found for _, found in parts])


def pick_negatives(
    queries: torch.Tensor,
    wanted: Sequence[Wanted],
    vectors: torch.Tensor,
    passages: Sequence[Passage],
    count: int,
    depth: int,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """Choose `count` of the `depth` nearest passages of every query, at random, without likely positives.

    Left out are passages of the query's own example, passages that read the same as one of those, and passages that
    hold its answer (normalised).

    Args:
        queries: [R, D].
        wanted: R, whose query each is.
        vectors: [N, D] of `passages`.
        passages: N passages.
        count: negatives a query.
        depth: how far down the ranking.
        seed: of the choice; the choice depends on it and on the example alone.

    Returns:
        Passage ids by example id; an example with several queries gets those of all of them.
    """
    texts = [normalised(p.rendered) for p in passages]
    rows = {p.id: row for row, p in enumerate(passages)}
    found: dict[str, dict[str, None]] = {}
    turns: Counter[str] = Counter()
    for start in range(0, len(wanted), _ROWS):
        best = (queries[start : start + _ROWS] @ vectors.T).topk(min(depth, len(passages)), dim=1).indices.tolist()
        for want, ranked in zip(wanted[start : start + _ROWS], best, strict=True):
            turns[want.example] += 1
            gold = {passages[rows[i]].rendered for i in want.gold}
            answer = f" {normalised(want.answer or '')} "
            left = [r for r in ranked if passages[r].rendered not in gold]
            if answer.strip():
                left = [r for r in left if answer not in f" {texts[r]} "]
            digest = hashlib.blake2b(f"{seed} {turns[want.example]} {want.example}".encode(), digest_size=8).digest()
            chosen = random.Random(digest).sample(left, min(count, len(left)))
            found.setdefault(want.example, {}).update(dict.fromkeys(passages[r].id for r in sorted(chosen)))
    return {example: tuple(ids) for example, ids in found.items()}
