"""Both retrievers over the toy corpus."""

from __future__ import annotations

import pytest

from cosup.generation.retrieval import Retriever
from cosup.generation.retrievers.bm25 import BM25Retriever
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerEmbedder, SentenceTransformerRetriever
from tests import foreign
from tests.generation.retrievers.corpus import CORPUS


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> BM25Retriever:
    return BM25Retriever.build(CORPUS, tmp_path_factory.mktemp("bm25") / "index", "corpus")


@pytest.fixture(scope="module")
def st_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return foreign.sentence_transformer(tmp_path_factory.mktemp("st") / "tiny", normalize=True)


@pytest.fixture(scope="module")
def sentence(st_folder: str, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformerRetriever:
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    return SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path_factory.mktemp("vectors") / "index")


@pytest.fixture(params=["words", "sentence"])
def retriever(request: pytest.FixtureRequest) -> Retriever:
    found: Retriever = request.getfixturevalue(request.param)
    return found
