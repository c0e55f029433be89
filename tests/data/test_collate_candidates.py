"""A pack's candidates: each text once, negatives among them, empty packs, passages cut and vectors in their place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from cosup.data.collate import IGNORED, CoSupervisionCollator, token_counts
from cosup.data.encoding import EncodedExample, ExampleEncoder, PassageEncoder
from cosup.records import Example, Passage, RetrievalSegment
from cosup.tokens import TextEncoder, control_token_ids
from tests.data.packs import BOTH, PASSAGES, collator, encoded, one_pack, picked, sequences
from tests.kinds import KINDS, kind, plain, special_ids, texts


@BOTH
def test_one_text_is_one_candidate_whatever_its_id(packing: bool) -> None:
    """`1` and `1 again` read the same: neither is a negative of the other."""
    pack = one_pack(collator(packing=packing), encoded("1", "2"), encoded("1 again", "1"))
    assert len(sequences(pack, "passage_")) == 2
    assert pack["candidates"].tolist() == [0, 1]
    assert pack["positives"].tolist() == [0, 1, 0, 0]
    assert picked(pack) == [PASSAGES[i].rendered for i in ("1", "2", "1", "1")]


def test_one_text_has_one_key_in_every_pack() -> None:
    packs = [one_pack(collator(), encoded(i, example_id=i)) for i in ("1", "1 again", "2")]
    keys = [pack["candidate_keys"].item() for pack in packs]
    assert keys[0] == keys[1] != keys[2]
    packs = [one_pack(collator(mask_same_passage=False), encoded(i, example_id=i)) for i in ("1", "1 again", "2")]
    assert len({pack["candidate_keys"].item() for pack in packs}) == 3


def test_passages_that_differ_only_where_they_are_cut_are_one_candidate() -> None:
    """The embedder cannot tell them apart."""
    passages = {i: Passage(i, "the fox", f"quick brown {word}") for i, word in (("1", "of"), ("2", "Saltmere"))}
    pads = kind("words").pad_token_id, plain("words").pad_token_id
    for length, candidates in ((6, [0, 1]), (5, [0])):
        made = CoSupervisionCollator(passages, PassageEncoder(TextEncoder(plain("words")), max_length=length), *pads)
        pack = one_pack(made, encoded_one("words", passages), encoded_one("words", passages, "2"))
        assert pack["candidates"].tolist() == candidates


def test_without_the_mask_each_retrieval_brings_its_own_candidate() -> None:
    """The paper's way: the same passage twice is its own negative; it is embedded once all the same."""
    examples = [encoded("1", "2", example_id="a"), encoded("1 again", "1", example_id="b")]
    pack = one_pack(collator(mask_same_passage=False), *examples)
    assert len(sequences(pack, "passage_")) == 2
    assert pack["candidates"].tolist() == [0, 1, 0, 0]
    assert pack["positives"].tolist() == [0, 1, 2, 3]
    assert len(set(pack["candidate_keys"].tolist())) == 4
    assert picked(pack) == [PASSAGES[i].rendered for i in ("1", "2", "1", "1")]


def test_negatives_are_candidates_that_nothing_picks() -> None:
    """Once each, and none that reads like a passage of its own example."""
    examples = [encoded("1", negatives=("3", "1 again")), encoded("2", negatives=("3", "1"), example_id="f")]
    pack = one_pack(collator(), *examples)
    assert pack["candidates"].tolist() == [0, 1, 2]
    assert pack["positives"].tolist() == [0, 1]
    assert picked(pack) == [PASSAGES[i].rendered for i in ("1", "2")]
    assert plain("words").decode(sequences(pack, "passage_")[2]) == PASSAGES["3"].rendered
    pack = one_pack(collator(mask_same_passage=False), *examples)
    assert pack["candidates"].tolist() == [0, 1, 2, 2, 0]
    assert pack["positives"].tolist() == [0, 1]
    assert len(set(pack["candidate_keys"].tolist())) == 5


@BOTH
@pytest.mark.parametrize("negatives", [(), ("3",)])
@pytest.mark.parametrize("mask_same_passage", [True, False])
def test_a_pack_without_retrieval_has_empty_tensors(
    mask_same_passage: bool, negatives: tuple[str, ...], packing: bool
) -> None:
    """And one passage all the same, so that both models run on every device."""
    made = collator(mask_same_passage=mask_same_passage, packing=packing)
    pack = one_pack(made, encoded(negatives=negatives), encoded(example_id="f"))
    for name in ("ret_rows", "ret_columns", "positives", "answer_keys", "example_keys"):
        assert pack[name].shape == (0,)
    assert pack["candidates"].shape == pack["candidate_keys"].shape == (len(negatives),)
    assert [len(ids) for ids in sequences(pack, "passage_")] == ([6] if negatives else [1])
    assert (pack["labels"] != IGNORED).any()


