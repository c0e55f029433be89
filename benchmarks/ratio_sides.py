"""What `ratios.py` measures: the slow side and ours of each ratio, on made-up data and models with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage, Question

STEPS, EXAMPLES_A_STEP, RATE = 2, 8, 1e-4  # of training
VOCABULARY = 16_384  # of the pairs that are trained
SIZES = (1, 4, 2, 1, 6, 1, 3, 1)  # of made-up passages, in passages of the atlas

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """A ratio of ours.

    Attributes:
        meaning: the slow side against ours, as a sentence's part.
        sides: gives the work of the slow side and of ours.
        pairs: how often both are timed.
    """

    meaning: str
    sides: Callable[[World], tuple[Work, Work]]
    pairs: int = 21


class World:
    """The data and the models that the ratios share, made when they are asked for.

    Args:
        scratch: for the model, its words and its index.
    """

    def __init__(self, scratch: Path) -> None:
        from cosup.data.atlas import build_atlas

        self.scratch = scratch
        self.atlas = build_atlas(seed=0, train_entities=400, test_entities=40)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages of the atlas."""
        return self.atlas.passages

    @property
    def questions(self) -> Sequence[Question]:
        """What is asked."""
        return self.atlas.test_questions

    @cached_property
    def taught(self) -> dict[str, Passage]:
        """The passages that a training learns from, of very different lengths, by id."""
        from cosup.records import Passage

        own = self.atlas.train_passages
        sizes = [SIZES[i % len(SIZES)] for i in range(len(own))]
        texts = [" ".join(p.text for p in own[i : i + size]) for i, size in enumerate(sizes)]
        return {p.id: Passage(p.id, p.title, text) for p, text in zip(own, texts, strict=True)}

    @cached_property
    def examples(self) -> list[Example]:
        """What a training learns from."""
        from cosup.data.templates import question_to_example

        return [question_to_example(q, self.taught) for q in self.atlas.train_questions[: STEPS * EXAMPLES_A_STEP]]

    @cached_property
    def long_and_short(self) -> list[Passage]:
        """Passages of very different lengths, in no order of them."""
        from cosup.records import Passage

        texts = [p.rendered for p in self.passages]
        starts = range(0, len(texts) - max(SIZES), 3)
        return [Passage(f"m{i}", "", " ".join(texts[i : i + SIZES[n % len(SIZES)]])) for n, i in enumerate(starts)]

    @cached_property
    def model(self) -> CoSupervisedModel:
        """A saved pair with random weights that never ends an answer, nor begins another claim."""
        import torch

        model = self._pair()
        with torch.no_grad():
            for token in (model.control.eos, model.control.ret, model.control.ce):
                model.generator.get_output_embeddings().weight[token] = 0
        model.save_pretrained(self.scratch / "model")
        return model.eval()

    def _pair(self) -> CoSupervisedModel:
        from cosup.demo import DemoSettings, build_pair

        sizes = DemoSettings(width=192, generator_layers=4, embedder_layers=3)
        pair = build_pair([p.rendered for p in self.passages] + [q.question for q in self.questions], 0, sizes)
        pair.configure(max_passage_length=300)
        return pair

    def untaught(self) -> CoSupervisedModel:
        """Return a pair to be trained, with a vocabulary of the usual size for its width; the same each time."""
        from training_pair import Setting, build_pair

        folder = self.scratch / "words"
        self.model.generator_tokenizer.save_pretrained(folder)
        return build_pair(Setting("", "", str(folder), layers=3, hidden=192, vocabulary=VOCABULARY))

    @cached_property
    def engine(self) -> Engine:
        """An engine over the atlas that retrieves once and then writes `max_new_tokens`, without guesses."""
        from cosup.generation.engine import Engine
        from cosup.generation.settings import GenerationSettings
        from cosup.index.build import build_index
        from cosup.records import Passage

        texts = [p.rendered for p in self.passages]
        long = [Passage(f"l{i}", "", " ".join(texts[i : i + 3])) for i in range(0, len(texts) - 3, 3)]
        index = build_index(self.model, long, self.scratch / "index")
        settings = GenerationSettings(max_new_tokens=24, ret_first=True, max_retrievals=1, draft_tokens=0)
        return Engine(self.model, index, settings)


