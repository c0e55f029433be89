"""What cannot be joined is refused by name: misfits, lacking weights, other vectors, wrong places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5Model

from cosup.errors import InputError, UsageError
from cosup.joining import JoinSettings, join
from cosup.modeling import CoSupervisedModel
from tests import foreign
from tests.joined import TEXTS, Authors, authors, generator, vectors

__all__ = ["authors", "generator"]


def test_a_vocabulary_larger_than_its_embeddings_is_refused(authors: Authors, tmp_path: Path) -> None:
    for part, source in (("gen", authors.generator), ("emb", authors.embedder)):
        copied = shutil.copytree(source, tmp_path / part)
        words = AutoTokenizer.from_pretrained(copied)
        words.add_tokens(["one", "more"])
        words.save_pretrained(copied)
    with pytest.raises(UsageError, match="ids up to 279, its model 278 embeddings"):
        join(str(tmp_path / "gen"), authors.embedder, tmp_path / "model")
    with pytest.raises(UsageError, match="ids up to 279, its model 278 embeddings"):
        join(authors.generator, tmp_path / "emb", tmp_path / "model")


def test_a_checkpoint_that_lacks_weights_is_refused(authors: Authors, tmp_path: Path) -> None:
    """An embedder has no head to write with; transformers would draw one at random."""
    with pytest.raises(UsageError, match=r"no whole LlamaForCausalLM: weights are missing \(1, first lm_head\.weight"):
        join(authors.embedder, authors.embedder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_encoder_with_a_decoder_is_refused(generator: str, tmp_path: Path) -> None:
    words = foreign.encoder_tokenizer("bert")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=len(words), **shape, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    words.save_pretrained(tmp_path / "t5")
    with pytest.raises(UsageError, match=r"T5Model.* is an encoder with a decoder"):
        join(generator, tmp_path / "t5", tmp_path / "model", JoinSettings(pooling="mean"))


def test_states_of_another_width_need_a_projection(tmp_path: Path) -> None:
    generator, embedder = foreign.authors_pair(tmp_path, width=16)
    with pytest.raises(UsageError, match="states have the width 32, the embedder's vectors 16"):
        join(generator, embedder, tmp_path / "model")
    assert dict(join(generator, embedder, tmp_path / "model", JoinSettings(query="text")).rows)["vectors"].startswith(
        "width 16"
    )


def test_a_folder_with_a_projection_can_be_asked_by_state(generator: str, tmp_path: Path) -> None:
    dense = [{"in_features": 24, "out_features": 32, "bias": False, "activation_function": torch.nn.Identity()}]
    embedder = foreign.sentence_transformer(tmp_path / "st", dense=dense, similarity="dot")
    join(generator, embedder, tmp_path / "model", JoinSettings(query="state"))
    pair = CoSupervisedModel.from_pretrained(tmp_path / "model")
    assert pair.settings.query == "state"
    from sentence_transformers import SentenceTransformer

    np.testing.assert_allclose(vectors(pair), SentenceTransformer(embedder, device="cpu").encode(TEXTS), atol=2e-6)


def test_pooling_that_contradicts_the_folder_is_refused(generator: str, tmp_path: Path) -> None:
    embedder = foreign.sentence_transformer(tmp_path / "st", pooling="mean")
    with pytest.raises(InputError, match="--pooling is cls, but the folder pools by mean"):
        join(generator, embedder, tmp_path / "model", JoinSettings(pooling="cls"))
    join(generator, embedder, tmp_path / "model", JoinSettings(pooling="mean"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pooling": ("cls", "mean")}, "it pools by cls and mean"),
        ({"pooling": "max"}, "it pools by max"),
        ({"similarity": "euclidean"}, "it compares by 'euclidean'"),
        ({"dense": [{"in_features": 24, "out_features": 24, "use_residual": True}]}, "a Dense layer with a residual"),
        ({"dense": [{"in_features": 24, "out_features": 8, "activation_function": torch.nn.Softsign()}]}, "Softsign"),
    ],
)
def test_what_would_give_other_vectors_is_refused(
    generator: str, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    embedder = foreign.sentence_transformer(tmp_path / "st", **more)
    with pytest.raises(InputError, match=message):
        join(generator, embedder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unknown_modules_are_refused_by_name(generator: str, tmp_path: Path) -> None:
    embedder = Path(foreign.sentence_transformer(tmp_path / "st"))
    rows = json.loads((embedder / "modules.json").read_text())
    rows.append({"idx": 2, "name": "2", "path": "2_LayerNorm", "type": "sentence_transformers.models.LayerNorm"})
    (embedder / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="found Transformer, Pooling, LayerNorm; expected"):
        join(generator, embedder, tmp_path / "model")


def test_wrong_words_and_places_are_refused(authors: Authors, tmp_path: Path) -> None:
    def refused(message: str, embedder: str = authors.embedder, output: Path = tmp_path / "m", **more: Any) -> None:
        with pytest.raises(UsageError, match=message):
            join(authors.generator, embedder, output, JoinSettings(**more))

    refused("pooling is 'men' \\(did you mean 'mean'", pooling="men")
    refused("query is 'txt' \\(did you mean 'text'", query="txt")
    refused("similarity is 'dot'", similarity="dot")
    refused("no model folder", embedder=str(tmp_path / "none"))
    refused("is there already", output=authors.joined.folder)
    refused("max_length is 300; the generator has 256 positions", max_length=300)
    refused("max_passage_length is 300; the embedder reads 256", max_passage_length=300)
    refused("expected {question}", prompt="nothing")
    assert not (tmp_path / "m").exists()
