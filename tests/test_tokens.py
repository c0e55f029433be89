"""Control tokens: added with rows of their own, and never made by text (proof 7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from cosup.data.wordlevel import build_word_tokenizer
from cosup.errors import UsageError
from cosup.tokens import (
    CONTROL_TOKENS,
    ControlTokenIds,
    TextEncoder,
    add_control_tokens,
    control_token_ids,
)
from tests.kinds import KINDS, LOSSLESS, SPELLINGS, kind, model_for, plain, special_ids, texts

KNOWN = "search for the passage quote: begin end of quote."


@pytest.mark.parametrize("saved", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("name", KINDS)
@given(text=texts())
@example("".join(SPELLINGS))
@example(" ".join(SPELLINGS))
@example("[RET] [Ret] [R\u00e9t] [Re\u200bt]")
@settings(max_examples=60, deadline=None)
def test_no_text_becomes_a_special_token(name: str, saved: bool, text: str) -> None:
    """Proof 7, for every kind of tokenizer, before and after saving."""
    tokenizer = kind(name, saved)
    ids = TextEncoder(tokenizer).encode(text)
    assert special_ids(tokenizer).isdisjoint(ids)
    if name in LOSSLESS:
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("name", KINDS)
@given(text=texts())
@example("".join(SPELLINGS))
@settings(max_examples=60, deadline=None)
def test_no_text_becomes_a_special_token_of_the_embedder(name: str, text: str) -> None:
    """Its tokenizer has no control tokens (or has them as words); around the text stands the template alone."""
    tokenizer = plain(name)
    encoder = TextEncoder(tokenizer)
    inside = encoder.encode(text)
    assert special_ids(tokenizer).isdisjoint(inside)
    assert encoder.encode_with_template(text) == encoder.prefix + inside + encoder.suffix


@pytest.mark.parametrize("name", KINDS)
@given(batch=st.lists(texts(), max_size=4), limit=st.sampled_from([None, 1, 5, 100]))
@example(batch=["".join(SPELLINGS), "plain", "", "[RET] [Ret] [R\u00e9t]"], limit=None)
@settings(max_examples=30, deadline=None)
def test_a_batch_is_encoded_as_its_texts_alone(name: str, batch: list[str], limit: int | None) -> None:
    for encoder in (TextEncoder(kind(name)), TextEncoder(plain(name))):
        assert encoder.encode_batch(batch) == [encoder.encode(text) for text in batch]
        together = encoder.encode_batch_with_template(batch, limit)
        assert together == [encoder.encode_with_template(text, limit) for text in batch]


@pytest.mark.parametrize("saved", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("name", KINDS)
def test_the_tokenizers_would_do_it_if_they_were_let(name: str, saved: bool) -> None:
    """What the proof guards against happens: encoded plainly, the spellings are the special tokens."""
    tokenizer = kind(name, saved)
    control = control_token_ids(tokenizer)
    assert {control.ret, control.cs, control.ce} <= set(tokenizer.encode(" [Ret] [Cs] [Ce] ", add_special_tokens=False))
    assert len({control.ret, control.cs, control.ce, control.eos}) == 4


@pytest.mark.parametrize("saved", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("name", KINDS)
def test_a_spelled_token_stays_text(name: str, saved: bool) -> None:
    """Something is left of it: it is split, not dropped."""
    encoder = TextEncoder(kind(name, saved))
    for text in ("[Ret]", "the [Ret] of"):
        shorter = text.replace("[Ret]", "")
        assert len(encoder.encode(text)) > len(encoder.encode(shorter))


def test_a_folded_spelling_stays_text() -> None:
    """A tokenizer that folds width and case makes `[Ret]` of these; they are cut where no spelling can be seen."""
    tokenizer = kind("folding")
    assert control_token_ids(tokenizer).ret in tokenizer.encode("[RET]", split_special_tokens=True)
    for text in ("[RET]", "[Ret]", "[R\u00e9t]", "x[Re\u200bt]y"):
        plain_text = text.replace("\u200b", "").replace("é", "e").replace("[", "[").replace("]", "]")
        ids = TextEncoder(tokenizer).encode(text)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False).replace(" ", "") == plain_text.lower()


def test_unknown_characters_are_left_out_where_the_unknown_token_ends_the_sequence() -> None:
    tokenizer = kind("gpt2 with gaps")
    assert tokenizer.eos_token_id in tokenizer.encode("the 漢 fox", split_special_tokens=True)
    encoder = TextEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode("the 漢 fox")).split() == ["the", "fox"]


def test_an_unknown_word_of_its_own_stays() -> None:
    tokenizer = kind("words")
    assert TextEncoder(tokenizer).encode("zebra") == [tokenizer.unk_token_id]


@pytest.mark.parametrize("name", KINDS)
@given(text=texts(), limit=st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_a_limit_cuts_the_text_and_nothing_else(name: str, text: str, limit: int) -> None:
    encoder = TextEncoder(kind(name))
    assert encoder.encode(text, limit) == encoder.encode(text)[:limit]
    room = max(1, limit - len(encoder.prefix) - len(encoder.suffix))
    assert encoder.encode_with_template(text, limit) == encoder.prefix + encoder.encode(text)[:room] + encoder.suffix


@pytest.mark.parametrize("name", KINDS)
@given(
    prompt=st.sampled_from(["", "query: ", "Which passage is about this?\n"]), text=texts(), limit=st.integers(0, 30)
)
@example(prompt="query: ", text="the quick brown fox jumps over the lazy dog " * 4, limit=20)
@settings(max_examples=30, deadline=None)
def test_a_limit_may_keep_the_prompt_and_the_end_of_the_text(name: str, prompt: str, text: str, limit: int) -> None:
    encoder = TextEncoder(kind(name))
    whole, room = encoder.encode(prompt + text), max(1, limit - len(encoder.prefix) - len(encoder.suffix))
    found = encoder.encode_end_with_template(prompt, text, limit)
    assert found[: len(encoder.prefix)] == encoder.prefix
    inside = found[len(encoder.prefix) : len(found) - len(encoder.suffix)]
    assert encoder.prefix + inside + encoder.suffix == found
    assert len(inside) == min(room, len(whole))
    kept = next((i for i, (a, b) in enumerate(zip(inside, whole, strict=False)) if a != b), len(inside))
    assert inside[kept:] == whole[len(whole) - len(inside) + kept :]
    alone = encoder.encode(prompt)
    if len(alone) < room:
        assert kept >= len(alone) - 1  # the last may be one token with the text's first


@pytest.mark.parametrize(
    ("name", "prefix", "suffix"), [("llama", ["<s>"], []), ("bytes", [], ["</s>"]), ("gpt2", [], []), ("words", [], [])]
)
def test_the_template_is_the_tokenizers_own(name: str, prefix: list[str], suffix: list[str]) -> None:
    encoder = TextEncoder(plain(name))
    assert plain(name).convert_ids_to_tokens(encoder.prefix) == prefix
    assert plain(name).convert_ids_to_tokens(encoder.suffix) == suffix


# Adding the tokens


def rows_of(model: GPT2LMHeadModel, tokenizer: Any) -> torch.Tensor:
    weight: Any = model.get_input_embeddings().weight
    return weight.detach()[[tokenizer.get_vocab()[token] for token in CONTROL_TOKENS]]


def test_fresh_rows_differ_and_have_the_mean_norm() -> None:
    """Their start is the mean of a few words' rows: three directions, at the length of the others."""
    tokenizer = build_word_tokenizer([KNOWN])
    model = model_for(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    ids = add_control_tokens(tokenizer, model)
    assert ids.to_dict() == {"ret": ids.ret, "cs": ids.cs, "ce": ids.ce, "eos": tokenizer.eos_token_id}
    assert (ids.ret, ids.cs, ids.ce) == (len(before), len(before) + 1, len(before) + 2)
    weight: Any = model.get_input_embeddings().weight
    assert torch.equal(weight[: len(before)], before)
    rows = rows_of(model, tokenizer)
    words = torch.tensor(TextEncoder(tokenizer).encode("search for the passage"))
    assert torch.cosine_similarity(rows[0], before[words].mean(dim=0), dim=0) > 0.999
    assert torch.allclose(rows.norm(dim=1), before.norm(dim=1).mean().expand(3), rtol=0.1)
    assert torch.pdist(rows).min() > 0.1 * rows.norm(dim=1).mean()


def test_output_rows_are_set_too_where_they_are_not_the_input_rows() -> None:
    tokenizer = build_word_tokenizer([KNOWN])
    model = model_for(tokenizer)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 3)
    add_control_tokens(tokenizer, model)
    output = model.lm_head.weight.detach()
    words = torch.tensor(TextEncoder(tokenizer).encode("search for the passage"))
    row = output[tokenizer.get_vocab()["[Ret]"]]
    assert torch.cosine_similarity(row, output[words].mean(dim=0), dim=0) > 0.999
    assert row.norm() > 2 * rows_of(model, tokenizer)[0].norm()


