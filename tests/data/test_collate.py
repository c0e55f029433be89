"""Packs: every tensor of the contract, in both forms, for tokenizers of every kind."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from cosup.data.collate import IGNORED, ExampleDataset, passage_key, token_counts
from cosup.data.encoding import EncodedExample, ExampleEncoder, Kind
from cosup.data.keys import answer_key, stable_key
from cosup.data.packing import plan_packs
from cosup.data.padding import lay_end_to_end, pad_right
from cosup.records import Example, RetrievalSegment
from cosup.tokens import TextEncoder, control_token_ids
from tests import pairs
from tests.data.packs import BOTH, PASSAGES, collator, encoded, one_pack, sequences, toy, toy_collator
from tests.kinds import KINDS, kind, plain


def wanted_labels(example: EncodedExample, name: str, supervise_passages: bool = False) -> list[int]:
    """Never the prompt, never `[Cs]`; passages only if asked; everything else is its own label."""
    labels = []
    for token, what in zip(example.input_ids, example.kinds, strict=True):
        forced = token == control_token_ids(kind(name)).cs
        hidden = what is Kind.PROMPT or forced or (what is Kind.PASSAGE and not supervise_passages)
        labels.append(IGNORED if hidden else token)
    return labels


def test_a_packed_pack_has_these_tensors() -> None:
    """Three examples with 2, 0 and 1 retrievals; all shapes literal."""
    examples = [encoded("1", "2"), encoded(), encoded("3")]
    pack = one_pack(collator(), *examples)
    total = sum(len(e.input_ids) for e in examples)
    embedder = TextEncoder(plain("words"))
    lengths = [len(embedder.encode_with_template(PASSAGES[i].rendered)) for i in ("1", "2", "3")]
    assert {name: tuple(tensor.shape) for name, tensor in pack.items()} == {
        "input_ids": (1, total),
        "lengths": (3,),
        "labels": (1, total),
        "ret_rows": (3,),
        "ret_columns": (3,),
        "passage_input_ids": (1, sum(lengths)),
        "passage_lengths": (3,),
        "candidates": (3,),
        "positives": (3,),
        "candidate_keys": (3,),
        "answer_keys": (3,),
        "example_keys": (3,),
    }
    assert {tensor.dtype for tensor in pack.values()} == {torch.long}
    assert pack["passage_lengths"].tolist() == lengths


def test_a_padded_pack_has_these_tensors() -> None:
    examples = [encoded("1", "2"), encoded(), encoded("3")]
    pack = one_pack(collator(packing=False), *examples)
    length = max(len(e.input_ids) for e in examples)
    shapes = {name: tuple(tensor.shape) for name, tensor in pack.items()}
    assert shapes.keys() == one_pack(collator(), *examples).keys() - {"lengths", "passage_lengths"} | {
        "attention_mask",
        "passage_attention_mask",
    }
    assert [shapes[n] for n in ("input_ids", "labels", "attention_mask")] == [(3, length)] * 3
    assert [shapes[n] for n in ("passage_input_ids", "passage_attention_mask")] == [(3, 6)] * 2


@BOTH
@pytest.mark.parametrize("supervise_passages", [False, True])
@pytest.mark.parametrize("mask_same_passage", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_packs_hold_what_the_contract_says(
    name: str, mask_same_passage: bool, supervise_passages: bool, packing: bool
) -> None:
    """Real corpus, tokenizers of every kind, several packs: tokens, labels, places, passages, keys."""
    examples = toy(name)
    made = toy_collator(
        name,
        mask_same_passage=mask_same_passage,
        supervise_passages=supervise_passages,
        packing=packing,
        micro_batch_tokens=2 * max(len(e.input_ids) for e in examples),
    )
    packs = made(examples)["packs"]
    assert len(packs) > 1
    plan = plan_packs([made._load(e) for e in examples], made.micro_batch_tokens, padded=not packing)
    met: Counter[str] = Counter()
    keys: dict[int, tuple[int, ...]] = {}
    for pack, members in zip(packs, plan, strict=True):
        own = [examples[i] for i in members]
        assert sequences(pack, "") == [e.input_ids for e in own]
        met.update(e.example_id for e in own)
        labels = sequences(pack, "", "labels")
        assert labels == [wanted_labels(e, name, supervise_passages) for e in own]
        assert all(row[0] == IGNORED for row in labels)
        assert (pack["labels"] != IGNORED).sum() == sum(label != IGNORED for row in labels for label in row)
        rets = pack["input_ids"][pack["ret_rows"], pack["ret_columns"]].tolist()
        assert rets == [control_token_ids(kind(name)).ret] * sum(len(e.passage_ids) for e in own)
        owner = [e for e in own for _ in e.passage_ids]
        assert pack["example_keys"].tolist() == [stable_key(e.example_id) for e in owner]
        assert pack["answer_keys"].tolist() == [answer_key(e.answer) for e in owner]
        passages = [tuple(ids) for ids in sequences(pack, "passage_")]
        if owner:
            assert len(set(passages)) == len(passages), "each passage once"
        read = [passages[row] for row in pack["candidates"][pack["positives"]].tolist()]
        encode = TextEncoder(plain(name)).encode_with_template
        assert read == [tuple(encode(pairs.BY_ID[i].rendered, 256)) for e in own for i in e.passage_ids]
        for key, row in zip(pack["candidate_keys"].tolist(), pack["candidates"].tolist(), strict=True):
            assert keys.setdefault(key, passages[row]) == passages[row]
            assert (key == passage_key(passages[row])) == mask_same_passage
    assert met == Counter(e.example_id for e in examples), "every example once"
    if not mask_same_passage:
        assert len(keys) == sum(len(e.passage_ids) for e in examples), "every key is unique"


@BOTH
def test_the_first_token_of_a_sequence_is_never_a_label(packing: bool) -> None:
    """Nothing stands before it, or in a row another sequence does."""
    bare = EncodedExample([5, 6, 7], [Kind.WRITTEN] * 3, example_id="bare")
    pack = one_pack(collator(packing=packing), bare, bare)
    assert sequences(pack, "", "labels") == [[IGNORED, 6, 7]] * 2


@BOTH
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_end_is_learnt_where_it_is_the_padding_too(name: str, packing: bool) -> None:
    """Labels are masked by position: exactly one end a sequence is supervised, and no padding."""
    examples = [encoded("1", "2", name=name), encoded(name=name)]
    end = kind(name).eos_token_id
    assert kind(name).pad_token_id == end
    pack = one_pack(collator(name, packing=packing), *examples)
    assert [row.count(end) for row in sequences(pack, "", "labels")] == [1, 1]
    assert int((pack["labels"] == end).sum()) == 2
    assert sequences(pack, "") == [e.input_ids for e in examples]


def test_examples_are_encoded_when_asked_for_and_kept() -> None:
    made = ExampleEncoder(kind("words"), control_token_ids(kind("words")))
    dataset = ExampleDataset([Example("e", "the fox", (RetrievalSegment("1", "fox"),))] * 2, PASSAGES, made)
    assert len(dataset) == 2
    assert dataset[1] is dataset[1]
    assert dataset[0].input_ids == dataset[1].input_ids
    assert dataset[0].passage_ids == ["1"]


def test_negatives_may_be_added_between_two_looks() -> None:
    made = ExampleEncoder(kind("words"), control_token_ids(kind("words")))
    more: dict[str, tuple[str, ...]] = {}
    dataset = ExampleDataset([Example("e", "the fox", (RetrievalSegment("1", "fox"),), ("2",))], PASSAGES, made, more)
    assert dataset[0].negatives == ("2",)
    more["e"] = ("3",)
    assert dataset[0].negatives == ("2", "3")
    more.clear()
    assert dataset[0].negatives == ("2",)


@BOTH
def test_real_tokens_and_padding_are_counted(packing: bool) -> None:
    examples = [encoded("1", "2"), encoded("1", example_id="f"), encoded(example_id="g")]
    packs = collator(packing=packing)(examples)["packs"]
    lengths = [len(e.input_ids) for e in examples]
    passages = [len(TextEncoder(plain("words")).encode_with_template(PASSAGES[i].rendered)) for i in ("1", "2")]
    real = sum(lengths) + sum(passages)
    padding = 0 if packing else 3 * max(lengths) + 2 * max(passages) - real
    assert token_counts(packs) == (real, padding)
    assert packing or padding > 0
    packs.append(collator(packing=packing).empty_pack())
    assert token_counts(packs) == (real, padding + 2)


def test_padding_fills_on_the_right() -> None:
    ids, mask = pad_right([[1, 2, 3], [], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert pad_right([], 9)[0].shape == (0, 1)


def test_lists_are_laid_end_to_end() -> None:
    ids, lengths = lay_end_to_end([[1, 2, 3], [4], [5, 6]])
    assert ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert lengths.tolist() == [3, 1, 2]
    assert ids.dtype == lengths.dtype == torch.long
