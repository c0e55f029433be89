"""Tiny pairs made on the spot: over a toy corpus (the method's tests), and as a world of files (the commands')."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from cosup.data.encoding import ExampleEncoder
from cosup.data.wordlevel import build_word_tokenizer
from cosup.model_folder import PairSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Evidence, Example, Passage, Question, RetrievalSegment, TextSegment
from cosup.tokens import add_control_tokens

FAMILIES = ("llama", "qwen2", "gpt2")

_PEOPLE = ("Ada Vale", "Bo Reed", "Cy Moss", "Di Lark", "Ed Thorn", "Fay Holt", "Gus Wren", "Hal Pike")
_PLACES = ("Northport", "Elmford", "Saltmere", "Highgate", "Westbay", "Duskwood", "Fairlea", "Oldham")
_WORKS = ("Red Tide", "Blue Hour", "Grey Wolf", "Green Door", "Gold Coin", "Pale Moon", "Dark Glass", "White Oak")

PASSAGES = tuple(
    [Passage(f"w{i}", work, f"{work} is a book. It was written by {_PEOPLE[i]}.") for i, work in enumerate(_WORKS)]
    + [Passage(f"p{i}", who, f"{who} was born in {_PLACES[i]}. It rained a lot.") for i, who in enumerate(_PEOPLE)]
)
BY_ID = {p.id: p for p in PASSAGES}

QUESTIONS = tuple(
    Question(
        f"q{i}",
        f"Where was the author of {work} born?",
        (_PLACES[i],),
        None,
        (
            Evidence(f"w{i}", f"It was written by {_PEOPLE[i]}."),
            Evidence(f"p{i}", f"{_PEOPLE[i]} was born in {_PLACES[i]}."),
        ),
    )
    for i, work in enumerate(_WORKS)
)

EXAMPLES = tuple(
    Example(
        q.id,
        q.question,
        (*(RetrievalSegment(e.passage_id, str(e.sentence)) for e in q.evidence), TextSegment(q.answers[0])),
    )
    for q in QUESTIONS
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer that knows the toy corpus."""
    prompts = "## Input: Output: search for the passage quote: begin end of quote. [ ] Ret Cs Ce </s> < / s > a"
    return build_word_tokenizer([prompts, *(p.rendered for p in PASSAGES), *(q.question for q in QUESTIONS)])


def config(family: str, vocabulary: int, width: int = 32, layers: int = 2, **more: Any) -> PreTrainedConfig:
    """Return the configuration of a tiny decoder of a family."""
    if family == "gpt2":
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.1}
        shape = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 256}
        return GPT2Config(vocab_size=vocabulary, bos_token_id=1, eos_token_id=1, **(shape | quiet | more))
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family]
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return kind(vocab_size=vocabulary, **shape, **heads, **ends, initializer_range=0.1, **more)


def generator(family: str, width: int = 32, seed: int = 0, **more: Any) -> tuple[PreTrainedModel, Any]:
    """Return a tiny causal language model with the control tokens, and its tokenizer."""
    torch.manual_seed(seed)
    words = tokenizer()
    model = AutoModelForCausalLM.from_config(config(family, len(words), width, **more))
    add_control_tokens(words, model)
    return model, words


def pair(
    family: str = "llama",
    embedder_family: str | None = None,
    embedder_width: int = 32,
    seed: int = 0,
    settings: PairSettings | None = None,
    **more: Any,
) -> CoSupervisedModel:
    """Return a tiny pair with random weights."""
    model, words = generator(family, seed=seed, **more)
    torch.manual_seed(seed + 1)
    own = tokenizer()
    body = AutoModel.from_config(config(embedder_family or family, len(own), embedder_width, **more))
    settings = settings or PairSettings(max_length=200, max_passage_length=40)
    return CoSupervisedModel(model, body, words, own, settings)


def encoder(model: CoSupervisedModel) -> ExampleEncoder:
    """Return the pair's example encoder."""
    own = model.settings
    return ExampleEncoder(model.generator_tokenizer, model.control, own.prompt, own.max_length, own.max_passage_length)


def overfit(model: CoSupervisedModel, folder: str, steps: int = 130, examples: Sequence[Example] = EXAMPLES) -> None:
    """Train a pair until it knows the toy examples: retrieve twice, then answer."""
    from cosup.training.config import CoSupervisionConfig
    from cosup.training.trainer import CoSupervisionTrainer

    args = CoSupervisionConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=len(examples),
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        warmup_steps=5,
        nsp_weight=1.0,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    CoSupervisionTrainer(model, args, list(examples), PASSAGES).train()


WIDTH = 32


@dataclass(frozen=True)
class TinyWorld:
    """A corpus with questions, a base model to train from, and an untrained pair with its index.

    Attributes:
        base: a plain Hugging Face folder.
        model: a model folder.
        passages: `passages.jsonl`.
        questions: `questions.jsonl`, over these passages.
        index: an index folder of the passages, made by the model.
    """

    base: Path
    model: Path
    passages: Path
    questions: Path
    index: Path


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Make the world once; tests must not change its files."""
    from cosup.data.atlas import build_atlas
    from cosup.data.writing import write_jsonl

    folder = tmp_path_factory.mktemp("tiny")
    atlas = build_atlas(seed=0, train_entities=400, test_entities=40)
    passages, known = list(atlas.passages), {p.id for p in atlas.passages}
    questions = [q for q in atlas.test_questions if known.issuperset(q.gold_ids)][:12]
    write_jsonl(folder / "passages.jsonl", passages)
    write_jsonl(folder / "questions.jsonl", questions)
    texts = [p.rendered for p in passages] + [q.question for q in questions]
    save_base(folder / "base", texts)
    save_pair(folder / "model", folder / "base")
    build(folder / "index", folder / "model", folder / "passages.jsonl")
    return TinyWorld(*(folder / n for n in ("base", "model", "passages.jsonl", "questions.jsonl", "index")))


def save_base(folder: Path, texts: list[str], seed: int = 0) -> None:
    """Write a random two-layer Llama with a word-level tokenizer of `texts`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosup.data.encoding import PROMPT
    from cosup.data.wordlevel import build_word_tokenizer

    tokenizer = build_word_tokenizer([*texts, PROMPT, "search for the passage quote: begin end of quote."])
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_pair(folder: Path, base: Path, **settings: object) -> None:
    """Write an untrained pair whose two models start from `base`."""
    from cosup.model_folder import PairSettings
    from cosup.modeling import CoSupervisedModel

    chosen = PairSettings(**{"max_length": 256, "max_passage_length": 96, **settings})  # type: ignore[arg-type]
    CoSupervisedModel.from_base(str(base), str(base), chosen).save_pretrained(folder)


def build(folder: Path, model: Path, passages: Path) -> None:
    """Write the index of a file of passages."""
    from cosup.data.reading import read_passages
    from cosup.index.build import build_index
    from cosup.modeling import CoSupervisedModel

    pair = CoSupervisedModel.from_pretrained(model)
    build_index(pair, read_passages(passages), folder)
