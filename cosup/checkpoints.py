"""Loading one language model and its tokenizer: a hub id, a folder, or a `.gguf` file."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from cosup.data.paths import looked_up
from cosup.errors import CosupError, UsageError, did_you_mean

#: How attention can be computed: `sdpa` becomes cosup's own for packed rows; `auto` is `flash` where it can be had.
ATTENTIONS = ("auto", "sdpa", "flash", "flex")
MOST_LAYERS = 10_000  # of a checkpoint; far more than any has
_NAMES = {"sdpa": "sdpa", "flash": "flash_attention_2", "flex": "flex_attention"}


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint; one without a pad token pads with its end of sequence.

    Raises:
        UsageError: the checkpoint holds no tokenizer or cannot be found.
    """
    folder, options = _locate(source)
    with explained(source), quietly():
        loader: Any = PreTrainedTokenizerFast if _has_own_tokenizer(Path(folder)) else AutoTokenizer
        tokenizer = loader.from_pretrained(folder, **options)
    for name in ("is_local", "local_files_only"):  # how it was found: else saved again, it would be another's file
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise UsageError(f"the tokenizer of '{source}' has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    return cast(PreTrainedTokenizerBase, tokenizer)


def _has_own_tokenizer(folder: Path) -> bool:
    """Whether `tokenizer.json` says everything; AutoTokenizer would rebuild it for some model families."""
    config = folder / "tokenizer_config.json"
    if not config.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    kind = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
    return kind in ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_generator(source: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
    """Load a causal language model with its head.

    Args:
        source: hub id, folder or `.gguf` file (dequantised).
        dtype: type of the weights in memory.
        attention: one of `ATTENTIONS`.

    Raises:
        UsageError: nothing usable is there, the attention cannot be had, or the model changes its logits after the
            head (soft caps, scales), which cosup's head would silently leave out.
    """
    folder, options = _locate(source)
    with explained(source), quietly():
        loaded = load_whole(AutoModelForCausalLM, folder, source, dtype, options)
    model = _without_quantisation(loaded) if options else cast(PreTrainedModel, loaded)
    _check_head(model, source)
    return _attending(model, attention, source)


def load_embedder(source: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
    """Load the body of a decoder language model (no head), to embed passages with.

    Args:
        source: hub id, folder or `.gguf` file (dequantised).
        dtype: type of the weights in memory.
        attention: one of `ATTENTIONS`.

    Raises:
        UsageError: nothing usable is there, or the attention cannot be had.
    """
    folder, options = _locate(source)
    with explained(source), quietly():
        if options:
            loaded = load_whole(AutoModelForCausalLM, folder, source, dtype, options)
            body = cast(PreTrainedModel, _without_quantisation(loaded).base_model)
        else:
            body = cast(PreTrainedModel, load_whole(AutoModel, folder, source, dtype, options))
    return _attending(body, attention, source)


def load_whole(
    kind: Any, folder: str, source: str, dtype: torch.dtype, options: dict[str, str], pickled: bool = False
) -> Any:
    """Load a model, and refuse a checkpoint that leaves weights out, which transformers would draw at random.

    The layer that encoders of BERT's kind have after their last state is never used here and may be missing.

    Args:
        kind: class of transformers.
        folder: hub id or folder that it is in.
        source: what the user called it.
        dtype: type of the weights in memory.
        options: more for the class, such as the name of a .gguf file.
        pickled: whether `pytorch_model.bin`, a pickle, will do, of which nothing but tensors is read; else the weights
            must be safetensors or GGUF.
    """
    safe = {} if options else {"weights_only": True} if pickled else {"use_safetensors": True}
    if "use_safetensors" in safe and _pickled_alone(Path(folder)):
        raise UsageError(
            f"'{source}' has its weights in pytorch_model.bin, a pickle, which is not read; save it as safetensors: "
            "model.save_pretrained(FOLDER) in transformers"
        )
    config = AutoConfig.from_pretrained(folder, **options)
    check_depth(config, source)
    model, found = kind.from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True, **safe, **options)
    missing = sorted(name for name in found["missing_keys"] if "pooler." not in name)
    if missing:
        name = type(model).__name__
        raise UsageError(f"'{source}' is no whole {name}: weights are missing ({len(missing)}, first {missing[0]})")
    return model


def check_depth(config: PreTrainedConfig, source: str) -> None:
    """Refuse a configuration of more layers than any model has: transformers would build them without end.

    Raises:
        UsageError: it has.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UsageError(f"'{source}' has more than {MOST_LAYERS:,} layers (num_hidden_layers); no model has")


def _pickled_alone(folder: Path) -> bool:
    """Whether a folder has weights as a pickle alone."""
    return any(folder.glob("pytorch_model*.bin*")) and not any(folder.glob("*.safetensors*"))


def check_attention(attention: str) -> None:
    """Make sure that a way of attending is known and installed.

    Raises:
        UsageError: it is not; says what to install.
    """
    if attention not in ATTENTIONS:
        hint = did_you_mean(attention, ATTENTIONS)
        raise UsageError(f"attention is '{attention}'{hint}; expected one of {', '.join(ATTENTIONS)}")
    if attention == "flash" and not has_flash():
        raise UsageError("attention is 'flash', which needs a GPU and flash-attn (pip install flash-attn)")


def has_flash() -> bool:
    """Whether FlashAttention can be used here: installed, with a GPU."""
    utils: Any = transformers.utils
    return bool(utils.is_flash_attn_2_available())


def attends_by(model: PreTrainedModel, attention: str) -> bool:
    """Whether a model is set to `flash` or `flex`."""
    return bool(model.config.get_text_config()._attn_implementation == _NAMES[attention])


def _attending(model: PreTrainedModel, attention: str, source: str) -> PreTrainedModel:
    """Set a loaded model's attention; loaded with it, it could not be tried on the CPU before."""
    check_attention(attention)
    wanted = "flash" if attention == "auto" and has_flash() else attention
    able = bool(getattr(model, f"_supports_{wanted}_attn", False)) and model._can_set_attn_implementation()
    if wanted in ("auto", "sdpa") or (attention == "auto" and not able):
        return model
    if not able:
        raise UsageError(f"{type(model).__name__} ('{source}') cannot attend by '{attention}'; leave out attention")
    with explained(source):
        model.set_attn_implementation(_NAMES[wanted])
    return model


def place_of(source: str) -> str:
    """Return a source that means the same from anywhere: a path made absolute, or the hub id."""
    found, options = _locate(source)
    path = Path(found)
    return str(path.resolve() / options["gguf_file"]) if options else str(path.resolve()) if path.is_dir() else source


def _locate(source: str) -> tuple[str, dict[str, str]]:
    """Return what `from_pretrained` wants: a folder or hub id, and the options for a `.gguf` file."""
    path = looked_up(Path(source).expanduser())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UsageError(f"no file '{source}'; expected a .gguf checkpoint")
        return str(path.parent), {"gguf_file": path.name}
    looks_local = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    if path.is_dir() or not looks_local:
        return str(path) if path.is_dir() else source, {}
    raise UsageError(f"no folder '{source}'; expected a hub id, a model folder or a .gguf file")


def _without_quantisation(model: Any) -> PreTrainedModel:
    """Put dequantised weights into a plain model: one loaded from `.gguf` refuses to be saved."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    with torch.device("meta"):
        plain: Any = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True, strict=False)
    plain.to(model.dtype)
    plain.tie_weights()
    for name, buffer in model.named_buffers():
        parent, _, leaf = name.rpartition(".")
        plain.get_submodule(parent).register_buffer(leaf, buffer, persistent=leaf in _persistent(model, parent))
    plain.generation_config = model.generation_config
    return cast(PreTrainedModel, plain.eval())


def _persistent(model: Any, parent: str) -> set[str]:
    module = model.get_submodule(parent)
    return set(module._buffers) - set(module._non_persistent_buffers_set)


def check_head_settings(model: PreTrainedModel, source: str = "") -> None:
    """Refuse a generator whose settings say that its logits are not what its head gives: the NTP loss is the head's.

    Args:
        model: the generator.
        source: what it was loaded from, if that is known.

    Raises:
        UsageError: they do; names the setting.
    """
    for name, neutral in {"logits_scaling": 1.0, "logit_scale": 1.0, "final_logit_softcapping": None}.items():
        value = getattr(model.config, name, None)
        if value not in (None, neutral):
            raise _changes_logits(model, source, f"{name} {value}")


@torch.no_grad()
def _check_head(model: Any, source: str) -> None:
    """Refuse it by its settings, and by trying out whether head and logits agree."""
    check_head_settings(model, source)
    ids = torch.tensor([[0, 1]])
    body = model.base_model(input_ids=ids).last_hidden_state
    ours = model.get_output_embeddings()(body)
    theirs = model(input_ids=ids).logits
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-2):
        raise _changes_logits(model, source, "they differ from the head's")


def _changes_logits(model: Any, source: str, how: str) -> UsageError:
    kind = type(model).__name__
    name = f"'{source}' ({kind})" if source else kind
    return UsageError(f"{name} changes its logits after the output head ({how}); cosup cannot train it")


@contextlib.contextmanager
def explained(source: str) -> Iterator[None]:
    """Turn what the libraries raise for an unusable checkpoint into one line.

    They raise whatever comes: for a damaged file a `TypeError`, an `AttributeError`, a `struct.error`, or the bare
    `Exception` of `tokenizers`.
    """
    try:
        yield
    except CosupError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not looked_up(Path(source).expanduser()).exists():
            reason = f"no such folder or file is here, and the hub cannot give it ({reason})"
        raise UsageError(f"cannot load a model from '{source}': {reason}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the loaders' progress bars and load reports for the time of one load."""
    log: Any = transformers.utils.logging
    bars, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
