"""Two models in one torch module, as Trainer and accelerate ask for them: layers, checkpointing, shared parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class TwoModels(nn.Module):
    """A generator and an embedder that are trained as one module; parameters of theirs may be one and the same.

    Args:
        generator: a causal language model.
        embedder: the body of a language model, which may be the generator's own.
    """

    accepts_loss_kwargs = True  # tells the Hugging Face Trainer that the loss is normalised over the global batch

    def __init__(self, generator: PreTrainedModel, embedder: PreTrainedModel) -> None:
        super().__init__()
        self.generator = generator
        self.embedder = embedder
        self.note_ties()

    @property
    def device(self) -> torch.device:
        """The device the generator is on."""
        return self.generator.device

    @property
    def shared(self) -> bool:
        """Whether the embedder is the generator's own body."""
        return self.embedder is self.generator.base_model

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of both models' decoder layers: what FSDP wraps."""
        both = (self.generator, self.embedder)
        return sorted({name for model in both for name in model._no_split_modules or ()})

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Keep one state a layer and compute the rest again in the backward pass, in both models."""
        options = {"use_reentrant": False} | (activation_checkpointing_kwargs or {})
        for model in self.trees():
            if hasattr(model, "activation_checkpointing_enable"):
                model.activation_checkpointing_enable(options, **more)
            else:
                model.gradient_checkpointing_enable(options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Do what `activation_checkpointing_enable` does, by its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **more)

    def activation_checkpointing_disable(self) -> None:
        """Keep all states again."""
        for model in self.trees():
            newer = getattr(model, "activation_checkpointing_disable", None)
            (newer or model.gradient_checkpointing_disable)()

    def gradient_checkpointing_disable(self) -> None:
        """Keep all states again."""
        self.activation_checkpointing_disable()

    def trees(self) -> list[Any]:
        """Return the models, each once: a shared embedder is the generator."""
        return [self.generator] if self.shared else [self.generator, self.embedder]

    def aliases(self) -> list[list[str]]:
        """Names of the parameters, those of one and the same parameter together."""
        groups: dict[int, list[str]] = {}
        for name, p in self.named_parameters(remove_duplicate=False):
            groups.setdefault(id(p), []).append(name)
        return list(groups.values())

    def note_ties(self) -> None:
        """Keep in mind which parameters are one at present, for `tie_weights`."""
        self._ties = [names for names in self.aliases() if len(names) > 1]

    def tie_weights(self) -> None:
        """Make one again of the parameters that were one when they were noted (after a move that split them)."""
        for first, *others in self._ties:
            for name in others:
                parent, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(parent), leaf, self.get_parameter(first))

    def unshare_layers(self) -> None:
        """Give the embedder's layers their own copy of a base that two adapters share.

        FSDP2 shards each model's layers by themselves and takes no parameter twice: call this before.
        """
        if self.shared:
            return
        own, wrapped = {id(p) for p in self.generator.parameters()}, set(self._no_split_modules)
        layers = [m for m in self.embedder.modules() if type(m).__name__ in wrapped]
        for module in (m for layer in layers for m in layer.modules()):
            for leaf, p in module._parameters.items():
                if p is not None and id(p) in own:
                    setattr(module, leaf, nn.Parameter(p.detach().clone(), p.requires_grad))
        self.note_ties()
