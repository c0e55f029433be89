"""Passage vectors of an embedder that is not trained: computed once, kept beside the run.

Shapes: N passages, De the embedder's width.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cosup.data.writing import whole_file
from cosup.modeling import CoSupervisedModel
from cosup.processes import barrier, max_over, rank
from cosup.records import Passage
from cosup.training.sweep import embed_lists

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassageVectors:
    """States of a frozen embedder, before projection and normalisation.

    Attributes:
        rows: row of each passage id.
        table: [N, De] float32 on the CPU.
    """

    rows: Mapping[str, int]
    table: torch.Tensor


def passage_vectors(
    model: CoSupervisedModel, passages: Sequence[Passage], folder: Path, batch_tokens: int, device: torch.device
) -> PassageVectors:
    """Return the vectors of passages, from the run folder where an earlier start has left them.

    Args:
        model: the pair; its embedder is frozen.
        passages: what to embed; those that read the same share a row.
        folder: the run folder; the vectors are kept there under a name made of the embedder and the texts.
        batch_tokens: padded tokens of a batch at most.
        device: where the embedder runs and processes meet; the pair may not be there yet.

    Raises:
        UsageError: the disk is full.
    """
    texts = sorted({p.rendered for p in passages})
    row_of = {text: row for row, text in enumerate(texts)}
    rows = {p.id: row_of[p.rendered] for p in passages}
    path = folder / f"passage_vectors-{_name(model, texts)}.safetensors"
    table = _read(path, len(texts))
    if max_over([float(table is None)], device)[0]:  # where one process has them not, all compute them
        embedder: nn.Module = model.embedder
        training, home = model.training, model.embedder.device
        model.eval()
        embedder.to(device)
        encoded = [model.encode_passage(text) for text in texts]
        table = embed_lists(model, encoded, batch_tokens, pooled=True, device=device)
        embedder.to(home)
        model.train(training)
        if rank() == 0:
            with whole_file(path) as draft:
                save_file({"vectors": table}, draft)
        barrier()
    assert table is not None
    return PassageVectors(rows, table)


def _read(path: Path, count: int) -> torch.Tensor | None:
    try:
        table = load_file(path)["vectors"]
    except (OSError, KeyError, SafetensorError):
        return None
    return table if len(table) == count else None


@torch.no_grad()
def _name(model: CoSupervisedModel, texts: Sequence[str]) -> str:
    """Hash the texts, how they are cut, and the embedder's weights (by each tensor's sum and norm)."""
    digest = hashlib.sha256(str(model.settings.max_passage_length).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    for name, p in model.embedder.named_parameters():
        values = p.detach().double()
        digest.update(f"{name} {float(values.sum()):.12e} {float(values.norm()):.12e}".encode())
    return digest.hexdigest()[:16]
