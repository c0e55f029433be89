"""Models as others leave them: the authors' pair, and folders of sentence-transformers; tiny and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from cosup.data.encoding import PAPER_PROMPT
from tests import pairs

TEXTS = [PAPER_PROMPT, "</s>", *(p.rendered for p in pairs.PASSAGES), *(q.question for q in pairs.QUESTIONS)]
CONTROLS = ["[Cs]", "[Ce]", "[Ret]"]


def llama_tokenizer(controls: list[str]) -> PreTrainedTokenizerFast:
    """Return a Metaspace BPE that puts `<s>` before a text and nothing after it, with `<PAD>` and control tokens."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    words = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    words.add_special_tokens({"pad_token": "<PAD>"})
    words.add_special_tokens({"extra_special_tokens": controls}, replace_extra_special_tokens=False)
    return words


def authors_pair(folder: Path, controls: list[str] = CONTROLS, width: int = 32) -> tuple[str, str]:
    """Write `LlamaForCausalLM` and `LlamaModel` with one tokenizer; return their folders."""
    words = llama_tokenizer(controls)
    for number, (name, kind, wide) in enumerate((("gen", LlamaForCausalLM, 32), ("emb", LlamaModel, width))):
        torch.manual_seed(number)
        config: Any = pairs.config("llama", len(words), wide)
        config.pad_token_id, config.bos_token_id, config.eos_token_id = words.pad_token_id, 1, 2
        kind(config).save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return str(folder / "gen"), str(folder / "emb")


def encoder_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a lower-casing word-level tokenizer with `[CLS] text [SEP]`, RoBERTa's ids in RoBERTa's order."""
    special = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "roberta" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    first, last, pad, unknown = ("<s>", "</s>", "<pad>", "<unk>") if kind == "roberta" else (
        "[CLS]", "[SEP]", "[PAD]", "[UNK]")  # fmt: skip
    made = Tokenizer(models.WordLevel({}, unk_token=unknown))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=[*special, "[MASK]"], show_progress=False))
    ids = [(token, made.token_to_id(token)) for token in (first, last)]
    made.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, cls_token=first, sep_token=last, pad_token=pad, unk_token=unknown, mask_token="[MASK]"
    )


def encoder(kind: str, folder: Path, width: int = 24) -> Path:
    """Write a plain folder of `bert`, `roberta` or `distilbert`."""
    words = encoder_tokenizer(kind)
    torch.manual_seed(3)
    shape = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "initializer_range": 0.3}
    usual = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    made: dict[str, PreTrainedModel] = {
        "bert": BertModel(BertConfig(**shape, **usual, max_position_embeddings=64)),
        "roberta": RobertaModel(RobertaConfig(**shape, **usual, max_position_embeddings=66)),
        "distilbert": DistilBertModel(
            DistilBertConfig(**shape, dim=width, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64)
        ),
    }
    made[kind].save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def sentence_transformer(folder: Path, kind: str = "bert", pooling: Any = "mean", **more: Any) -> str:
    """Write a folder of sentence-transformers.

    Args:
        folder: to write.
        kind: of the encoder, or the folder of another model.
        pooling: a mode of sentence-transformers, or several.
        more: `dense`, a list of arguments of its Dense modules; `normalize`; `similarity`; `prompts`; `max_tokens`.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    source = encoder(kind, folder.with_name(f"{folder.name}-plain")) if "/" not in kind else Path(kind)
    transformer = modules.Transformer(str(source), max_seq_length=more.get("max_tokens", 16))
    stack: list[Any] = [transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    torch.manual_seed(5)
    stack += [modules.Dense(**arguments) for arguments in more.get("dense", ())]
    stack += [modules.Normalize()] if more.get("normalize") else []
    made = SentenceTransformer(
        modules=stack, device="cpu", similarity_fn_name=more.get("similarity"), prompts=more.get("prompts")
    )
    made.save(str(folder), create_model_card=False)
    return str(folder)