@pytest.mark.parametrize("unknown", ["own", "end"])
def test_rows_are_usable_where_the_tokenizer_knows_none_of_the_words(unknown: str) -> None:
    """Neither NaN (no token at all) nor three times the unknown token's row."""
    tokenizer = build_word_tokenizer(["zebra"])
    if unknown == "end":
        tokenizer.eos_token = tokenizer.unk_token
    model = model_for(tokenizer)
    add_control_tokens(tokenizer, model)
    rows = rows_of(model, tokenizer)
    assert rows.isfinite().all()
    assert torch.pdist(rows).min() > 0.1 * rows.norm(dim=1).mean()


def test_adding_twice_changes_nothing() -> None:
    tokenizer = build_word_tokenizer([KNOWN])
    model = model_for(tokenizer)
    first = add_control_tokens(tokenizer, model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert add_control_tokens(tokenizer, model) == first
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_special_tokens_that_were_there_stay_special() -> None:
    tokenizer = build_word_tokenizer([KNOWN])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|tool|>"]})
    add_control_tokens(tokenizer, model_for(tokenizer))
    assert {"<|tool|>", *CONTROL_TOKENS} <= set(tokenizer.all_special_tokens)


def test_spare_rows_of_a_padded_vocabulary_are_used() -> None:
    """Many checkpoints have more rows than words; they are not shrunk, nor grown without need."""
    tokenizer = build_word_tokenizer([KNOWN])
    words = len(tokenizer)
    tokenizer.add_tokens([f"spare{i}" for i in range(61)])
    model = model_for(tokenizer)
    bare = build_word_tokenizer([KNOWN])
    add_control_tokens(bare, model)
    assert model.get_input_embeddings().weight.shape[0] == words + 61


@pytest.mark.parametrize(
    ("missing", "message"),
    [("controls", r"lacks \[Ret\], \[Cs\], \[Ce\]$"), ("end", "lacks an end-of-sequence token$")],
)
def test_what_a_tokenizer_lacks_is_named(missing: str, message: str) -> None:
    tokenizer = build_word_tokenizer([KNOWN])
    if missing == "end":
        tokenizer.add_special_tokens({"extra_special_tokens": list(CONTROL_TOKENS)})
        tokenizer.eos_token = None
    with pytest.raises(UsageError, match=message):
        control_token_ids(tokenizer)


def test_ids_are_plain_numbers() -> None:
    assert ControlTokenIds(5, 6, 7, 1).to_dict() == {"ret": 5, "cs": 6, "ce": 7, "eos": 1}