@BOTH
@pytest.mark.parametrize("frozen", [False, True])
def test_an_empty_pack_asks_for_nothing(packing: bool, frozen: bool) -> None:
    made = collator(packing=packing, passage_rows={"1": 4} if frozen else None)
    pack, usual = made.empty_pack(), one_pack(made, encoded("1"))
    assert pack.keys() == usual.keys()
    assert {tensor.dtype for tensor in pack.values()} == {torch.long}
    assert sequences(pack, "") == [[kind("words").pad_token_id]]
    assert pack["labels"].tolist() == [[IGNORED]]
    for name in ("ret_rows", "ret_columns", "positives", "candidates", "candidate_keys", "answer_keys", "example_keys"):
        assert pack[name].shape == (0,)
    assert (pack["passage_rows"].tolist() if frozen else len(sequences(pack, "passage_")[0])) == ([0] if frozen else 1)
    assert token_counts([pack]) == (0, 1 if frozen else 2)


def test_vectors_computed_beforehand_stand_in_for_tokens() -> None:
    """Rows of the table, one a passage that reads differently; `1 again` reads like `1`, whose row is taken."""
    rows = {"1": 7, "1 again": 9, "2": 3, "3": 5}
    examples = [encoded("2", "1", negatives=("3",)), encoded("1 again", example_id="f")]
    pack, usual = one_pack(collator(passage_rows=rows), *examples), one_pack(collator(), *examples)
    assert pack["passage_rows"].tolist() == [3, 7, 5]
    assert pack.keys() == usual.keys() - {"passage_input_ids", "passage_lengths"} | {"passage_rows"}
    assert all(torch.equal(pack[name], usual[name]) for name in pack.keys() & usual.keys())


@BOTH
def test_a_passage_is_cut_with_its_template_kept(packing: bool) -> None:
    pack = one_pack(collator("llama", max_length=3, packing=packing), encoded("1", name="llama"))
    assert pack["passage_input_ids"].shape == (1, 3)
    assert pack["passage_input_ids"][0, 0].item() == plain("llama").bos_token_id


@pytest.mark.parametrize("name", KINDS)
@given(title=texts(3), body=texts(4))
@settings(max_examples=25, deadline=None)
def test_no_passage_becomes_a_special_token_for_the_embedder(name: str, title: str, body: str) -> None:
    """Proof 7 on the embedder's side: within its template's tokens, none is special."""
    own = TextEncoder(plain(name))
    passages = {"1": Passage("1", title, body)}
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    made = CoSupervisionCollator(passages, PassageEncoder(own, max_length=200), *pads)
    (ids,) = sequences(one_pack(made, encoded_one(name, passages)), "passage_")
    if own.prefix or own.suffix or own.encode(passages["1"].rendered):
        inside = ids[len(own.prefix) : len(ids) - len(own.suffix)]
        assert own.prefix + inside + own.suffix == ids
        assert special_ids(plain(name)).isdisjoint(inside)
    else:
        assert ids == [pads[1]], "a text of no tokens is a token of padding"


def encoded_one(name: str, passages: dict[str, Passage], passage_id: str = "1") -> EncodedExample:
    made = ExampleEncoder(kind(name), control_token_ids(kind(name)))
    return made.example(Example("e", "the fox", (RetrievalSegment(passage_id, "fox"),)), passages)


# Examples for the contrast alone


def test_an_example_may_bring_its_queries_alone() -> None:
    """Up to its last `[Ret]`, with the same candidates; no label, not even of passages."""
    whole = encoded("1", "2", negatives=("3",))
    queries = whole.queries_only()
    assert queries is not None
    assert queries.input_ids == whole.input_ids[: whole.ret_positions[1] + 1]
    made = collator(supervise_passages=True)
    pack, usual = one_pack(made, queries), one_pack(made, whole)
    assert set(pack["labels"].flatten().tolist()) == {IGNORED}
    for name in usual.keys() - {"input_ids", "labels", "lengths"}:
        assert torch.equal(pack[name], usual[name]), name
    assert (usual["labels"] != IGNORED).any(), "the whole is as it was"
    assert encoded().queries_only() is None
