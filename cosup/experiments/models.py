"""Models that an experiment makes from others: fewer layers, weights drawn at random, or another family.

models:
  six-layers: {from: models/SmolLM2-135M-Instruct.Q4_1.gguf, layers: 6}
  fresh: {from: models/SmolLM2-135M-Instruct.Q4_1.gguf, layers: 6, random: true}
  gpt2: {from: models/SmolLM2-135M-Instruct.Q4_1.gguf, family: gpt2, layers: 6}   # its tokenizer; drawn at random

A system names one as its `generator` or `embedder`. What comes of it is a plain model folder.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosup.data.yaml_files import check_keys, count_of, mapping_of
from cosup.errors import UsageError
from cosup.experiments.provenance import address_of

KEYS = ("from", "layers", "random", "family")
FAMILIES = ("gpt2",)
SEED = 9024  # of weights that are drawn: the same model for every seed of a training


@dataclass(frozen=True)
class DerivedModel:
    """How a model is made from another.

    Attributes:
        source: the other: hub id, folder or `.gguf` file.
        layers: how many of its layers stay, the first ones; None keeps all.
        random: weights are drawn anew, as its family draws them for training from nothing.
        family: architecture in place of the source's, as wide and as deep as it, with its tokenizer, drawn at random.
    """

    source: str
    layers: int | None = None
    random: bool = False
    family: str | None = None

    @property
    def address(self) -> str:
        """What names its folder: the same settings of the same source give the same."""
        return address_of(asdict(self) | {"source": ""}, [self.source])


def read_models(record: Any) -> dict[str, DerivedModel]:
    """Read the `models` of an experiment.

    Raises:
        UsageError: a key or value is wrong.
    """
    return {str(name): _model(str(name), own) for name, own in mapping_of(record, "models", "models by name").items()}


def _model(name: str, record: Any) -> DerivedModel:
    where = f"models.{name}"
    own = mapping_of(record, where, f"keys such as {', '.join(KEYS)}")
    check_keys(own, KEYS, where)
    source, layers, random, family = (own.get(key) for key in KEYS)
    if not isinstance(source, str) or not source.strip():
        raise UsageError(f"{where}: 'from' is {source!r}; expected a hub id, a model folder or a .gguf file")
    count_of(layers, f"{where}: 'layers'")
    if random is not None and not isinstance(random, bool):
        raise UsageError(f"{where}: 'random' is {random!r}; expected true or false")
    if name == "shared":
        raise UsageError(f"{where}: 'shared' means the generator's own weights; choose another name")
    if family is not None and random is False:
        raise UsageError(f"{where}: another family has no weights of the source; leave out 'random: false'")
    if family is not None and family not in FAMILIES:
        raise UsageError(f"{where}: 'family' is {family!r}; there are: {', '.join(FAMILIES)}")
    return DerivedModel(source, layers, bool(random), family)


def make_model(model: DerivedModel, folder: Path) -> None:
    """Write the model's folder, whole or not at all; one that is there stays.

    Raises:
        UsageError: the source cannot be loaded, or has fewer layers than are to stay.
    """
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, set_seed

    from cosup.checkpoints import load_generator, load_tokenizer

    if (folder / "config.json").is_file():
        return
    tokenizer, found = load_tokenizer(model.source), load_generator(model.source)
    config: Any = found.config
    if model.layers is not None:
        _keep_layers(found, model.layers, model.source)
    if model.family is not None:
        config = GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=min(int(config.max_position_embeddings), 2048),
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    if model.family is not None or model.random:
        set_seed(SEED)
        found = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        found.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        with contextlib.suppress(OSError):  # another process may have been first
            draft.replace(folder)
        if not (folder / "config.json").is_file():
            raise UsageError(f"cannot write {folder}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _keep_layers(found: Any, kept: int, source: str) -> None:
    """Cut a causal language model to its first layers, in place."""
    import torch

    config, count = found.config, int(found.config.num_hidden_layers)
    if kept > count:
        raise UsageError(f"'{source}' has {count} layers; {kept} of them cannot stay")
    body = found.base_model
    lists = [(name, part) for name, part in body.named_children() if isinstance(part, torch.nn.ModuleList)]
    stacks = [(name, part) for name, part in lists if len(part) == count]
    if len(stacks) != 1:
        raise UsageError(f"'{source}' ({type(found).__name__}) has no single stack of {count} layers to cut")
    name, layers = stacks[0]
    setattr(body, name, layers[:kept])
    config.num_hidden_layers = kept
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:kept]


def folders_of(models: Mapping[str, DerivedModel], store: Path) -> dict[str, Path]:
    """Return where each model's folder is or will be."""
    return {name: store / "models" / f"{name}-{model.address}" for name, model in models.items()}
