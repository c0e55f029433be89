"""From examples to packs of tensors, one pack for each forward and backward pass.

Shapes: B examples of a pack, T tokens in its row (packed), L longest sequence (padded), R retrievals, P distinct
passages, Tp and Lp their embedder tokens (all, longest), M candidates of the NSP loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch.utils.data import Dataset

from cosup.data.dropout import PassageDropout
from cosup.data.encoding import EncodedExample, ExampleEncoder, Kind, PassageEncoder
from cosup.data.keys import answer_key, stable_key
from cosup.data.packing import Load, plan_packs
from cosup.data.padding import lay_end_to_end, pad_right
from cosup.groups import rounded
from cosup.records import Example, Passage

IGNORED = -100

_ROW = ("input_ids", "attention_mask", "lengths")
_QUERIES = ("ret_rows", "ret_columns")
_PASSAGES = ("passage_input_ids", "passage_attention_mask", "passage_lengths")
_KEPT_PASSAGES = 100_000  # encoded passages kept at hand; a streamed corpus may have any number

Pack = dict[str, torch.Tensor]


class ExampleDataset(Dataset[EncodedExample]):
    """Examples, encoded when first asked for and kept.

    Args:
        examples: what to train on.
        passages: passages by id; every id of the examples is there.
        encoder: the generator's encoder.
        negatives: passage ids by example id that are added to the example's own negatives; read at every access, so
            that it may change in between.
        dropout: which passages an example is read without; None for none.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        passages: Mapping[str, Passage],
        encoder: ExampleEncoder,
        negatives: Mapping[str, tuple[str, ...]] | None = None,
        dropout: PassageDropout | None = None,
    ) -> None:
        self.examples = examples
        self.passages = passages
        self.encoder = encoder
        self.negatives = {} if negatives is None else negatives
        self.dropout = dropout
        self._encoded: dict[int, EncodedExample] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EncodedExample:
        encoded = self.whole(index)
        encoded = encoded if self.dropout is None else self.dropout(encoded)
        more = self.negatives.get(encoded.example_id, ())
        return replace(encoded, negatives=(*encoded.negatives, *more)) if more else encoded

    def whole(self, index: int) -> EncodedExample:
        """Return an example as it is by itself, with all its passages and no negatives from elsewhere."""
        if index not in self._encoded:
            self._encoded[index] = self.encoder.example(self.examples[index], self.passages)
        return self._encoded[index]


@dataclass(frozen=True)
class _Reading:
    """A passage as the embedder reads it."""

    ids: tuple[int, ...]
    key: int


