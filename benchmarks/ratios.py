"""Ratios that a change must not lower: what cosup gains by working as it does, on made-up data, on one thread.

    python benchmarks/ratios.py              # measures, compares with the record, fails where one fell (1 to 2 minutes)
    python benchmarks/ratios.py --record     # measures several times, each in a fresh process, and writes the record

A ratio is of two sides of the same work, a slow one and ours. They take turns in one process, the order turned round
each time; the ratio is the median over the pairs. Time is the processor's own, which work beside it does not lengthen.
What the record (`ratios.json`) keeps of each processor is the median over the repetitions and their spread.

A ratio has fallen below `LIMIT` of the record: the geometric middle of no loss and a loss of a fifth, so that noise
has as much room as a loss has. One that seems to have fallen is measured again before that is said.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from training import about

from cosup.data.writing import write_json

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage, Question

logger = logging.getLogger(__name__)

RECORD = Path(__file__).with_name("ratios.json")
LIMIT = math.sqrt(0.8)
HOW_TO_RECORD = "python benchmarks/ratios.py --record"

STEPS, EXAMPLES_A_STEP, RATE = 2, 8, 1e-4  # of training
VOCABULARY = 16_384  # of the pairs that are trained
SIZES = (1, 4, 2, 1, 6, 1, 3, 1)  # of made-up passages, in passages of the atlas

Work = Callable[[], object]


# -- what is measured --------------------------------------------------------------------------------------------------


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
    pairs: int = 5


class World:
    """The data and the models that the ratios share, made when they are asked for.

    Args:
        scratch: for models, indexes and shards.
    """

    def __init__(self, scratch: Path) -> None:
        from cosup.data.atlas import build_atlas

        self.scratch = scratch
        self.atlas = build_atlas(seed=0, train_entities=400, test_entities=40)
        self._runs = 0

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
        from training import Setting, build_pair

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
        long = [Passage(f"l{i}", "", " ".join(texts[i : i + 6])) for i in range(0, len(texts) - 6, 6)]
        index = build_index(self.model, long, self.scratch / "index")
        settings = GenerationSettings(max_new_tokens=48, ret_first=True, max_retrievals=1, draft_tokens=0)
        return Engine(self.model, index, settings)

    def folder(self) -> Path:
        """Return a place that was not used before."""
        self._runs += 1
        return self.scratch / f"run-{self._runs}"


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


def resuming(world: World) -> tuple[Work, Work]:
    """Embed a corpus, and find that all of it is there."""
    from cosup.index.embed import embed_corpus

    model, passages, there = world.model, world.long_and_short, world.folder()
    embed_corpus(model, passages, there)
    return lambda: embed_corpus(model, passages, world.folder()), lambda: embed_corpus(model, passages, there)


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


def searching(world: World) -> tuple[Work, Work]:
    """Search 60,000 vectors exactly, and by the index that such a corpus gets."""
    import numpy as np

    from cosup.index.faiss_index import FaissIndex
    from cosup.index.structures import IndexSettings
    from cosup.records import Passage

    random = np.random.default_rng(0)
    centres = random.standard_normal((500, 96))
    vectors = centres[random.integers(500, size=60_000)] + 0.7 * random.standard_normal((60_000, 96))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    passages = [Passage(str(i), "", "made up") for i in range(len(vectors))]
    asked = [vectors[i : i + 1] for i in range(0, len(vectors), 600)]

    def work(kind: str) -> Work:
        index = FaissIndex.build(world.folder(), passages, vectors, "made-up", "cosine", IndexSettings(kind))
        return lambda: [index.search(query, 10) for query in asked]

    return work("flat"), work("auto")


RATIOS = {
    "together": Ratio("eight answers one by one, against all at once", together),
    "cache": Ratio("an answer with everything read again for each token, against ours", cache),
    "streaming": Ratio("a whole answer, against its first words", streaming),
    "embedding": Ratio("passages embedded in their order, against in batches of like length", embedding),
    "resuming": Ratio("a corpus embedded, against one found embedded", resuming),
    "training": Ratio("training by the paper's procedure, against ours in float32", training),
    "searching": Ratio("exact search in 60,000 vectors, against the index such a corpus gets", searching),
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(names: Collection[str], slowed: Mapping[str, float] | None = None) -> dict[str, list[float]]:
    """Return each ratio pair by pair.

    Args:
        names: of the ratios.
        slowed: for a trial of this benchmark itself: our side of a ratio takes so many times as long.
    """
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch))
        for name in names:
            begun = time.process_time()
            slow, ours = RATIOS[name].sides(world)
            found[name] = paired(slow, stretched(ours, (slowed or {}).get(name, 1.0)), RATIOS[name].pairs)
            took = time.process_time() - begun
            logger.info(
                "%-10s %7.2f   from %5.2f to %5.2f, %3.0f s of the processor",
                name,
                median(found[name]),
                min(found[name]),
                max(found[name]),
                took,
            )
    return found


def paired(slow: Work, ours: Work, pairs: int) -> list[float]:
    """Return the slow side's time over ours for each pair; both are run once before, untimed."""
    slow(), ours()
    found = []
    for number in range(pairs):
        if number % 2:
            mine = timed(ours)
            found.append(timed(slow) / mine)
        else:
            theirs = timed(slow)
            found.append(theirs / timed(ours))
    return found


