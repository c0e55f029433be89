"""Packs: every tensor of the contract, in both forms, for tokenizers of every kind."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from cosup.data.collate import IGNORED, CoSupervisionCollator, ExampleDataset, Pack, passage_key, token_counts
from cosup.data.encoding import EncodedExample, ExampleEncoder, Kind, PassageEncoder
from cosup.data.keys import answer_key, stable_key
from cosup.data.packing import plan_packs
from cosup.data.padding import lay_end_to_end, pad_right
from cosup.records import Example, Passage, RetrievalSegment, TextSegment
from cosup.tokens import TextEncoder, control_token_ids
from tests import pairs
from tests.kinds import KINDS, kind, plain, special_ids, texts

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


def toy(name: str) -> list[EncodedExample]:
    """Return the examples of the toy corpus in a tokenizer's tokens, some cut in the middle, one without `[Ret]`."""
    control = control_token_ids(kind(name))
    whole, cut = ExampleEncoder(kind(name), control), ExampleEncoder(kind(name), control, max_length=90)
    examples = [(cut if i % 3 == 2 else whole).example(e, pairs.BY_ID) for i, e in enumerate(pairs.EXAMPLES)]
    return [*examples, whole.example(Example("no ret", "Where?", (TextSegment("Here."),)), pairs.BY_ID)]


def toy_collator(name: str, **more: Any) -> CoSupervisionCollator:
    pads = kind(name).pad_token_id, plain(name).pad_token_id
    return CoSupervisionCollator(pairs.BY_ID, PassageEncoder(TextEncoder(plain(name))), *pads, **more)


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


# Candidates


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


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ((RetrievalSegment("1", "fox"), TextSegment("Saltmere")), "Saltmere"),
        ((TextSegment("Saltmere"),), "Saltmere"),
        ((TextSegment("Saltmere"), RetrievalSegment("1", "fox")), None),
    ],
)
def test_the_answer_is_the_text_after_all_retrievals(output: tuple[Any, ...], answer: str | None) -> None:
    made = ExampleEncoder(kind("words"), control_token_ids(kind("words")))
    found = made.example(Example("q 7", "the fox", output), PASSAGES)
    assert (found.example_id, found.answer) == ("q 7", answer)


# Keys


def test_answers_that_say_the_same_have_one_key() -> None:
    answers = ["The Hague.", "hague", "  the  HAGUE ", "Saltmere"]
    pack = one_pack(collator(), *(encoded("1", example_id=a, answer=a) for a in answers))
    keys = pack["answer_keys"].tolist()
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert 0 not in keys
    assert len(set(pack["example_keys"].tolist())) == 4


@pytest.mark.parametrize("answer", [None, "", " . ", "the", "Yes", "no.", "SUPPORTS"])
def test_verdicts_and_nothing_are_no_answer(answer: str | None) -> None:
    assert answer_key(answer) == 0


def test_keys_are_the_same_in_every_process() -> None:
    """Whatever the seed of Python's own hashes; as signed 64-bit numbers, known ones."""
    program = "from cosup.data.keys import *; print(stable_key('q1'), answer_key('Ada Vale'), stable_key('a', 'b'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert printed == {f"{stable_key('q1')} {answer_key('ada vale')} {stable_key('a', 'b')}\n"}
    assert stable_key("q1") == 6410765672723523138
    many = [stable_key(str(i)) for i in range(5000)]
    assert len(set(many)) == 5000
    assert min(many) >= -(2**63)
    assert max(many) < 2**63
    assert min(many) < 0 < max(many)
    assert stable_key("ab", "c") != stable_key("a", "bc")


# The data set, counts and layouts


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
