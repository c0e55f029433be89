"""Batches: shapes, labels by position, and which passage each `[Ret]` must pick."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings

from cosup.data.collate import IGNORED, CoSupervisionCollator, ExampleDataset
from cosup.data.encoding import EncodedExample, ExampleEncoder, Kind
from cosup.data.padding import pad_right
from cosup.records import Example, Passage, RetrievalSegment, TextSegment
from cosup.tokens import TextEncoder, control_token_ids
from tests.kinds import KINDS, kind, plain, special_ids, texts

PASSAGES = {
    "1": Passage("1", "the fox", "quick brown"),
    "1 again": Passage("1 again", "the fox", "quick brown"),
    "2": Passage("2", "", "of Saltmere"),
    "3": Passage("3", "the end", "of the passage"),
}


def encoded(*passage_ids: str, negatives: tuple[str, ...] = (), name: str = "words") -> EncodedExample:
    """Return an example that retrieves these passages."""
    tokenizer = kind(name)
    output = (*(RetrievalSegment(i, "brown fox") for i in passage_ids), TextSegment("the end"))
    made = ExampleEncoder(tokenizer, control_token_ids(tokenizer))
    return made.example(Example("e", "the fox", output, negatives), PASSAGES)


def collator(name: str = "words", **more: Any) -> CoSupervisionCollator:
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    return CoSupervisionCollator(PASSAGES, TextEncoder(plain(name)), *pads, **more)


def picked(batch: dict[str, torch.Tensor], name: str = "words") -> list[str]:
    """Return the text of the passage that each `[Ret]` must pick."""
    rows = batch["candidates"][batch["positives"]].tolist()
    ids, masks = batch["passage_input_ids"], batch["passage_attention_mask"]
    return [plain(name).decode(ids[row][masks[row].bool()], skip_special_tokens=True) for row in rows]


def test_the_batch_has_these_tensors() -> None:
    """Three examples with 2, 0 and 1 retrievals; all shapes literal."""
    examples = [encoded("1", "2"), encoded(), encoded("3")]
    batch = collator()(examples)
    length = max(len(e.input_ids) for e in examples)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (3, length),
        "attention_mask": (3, length),
        "labels": (3, length),
        "ret_rows": (3,),
        "ret_columns": (3,),
        "passage_input_ids": (3, 6),
        "passage_attention_mask": (3, 6),
        "candidates": (3,),
        "positives": (3,),
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}
    for row, example in enumerate(examples):
        width = len(example.input_ids)
        assert batch["input_ids"][row, :width].tolist() == example.input_ids
        assert batch["attention_mask"][row].tolist() == [1] * width + [0] * (length - width)
    assert batch["ret_rows"].tolist() == [0, 0, 2]
    ret = control_token_ids(kind("words")).ret
    assert batch["input_ids"][batch["ret_rows"], batch["ret_columns"]].tolist() == [ret] * 3
    assert picked(batch) == [PASSAGES[i].rendered for i in ("1", "2", "3")]


@pytest.mark.parametrize("supervise_passages", [False, True])
def test_labels_are_what_must_be_written(supervise_passages: bool) -> None:
    """Never the prompt, never `[Cs]`, never padding; passages only if asked; everything else is its own label."""
    examples = [encoded("1", "2"), encoded("3")]
    batch = collator(supervise_passages=supervise_passages)(examples)
    own = control_token_ids(kind("words"))
    for row, example in enumerate(examples):
        expected = []
        for token, what in zip(example.input_ids, example.kinds, strict=True):
            hidden = what is Kind.PROMPT or token == own.cs or (what is Kind.PASSAGE and not supervise_passages)
            expected.append(IGNORED if hidden else token)
        width = len(expected)
        assert batch["labels"][row, :width].tolist() == expected
        assert {own.ret, own.ce, own.eos} <= set(expected)
        assert set(batch["labels"][row, width:].tolist()) <= {IGNORED}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_end_is_learnt_where_it_is_the_padding_too(name: str) -> None:
    """Labels are masked by position: exactly one end a row is supervised, and no padding."""
    examples = [encoded("1", "2", name=name), encoded(name=name)]
    end = kind(name).eos_token_id
    assert kind(name).pad_token_id == end
    batch = collator(name)(examples)
    assert (batch["labels"] == end).sum(dim=1).tolist() == [1, 1]
    assert (batch["input_ids"][1] == end).sum() > 1
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(e.input_ids) for e in examples]
    lengths = [len(TextEncoder(plain(name)).encode_with_template(PASSAGES[i].rendered)) for i in ("1", "2")]
    assert batch["passage_attention_mask"].sum(dim=1).tolist() == lengths


# Candidates


def test_one_text_is_one_candidate_whatever_its_id() -> None:
    """`1` and `1 again` read the same: neither is a negative of the other."""
    batch = collator()([encoded("1", "2"), encoded("1 again", "1")])
    assert batch["passage_input_ids"].shape[0] == 2
    assert batch["candidates"].tolist() == [0, 1]
    assert batch["positives"].tolist() == [0, 1, 0, 0]
    assert picked(batch) == [PASSAGES[i].rendered for i in ("1", "2", "1", "1")]


def test_passages_that_differ_only_where_they_are_cut_are_one_candidate() -> None:
    """The embedder cannot tell them apart, and GradCache, which goes by tokens, doesn't either."""
    passages = {i: Passage(i, "the fox", f"quick brown {word}") for i, word in (("1", "of"), ("2", "Saltmere"))}
    pads = kind("words").pad_token_id, plain("words").pad_token_id
    for length, candidates in ((6, [0, 1]), (5, [0])):
        made = CoSupervisionCollator(passages, TextEncoder(plain("words")), *pads, max_passage_length=length)
        batch = made([encoded_one("words", passages), encoded_one("words", passages, "2")])
        assert batch["candidates"].tolist() == candidates