def together(world: World) -> tuple[Work, Work]:
    """Give answers one by one, and eight at once."""
    engine, asked = world.engine, world.questions[:8]
    return lambda: engine.generate(asked, 1), lambda: engine.generate(asked, 8)


def cache(world: World) -> tuple[Work, Work]:
    """Give an answer's forward passes with everything read again for each token, and the engine's answer."""
    import torch

    engine, question = world.engine, world.questions[0]
    context, written = context_of(engine, question), engine.settings.max_new_tokens

    @torch.inference_mode()
    def again() -> None:
        for end in range(len(context) - written, len(context)):
            world.model.generator(input_ids=torch.tensor([context[:end]]), use_cache=False, logits_to_keep=1)

    return again, lambda: engine.generate([question], 1)


def context_of(engine: Engine, question: Question) -> list[int]:
    """Return all that the generator has read and written once a question is answered."""
    scheduler = engine.scheduler(1)
    scheduler.add(engine.row(question))
    done: list[Any] = []
    while scheduler.busy:
        done += scheduler.step()
    return [*done[0].context, *done[0].pending]


def streaming(world: World) -> tuple[Work, Work]:
    """Give a whole answer, and its first words."""
    from cosup.generation.events import TextDelta

    engine, question = world.engine, world.questions[0]

    def first() -> None:
        next(event for event in engine.stream(question) if isinstance(event, TextDelta))

    return lambda: list(engine.stream(question)), first


def embedding(world: World) -> tuple[Work, Work]:
    """Embed passages in their order, 16 a batch, and as cosup does, in batches of like length."""
    from cosup.index.embed import embed_passages

    model, passages = world.model, world.long_and_short

    def in_order() -> None:
        ids = model.encode_passages([p.rendered for p in passages])
        for start in range(0, len(ids), 16):
            model.embed_ids(ids[start : start + 16]).numpy()

    return in_order, lambda: embed_passages(model, passages)


def training(world: World) -> tuple[Work, Work]:
    """Train for a few steps by the paper's procedure (`yardstick.py`), and as cosup does, both in float32."""
    import torch
    from yardstick import Meter, Yardstick, train

    from cosup.data.encoding import ExampleEncoder

    model, passages = world.untaught(), world.taught
    own = model.settings
    words, limits = model.generator_tokenizer, (own.max_length, own.max_passage_length)
    encoder = ExampleEncoder(words, model.control, own.prompt, *limits)
    examples = [encoder.example(e, passages) for e in world.examples]
    pads = int(words.pad_token_id), int(model.embedder_tokenizer.pad_token_id)
    settings = Yardstick(RATE, EXAMPLES_A_STEP, *pads)

    def as_the_paper() -> None:
        models = model.generator, model.embedder
        meter = Meter(torch.device("cpu"))
        train(models, examples, lambda i: model.encode_passage(passages[i].rendered), settings, meter)

    return as_the_paper, trainer(world)


def trainer(world: World) -> Work:
    """Return the training of a pair on the world's examples, by cosup's defaults in float32."""
    import torch
    from training import train_cosup
    from yardstick import Meter

    model = world.untaught()
    own = {
        "num_train_epochs": 1, "per_device_train_batch_size": EXAMPLES_A_STEP, "learning_rate": RATE, "bf16": False,
        "use_cpu": True,
    }  # fmt: skip
    return lambda: train_cosup(model, world.taught, world.examples, own, Meter(torch.device("cpu")))


RATIOS = {
    "together": Ratio("eight answers one by one, against all at once", together, 11),
    "cache": Ratio("an answer with everything read again for each token, against ours", cache),
    "streaming": Ratio("a whole answer, against its first words", streaming),
    "embedding": Ratio("passages embedded in their order, against in batches of like length", embedding),
    "training": Ratio("training by the paper's procedure, against ours in float32", training, 5),
}