@dataclass
class CoSupervisionCollator:
    """Cuts a loader's batch into packs for both models.

    A pack embeds each passage once, whatever the number of `[Ret]` tokens that want it: two passages that the embedder
    reads the same are one. With `mask_same_passage` they are also one candidate of the NSP loss; without, as in the
    paper, each `[Ret]` and each negative brings a candidate of its own, so that the same passage twice counts as a
    negative. A negative that reads like a passage of its own example is left out.

    Attributes:
        passages: passages by id.
        passage_encoder: encodes for the embedder.
        generator_pad: pad id of the generator.
        embedder_pad: pad id of the embedder.
        supervise_passages: whether spliced passages are supervised by NTP (the paper's `no_mask`).
        mask_same_passage: see above.
        packing: whether the sequences of a pack stand in one row without padding; else a row each.
        micro_batch_tokens: tokens of a pack in either model at most; None makes one pack of a batch.
        passage_rows: row of each passage's vector, by id, where vectors are computed beforehand; packs then have
            `passage_rows` and no embedder tokens.
    """

    passages: Mapping[str, Passage]
    passage_encoder: PassageEncoder
    generator_pad: int
    embedder_pad: int
    supervise_passages: bool = False
    mask_same_passage: bool = True
    packing: bool = field(default=True, kw_only=True)
    micro_batch_tokens: int | None = field(default=None, kw_only=True)
    passage_rows: Mapping[str, int] | None = field(default=None, kw_only=True)
    _read: dict[str, _Reading] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, list[Pack]]:
        """Return `{"packs": [..]}`; every example is in one pack.

        A pack has, all int64:

        - `input_ids` and `labels` [1, T] with `lengths` [B], or [B, L] with `attention_mask` (1 on real tokens, padding
          on the right). A label is what the state before it must predict; `IGNORED` where nothing is supervised and at
          the start of each sequence.
        - `ret_rows`, `ret_columns` [R]: place of each `[Ret]` in `input_ids`.
        - `passage_input_ids` [1, Tp] with `passage_lengths` [P], or [P, Lp] with `passage_attention_mask`; or
          `passage_rows` [P]. Where there is no passage, a dummy of one token, so that both models have work.
        - `candidates` [M]: passage of each candidate; `positives` [R]: the candidate that each `[Ret]` must pick.
        - `candidate_keys` [M]: equal keys are one candidate, wherever they stand in the step; `answer_keys` [R]: of the
          example's final answer, 0 for none; `example_keys` [R].
        """
        plan = plan_packs([self._load(e) for e in examples], self.micro_batch_tokens, padded=not self.packing)
        return {"packs": [self._pack([examples[i] for i in members]) for members in plan]}

    def empty_pack(self) -> Pack:
        """Return a pack that asks for nothing: one generator token and one passage of one token, both dummies."""
        return self._pack([])

    def _load(self, example: EncodedExample) -> Load:
        if self.passage_rows is not None:
            return Load(len(example.input_ids))
        read = [self._reading(i) for i in (*example.passage_ids, *self._negatives(example))]
        return Load(len(example.input_ids), {r.key: len(r.ids) for r in read})

    def _pack(self, examples: Sequence[EncodedExample]) -> Pack:
        pack = self._lay("", [e.input_ids for e in examples] or [[self.generator_pad]], self.generator_pad)
        labels = [self._labels(e) for e in examples] or [[IGNORED]]
        pack["labels"] = lay_end_to_end(labels)[0] if self.packing else pad_right(labels, IGNORED)[0]
        starts = list(accumulate((len(e.input_ids) for e in examples), initial=0))
        rets = [(row, column) for row, e in enumerate(examples) for column in e.ret_positions]
        pack["ret_rows"] = _integers([0 if self.packing else row for row, _ in rets])
        pack["ret_columns"] = _integers([starts[row] + column if self.packing else column for row, column in rets])
        pack |= self._passages(examples)
        pack["answer_keys"] = _integers([answer_key(e.answer) for e in examples for _ in e.ret_positions])
        pack["example_keys"] = _integers([stable_key(e.example_id) for e in examples for _ in e.ret_positions])
        return pack

    def _lay(self, prefix: str, rows: Sequence[Sequence[int]], pad: int) -> Pack:
        ids, extent = lay_end_to_end(rows) if self.packing else pad_right(rows, pad)
        return {f"{prefix}input_ids": ids, f"{prefix}{'lengths' if self.packing else 'attention_mask'}": extent}

    def _labels(self, example: EncodedExample) -> list[int]:
        supervised = {Kind.WRITTEN, Kind.PASSAGE} if self.supervise_passages else {Kind.WRITTEN}
        tokens = zip(example.input_ids, example.kinds, strict=True)
        labels = [token if kind in supervised else IGNORED for token, kind in tokens]
        return [IGNORED, *labels[1:]]

    def _passages(self, examples: Sequence[EncodedExample]) -> Pack:
        wanted = [i for e in examples for i in e.passage_ids]
        negatives = [(e, i) for e in examples for i in self._negatives(e)]
        named = {self._reading(i).key: i for i in reversed([*wanted, *(i for _, i in negatives)])}
        order = list(dict.fromkeys(self._reading(i).key for i in (*wanted, *(i for _, i in negatives))))
        rows = {key: row for row, key in enumerate(order)}
        of = [rows[self._reading(i).key] for i in wanted]
        if self.mask_same_passage:
            candidates, positives, keys = list(range(len(order))), of, order
        else:
            candidates = of + [rows[self._reading(i).key] for _, i in negatives]
            positives = list(range(len(of)))
            keys = [stable_key("[Ret]", e.example_id, str(n)) for e in examples for n in range(len(e.passage_ids))]
            keys += [stable_key("negative", e.example_id, i) for e, i in negatives]
        pack = {
            "candidates": _integers(candidates),
            "positives": _integers(positives),
            "candidate_keys": _integers(keys),
        }
        if self.passage_rows is not None:
            return pack | {"passage_rows": _integers([self.passage_rows[named[key]] for key in order] or [0])}
        read = [self._reading(named[key]).ids for key in order]
        return pack | self._lay("passage_", read or [[self.embedder_pad]], self.embedder_pad)

    def _negatives(self, example: EncodedExample) -> list[str]:
        """Return the example's negatives, each reading once, without those that read like a passage it must pick."""
        seen = {self._reading(i).key for i in example.passage_ids}
        kept = []
        for passage_id in example.negatives:
            key = self._reading(passage_id).key
            if key not in seen:
                seen.add(key)
                kept.append(passage_id)
        return kept

    def _reading(self, passage_id: str) -> _Reading:
        if passage_id not in self._read:
            if len(self._read) >= _KEPT_PASSAGES:
                self._read.clear()
            ids = self.passage_encoder(self.passages[passage_id].rendered) or [self.embedder_pad]
            self._read[passage_id] = _Reading(tuple(ids), passage_key(ids))
        return self._read[passage_id]


