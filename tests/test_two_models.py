"""Two models in one module: which are one and the same, parameters that stay one, and layers that are parted."""

from __future__ import annotations

from operator import attrgetter

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

from cosup.two_models import TwoModels

CONFIG = LlamaConfig(
    vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
    num_key_value_heads=1, tie_word_embeddings=False,
)  # fmt: skip


def of_one_base() -> TwoModels:
    """Return two models that share their embeddings and one matrix of a layer."""
    generator, embedder = LlamaForCausalLM(CONFIG), LlamaModel(CONFIG)
    embedder.embed_tokens = generator.model.embed_tokens
    embedder.layers[0].mlp.up_proj.weight = generator.model.layers[0].mlp.up_proj.weight
    return TwoModels(generator, embedder)


def shared_names(models: TwoModels) -> list[str]:
    return sorted(names[0].split(".", 1)[1] for names in models.aliases() if len(names) > 1)


def test_a_shared_embedder_is_no_second_tree() -> None:
    generator = LlamaForCausalLM(CONFIG)
    one, two = TwoModels(generator, generator.model), of_one_base()
    assert one.shared
    assert one.trees() == [generator]
    assert not two.shared
    assert two.trees() == [two.generator, two.embedder]
    assert two._no_split_modules == ["LlamaDecoderLayer"]


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_both_models_keep_less_by_either_name_and_all_again(name: str) -> None:
    models = of_one_base()
    newer = hasattr(PreTrainedModel, "is_activation_checkpointing")  # the name since transformers 5.23
    asked = attrgetter("is_activation_checkpointing" if newer else "is_gradient_checkpointing")
    for what, expected in (("enable", True), ("disable", False)):
        getattr(models, f"{name}_{what}")()
        assert [asked(model) for model in models.trees()] == [expected] * 2


def test_parameters_that_a_move_has_parted_become_one_again() -> None:
    models = of_one_base()
    assert shared_names(models) == ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    models.embedder.embed_tokens = nn.Embedding(16, 8)
    assert len(shared_names(models)) == 1
    models.tie_weights()
    assert models.embedder.embed_tokens.weight is models.generator.model.embed_tokens.weight
    assert len(shared_names(models)) == 2


def test_parted_layers_have_the_same_values_and_stay_parted() -> None:
    models = of_one_base()
    models.unshare_layers()
    own, other = (layers[0].mlp.up_proj.weight for layers in (models.embedder.layers, models.generator.model.layers))
    assert own is not other
    assert torch.equal(own, other)
    models.tie_weights()
    assert shared_names(models) == ["model.embed_tokens.weight"]