def timed(work: Work) -> float:
    """Return the seconds of the processor that a work takes."""
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def stretched(work: Work, times: float) -> Work:
    """Return a work that keeps the processor busy for `times` as long."""
    if times == 1:
        return work

    def longer() -> None:
        begun = time.process_time()
        work()
        end = begun + times * (time.process_time() - begun)
        while time.process_time() < end:
            pass

    return longer


# -- the record --------------------------------------------------------------------------------------------------------


def recorded_for(record: Mapping[str, Any], processor: str) -> tuple[str, dict[str, float]]:
    """Return what now is compared with: the processor's own record, or of those of all others the lowest ratios.

    Returns:
        Whose it is, and the ratios by name.
    """
    of = {name: {ratio: own["value"] for ratio, own in one["ratios"].items()} for name, one in record.items()}
    if processor in of:
        return processor, of[processor]
    lowest = {ratio: min(one[ratio] for one in of.values() if ratio in one) for one in of.values() for ratio in one}
    return f"another processor ({', '.join(sorted(of))})", lowest


def fallen(recorded: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Return the names of the ratios that are below `LIMIT` of the record, or not in it."""
    return [name for name, value in now.items() if not value >= LIMIT * recorded.get(name, math.inf)]


def complaint(name: str, recorded: Mapping[str, float], now: float, whose: str) -> str:
    """Return what is said of a ratio that fell."""
    if name not in recorded:
        return f"{name}: {now:.2f} now, never recorded; record it: {HOW_TO_RECORD}"
    was = recorded[name]
    return (
        f"{name} ({RATIOS[name].meaning}) fell by {1 - now / was:.0%}: recorded {was:.2f} on {whose}, now {now:.2f}, "
        f"at least {LIMIT * was:.2f} expected. Find the change that slowed it; where that is meant: {HOW_TO_RECORD}"
    )


def compare(
    record: Mapping[str, Any], processor: str, measured: Callable[[Collection[str]], Mapping[str, Sequence[float]]],
    names: Collection[str] = tuple(RATIOS),
) -> list[str]:  # fmt: skip
    """Measure, again where a ratio seems to have fallen, and return a complaint for each that fell."""
    whose, recorded = recorded_for(record, processor)
    now = {name: median(pairs) for name, pairs in measured(names).items()}
    if seeming := fallen(recorded, now):
        again = {name: median(pairs) for name, pairs in measured(seeming).items()}
        now |= {name: max(now[name], value) for name, value in again.items()}
    return [complaint(name, recorded, now[name], whose) for name in fallen(recorded, now)]


def summary(repeats: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Return each ratio's median over the repetitions, its spread (largest over smallest, less 1), and all of them."""
    found = {}
    for name in repeats[0]:
        values = [median(one[name]) for one in repeats]
        meaning, spread = RATIOS[name].meaning, max(values) / min(values) - 1
        found[name] = {"meaning": meaning, "value": median(values), "spread": spread, "repeats": values}
    return found


def processor_name() -> str:
    """Return the processor's name, without its number of cores."""
    from cosup.experiments.provenance import processor

    return processor().rpartition(",")[0]


def in_fresh_process(names: Collection[str]) -> dict[str, list[float]]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs.json"
        command = [sys.executable, __file__, "--only", *names, "--pairs", str(out)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        found: dict[str, list[float]] = json.loads(out.read_text(encoding="utf-8"))
        return found


def main() -> None:
    """Measure; compare with the record, or write it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    found = arguments(sys.argv[1:])
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    if found.pairs:
        write_json(found.pairs, measure(found.only))
    elif found.record:
        ratios = summary([in_fresh_process(found.only) for _ in range(found.repeats)])
        record[processor_name()] = {**about(["benchmarks/ratios.py", "--record"]), "ratios": ratios}
        for name, own in ratios.items():
            logger.info("%-10s %7.2f, spread %.1f%%", name, own["value"], 100 * own["spread"])
        write_json(RECORD, record)
    else:
        slowed = {name: float(times) for name, _, times in (word.partition("=") for word in found.slow)}
        if told := compare(record, processor_name(), lambda names: measure(names, slowed), found.only):
            raise SystemExit("\n".join(told))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=tuple(RATIOS), default=list(RATIOS), help="measure these")
    add("--record", action="store_true", help="write the record of this processor")
    add("--repeats", type=int, default=5, help="repetitions for the record")
    add("--slow", nargs="+", default=[], metavar="NAME=TIMES", help="make ours slower, to see this fail")
    add("--pairs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
