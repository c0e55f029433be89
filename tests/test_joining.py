"""Pairs made elsewhere become model folders: their vectors stay, their tokens keep their ids."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from cosup.data.encoding import PAPER_PROMPT
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.generation.engine import Engine
from cosup.generation.retrieval import StateRetriever, TextRetriever
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.joining import JoinSettings, join
from cosup.modeling import CoSupervisedModel
from cosup.records import Question
from cosup.tokens import CONTROL_TOKENS, control_token_ids
from tests import foreign, kinds, pairs
from tests.commands import Cosup
from tests.joined import TEXTS, Authors, authors, generator, vectors

__all__ = ["authors", "generator"]


# -- the authors' pair ---------------------------------------------------------------------------------------------


def test_the_authors_pair_is_taken_as_the_paper_uses_it(authors: Authors) -> None:
    own, words = authors.pair.settings, AutoTokenizer.from_pretrained(authors.generator)
    assert (own.similarity, own.temperature, own.pooling, own.query) == ("inner_product", 1.0, "last_token", "state")
    assert own.prompt == PAPER_PROMPT
    ids = [authors.pair.control.ret, authors.pair.control.cs, authors.pair.control.ce]
    assert ids == words.convert_tokens_to_ids(["[Ret]", "[Cs]", "[Ce]"])
    assert authors.pair.control.eos == words.convert_tokens_to_ids("</s>")
    rows = dict(authors.joined.rows)
    assert rows["token ids"] == f"[Ret] {ids[0]}, [Cs] {ids[1]}, [Ce] {ids[2]}, end 2"
    assert rows["embedder reads"] == "<s> text"
    assert rows["pooling"].startswith("last_token")


@torch.no_grad()
def test_its_vectors_are_the_last_states_of_its_embedder(authors: Authors) -> None:
    """BOS before the text, no EOS after it, read at the last token: computed by hand, one text at a time."""
    body, words = AutoModel.from_pretrained(authors.embedder), AutoTokenizer.from_pretrained(authors.embedder)
    by_hand = []
    for text in TEXTS:
        ids = [1, *words.encode(text, add_special_tokens=False)]
        by_hand.append(body(torch.tensor([ids])).last_hidden_state[0, -1].numpy())
    np.testing.assert_allclose(vectors(authors.pair), np.array(by_hand), atol=1e-5)


@torch.no_grad()
def test_its_generator_computes_the_same(authors: Authors) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(authors.generator)
    ours = AutoModelForCausalLM.from_pretrained(authors.joined.folder / "generator")
    ids = torch.tensor([[1, 277, 40, 41, 275]])
    assert torch.equal(theirs(ids).logits, ours(ids).logits)


@given(kinds.texts())
def test_no_text_becomes_a_control_token_of_either_tokenizer(authors: Authors, text: str) -> None:
    """Both vocabularies hold them; what is embedded or spliced never does."""
    banned = {authors.pair.control.ret, authors.pair.control.cs, authors.pair.control.ce}
    assert set(CONTROL_TOKENS) <= set(authors.pair.embedder_tokenizer.get_vocab())
    assert banned.isdisjoint(authors.pair.encode_passage(text))
    assert banned.isdisjoint(pairs.encoder(authors.pair).prompt(text))


def test_from_join_to_index_to_answers(authors: Authors, tmp_path: Path) -> None:
    index = build_index(authors.pair, pairs.PASSAGES, tmp_path / "index")
    engine = Engine(authors.pair, index, GenerationSettings(max_new_tokens=12, ret_first=True, top_k=3))
    assert isinstance(engine.retriever, StateRetriever)
    answer = engine.generate(pairs.QUESTIONS[:3], 2)[1]
    ids = [*pairs.encoder(authors.pair).prompt(pairs.QUESTIONS[1].question), authors.pair.control.ret]
    theirs = AutoModel.from_pretrained(authors.generator)
    with torch.no_grad():
        state = theirs(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
    scores = vectors(authors.pair) @ state
    best = [pairs.PASSAGES[i].id for i in np.argsort(-scores)[:3]]
    assert [hit.passage_id for hit in answer.retrievals[0].hits] == best


def test_tokens_spelled_otherwise_keep_their_ids(tmp_path: Path) -> None:
    spelled = ["<|begin_claim|>", "<|end_claim|>", "<|search|>"]
    generator, embedder = foreign.authors_pair(tmp_path, spelled)
    names = JoinSettings(cs_token=spelled[0], ce_token=spelled[1], ret_token=spelled[2])
    with pytest.raises(UsageError, match=r"no token \[Ret\], \[Cs\], \[Ce\]"):
        join(generator, embedder, tmp_path / "none", JoinSettings(query="state"))
    with pytest.raises(UsageError, match=r"no token <\|serach\|> \(did you mean '<\|search\|>'\?\)"):
        join(generator, embedder, tmp_path / "none", replace(names, ret_token="<|serach|>"))
    join(generator, embedder, tmp_path / "model", names)
    found = CoSupervisedModel.from_pretrained(tmp_path / "model")
    before = AutoTokenizer.from_pretrained(generator)
    assert [found.control.cs, found.control.ce, found.control.ret] == before.convert_tokens_to_ids(spelled)
    assert found.settings.query == "state"
    assert found.generator_tokenizer.encode(TEXTS[0]) == before.encode(TEXTS[0])
    plain = AutoTokenizer.from_pretrained(tmp_path / "model" / "generator")
    assert control_token_ids(plain) == found.control
    assert not (tmp_path / "none").exists()


# -- any embedder of sentence-transformers -------------------------------------------------------------------------

FORMS: dict[str, dict[str, Any]] = {
    "bert-mean": {"kind": "bert", "pooling": "mean", "normalize": True},
    "bert-cls": {"kind": "bert", "pooling": "cls", "similarity": "dot"},
    "bert-dense": {"kind": "bert", "dense": [{"in_features": 24, "out_features": 10}], "normalize": True},
    "two-dense": {
        "kind": "bert", "similarity": "dot", "dense": [{"in_features": 24, "out_features": 12, "bias": False},
                                                       {"in_features": 12, "out_features": 32}],
    },
    "roberta": {"kind": "roberta", "pooling": "mean", "similarity": "dot"},
    "distilbert": {"kind": "distilbert", "pooling": "mean"},
    "last": {"kind": "roberta", "pooling": "lasttoken", "similarity": "dot"},
    "prompts": {"kind": "bert", "pooling": "mean", "prompts": {"query": "Who was ", "passage": "It is a book. "}},
}  # fmt: skip


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(request.param)
    return foreign.sentence_transformer(tmp_path_factory.mktemp(name) / name, **FORMS[name])


def test_vectors_are_those_of_sentence_transformers(form: str, generator: str, tmp_path: Path) -> None:
    """Of passages and of queries, before and after saving; the folder written is itself a sentence-transformer."""
    from sentence_transformers import SentenceTransformer

    joined = join(generator, form, tmp_path / "model")
    pair = CoSupervisedModel.from_pretrained(joined.folder)
    cosine = pair.settings.similarity == "cosine"
    theirs = SentenceTransformer(form, device="cpu")
    passages = theirs.encode_document(TEXTS, normalize_embeddings=cosine)
    np.testing.assert_allclose(vectors(pair), passages, atol=2e-6)
    asked = ["Bo Reed", "written by whom, and when was it"]  # of longer ones cosup reads the end
    queries = theirs.encode_query(asked, normalize_embeddings=cosine)
    np.testing.assert_allclose(pair.embed_queries(asked).numpy(), queries, atol=2e-6)
    written = SentenceTransformer(str(joined.folder / "embedder"), device="cpu")
    np.testing.assert_allclose(written.encode_document(TEXTS), passages, atol=2e-6)
    pair.save_pretrained(tmp_path / "again")
    again = CoSupervisedModel.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(vectors(again), vectors(pair))
    assert again.fingerprint == pair.fingerprint


def test_an_embedding_does_not_depend_on_padding(form: str, generator: str, tmp_path: Path) -> None:
    """On either side, and whatever stands beside it: positions are the model's own."""
    pair = CoSupervisedModel.from_pretrained(join(generator, form, tmp_path / "model").folder)
    ids = pair.encode_passage("Ada Vale was born")
    pad, mask = [int(pair.embedder_tokenizer.pad_token_id)] * 3, [1] * len(ids)
    with torch.no_grad():
        alone = pair.embed(torch.tensor([ids]))
        right = pair.embed(torch.tensor([ids + pad]), torch.tensor([[*mask, 0, 0, 0]]))
        left = pair.embed(torch.tensor([pad + ids]), torch.tensor([[0, 0, 0, *mask]]))
    torch.testing.assert_close(right, alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(left, alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_decoder_may_be_an_embedder_of_sentence_transformers(pooling: str, authors: Authors, tmp_path: Path) -> None:
    """Read from the left, as its tokens are, and asked by state where it is said that they belong together."""
    from sentence_transformers import SentenceTransformer

    folder = foreign.sentence_transformer(tmp_path / "st", authors.embedder, pooling, max_tokens=24, similarity="dot")
    join(authors.generator, folder, tmp_path / "model", JoinSettings(query="state"))
    pair = CoSupervisedModel.from_pretrained(tmp_path / "model")
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(pair), theirs, atol=1e-5)
    assert isinstance(Engine(pair, build_index(pair, pairs.PASSAGES, tmp_path / "i")).retriever, StateRetriever)


def test_such_a_pair_says_that_it_asks_by_text_and_does(form: str, generator: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = join(generator, form, tmp_path / "model").folder
    assert json.loads((folder / "cosup.json").read_text())["query"] == "text"
    pair = CoSupervisedModel.from_pretrained(folder)
    index = build_index(pair, pairs.PASSAGES, tmp_path / "index")
    engine = Engine(pair, index, GenerationSettings(max_new_tokens=4, ret_first=True, top_k=4))
    assert isinstance(engine.retriever, TextRetriever)
    answer = engine.generate([Question("q", "Where was Bo Reed born?")])[0]
    theirs = SentenceTransformer(form, device="cpu")
    same_length = {"normalize_embeddings": pair.settings.similarity == "cosine"}
    query = theirs.encode_query("Where was Bo Reed born?", **same_length)
    scores = theirs.encode_document(TEXTS, **same_length) @ query
    found = {hit.passage_id: hit.score for hit in answer.retrievals[0].hits}
    best = {pairs.PASSAGES[i].id: float(scores[i]) for i in np.argsort(-scores)[:4]}
    assert found == pytest.approx(best, abs=1e-4)


def test_a_generator_without_control_tokens_gets_them_and_is_said_to_know_nothing_of_them(tmp_path: Path) -> None:
    generator, _ = foreign.authors_pair(tmp_path, [])
    embedder = foreign.sentence_transformer(tmp_path / "st", normalize=True)
    joined = join(generator, embedder, tmp_path / "model")
    assert "added" in dict(joined.rows)["token ids"]
    pair = CoSupervisedModel.from_pretrained(joined.folder)
    index = build_index(pair, pairs.PASSAGES, tmp_path / "index")
    answer = Engine(pair, index, GenerationSettings(max_new_tokens=6, ret_first=True)).generate(pairs.QUESTIONS[:1])
    assert len(answer[0].retrievals) >= 1


def test_a_trained_generator_keeps_its_prompt_and_lengths(tmp_path: Path) -> None:
    pair = pairs.pair()
    pair.save_pretrained(tmp_path / "own")
    embedder = foreign.sentence_transformer(tmp_path / "st", normalize=True)
    joined = join(str(tmp_path / "own" / "generator"), embedder, tmp_path / "model")
    own = CoSupervisedModel.from_pretrained(joined.folder).settings
    assert (own.prompt, own.max_length) == (pair.settings.prompt, pair.settings.max_length)
    assert own.max_passage_length == 16


def test_a_plain_encoder_is_pooled_as_one_says(generator: str, tmp_path: Path) -> None:
    plain = foreign.encoder("bert", tmp_path / "plain")
    with pytest.raises(InputError, match="does not say how it pools; say --pooling mean or --pooling cls"):
        join(generator, plain, tmp_path / "model")
    join(generator, plain, tmp_path / "model", JoinSettings(pooling="cls", query="text"))
    pair = CoSupervisedModel.from_pretrained(tmp_path / "model")
    words, body = AutoTokenizer.from_pretrained(plain), AutoModel.from_pretrained(plain)
    with torch.no_grad():
        state = body(**words(TEXTS[0], return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(vectors(pair, TEXTS[:1])[0], state.numpy(), atol=2e-6)


def test_pooling_is_part_of_the_fingerprint(generator: str, tmp_path: Path) -> None:
    """The same weights pooled otherwise are another embedder: an index of one is refused by the other."""
    plain = foreign.encoder("bert", tmp_path / "plain")
    names = {}
    for pooling in ("mean", "cls"):
        settings = JoinSettings(pooling=pooling, query="text")
        names[pooling] = dict(join(generator, plain, tmp_path / pooling, settings).rows)["embedder fingerprint"]
    assert names["mean"] != names["cls"]
    one, other = (CoSupervisedModel.from_pretrained(tmp_path / pooling) for pooling in names)
    index = build_index(one, pairs.PASSAGES, tmp_path / "index")
    with pytest.raises(UsageError, match="made by embedder"):
        Engine(other, index)


# -- the command line ----------------------------------------------------------------------------------------------


def test_from_join_to_predictions_on_the_command_line(cosup: Cosup, authors: Authors, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", pairs.PASSAGES)
    write_jsonl(tmp_path / "questions.jsonl", pairs.QUESTIONS)
    st = foreign.sentence_transformer(tmp_path / "st", normalize=True)
    for name, embedder, query in (("authors", authors.embedder, "state"), ("st", st, "text")):
        model, index = tmp_path / f"{name}-model", tmp_path / f"{name}-index"
        done = cosup("join", "--generator", authors.generator, "--embedder", embedder, "--output", model)
        assert (done.code, done.out) == (0, f"{model}\n"), done.err
        assert re.search(rf"^queries by +{query}: ", done.err, flags=re.MULTILINE)
        assert re.search(r"^token ids +\[Ret\] 277, \[Cs\] 275, \[Ce\] 276, end 2$", done.err, flags=re.MULTILINE)
        assert cosup("index", "--model", model, "--passages", tmp_path / "passages.jsonl", "--output", index).code == 0
        words = ["generate", "--model", model, "--index", index, "--questions", tmp_path / "questions.jsonl"]
        done = cosup(*words, "--output", tmp_path / f"{name}.jsonl", "--ret-first", "--max-new-tokens", 5)
        assert done.code == 0, done.err
        records = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert all(len(r["retrievals"][0]["hits"]) == 10 for r in records)
        shown = cosup("info", model).out
        assert re.search(rf"^  query +{query}$", shown, flags=re.MULTILINE)
        assert re.search(rf"^  pooling +{'last_token' if name == 'authors' else 'mean'}$", shown, flags=re.MULTILINE)


def test_a_join_that_is_refused_is_one_line_and_leaves_nothing(cosup: Cosup, authors: Authors, tmp_path: Path) -> None:
    words = ["join", "--generator", authors.generator, "--embedder", authors.embedder, "--output", tmp_path / "m"]
    assert "did you mean 'mean'" in cosup.refused(*words, "--pooling", "men")
    assert "has no token <RET>" in cosup.refused(*words, "--ret-token", "<RET>")
    assert "no model folder" in cosup.refused(*words[:4], tmp_path / "none", *words[5:])
    assert list(tmp_path.iterdir()) == []
