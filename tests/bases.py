"""Tiny checkpoints on disk that pairs start from: three families, each with its own width and tokenizer; batches."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cosup.data.padding import pad_right
from cosup.model_folder import PairSettings
from tests import kinds, pairs

WIDTHS = {"gpt2": 32, "llama": 16, "qwen2": 48}
TOKENIZERS = {"gpt2": "gpt2", "llama": "llama", "qwen2": "gpt2 with gaps"}
SETTINGS = PairSettings(max_length=200, max_passage_length=12)
TEXTS = ["the quick brown fox of Saltmere", "search for the passage", "quote: begin end of quote.", "fox"]


def write(folder: Path, family: str, seed: int = 0, **more: Any) -> str:
    """Write a causal language model of a family with its tokenizer; return its path."""
    torch.manual_seed(seed)
    words = kinds.KINDS[TOKENIZERS[family]]()
    ends = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    config = pairs.config(family, len(words), WIDTHS[family])
    for name, value in (ends | more).items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def write_all(folder: Path) -> dict[str, str]:
    """Write `gpt2` (tied head), `llama` and `qwen2` (untied), and `llama-tied`; return their paths."""
    found = {family: write(folder / family, family) for family in pairs.FAMILIES}
    return found | {"llama-tied": write(folder / "llama-tied", "llama", tie_word_embeddings=True)}


def batch(model: Any, packed: bool = False, retrievals: bool = True, supervised: bool = True) -> dict[str, Any]:
    """Return a batch for `forward`: three sequences of unequal length and three passages, packed or padded."""
    generator = torch.Generator().manual_seed(1)
    words, own = len(model.generator_tokenizer), len(model.embedder_tokenizer)
    rows = [torch.randint(words, (n,), generator=generator).tolist() for n in (9, 14, 5)]
    passages = [torch.randint(own, (n,), generator=generator).tolist() for n in (4, 7, 3)]
    places = [(0, 4), (1, 3), (1, 9)] if retrievals else []
    for row, column in places:
        rows[row][column] = model.control.ret
    labels = [[-100, -100, *row[2:]] if supervised else [-100] * len(row) for row in rows]
    found = {"labels": labels, "ret_rows": [r for r, _ in places], "ret_columns": [c for _, c in places]}
    if packed:
        starts = [0, 9, 23]
        found |= {"input_ids": [[*chain(*rows)]], "labels": [[*chain(*labels)]], "lengths": [len(r) for r in rows]}
        found |= {"ret_rows": [0] * len(places), "ret_columns": [starts[r] + c for r, c in places]}
        found |= {"passage_input_ids": [[*chain(*passages)]], "passage_lengths": [len(p) for p in passages]}
        return {name: torch.tensor(value, dtype=torch.long) for name, value in found.items()}
    ids, mask = pad_right(rows, 0)
    passage_ids, passage_mask = pad_right(passages, 0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": pad_right(labels, -100)[0],
        "ret_rows": torch.tensor(found["ret_rows"], dtype=torch.long),
        "ret_columns": torch.tensor(found["ret_columns"], dtype=torch.long),
        "passage_input_ids": passage_ids,
        "passage_attention_mask": passage_mask,
    }


def loss_of(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return a loss of all outputs: next tokens, and each query against its own passage."""
    output = model(**inputs)
    loss = torch.zeros(()) if output.ntp_sum is None else output.ntp_sum
    if output.queries is not None and len(output.queries):
        scores = output.queries @ output.passages.T
        scores = scores / (0.1 if output.log_temperature is None else output.log_temperature.exp())
        loss = loss + torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")
    return loss


def gradients(model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the gradient of `loss_of` for every trainable parameter."""
    model.zero_grad()
    loss_of(model, inputs).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient for {missing[:3]}"
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
