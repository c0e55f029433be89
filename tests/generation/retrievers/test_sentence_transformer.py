"""Retrieval by another encoder: exact over its own vectors, resumed, and refused where the index is another model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from cosup.data.store import PassageStore
from cosup.errors import InputError, UsageError
from cosup.generation.retrievers.opening import RetrieverChoice, open_retriever
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerEmbedder, SentenceTransformerRetriever
from cosup.index.base import PARTIAL
from cosup.index.embed import EmbedOptions
from tests import foreign
from tests.generation.conftest import Known
from tests.generation.retrievers.corpus import CORPUS, request

# -- BM25 ----------------------------------------------------------------------------------------------------------


def test_passages_of_an_index_are_embedded_from_the_disk(
    known: Known, st_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, build = [], SentenceTransformerRetriever.build
    monkeypatch.setattr(SentenceTransformerRetriever, "build", lambda *words: given.append(words[1]) or build(*words))
    opened = open_retriever(RetrieverChoice(st_folder), known.model, known.index, str(tmp_path / "index"))
    assert [type(passages) for passages in given] == [PassageStore]
    assert isinstance(opened.retriever, SentenceTransformerRetriever)
    assert list(opened.retriever.index) == list(known.index)
    assert opened.built is not None
    assert not (opened.built / PARTIAL).exists()


# -- sentence-transformers -----------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8")))
def test_a_text_comes_back_from_its_ids(text: str) -> None:
    embedder = SentenceTransformerEmbedder.__new__(SentenceTransformerEmbedder)
    seen: list[str] = []
    embedder.passage_prompt = None
    embedder._encode = lambda encode, texts, prompt: seen.extend(texts) or torch.zeros(1)  # type: ignore[assignment, method-assign, func-returns-value]
    embedder.model = type("Model", (), {"encode_document": None})
    embedder.embed_ids(embedder.encode_passages([text]))
    assert seen == [text]
    assert len(embedder.encode_passages([text])[0]) == 1 + -(-len(text.encode()) // 4)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_hits_are_those_of_exact_search_with_the_models_own_vectors(similarity: str, tmp_path: Path) -> None:
    prompts = {"query": "Who was ", "passage": "It was written: "}
    folder = foreign.sentence_transformer(tmp_path / "st", similarity=similarity, prompts=prompts)
    theirs = SentenceTransformer(folder, device="cpu")
    embedder = SentenceTransformerEmbedder(folder, device="cpu")
    retriever = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index")
    asked = ["Where was Hal Pike born?", "Red Tide"]
    unit = {"normalize_embeddings": similarity == "cosine"}
    table = theirs.encode_document([p.rendered for p in CORPUS], **unit)
    for text, hits in zip(asked, retriever.search([request(text) for text in asked], 4), strict=True):
        scores = table @ theirs.encode_query(text, **unit)
        wanted = {CORPUS[i].id: float(scores[i]) for i in np.argsort(-scores)[:4]}
        assert {h.passage_id: h.score for h in hits} == pytest.approx(wanted, abs=1e-4)
    other = SentenceTransformerEmbedder(folder, "", "", device="cpu")
    assert other.fingerprint != embedder.fingerprint
    plain = theirs.encode(["Red Tide"], prompt="", **unit)
    np.testing.assert_allclose(other.embed_queries(["Red Tide"]).numpy(), plain, atol=1e-6)


def test_an_index_of_another_model_or_of_other_prompts_is_refused(st_folder: str, tmp_path: Path) -> None:
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index")
    SentenceTransformerRetriever.load(SentenceTransformerEmbedder(st_folder, device="cpu"), tmp_path / "index")
    for other in (
        SentenceTransformerEmbedder(st_folder, passage_prompt="passage: ", device="cpu"),
        SentenceTransformerEmbedder(foreign.sentence_transformer(tmp_path / "cls", pooling="cls"), device="cpu"),
    ):
        with pytest.raises(InputError, match="made by embedder"):
            SentenceTransformerRetriever.load(other, tmp_path / "index")


def test_embedding_goes_on_after_an_interruption(
    st_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = EmbedOptions(tokens_per_batch=64, shard_size=4)
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    embedded: list[int] = []
    embed = embedder.embed_ids

    def counting(batch: list[list[int]]) -> torch.Tensor:
        if sum(embedded) >= 8 and len(embedded) < 100:
            embedded.extend([0] * 100)
            raise KeyboardInterrupt
        embedded.append(len(batch))
        return embed(batch)

    monkeypatch.setattr(embedder, "embed_ids", counting)
    with pytest.raises(KeyboardInterrupt):
        SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index", options=small)
    before = sum(embedded)
    retriever = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index", options=small)
    assert before == 8
    assert sum(embedded) == len(CORPUS)
    fresh = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "fresh")
    assert retriever.search([request("Bo")], 16) == fresh.search([request("Bo")], 16)


def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder '/no/such'"):
        SentenceTransformerEmbedder("/no/such")
    with pytest.raises(UsageError, match="cannot load a sentence-transformers model from 'no/such'"):
        SentenceTransformerEmbedder("no/such")
    euclid = foreign.sentence_transformer(tmp_path / "st", similarity="euclidean")
    with pytest.raises(UsageError, match="compares by euclidean"):
        SentenceTransformerEmbedder(euclid, device="cpu")
