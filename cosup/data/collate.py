"""From examples to batches of tensors.

Shapes: B examples, L generator tokens, R retrievals, P distinct passages, Lp embedder tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import Dataset

from cosup.data.encoding import EncodedExample, ExampleEncoder, Kind
from cosup.data.padding import pad_right
from cosup.records import Example, Passage
from cosup.tokens import TextEncoder

IGNORED = -100


class ExampleDataset(Dataset[EncodedExample]):
    """Examples, encoded when first asked for and kept.

    Args:
        examples: what to train on.
        passages: passages by id; every id of the examples is there.
        encoder: the generator's encoder.
    """

    def __init__(self, examples: Sequence[Example], passages: Mapping[str, Passage], encoder: ExampleEncoder) -> None:
        self.examples = examples
        self.passages = passages
        self.encoder = encoder
        self._encoded: dict[int, EncodedExample] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EncodedExample:
        if index not in self._encoded:
            self._encoded[index] = self.encoder.example(self.examples[index], self.passages)
        return self._encoded[index]


class CoSupervisionCollator:
    """Builds a batch for both models.

    Passages are embedded once each, whatever the number of `[Ret]` tokens that want them: two passages that read the
    same up to `max_passage_length` are one. With `mask_same_passage` they are also one candidate of the NSP loss;
    without, each `[Ret]` brings a candidate of its own, as in the paper, so that the same passage twice counts as a
    negative.

    Args:
        passages: passages by id.
        passage_encoder: encodes for the embedder, in its tokenizer's template.
        generator_pad: pad id of the generator.
        embedder_pad: pad id of the embedder.
        max_passage_length: embedder tokens of a passage at most.
        supervise_passages: whether spliced passages are supervised by NTP (the paper's `no_mask`).
        mask_same_passage: see above.
    """

    def __init__(
        self,
        passages: Mapping[str, Passage],
        passage_encoder: TextEncoder,
        generator_pad: int,
        embedder_pad: int,
        max_passage_length: int = 256,
        supervise_passages: bool = False,
        mask_same_passage: bool = True,
    ) -> None:
        self.passages = passages
        self.passage_encoder = passage_encoder
        self.generator_pad = generator_pad
        self.embedder_pad = embedder_pad
        self.max_passage_length = max_passage_length
        self.mask_same_passage = mask_same_passage
        self.supervised = {Kind.WRITTEN, Kind.PASSAGE} if supervise_passages else {Kind.WRITTEN}
        self._encoded: dict[str, tuple[int, ...]] = {}

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        """Return the batch.

        Keys: `input_ids`, `attention_mask`, `labels` [B, L]; `ret_rows`, `ret_columns` [R]; `passage_input_ids`,
        `passage_attention_mask` [P, Lp]; `candidates` [M], the passage row of each candidate; `positives` [R],
        the candidate that each `[Ret]` must pick.
        """
        input_ids, attention_mask = pad_right([e.input_ids for e in examples], self.generator_pad)
        rets = [(row, column) for row, e in enumerate(examples) for column in e.ret_positions]
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": self._labels(examples)}
        batch["ret_rows"] = torch.tensor([row for row, _ in rets], dtype=torch.long)
        batch["ret_columns"] = torch.tensor([column for _, column in rets], dtype=torch.long)
        return batch | self._passages(examples)

    def _labels(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        rows = [
            [token if kind in self.supervised else IGNORED for token, kind in zip(e.input_ids, e.kinds, strict=True)]
            for e in examples
        ]
        return pad_right(rows, IGNORED)[0]

    def _passages(self, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        wanted = [i for e in examples for i in e.passage_ids]
        rows: dict[tuple[int, ...], int] = {}
        for passage_id in wanted + [i for e in examples for i in e.negatives]:
            rows.setdefault(self._encode(passage_id), len(rows))
        of = [rows[self._encode(passage_id)] for passage_id in wanted]
        ids, mask = pad_right(list(rows), self.embedder_pad)
        shared = list(range(len(rows)))
        own = of + shared[len(set(of)) :]
        return {
            "passage_input_ids": ids,
            "passage_attention_mask": mask,
            "candidates": torch.tensor(shared if self.mask_same_passage else own, dtype=torch.long),
            "positives": torch.tensor(of if self.mask_same_passage else range(len(of)), dtype=torch.long),
        }

    def _encode(self, passage_id: str) -> tuple[int, ...]:
        if passage_id not in self._encoded:
            text = self.passages[passage_id].rendered
            self._encoded[passage_id] = tuple(self.passage_encoder.encode_with_template(text, self.max_passage_length))
        return self._encoded[passage_id]
