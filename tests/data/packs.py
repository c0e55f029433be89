"""Examples, collators and packs for the tests of packs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cosup.data.collate import CoSupervisionCollator, Pack
from cosup.data.encoding import EncodedExample, ExampleEncoder, PassageEncoder
from cosup.records import Example, Passage, RetrievalSegment, TextSegment
from cosup.tokens import TextEncoder, control_token_ids
from tests import pairs
from tests.kinds import kind, plain

PASSAGES = {
    "1": Passage("1", "the fox", "quick brown"),
    "1 again": Passage("1 again", "the fox", "quick brown"),
    "2": Passage("2", "", "of Saltmere"),
    "3": Passage("3", "the end", "of the passage"),
}
BOTH = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


def encoded(
    *passage_ids: str,
    negatives: tuple[str, ...] = (),
    name: str = "words",
    example_id: str = "e",
    answer: str = "the end",
) -> EncodedExample:
    """Return an example that retrieves these passages and then answers."""
    tokenizer = kind(name)
    output = (*(RetrievalSegment(i, "brown fox") for i in passage_ids), TextSegment(answer))
    made = ExampleEncoder(tokenizer, control_token_ids(tokenizer))
    return made.example(Example(example_id, "the fox", output, negatives), PASSAGES)


def collator(name: str = "words", max_length: int = 256, **more: Any) -> CoSupervisionCollator:
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    return CoSupervisionCollator(PASSAGES, PassageEncoder(TextEncoder(plain(name)), "", max_length), *pads, **more)


def one_pack(made: CoSupervisionCollator, *examples: EncodedExample) -> Pack:
    (pack,) = made(examples)["packs"]
    return pack


def sequences(pack: Pack, name: str, values: str | None = None) -> list[list[int]]:
    """Return the sequences of `{name}input_ids` without padding, or the `values` that stand at their places."""
    ids = pack[values or f"{name}input_ids"]
    if f"{name}lengths" in pack:
        assert ids.shape == (1, int(pack[f"{name}lengths"].sum()))
        return [part.tolist() for part in ids[0].split(pack[f"{name}lengths"].tolist())]
    mask = pack[f"{name}attention_mask"].bool()
    assert ids.shape == mask.shape
    assert torch.equal(mask, mask.cummin(dim=1).values), "padding on the right"
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


def picked(pack: Pack, name: str = "words") -> list[str]:
    """Return the text of the passage that each `[Ret]` must pick."""
    passages = sequences(pack, "passage_")
    rows = pack["candidates"][pack["positives"]].tolist()
    return [plain(name).decode(passages[row], skip_special_tokens=True) for row in rows]


def toy(name: str) -> list[EncodedExample]:
    """Return the examples of the toy corpus in a tokenizer's tokens, some cut in the middle, one without `[Ret]`."""
    control = control_token_ids(kind(name))
    whole, cut = ExampleEncoder(kind(name), control), ExampleEncoder(kind(name), control, max_length=90)
    examples = [(cut if i % 3 == 2 else whole).example(e, pairs.BY_ID) for i, e in enumerate(pairs.EXAMPLES)]
    return [*examples, whole.example(Example("no ret", "Where?", (TextSegment("Here."),)), pairs.BY_ID)]


def toy_collator(name: str, **more: Any) -> CoSupervisionCollator:
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    return CoSupervisionCollator(pairs.BY_ID, PassageEncoder(TextEncoder(plain(name))), *pads, **more)
