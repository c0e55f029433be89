"""CoSupervisedModel: where the two models of a pair come from, and the folder that they are kept in.

Pairings: two models of any family, width and tokenizer; one model for both (`embedder="shared"`); and two LoRA adapters
on frozen bases, which are one in memory where both start from the same checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cosup import adapters as lora
from cosup.adapters import LoraSettings, State
from cosup.checkpoints import load_embedder, load_generator, load_tokenizer, place_of
from cosup.errors import InputError, UsageError
from cosup.model_folder import (
    Base,
    PairSettings,
    fingerprint_of,
    load_projection,
    read_model_record,
    settings_of,
    share_like_other_files,
    weights_digest,
    write_model_record,
    write_sentence_transformer,
)
from cosup.pair import Pair
from cosup.pooling import Dense, Head
from cosup.sentence_folder import dense_layers
from cosup.temperature import value_of
from cosup.tokens import add_control_tokens, control_token_ids
from cosup.version import __version__

SHARED = "shared"


class CoSupervisedModel(Pair):
    """A pair that is started from checkpoints, saved to a model folder and loaded from one."""

    base: Base | None = None  # what the adapters stand on; None for a pair whose weights are its own

    @classmethod
    def from_base(
        cls,
        generator: str,
        embedder: str,
        settings: PairSettings | None = None,
        *,
        adapters: LoraSettings | None = None,
        freeze_embedder: bool = False,
        learn_temperature: bool = False,
        dtype: torch.dtype = torch.float32,
        attention: str = "sdpa",
    ) -> CoSupervisedModel:
        """Start a pair from pretrained models.

        Args:
            generator: hub id, folder or `.gguf` file.
            embedder: likewise, or `shared`: the generator's own body. A folder's projection is where the pair's own
                begins.
            settings: how the pair is used.
            adapters: freeze the checkpoints and train LoRA adapters (float32) on them; a checkpoint that is both
                models' is held in memory once.
            freeze_embedder: train the generator (and a projection) alone.
            learn_temperature: make the temperature a parameter.
            dtype: type of the weights in memory.
            attention: how both attend, one of `checkpoints.ATTENTIONS`.

        Raises:
            UsageError: a checkpoint cannot be used, its context is shorter than `settings.max_length`, or the folder of
                the embedder has layers after its pooling that the pair would leave out.
        """
        settings = settings or PairSettings()
        shared = embedder == SHARED
        tokenizer, model = load_tokenizer(generator), load_generator(generator, dtype, attention)
        digest = "" if adapters is None else weights_digest(model)
        add_control_tokens(tokenizer, model)
        _check_context(model, "max_length", settings.max_length, generator)
        again = adapters is not None and not shared and place_of(embedder) == place_of(generator)
        other = embedder if not (shared or again) else None
        body = _body(model, again) if other is None else load_embedder(other, dtype, attention)
        _check_context(body, "max_passage_length", settings.max_passage_length, embedder)
        own_tokenizer = load_tokenizer(generator if shared else embedder)
        base = None
        if adapters is not None:
            one_weights = next(body.parameters()) is next(model.base_model.parameters())
            digests = (digest, digest if one_weights else weights_digest(body))
            base = Base(place_of(generator), SHARED if shared else place_of(embedder), digests, adapters)
            lora.add_lora(model, adapters, _control_ids(tokenizer))
            if not shared:
                lora.add_lora(body, adapters)
        pair = cls(model, body, tokenizer, own_tokenizer, settings)
        pair.base = base
        if other is not None:
            pair._start_projection(other)
        if freeze_embedder:
            pair.freeze_embedder()
        if learn_temperature:
            pair.learn_temperature()
        return pair

    def _start_projection(self, embedder: str) -> None:
        """Begin with the projection that the embedder's folder has, if any; refuse other layers after its pooling."""
        layers = dense_layers(Path(place_of(embedder)))
        if not layers:
            return
        own = self.projection.weight if isinstance(self.projection, nn.Linear) else None
        if own is None or len(layers) > 1 or not layers[0].projects or layers[0].weight.shape != own.shape:
            found = ", ".join("x".join(map(str, layer.weight.shape)) for layer in layers)
            raise UsageError(
                f"'{embedder}' has Dense layers after its pooling ({found}), and a pair that is trained has at most "
                f"a projection to the generator's width {self.dimension}; take them out of modules.json to do without"
            )
        own.data.copy_(layers[0].weight)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> CoSupervisedModel:
        """Load a model folder that `save_pretrained` or `cosup train` wrote, in evaluation mode.

        Raises:
            InputError: the folder or one of its parts is missing, or its format is unknown.
            UsageError: the folder holds adapters, and their base cannot be loaded.
        """
        folder = Path(folder)
        record = read_model_record(folder)
        settings = settings_of(record)
        if "base" in record:
            model = cls._on_base(folder, record, settings, dtype)
        else:
            model = cls._from_plain(folder, record, settings, dtype)
        if record["token_ids"] != model.control.to_dict():
            raise InputError(f"token ids {record['token_ids']} differ from the tokenizer's", folder / "cosup.json")
        if "log_temperature" in record:
            model.learn_temperature()
        model.put_weights(model._trained_state(folder, record))
        model.fingerprint = record["embedder_fingerprint"]
        return model.eval()

    @classmethod
    def _from_plain(
        cls, folder: Path, record: Mapping[str, Any], settings: PairSettings, dtype: torch.dtype
    ) -> CoSupervisedModel:
        source, own = str(folder / "generator"), str(folder / "embedder")
        generator = load_generator(source, dtype)
        body = generator.base_model if record.get("pairing") == SHARED else load_embedder(own, dtype)
        layers = dense_layers(folder / "embedder")
        learnt = settings.query == "state" and len(layers) == 1 and layers[0].projects
        head = Head(layers) if layers and not learnt else None
        return cls(generator, cast(PreTrainedModel, body), load_tokenizer(source), load_tokenizer(own), settings, head)

    @classmethod
    def _on_base(
        cls, folder: Path, record: Mapping[str, Any], settings: PairSettings, dtype: torch.dtype
    ) -> CoSupervisedModel:
        wanted = Base.of(record, folder / "cosup.json")
        try:
            model = cls.from_base(wanted.generator, wanted.embedder, settings, adapters=wanted.lora, dtype=dtype)
        except UsageError as error:
            raise UsageError(f"{folder} holds adapters, and their base is missing: {error}") from error
        model._check_base(wanted, folder)
        return model

    def _check_base(self, wanted: Base, folder: Path) -> None:
        """Refuse adapters that were trained on other weights than this pair's; digests are of two types alone."""
        assert self.base is not None
        if self.generator.dtype not in (torch.float32, torch.bfloat16):
            return
        names = (wanted.generator, wanted.embedder if wanted.embedder != SHARED else wanted.generator)
        for name, theirs, ours in zip(names, wanted.digests, self.base.digests, strict=True):
            if theirs != ours:
                raise InputError(f"'{name}' is not the base that the adapters were trained on", folder)

    def load_weights(self, folder: str | Path) -> None:
        """Put the weights of a model folder into this pair, in place (resume, best checkpoint).

        The pair may be sharded by FSDP2; every device then calls this.

        Raises:
            InputError: the folder holds another kind of pair, its weights don't fit, or its adapters were trained on
                other weights than this pair stands on.
        """
        folder = Path(folder)
        record = read_model_record(folder)
        found = (record.get("pairing", "separate"), "base" in record)
        if found != (self._pairing, self.base is not None):
            theirs, ours = _describe(*found), _describe(self._pairing, self.base is not None)
            raise InputError(f"it holds {theirs}, and this is {ours}", folder)
        if self.base is not None:
            self._check_base(Base.of(record, folder / "cosup.json"), folder)
            state, settings = self._trained_state(folder, record), settings_of(record)
        elif self._stream_weights(folder):
            state, settings = self._trained_state(folder, record), settings_of(record)
        else:
            other = type(self).from_pretrained(folder, self.generator.dtype)
            state, settings = other.state_dict(), other.settings
        if self.log_temperature is None:
            state.pop("log_temperature", None)
        try:
            self.put_weights(state)
        except RuntimeError as error:
            raise InputError("its weights don't fit this pair", folder) from error
        self.settings, self.fingerprint = settings, record["embedder_fingerprint"]

    @torch.no_grad()
    def _stream_weights(self, folder: Path) -> bool:
        """Put both models' weights in place tensor by tensor, so that no second pair is ever in memory.

        Returns:
            False, with nothing changed, where the files are not this pair's tensor by tensor (damaged, of other shapes,
            or by names that transformers converts on loading).
        """
        own = self.state_dict(keep_vars=True)
        parts = ("generator",) if self.shared else ("generator", "embedder")
        try:
            with contextlib.ExitStack() as stack:
                files = [(part, path) for part in parts for path in sorted((folder / part).glob("*.safetensors"))]
                opened = [(part, stack.enter_context(safe_open(path, "pt"))) for part, path in files]
                found = {f"{part}.{name}": (file, name) for part, file in opened for name in file.keys()}  # noqa: SIM118
                if not self._covered_by(own, {n: file.get_slice(k).get_shape() for n, (file, k) in found.items()}):
                    return False
                for name, (file, key) in found.items():
                    _put(own[name], file.get_tensor(key))
        except (OSError, SafetensorError):
            return False
        return True

    def _covered_by(self, own: Mapping[str, torch.Tensor], shapes: Mapping[str, Any]) -> bool:
        """Whether tensors of these names and shapes are all of both models' parameters, each by one name at least."""
        if any(name not in own or list(own[name].shape) != list(shape) for name, shape in shapes.items()):
            return False
        parts = ("generator.", "embedder.")
        return all(shapes.keys() & set(names) for names in self.aliases() if names[0].startswith(parts))

    @torch.no_grad()
    def put_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put tensors into this pair, in place; what `state` doesn't name stays.

        Args:
            state: whole tensors by the names of `state_dict()`, also for a pair that FSDP2 has sharded.

        Raises:
            RuntimeError: a name or a shape is not this pair's.
        """
        own = self.state_dict(keep_vars=True)
        for name, value in state.items():
            if name not in own or own[name].shape != value.shape:
                raise RuntimeError(f"'{name}' {list(value.shape)} is no weight of this pair")
            _put(own[name], value)

    def _trained_state(self, folder: Path, record: Mapping[str, Any]) -> State:
        """Read what stands beside the two models' plain weights: adapters, projection, temperature."""
        state: State = {}
        if self.base is not None:
            for part, model in (("generator", self.generator), ("embedder", self.embedder)):
                state |= {f"{part}.{k}": v for k, v in lora.load_adapter(model, folder / part).items()}
        if isinstance(self.projection, nn.Linear):
            state["projection.weight"] = load_projection(folder)
            if state["projection.weight"].shape != self.projection.weight.shape:
                raise InputError("missing or damaged: it must hold the projection between the two models", folder)
        if "log_temperature" in record:
            state["log_temperature"] = torch.tensor([record["log_temperature"]])
        return state

    def save_pretrained(
        self,
        folder: str | Path,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        adapters: Literal["merge", "adapters"] = "merge",
    ) -> None:
        """Write a model folder: `generator/`, `embedder/` (also a SentenceTransformer) and `cosup.json`.

        Args:
            folder: written to.
            state_dict: whole tensors by the names of `state_dict()`, written in place of the pair's own: what is
                gathered from a pair that is sharded. Of a parameter with two names either will do, and with
                `adapters` the base's are not needed.
            adapters: for a pair with LoRA, whether to merge each adapter into a copy of its base (plain models, which
                compute the same up to rounding, and have another fingerprint), or to write the adapters without
                their base (exact, small). Other pairs are always written plain.

        Raises:
            UsageError: `state_dict` has a name that is not the pair's, or lacks one.
        """
        folder = Path(folder)
        base = self.base if adapters == "adapters" else None
        state = self._whole_state(state_dict)
        self._save_model("generator", state, folder, None if base is None else base.generator)
        source = None if base is None else base.generator if base.embedder == SHARED else base.embedder
        self._save_model("embedder", state, folder, source)
        settings = replace(self.settings, temperature=_temperature_of(state, self.settings))
        width = int(self.embedder.config.hidden_size)
        write_sentence_transformer(folder / "embedder", width, settings, self._layers(state))
        share_like_other_files(folder)
        self.fingerprint = fingerprint_of(folder / "embedder", settings, "" if base is None else base.digests[1])
        record: dict[str, Any] = {
            "cosup_version": __version__,
            "embedder_fingerprint": self.fingerprint,
        }
        record |= {"pairing": self._pairing, "token_ids": self.control.to_dict()}
        if "log_temperature" in state:
            record["log_temperature"] = float(state["log_temperature"])
        write_model_record(folder, record, settings, base)

    def _layers(self, state: State) -> list[Dense]:
        """Return what stands after the embedder's pooling, with the tensors of a state."""
        if not isinstance(self.projection, Head):
            return [] if self.projection is None else [Dense(state["projection.weight"])]
        own = "projection.linears"
        return [
            Dense(state[f"{own}.{i}.weight"], state.get(f"{own}.{i}.bias"), name)
            for i, name in enumerate(self.projection.names)
        ]

    def _save_model(self, part: Literal["generator", "embedder"], state: State, folder: Path, base: str | None) -> None:
        model: PreTrainedModel = getattr(self, part)
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        if base is not None:
            assert self.base is not None
            lora.save_adapter(model, self.base.lora, own, folder / part, base)
        elif self.base is not None:
            lora.plain_skeleton(model).save_pretrained(folder / part, state_dict=lora.merged_state(model, own))
        else:
            model.save_pretrained(folder / part, state_dict=own)
        tokenizer = self.generator_tokenizer if part == "generator" else self.embedder_tokenizer
        tokenizer.save_pretrained(folder / part)

    @torch.no_grad()
    def _whole_state(self, given: Mapping[str, torch.Tensor] | None) -> State:
        """Return every tensor of the pair, those given in place of its own."""
        whole: State = self.state_dict()
        if given is None:
            return whole
        if unknown := set(given) - set(whole):
            raise UsageError(f"state_dict has '{min(unknown)}', which is not the pair's")
        whole |= given
        for names in self.aliases():
            known = [n for n in names if n in given]
            whole |= {n: given[known[0]] for n in names if known and n not in given}
        return whole

    @property
    def _pairing(self) -> str:
        return "shared" if self.shared else "separate"


def _put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be sharded; nothing is sent, since every device has the whole."""
    if not hasattr(target, "device_mesh"):
        target.copy_(value)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    spread = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.to_local().copy_(spread.to_local())


def _body(model: PreTrainedModel, again: bool) -> PreTrainedModel:
    """Return a generator's own body, or a second tree on the same weights."""
    return lora.body_on_same_weights(model) if again else cast(PreTrainedModel, model.base_model)


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids = control_token_ids(tokenizer)
    return [ids.ret, ids.cs, ids.ce]


def _describe(pairing: str, has_adapters: bool) -> str:
    return f"{'adapters' if has_adapters else 'the plain weights'} of a {pairing} pair"


def _temperature_of(state: State, settings: PairSettings) -> float:
    if "log_temperature" not in state:
        return settings.temperature
    return value_of(state["log_temperature"])


def _check_context(model: PreTrainedModel, name: str, wanted: int, source: str) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and wanted > limit:
        raise UsageError(f"{name} {wanted} is more than the {limit} positions of '{source}'; lower it")
