"""The model folder: `cosup.json`, the fingerprint, and the files with which the embedder is a SentenceTransformer.

Two forms. Plain: `generator/` and `embedder/` are Hugging Face folders. Adapters: both are peft folders, and
`cosup.json` names under `base` what they stand on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cosup import adapters
from cosup.adapters import LoraSettings
from cosup.data.encoding import PROMPT, check_prompt
from cosup.data.jsonl import read_json
from cosup.data.paths import looked_up
from cosup.errors import NO_MODEL, NO_PAIR, InputError, UsageError, did_you_mean
from cosup.pooling import POOLINGS, Dense

SIMILARITIES = ("cosine", "inner_product")
PAIRINGS = ("separate", "shared")
QUERIES = ("state", "text")
FORMAT = 1
PROJECTION = Path("embedder", "2_Dense", "model.safetensors")
_NEEDED = ("token_ids", "embedder_fingerprint", "similarity", "prompt")
_WORDS: dict[type[Any], str] = {str: "text", int: "a whole number", float: "a number", dict: "an object"}
_SAMPLES = 1024


@dataclass(frozen=True)
class PairSettings:
    """What a trained pair needs to be used as it was trained; `cosup.json` keeps it.

    Attributes:
        similarity: `cosine` or `inner_product` (the paper's).
        temperature: divides the similarity in the NSP loss; 1.0 is the paper's "none".
        prompt: format of a prompt, with `{question}` and optionally `{instruction}`.
        max_length: tokens of a whole sequence (prompt, passages and claims).
        max_passage_length: tokens of a passage, spliced or embedded; longer ones are cut.
        pooling: how the embedder's token states become a vector, one of `POOLINGS`.
        query: `state`, the generator's state at `[Ret]`, which it has learnt to place among the embeddings; or `text`,
            what the embedder makes of the text so far, for a generator that never met this embedder.
        query_prompt: put before a query that is text.
        passage_prompt: put before a passage that is embedded.
    """

    similarity: str = "cosine"
    temperature: float = 0.05
    prompt: str = PROMPT
    max_length: int = 1024
    max_passage_length: int = 256
    pooling: str = POOLINGS[0]
    query: str = QUERIES[0]
    query_prompt: str = ""
    passage_prompt: str = ""

    def __post_init__(self) -> None:
        for name, known in (("similarity", SIMILARITIES), ("pooling", POOLINGS), ("query", QUERIES)):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(value, known)
                raise UsageError(f"{name} is '{value}'{hint}; expected one of {', '.join(known)}")
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; expected a number above 0")
        if self.max_passage_length < 1 or self.max_length <= self.max_passage_length:
            raise UsageError(
                f"max_length is {self.max_length} and max_passage_length {self.max_passage_length}; "
                "expected 0 < max_passage_length < max_length"
            )
        check_prompt(self.prompt)


@dataclass(frozen=True)
class Base:
    """The frozen checkpoints that adapters stand on.

    Attributes:
        generator: hub id, folder (absolute) or `.gguf` file.
        embedder: likewise, or `shared`: the generator itself.
        digests: `weights_digest` of each, to tell that they are still the same.
        lora: the adapters' settings.
    """

    generator: str
    embedder: str
    digests: tuple[str, str]
    lora: LoraSettings

    @classmethod
    def of(cls, record: Mapping[str, Any], path: Path) -> Base:
        """Read it from a `cosup.json`.

        Raises:
            InputError: a field is missing or of another kind.
        """
        found = record.get("base")
        try:
            assert isinstance(found, dict)
            one, two = (str(d) for d in found["digests"])
            return cls(str(found["generator"]), str(found["embedder"]), (one, two), LoraSettings(**found["lora"]))
        except (AssertionError, KeyError, TypeError, ValueError, UsageError) as error:
            raise InputError("'base' must name generator, embedder, digests and lora", path) from error


def read_model_record(folder: Path) -> dict[str, Any]:
    """Read and check `cosup.json` of a model folder.

    Raises:
        InputError: the folder, the file or a field is missing, or the format is unknown.
    """
    if not looked_up(folder).is_dir():
        raise InputError(NO_MODEL, folder)
    path = folder / "cosup.json"
    if not path.is_file():
        raise InputError(NO_PAIR, folder)
    record = read_json(path)
    if not isinstance(record, dict) or any(name not in record for name in _NEEDED):
        raise InputError(f"expected an object with {', '.join(_NEEDED)}", path)
    if record.get("format") != FORMAT:
        raise InputError(f"format {record.get('format')!r}; this cosup reads format {FORMAT}", path)
    _check_record(record, path)
    config = adapters.CONFIG if "base" in record else "config.json"
    for part in ("generator", "embedder"):
        if not (folder / part / config).is_file():
            raise InputError(f"the model folder lacks {part}/{config}", folder)
    return record


def write_model_record(folder: Path, record: Mapping[str, Any], settings: PairSettings, base: Base | None) -> None:
    """Write `cosup.json`: settings and what else is to be known of the pair."""
    whole = {"format": FORMAT, **record, **asdict(settings)} | ({} if base is None else {"base": asdict(base)})
    _write_json(folder / "cosup.json", whole)


def settings_of(record: Mapping[str, Any]) -> PairSettings:
    """Return the settings that a `cosup.json` holds."""
    known = {f.name for f in fields(PairSettings)}
    return PairSettings(**{name: value for name, value in record.items() if name in known})


def _check_record(record: Mapping[str, Any], path: Path) -> None:
    """Check the types and values of the settings in a `cosup.json`."""
    kinds: dict[str, type[Any]] = {f.name: type(f.default) for f in fields(PairSettings)}
    kinds |= {"token_ids": dict, "embedder_fingerprint": str, "pairing": str, "base": dict, "log_temperature": float}
    for name, kind in kinds.items():
        value = record.get(name)
        taken = int | float if kind is float else kind
        if name in record and (isinstance(value, bool) or not isinstance(value, taken)):
            raise InputError(f"'{name}' is {value!r}; expected {_WORDS[kind]}", path)
    if record.get("pairing", PAIRINGS[0]) not in PAIRINGS:
        raise InputError(f"'pairing' is {record['pairing']!r}; expected one of {', '.join(PAIRINGS)}", path)
    try:
        settings_of(record)
    except UsageError as error:
        raise InputError(str(error), path) from error


def fingerprint_of(folder: Path, settings: PairSettings, base_digest: str = "") -> str:
    """Hash everything that decides an embedding: weights, configuration, tokenizer, and the pair's settings.

    It names numbers, not meaning: merging an adapter into its base rounds, and so gives another fingerprint.

    Args:
        folder: `embedder/`.
        settings: the pair's.
        base_digest: of the base, where the folder holds an adapter.

    Raises:
        InputError: a file cannot be read.
    """
    own = f"{settings.similarity} {settings.max_passage_length}{base_digest}"
    if (settings.pooling, settings.passage_prompt) != (POOLINGS[0], ""):
        own += f" {settings.pooling} {settings.passage_prompt}"
    digest = hashlib.sha256(own.encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", path) from error
    return digest.hexdigest()


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """Return a short hash that tells two checkpoints apart: names, shapes and a sample of each tensor's values.

    The values are taken as bfloat16, so that it doesn't matter in which of the two types they are loaded.
    """
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        flat = p.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _SAMPLES)].to(torch.bfloat16).float().cpu().contiguous()
        digest.update(f"{name} {tuple(p.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:32]


def load_projection(folder: Path) -> torch.Tensor:
    """Read the projection [D, De] of a model folder.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / PROJECTION
    try:
        return load_file(path)["linear.weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError("missing or damaged: it must hold the projection between the two models", path) from error


def write_sentence_transformer(folder: Path, width: int, settings: PairSettings, layers: Sequence[Dense]) -> None:
    """Add the files with which sentence-transformers loads the embedder folder and gives cosup's vectors.

    Args:
        folder: `embedder/`.
        width: of the embedder, De.
        settings: the pair's.
        layers: what follows the pooling: none, the projection, or the layers of an embedder made elsewhere.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": settings.max_passage_length})
    mode = {"last_token": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}[settings.pooling]
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, f"pooling_mode_{mode}": True})
    for number, layer in enumerate(layers, start=2):
        modules.append((f"{number}_Dense", "Dense"))
        _write_dense(folder / f"{number}_Dense", layer)
    if settings.similarity == "cosine":
        modules.append((f"{max(3, len(modules))}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir(exist_ok=True)
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    own: dict[str, Any] = {"similarity_fn_name": "cosine" if settings.similarity == "cosine" else "dot"}
    if settings.query_prompt or settings.passage_prompt:
        own["prompts"] = {"query": settings.query_prompt, "document": settings.passage_prompt}
    _write_json(folder / "config_sentence_transformers.json", own)


def _write_dense(folder: Path, layer: Dense) -> None:
    out, into = layer.weight.shape
    shape = {"in_features": into, "out_features": out, "bias": layer.bias is not None}
    _write_json(folder / "config.json", shape | {"activation_function": layer.activation})
    tensors = {"linear.weight": layer.weight} | ({} if layer.bias is None else {"linear.bias": layer.bias})
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, folder / "model.safetensors")


def share_like_other_files(folder: Path) -> None:
    """Give weights the rights that new files get here: safetensors writes them for their owner alone."""
    sample = folder / "embedder" / "modules.json"
    for path in folder.rglob("*.safetensors"):
        path.chmod(sample.stat().st_mode & 0o777)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
