"""The pair: a generator that writes and asks, and an embedder that builds the sequence space.

Shapes: B rows, L tokens a row, H generator width, D embedding width, V vocabulary, N supervised tokens,
R retrievals (`[Ret]` tokens) and P distinct passages of a batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cosup.checkpoints import load_embedder, load_generator, load_tokenizer
from cosup.data.encoding import PROMPT, check_prompt
from cosup.data.padding import pad_right
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.tokens import ControlTokenIds, TextEncoder, add_control_tokens, control_token_ids
from cosup.version import __version__

logger = logging.getLogger(__name__)

SIMILARITIES = ("cosine", "inner_product")
FORMAT = 1
_NEEDED = ("token_ids", "embedder_fingerprint", "similarity", "prompt")
_WORDS: dict[type[Any], str] = {str: "text", int: "a whole number", float: "a number", dict: "an object"}


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


@dataclass
class PairOutput:
    """What one forward pass of a batch gives.

    Attributes:
        logits: [N, V] at the supervised positions, or None where no token is supervised.
        targets: [N] the tokens to be predicted there.
        queries: [R, D] states at `[Ret]`, or None where retrieval is not trained.
        passages: [P, D] embeddings, or None likewise.
    """

    logits: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    passages: torch.Tensor | None = None


class CoSupervisedModel(nn.Module):
    """Generator + embedder (+ a bias-free projection on the embedder's side where the widths differ).

    Args:
        generator: a causal language model whose vocabulary has the control tokens.
        embedder: the body of a decoder language model.
        generator_tokenizer: the generator's tokenizer, with the control tokens.
        embedder_tokenizer: the embedder's own tokenizer.
        settings: how the pair is used.
    """

    accepts_loss_kwargs = True  # tells the Hugging Face Trainer that the loss is normalised over the global batch

    def __init__(
        self,
        generator: PreTrainedModel,
        embedder: PreTrainedModel,
        generator_tokenizer: PreTrainedTokenizerBase,
        embedder_tokenizer: PreTrainedTokenizerBase,
        settings: PairSettings | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.embedder = embedder
        self.generator_tokenizer = generator_tokenizer
        self.embedder_tokenizer = embedder_tokenizer
        self.settings = settings or PairSettings()
        self.control: ControlTokenIds = control_token_ids(generator_tokenizer)
        self.passage_encoder = TextEncoder(embedder_tokenizer)
        wide, narrow = generator.config.hidden_size, embedder.config.hidden_size
        self.projection = None if wide == narrow else nn.Linear(narrow, wide, bias=False, dtype=embedder.dtype)
        self.fingerprint: str | None = None

    @classmethod
    def from_base(cls, generator: str, embedder: str, settings: PairSettings | None = None) -> CoSupervisedModel:
        """Start a pair from pretrained models: hub ids, folders or `.gguf` files; weights in float32.

        Raises:
            UsageError: a checkpoint cannot be used, or its context is shorter than `settings.max_length`.
        """
        settings = settings or PairSettings()
        tokenizer, model = load_tokenizer(generator), load_generator(generator)
        add_control_tokens(tokenizer, model)
        _check_context(model, "max_length", settings.max_length, generator)
        body = load_embedder(embedder)
        _check_context(body, "max_passage_length", settings.max_passage_length, embedder)
        return cls(model, body, tokenizer, load_tokenizer(embedder), settings)

    @property
    def device(self) -> torch.device:
        """The device the generator is on."""
        return self.generator.device

    @property
    def dimension(self) -> int:
        """Width D of the sequence space."""
        return int(self.generator.config.hidden_size)

    def configure(self, **changes: Any) -> None:
        """Change settings (checked); used by the trainer to put its objective into the pair."""
        self.settings = replace(self.settings, **changes)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        ret_rows: torch.Tensor | None = None,
        ret_columns: torch.Tensor | None = None,
        passage_input_ids: torch.Tensor | None = None,
        passage_attention_mask: torch.Tensor | None = None,
    ) -> PairOutput:
        """Run a batch through both models.

        Args:
            input_ids: [B, L] generator tokens.
            attention_mask: [B, L] 1 on real tokens.
            labels: [B, L] targets, -100 where unsupervised; label i is predicted at i-1. None skips the head.
            ret_rows: [R] row of each `[Ret]`. None skips retrieval.
            ret_columns: [R] its column.
            passage_input_ids: [P, Lp] embedder tokens.
            passage_attention_mask: [P, Lp] 1 on real tokens.
        """
        states_BLH = self.hidden_states(input_ids, attention_mask)
        output = PairOutput()
        if labels is not None:
            supervised_BL = labels[:, 1:] != -100
            output.targets = labels[:, 1:][supervised_BL]
            output.logits = self.generator.get_output_embeddings()(states_BLH[:, :-1][supervised_BL])
        if ret_rows is not None and passage_input_ids is not None and passage_attention_mask is not None:
            output.queries = self.to_query(states_BLH[ret_rows, ret_columns])
            output.passages = self.embed(passage_input_ids, passage_attention_mask)
        return output

    def hidden_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the generator's last hidden states, after its final norm: [B, L, H]."""
        positions = positions_of(attention_mask)
        body = self.generator.base_model
        states = body(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
        last: torch.Tensor = states.last_hidden_state
        return last

    def to_query(self, states: torch.Tensor) -> torch.Tensor:
        """Turn hidden states at `[Ret]` [R, H] into float32 queries [R, D] (unit length for cosine)."""
        return self._in_space(states)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed passages: the embedder's last hidden state at the last real token (paper, section 3).

        Padding may stand on either side; it never changes the result.

        Args:
            input_ids: [P, Lp] embedder tokens.
            attention_mask: [P, Lp] 1 on real tokens, at least one a row.

        Returns:
            [P, D] float32 (unit length for cosine).
        """
        if input_ids.shape[0] == 0:
            return torch.zeros(0, self.dimension, device=input_ids.device)
        positions = positions_of(attention_mask)
        states = self.embedder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (attention_mask * columns).argmax(dim=1)
        pooled = states[torch.arange(len(last), device=last.device), last]
        return self._in_space(pooled if self.projection is None else self.projection(pooled))

    def _in_space(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.float()
        return normalize(vectors, dim=-1) if self.settings.similarity == "cosine" else vectors

    def encode_passage(self, text: str) -> list[int]:
        """Return the embedder's token ids of a passage's rendered text, cut to `max_passage_length`."""
        return self.passage_encoder.encode_with_template(text, self.settings.max_passage_length)

    @torch.inference_mode()
    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        """Embed token id lists of unequal length: [len(batch), D] float32, on the CPU."""
        ids, mask = pad_right(batch, int(self.embedder_tokenizer.pad_token_id))
        return self.embed(ids.to(self.device), mask.to(self.device)).cpu()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model folder: `generator/`, `embedder/` (also a SentenceTransformer) and `cosup.json`."""
        folder = Path(folder)
        self.generator.save_pretrained(folder / "generator")
        self.generator_tokenizer.save_pretrained(folder / "generator")
        self._save_embedder(folder / "embedder")
        _share_like_other_files(folder)
        self.fingerprint = fingerprint_of(folder / "embedder", self.settings)
        record = {"format": FORMAT, "cosup_version": __version__, "embedder_fingerprint": self.fingerprint}
        record |= {"pooling": "last_token", "token_ids": self.control.to_dict(), **asdict(self.settings)}
        (folder / "cosup.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _save_embedder(self, folder: Path) -> None:
        self.embedder.save_pretrained(folder)
        self.embedder_tokenizer.save_pretrained(folder)
        write_sentence_transformer(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> CoSupervisedModel:
        """Load a model folder that `save_pretrained` or `cosup train` wrote.

        Raises:
            InputError: the folder or one of its parts is missing, or its format is unknown.
        """
        folder = Path(folder)
        record = read_model_record(folder)
        settings = _settings_of(record)
        generator, embedder = str(folder / "generator"), str(folder / "embedder")
        model = cls(
            load_generator(generator, dtype),
            load_embedder(embedder, dtype),
            load_tokenizer(generator),
            load_tokenizer(embedder),
            settings,
        )
        if record["token_ids"] != model.control.to_dict():
            raise InputError(f"token ids {record['token_ids']} differ from the tokenizer's", folder / "cosup.json")
        if model.projection is not None:
            _load_projection(model.projection, folder / "embedder" / "2_Dense" / "model.safetensors")
        model.fingerprint = record["embedder_fingerprint"]
        return model.eval()

    def load_weights(self, folder: str | Path) -> None:
        """Put the weights of a model folder into this pair, in place (resume, best checkpoint)."""
        other = CoSupervisedModel.from_pretrained(folder)
        self.load_state_dict(other.state_dict())
        self.settings, self.fingerprint = other.settings, other.fingerprint


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
    for part in ("generator", "embedder"):
        if not (folder / part / "config.json").is_file():
            raise InputError(f"the model folder lacks {part}/config.json", folder)
    return record


def _settings_of(record: Mapping[str, Any]) -> PairSettings:
    known = {f.name for f in fields(PairSettings)}
    return PairSettings(**{name: value for name, value in record.items() if name in known})


def _check_record(record: Mapping[str, Any], path: Path) -> None:
    """Check the types and values of the settings in a `cosup.json`."""
    kinds: dict[str, type[Any]] = {f.name: type(f.default) for f in fields(PairSettings)}
    kinds |= {"token_ids": dict, "embedder_fingerprint": str}
    for name, kind in kinds.items():
        value = record.get(name)
        taken = int | float if kind is float else kind
        if name in record and (isinstance(value, bool) or not isinstance(value, taken)):
            raise InputError(f"'{name}' is {value!r}; expected {_WORDS[kind]}", path)
    try:
        _settings_of(record)
    except UsageError as error:
        raise InputError(str(error), path) from error


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return position ids [B, L] that count real tokens from 0, whichever side the padding is on."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_min(0)


def fingerprint_of(folder: Path, settings: PairSettings) -> str:
    """Hash everything that decides an embedding: weights, configuration, tokenizer, and the pair's settings."""
    digest = hashlib.sha256(f"{settings.similarity} {settings.max_passage_length}".encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load_projection(projection: nn.Linear, path: Path) -> None:
    try:
        projection.load_state_dict({"weight": load_file(path)["linear.weight"]})
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError("missing or damaged: it must hold the projection between the two models", path) from error


def write_sentence_transformer(folder: Path, model: CoSupervisedModel) -> None:
    """Add the files with which sentence-transformers loads the embedder folder and gives cosup's vectors."""
    width = int(model.embedder.config.hidden_size)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": model.settings.max_passage_length})
    _write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_lasttoken": True}
    )
    if model.projection is not None:
        modules.append(("2_Dense", "Dense"))
        dense = {"in_features": width, "out_features": model.dimension, "bias": False}
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        _write_json(folder / "2_Dense" / "config.json", dense | identity)
        weight = model.projection.weight.detach().contiguous().cpu()
        save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    if model.settings.similarity == "cosine":
        modules.append(("3_Normalize", "Normalize"))
        (folder / "3_Normalize").mkdir(exist_ok=True)
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    name = "cosine" if model.settings.similarity == "cosine" else "dot"
    _write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": name})


def _share_like_other_files(folder: Path) -> None:
    """Give weights the rights that new files get here: safetensors writes them for their owner alone."""
    sample = folder / "generator" / "config.json"
    for path in folder.rglob("*.safetensors"):
        path.chmod(sample.stat().st_mode & 0o777)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _check_context(model: PreTrainedModel, name: str, wanted: int, source: str) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and wanted > limit:
        raise UsageError(f"{name} {wanted} is more than the {limit} positions of '{source}'; lower it")
