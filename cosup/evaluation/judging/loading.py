"""Models as judges: what of a checkpoint is known before its weights are read, and reading them when they are needed.

A judge whose verdicts are all kept never reads its weights, so that scores can be counted again anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.errors import UsageError
from cosup.evaluation.judging.base import Decision, Pair

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BATCH_SIZE = 16
DTYPES = ("auto", "float32", "bfloat16")
_FILES = (".safetensors", ".bin", ".json", ".model", ".txt")  # of a folder, those that decide what a model says


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model judges.

    Attributes:
        batch_size: pairs a batch.
        dtype: type of the weights in memory, one of `DTYPES`; `auto` is bfloat16 where the device is quick at it.
        device: as torch names it; None takes the GPU where there is one.

    Raises:
        UsageError: a setting is none of these.
    """

    batch_size: int = BATCH_SIZE
    dtype: str = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"the judge's batch size is {self.batch_size}; expected at least 1")
        if self.dtype not in DTYPES:
            raise UsageError(f"the judge's dtype is '{self.dtype}'; expected one of {', '.join(DTYPES)}")


class Checkpoint:
    """A hub id or folder with a model that may judge; its weights are read at the first use of `model`.

    Args:
        source: hub id or folder.
        settings: how it is to be used.

    Attributes:
        config: the model's, of transformers.

    Raises:
        UsageError: nothing that transformers knows is there.
    """

    def __init__(self, source: str, settings: ModelSettings = ModelSettings()) -> None:
        from transformers import AutoConfig

        from cosup.checkpoints import explained, place_of

        self.source = source
        self.settings = settings
        self._place = place_of(source)
        with explained(source):
            self.config: Any = AutoConfig.from_pretrained(self._place)

    @property
    def architecture(self) -> str:
        """The class that the checkpoint was saved from; empty where it says none."""
        return str((getattr(self.config, "architectures", None) or [""])[0])

    @cached_property
    def name(self) -> str:
        """The folder's name with a hash of its files, or the hub id with its commit; and the type of the weights."""
        folder = Path(self._place)
        shown = folder.name if folder.is_dir() else self.source
        version = _digest(folder) if folder.is_dir() else str(getattr(self.config, "_commit_hash", None) or "")
        return f"{shown}@{version[:12]}, {str(self.dtype).removeprefix('torch.')}"

    @cached_property
    def device(self) -> torch.device:
        """Where the model computes.

        Raises:
            UsageError: torch knows no such device.
        """
        import torch

        try:
            return torch.device(self.settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise UsageError(f"the judge's device is '{self.settings.device}'; expected cpu, cuda or cuda:N") from error

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of the weights in memory."""
        import torch

        from cosup.devices import quick_dtype

        return quick_dtype(self.device) if self.settings.dtype == "auto" else getattr(torch, self.settings.dtype)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer.

        Raises:
            UsageError: it has none, or one that needs a library which is not installed.
        """
        from cosup.checkpoints import load_tokenizer

        try:
            return load_tokenizer(self._place)
        except UsageError as error:
            raise UsageError(f"{error}{self._needed()}") from error

    def _needed(self) -> str:
        import transformers

        utils: Any = transformers.utils
        if utils.is_sentencepiece_available() and utils.is_protobuf_available():
            return ""
        return " (a tokenizer kept as spiece.model needs: pip install sentencepiece protobuf)"

    def load(self, kind: str) -> Any:
        """Return the model in evaluation mode, on its device.

        Args:
            kind: class of transformers that loads it, `AutoModelFor...`.

        Raises:
            UsageError: weights are missing or damaged.
        """
        import transformers

        from cosup.checkpoints import explained, load_whole, quietly

        with explained(self.source), quietly():
            model = load_whole(getattr(transformers, kind), self._place, self.source, self.dtype, {}, pickled=True)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        return model.to(self.device).eval()


def decide_by_length(
    pairs: Sequence[Pair], size: int, decide: Callable[[list[Pair]], Sequence[Decision]]
) -> list[Decision]:
    """Return a decision for each pair, in order; `decide` is asked about batches of pairs of like length.

    The longest pairs come first: if they fit into memory, all others do.
    """
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found: dict[int, Decision] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found |= zip(batch, decide([pairs[i] for i in batch]), strict=True)
    return [found[i] for i in range(len(pairs))]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _FILES):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