def model_inputs(pack: Pack, labels: bool = True, retrieval: bool = True, passages: bool = True) -> Pack:
    """Return the tensors of a pack that the pair's forward takes.

    Args:
        pack: see `CoSupervisionCollator`.
        labels: whether the NTP loss is wanted.
        retrieval: whether queries and passages are.
        passages: whether passages are, where queries are.
    """
    names = [*_ROW, *(["labels"] if labels else []), *(_QUERIES if retrieval else ())]
    names += _PASSAGES if retrieval and passages else ()
    return {name: pack[name] for name in names if name in pack}


def passage_key(ids: Sequence[int]) -> int:
    """Return the key of a passage's embedder tokens: equal tokens, equal key, in every process."""
    return stable_key(" ".join(map(str, ids)))


def token_counts(packs: Sequence[Mapping[str, torch.Tensor]], evened: bool = False) -> tuple[int, int]:
    """Count what both models read in packs.

    Args:
        packs: of a step.
        evened: whether packed rows are rounded up when they are run (`groups.rounded`).

    Returns:
        Real tokens, and places that hold none: padding and dummies (sequences of one token, passages that are no
        candidate).
    """
    real = places = 0
    for pack in packs:
        own, passages = _lengths(pack, ""), _lengths(pack, "passage_")
        real += int(own[own > 1].sum()) + (int(passages.sum()) if len(pack["candidates"]) else 0)
        places += token_places(pack, evened)
    return real, places - real


def token_places(pack: Mapping[str, torch.Tensor], evened: bool = False) -> int:
    """Count the places of a pack, of both models and with padding; `evened` as for `token_counts`."""
    total = 0
    for prefix in ("", "passage_"):
        count = pack[f"{prefix}input_ids"].numel() if f"{prefix}input_ids" in pack else 0
        total += rounded(count) if evened and f"{prefix}lengths" in pack else count
    return total


def _lengths(pack: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    if f"{prefix}lengths" in pack:
        return pack[f"{prefix}lengths"]
    mask = pack.get(f"{prefix}attention_mask")
    return _integers([]) if mask is None else mask.sum(dim=1)


def _integers(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.long)
