"""The model folder: `cosup.json`, the fingerprint, and the files with which the embedder is a SentenceTransformer.

Two forms. Plain: `generator/` and `embedder/` are Hugging Face folders. Adapters: both are peft folders, and
`cosup.json` names under `base` what they stand on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
from cosup.errors import InputError, UsageError, did_you_mean

SIMILARITIES = ("cosine", "inner_product")
PAIRINGS = ("separate", "shared")
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
        template: name of the template that turned questions into examples.
        max_length: tokens of a whole sequence (prompt, passages and claims).
        max_passage_length: tokens of a passage, spliced or embedded; longer ones are cut.
    """

    similarity: str = "cosine"
    temperature: float = 0.05
    prompt: str = PROMPT
    template: str = "claims"
    max_length: int = 1024
    max_passage_length: int = 256

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            hint = did_you_mean(self.similarity, SIMILARITIES)
            raise UsageError(f"similarity is '{self.similarity}'{hint}; expected one of {', '.join(SIMILARITIES)}")
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
    if not folder.is_dir():
        raise InputError("no such model folder; train one with 'cosup train' or 'cosup demo'", folder)
    path = folder / "cosup.json"
    if not path.is_file():
        raise InputError("not a cosup model folder: it has no cosup.json", folder)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", path) from error
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
    """
    digest = hashlib.sha256(f"{settings.similarity} {settings.max_passage_length}{base_digest}".encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
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


def write_sentence_transformer(
    folder: Path, width: int, settings: PairSettings, projection: torch.Tensor | None
) -> None:
    """Add the files with which sentence-transformers loads the embedder folder and gives cosup's vectors.

    Args:
        folder: `embedder/`.
        width: of the embedder, De.
        settings: the pair's.
        projection: [D, De], or None.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": settings.max_passage_length})
    _write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_lasttoken": True}
    )
    if projection is not None:
        modules.append(("2_Dense", "Dense"))
        dense = {"in_features": width, "out_features": projection.shape[0], "bias": False}
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        _write_json(folder / "2_Dense" / "config.json", dense | identity)
        weight = projection.detach().contiguous().cpu()
        save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    if settings.similarity == "cosine":
        modules.append(("3_Normalize", "Normalize"))
        (folder / "3_Normalize").mkdir(exist_ok=True)
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    name = "cosine" if settings.similarity == "cosine" else "dot"
    _write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": name})


def share_like_other_files(folder: Path) -> None:
    """Give weights the rights that new files get here: safetensors writes them for their owner alone."""
    sample = folder / "embedder" / "modules.json"
    for path in folder.rglob("*.safetensors"):
        path.chmod(sample.stat().st_mode & 0o777)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