def test_without_the_mask_each_retrieval_brings_its_own_candidate() -> None:
    """The paper's way: the same passage twice is its own negative; it is embedded once all the same."""
    batch = collator(mask_same_passage=False)([encoded("1", "2"), encoded("1 again", "1")])
    assert batch["passage_input_ids"].shape[0] == 2
    assert batch["candidates"].tolist() == [0, 1, 0, 0]
    assert batch["positives"].tolist() == [0, 1, 2, 3]
    assert picked(batch) == [PASSAGES[i].rendered for i in ("1", "2", "1", "1")]


@pytest.mark.parametrize("mask_same_passage", [True, False])
def test_negatives_are_candidates_that_nothing_picks(mask_same_passage: bool) -> None:
    """Once each, and not where a positive of the batch has the same text."""
    examples = [encoded("1", negatives=("3", "1 again")), encoded("2", negatives=("3", "1"))]
    batch = collator(mask_same_passage=mask_same_passage)(examples)
    assert batch["candidates"].tolist() == [0, 1, 2]
    assert batch["positives"].tolist() == [0, 1]
    assert picked(batch) == [PASSAGES[i].rendered for i in ("1", "2")]
    third = batch["passage_input_ids"][2][batch["passage_attention_mask"][2].bool()]
    assert plain("words").decode(third) == PASSAGES["3"].rendered


def test_negatives_stay_candidates_beside_a_passage_that_stands_twice() -> None:
    """Rows are 0 (wanted twice) and 1 (the negative); without the mask both retrievals bring row 0."""
    examples = [encoded("1", negatives=("3",)), encoded("1")]
    assert collator()(examples)["candidates"].tolist() == [0, 1]
    assert collator(mask_same_passage=False)(examples)["candidates"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("negatives", [(), ("3",)])
@pytest.mark.parametrize("mask_same_passage", [True, False])
def test_a_batch_without_retrieval_has_empty_tensors(mask_same_passage: bool, negatives: tuple[str, ...]) -> None:
    batch = collator(mask_same_passage=mask_same_passage)([encoded(negatives=negatives), encoded()])
    for name in ("ret_rows", "ret_columns", "positives"):
        assert batch[name].shape == (0,)
    assert batch["candidates"].shape == (len(negatives),)
    assert batch["passage_input_ids"].shape[0] == len(negatives)
    assert (batch["labels"] != IGNORED).any()


def test_a_passage_is_cut_with_its_template_kept() -> None:
    batch = collator("llama", max_passage_length=3)([encoded("1", name="llama")])
    assert batch["passage_input_ids"].shape == (1, 3)
    assert batch["passage_input_ids"][0, 0].item() == plain("llama").bos_token_id


@pytest.mark.parametrize("name", KINDS)
@given(title=texts(3), body=texts(4))
@settings(max_examples=25, deadline=None)
def test_no_passage_becomes_a_special_token_for_the_embedder(name: str, title: str, body: str) -> None:
    """Proof 7 on the embedder's side: within its template's tokens, none is special."""
    own = TextEncoder(plain(name))
    passages = {"1": Passage("1", title, body)}
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    batch = CoSupervisionCollator(passages, own, *pads, max_passage_length=200)([encoded_one(name, passages)])
    ids = batch["passage_input_ids"][0][batch["passage_attention_mask"][0].bool()].tolist()
    inside = ids[len(own.prefix) : len(ids) - len(own.suffix)]
    assert own.prefix + inside + own.suffix == ids
    assert special_ids(plain(name)).isdisjoint(inside)


def encoded_one(name: str, passages: dict[str, Passage], passage_id: str = "1") -> EncodedExample:
    made = ExampleEncoder(kind(name), control_token_ids(kind(name)))
    return made.example(Example("e", "the fox", (RetrievalSegment(passage_id, "fox"),)), passages)


# The data set and the padding


def test_examples_are_encoded_when_asked_for_and_kept() -> None:
    made = ExampleEncoder(kind("words"), control_token_ids(kind("words")))
    dataset = ExampleDataset([Example("e", "the fox", (RetrievalSegment("1", "fox"),))] * 2, PASSAGES, made)
    assert len(dataset) == 2
    assert dataset[1] is dataset[1]
    assert dataset[0].input_ids == dataset[1].input_ids
    assert dataset[0].passage_ids == ["1"]


def test_padding_fills_on_the_right() -> None:
    ids, mask = pad_right([[1, 2, 3], [], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert pad_right([], 9)[0].shape == (0, 1)
