"""The runs of gpu_training.py: their models, their made-up world, and the pair that each trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model: about 1.1 B parameters as it stands."""

    layers: int = 16
    hidden: int = 2048
    inner: int = 8192
    heads: int = 16
    key_value_heads: int = 8
    vocabulary: int = 49_152


@dataclass(frozen=True)
class World:
    """Made-up examples: one passage, claim and answer each, in random words.

    Attributes:
        examples: how many different ones; they are repeated as long as training goes on.
        question: words of a question.
        passage: words of a passage.
        claim: words of a claim.
        spread: lengths vary evenly by this share on both sides.
    """

    examples: int
    question: int = 24
    passage: int = 160
    claim: int = 280
    spread: float = 0.5


@dataclass(frozen=True)
class Part:
    """One run.

    Attributes:
        shape: of both models.
        world: what is trained on.
        batch_size: examples a step.
        steps: optimizer steps, warm-up included.
        warm_up: steps that no figure counts.
        device: `cpu` or `cuda`.
        matmul: side of the square matrix product that is timed first; 0 times none.
        adapters: whether two LoRA adapters on one frozen base are trained, in place of both models.
        base: folder of the model that both start from.
        options: settings of `CoSupervisionConfig`.
    """

    shape: Shape
    world: World
    batch_size: int
    steps: int
    warm_up: int
    device: str
    matmul: int = 0
    adapters: bool = False
    base: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


TINY = Shape(layers=2, hidden=32, inner=64, heads=2, key_value_heads=1, vocabulary=1024)


def longest_example(world: World) -> int:
    """Return an upper bound of the generator's tokens in one example: its words and the marks around them."""
    return int((world.question + world.passage + world.claim) * (1 + world.spread)) + 32


def make_world(world: World, vocabulary: int, seed: int = 0) -> tuple[dict[str, Passage], list[Example]]:
    """Return passages by id and examples over them; words are `w0`, `w1`, .. below `vocabulary` - 64."""
    from cosup.records import Example, Passage, RetrievalSegment, TextSegment

    random = Random(seed)

    def words(count: int) -> str:
        low, high = round(count * (1 - world.spread)), round(count * (1 + world.spread))
        return " ".join(f"w{random.randrange(vocabulary - 64)}" for _ in range(max(1, random.randint(low, high))))

    passages = {f"p{i}": Passage(f"p{i}", f"w{i % 64}", words(world.passage)) for i in range(world.examples)}
    examples = [
        Example(f"e{i}", words(world.question), (RetrievalSegment(p, words(world.claim)), TextSegment(words(3))))
        for i, p in enumerate(passages)
    ]
    return passages, examples


def save_base(shape: Shape, folder: Path) -> None:
    """Write a random float32 model with a word-level tokenizer as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosup.data.encoding import PROMPT
    from cosup.data.wordlevel import build_word_tokenizer

    texts = [" ".join(f"w{i}" for i in range(shape.vocabulary - 64)), PROMPT, ":: search for the passage quote end of"]
    tokenizer = build_word_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_pair(part: Part) -> CoSupervisedModel:
    """Return the pair that the part trains, both models from its base."""
    from cosup.modeling import CoSupervisedModel

    if not part.adapters:
        return CoSupervisedModel.from_base(part.base, part.base)
    from cosup.adapters import LoraSettings

    return CoSupervisedModel.from_base(part.base, part.base, adapters=LoraSettings())


def read_part(record: Mapping[str, Any]) -> Part:
    """Return the part that `asdict` has written."""
    return Part(**(dict(record) | {"shape": Shape(**record["shape"]), "world": World(**record["world"])}))
