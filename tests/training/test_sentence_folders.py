"""Training with an embedder of sentence-transformers: its own pooling, prompt and layers are kept, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.model_folder import PairSettings
from cosup.modeling import CoSupervisedModel
from cosup.training.recipe import Recipe, parse_recipe
from cosup.training.run import pair_settings, train
from tests import bases, foreign, pairs

SHORT = PairSettings(max_length=200, max_passage_length=16)


def recipe_of(folder: Path, embedder: str, **objective: Any) -> Recipe:
    """Return a run of two steps over the toy corpus, its embedder frozen."""
    write_jsonl(folder / "passages.jsonl", pairs.PASSAGES)
    write_jsonl(folder / "questions.jsonl", pairs.QUESTIONS)
    training = {"output_dir": str(folder / "run"), "max_steps": 2, "freeze_embedder": True, "save_strategy": "no"}
    return parse_recipe(
        {
            "generator": bases.write(folder / "llama", "llama"),
            "embedder": embedder,
            "data": {
                "passages": str(folder / "passages.jsonl"), "questions": str(folder / "questions.jsonl"),
                "max_length": 200, "max_passage_length": 48,
            },
            "objective": objective,
            "training": training | {"disable_tqdm": True, "use_cpu": True},
        }
    )  # fmt: skip


def test_what_a_frozen_embedder_said_before_training_it_says_behind_the_projection(tmp_path: Path) -> None:
    """Its folder's pooling and prompt are the pair's; its vectors come through the projection as they were."""
    from sentence_transformers import SentenceTransformer

    prompts = {"document": "search for the passage "}
    source = foreign.sentence_transformer(tmp_path / "st", max_tokens=64, prompts=prompts)
    folder = train(recipe_of(tmp_path, source))
    pair = CoSupervisedModel.from_pretrained(folder)
    assert (pair.settings.pooling, pair.settings.passage_prompt) == ("mean", "search for the passage ")
    texts = [p.rendered for p in pairs.PASSAGES]
    before = SentenceTransformer(source, device="cpu").encode_document(texts)
    assert isinstance(pair.projection, torch.nn.Linear)
    projected = torch.from_numpy(before) @ pair.projection.weight.detach().T
    wanted = torch.nn.functional.normalize(projected, dim=-1).numpy()
    np.testing.assert_allclose(pair.embed_ids(pair.encode_passages(texts)).numpy(), wanted, atol=1e-5)


def test_a_pooling_that_the_recipe_names_goes_before_the_folders(tmp_path: Path) -> None:
    source = foreign.sentence_transformer(tmp_path / "st")
    recipe = recipe_of(tmp_path, source, pooling="cls")
    assert pair_settings(recipe).pooling == "mean"
    assert CoSupervisedModel.from_pretrained(train(recipe)).settings.pooling == "cls"


def test_a_pair_goes_on_from_the_projection_of_its_embedders_folder(tmp_path: Path) -> None:
    """A further training of a pair whose widths differ begins where the last one ended."""
    generator, embedder = bases.write(tmp_path / "llama", "llama"), bases.write(tmp_path / "gpt2", "gpt2")
    first = CoSupervisedModel.from_base(generator, embedder, SHORT)
    first.save_pretrained(tmp_path / "model")
    again = CoSupervisedModel.from_base(str(tmp_path / "model/generator"), str(tmp_path / "model/embedder"), SHORT)
    ids = first.encode_passages([p.rendered for p in pairs.PASSAGES])
    assert torch.equal(first.eval().embed_ids(ids), again.eval().embed_ids(ids))


@pytest.mark.parametrize(
    ("dense", "shown"),
    [
        ([{"in_features": 16, "out_features": 8, "bias": False, "activation_function": None}], r"\(8x16\)"),
        ([{"in_features": 16, "out_features": 16}], r"\(16x16\)"),
    ],
)
def test_layers_that_the_pair_would_leave_out_are_refused(dense: list[Any], shown: str, tmp_path: Path) -> None:
    generator = bases.write(tmp_path / "llama", "llama")
    source = foreign.sentence_transformer(tmp_path / "st", dense=dense)
    with pytest.raises(UsageError, match=rf"has Dense layers after its pooling {shown}.* the generator's width 16"):
        CoSupervisedModel.from_base(generator, source, SHORT)
