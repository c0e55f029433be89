"""The data and the pair that training.py trains: the same in every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
ROOM_FOR_CONTROL_TOKENS = 8


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        passages: file of passages.
        questions: file of questions; the last `held_out` are never trained on.
        tokenizer: folder or hub id.
        steps: optimizer steps.
        batch_size: questions a step.
        learning_rate: of AdamW, constant.
        threads: of the processor.
        layers: of each model.
        hidden: width of each model.
        vocabulary: rows of the embedding matrices.
        held_out: examples that the loss is measured on.
        seed: of the weights and of the order.
        device: `cpu` or `cuda`.
        precision: `bf16` or `fp32`, of cosup's runs.
        options: further settings of `CoSupervisionConfig`, for both runs of cosup.
    """

    passages: str
    questions: str
    tokenizer: str = ""
    steps: int = 12
    batch_size: int = 16
    learning_rate: float = 3e-4
    threads: int = 2
    layers: int = 12
    hidden: int = 384
    vocabulary: int = 49_152
    held_out: int = 64
    seed: int = 0
    device: str = "cpu"
    precision: str = "bf16"
    options: Mapping[str, Any] = field(default_factory=dict)


def train_tokenizer(setting: Setting, folder: Path) -> Path:
    """Train a byte-level BPE on all passages and questions and write it as a Hugging Face folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    passages, examples, held_out = load_data(setting)
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=setting.vocabulary - ROOM_FOR_CONTROL_TOKENS,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [p.rendered for p in passages.values()] + sorted({e.prompt for e in [*examples, *held_out]})
    bpe.train_from_iterator(texts, trainer)
    pad, eos, unknown = SPECIAL_TOKENS
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, eos_token=eos, unk_token=unknown, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    return folder


def load_data(setting: Setting) -> tuple[dict[str, Passage], list[Example], list[Example]]:
    """Return passages by id, the examples of all steps in their order, and the held-out examples."""
    from cosup.data.reading import read_passages, read_questions
    from cosup.data.templates import question_to_example

    passages = {p.id: p for p in read_passages(setting.passages)}
    questions = read_questions(setting.questions)
    if len(questions) <= setting.held_out:
        raise SystemExit(f"{setting.questions}: --held-out {setting.held_out} leaves no question to train on")
    kept = len(questions) - setting.held_out
    asked = [questions[i] for i in Random(setting.seed).sample(range(kept), kept)]
    chosen = list(islice(cycle(asked), setting.steps * setting.batch_size))
    examples, held_out = ([question_to_example(q, passages) for q in part] for part in (chosen, questions[kept:]))
    return passages, examples, held_out


def build_pair(setting: Setting) -> CoSupervisedModel:
    """Return a Llama-shaped pair with random float32 weights, the embedder's those of the generator's body."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    from cosup.checkpoints import load_tokenizer
    from cosup.modeling import CoSupervisedModel
    from cosup.tokens import add_control_tokens

    own, other = load_tokenizer(setting.tokenizer), load_tokenizer(setting.tokenizer)
    if len(own) + ROOM_FOR_CONTROL_TOKENS > setting.vocabulary:
        raise SystemExit(f"the tokenizer has {len(own)} tokens; --vocabulary {setting.vocabulary} has no room for them")
    heads = max(1, setting.hidden // 64)
    config = LlamaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=-(-setting.hidden * 8 // 3 // 64) * 64,
        num_hidden_layers=setting.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        pad_token_id=own.pad_token_id,
        bos_token_id=None,
        eos_token_id=own.eos_token_id,
    )
    torch.manual_seed(setting.seed)
    generator, embedder = LlamaForCausalLM(config), LlamaModel(config)
    embedder.load_state_dict(generator.base_model.state_dict())
    add_control_tokens(own, generator)
    return CoSupervisedModel(generator, embedder, own, other)
