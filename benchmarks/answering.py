"""Speed of answering: the yardstick, cosup, and plain `generate` on the same tokens, from the same checkpoint.

    python benchmarks/answering.py --model runs/demo/model --index runs/demo/index --questions runs/demo/questions.jsonl

`baseline` is the paper's inference as it is described (answering_yardstick.py): one question at a time, the context
read again after each retrieval, the index rebuilt for each question, float32. `cosup_1` and `cosup_32` are the engine
with one and with 32 questions at once. `plain_1` and `plain_32` are transformers' `generate` on what each answer came
to: its prompt and passages given beforehand, as many new tokens (in a batch, the mean). Sides take turns, round after
round; a figure is the median over the rounds, a ratio is of the same questions. Everything is greedy; loading is not
counted.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any

from machine import about

from cosup.data.writing import write_json

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.generation.rows import Row
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Answer, Question

logger = logging.getLogger(__name__)

BATCH = 32


def main() -> None:
    """Measure, print the table, write the file."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    found = arguments(sys.argv[1:])
    shown = {name: str(value) for name, value in vars(found).items() if name != "json"}
    shown |= {name: Path(shown[name]).name for name in ("model", "index", "questions")}
    record = {"settings": shown, **about(sys.argv), **measure(found)}
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, help="model folder")
    add("--index", required=True, help="its index")
    add("--questions", required=True, help="questions.jsonl")
    add("--count", type=int, default=64, help="questions for the baseline and 32 at once, spread over the file")
    add("--alone", type=int, default=12, help="how many of them are answered one at a time")
    add("--rounds", type=int, default=3, help="how often every side is run")
    add("--max-new-tokens", type=int, default=160, help="tokens of an answer at most")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="float32", help="of cosup's weights")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processor threads")
    add("--json", type=Path, help="file to write")
    found = parser.parse_args(words)
    if found.dtype == "auto":
        found.dtype = _quick_dtype()
    return found


def _quick_dtype() -> str:
    import torch

    from cosup.devices import quick_dtype

    return str(quick_dtype(torch.device("cpu"))).removeprefix("torch.")


def measure(found: argparse.Namespace) -> dict[str, Any]:
    """Run every side in turns and return the figures."""
    import torch
    from answering_yardstick import Corpus, Timed, answer_all

    from cosup.data.reading import read_questions
    from cosup.generation.engine import Engine
    from cosup.generation.settings import GenerationSettings
    from cosup.index.open import open_index
    from cosup.modeling import CoSupervisedModel

    torch.set_num_threads(found.threads)
    settings = GenerationSettings(max_new_tokens=found.max_new_tokens)
    plain = CoSupervisedModel.from_pretrained(found.model)
    own = plain if found.dtype == "float32" else CoSupervisedModel.from_pretrained(found.model, torch.bfloat16)
    index = open_index(found.index, plain.fingerprint)
    engine = Engine(own, index, settings)
    everything = read_questions(found.questions)
    many = everything[:: max(1, len(everything) // found.count)][: found.count]
    few = many[:: max(1, len(many) // found.alone)][: found.alone]
    corpus = Corpus.of(plain, list(index))
    rows = {1: _rows(engine, few, 1), BATCH: _rows(engine, many, BATCH)}
    written = {size: [engine.answer(row) for row in found_rows] for size, found_rows in rows.items()}
    timed: list[Timed] = []
    sides: dict[str, tuple[int, Callable[[], Any]]] = {
        "baseline": (len(many), lambda: timed.append(answer_all(plain, corpus, many, settings))),
        "cosup_1": (len(few), lambda: engine.generate(few, 1)),
        f"cosup_{BATCH}": (len(many), lambda: engine.generate(many, BATCH)),
        "plain_1": (len(few), lambda: _plain(own, rows[1], 1)),
        f"plain_{BATCH}": (len(many), lambda: _plain(own, rows[BATCH], BATCH)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(found.rounds):
        for name, (count, run) in sides.items():
            begun = time.perf_counter()
            run()
            rates[name].append(count / (time.perf_counter() - begun))
            logger.info("round %d, %s: %.2f questions/s", number + 1, name, rates[name][-1])
    places = [next(i for i, other in enumerate(many) if other is question) for question in few]
    rates["baseline_1"] = [len(few) / sum(run.seconds[i] for i in places) for run in timed]
    rates[f"baseline_{BATCH}"] = rates.pop("baseline")
    theirs = timed[0].answers
    return figures(rates) | {
        "same_text": same_text(theirs, written[BATCH]),
        "same_text_1": same_text([theirs[i] for i in places], written[1]),
        "right": share_right(many, written[BATCH]),
        "baseline_right": share_right(many, theirs),
    }


def same_text(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Return the share of answers whose text is the same, mark for mark."""
    return sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) / len(ours)


def figures(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return each side's rate and the ratios, medians over the rounds."""
    sides = {name: {"questions_per_second": median(found), "rates": list(found)} for name, found in rates.items()}
    figures: dict[str, Any] = sides | {"baseline": sides[f"baseline_{BATCH}"]}
    for size in (1, BATCH):
        pairs = list(zip(*(rates[f"{side}_{size}"] for side in ("cosup", "baseline", "plain")), strict=True))
        figures[f"speedup_{size}"] = median(ours / base for ours, base, _ in pairs)
        figures[f"overhead_{size}"] = median(plain / ours for ours, _, plain in pairs)
    return figures


def _rows(engine: Engine, questions: Sequence[Question], size: int) -> list[Row]:
    """Answer questions and return the rows that they became."""
    rows, scheduler = [engine.row(q) for q in questions], engine.scheduler(size)
    for row in rows:
        scheduler.add(row)
    while scheduler.busy:
        scheduler.step()
    return rows


def _plain(model: CoSupervisedModel, rows: Sequence[Row], size: int) -> None:
    """Let transformers write as many tokens after the same prompts and passages."""
    import torch

    pad = int(model.generator_tokenizer.pad_token_id)
    generator: Any = model.generator
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        prompts = [row.context[: max(1, len(row.context) - row.new_tokens)] for row in batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        new = max(1, -(-sum(row.new_tokens for row in batch) // len(batch)))
        with torch.inference_mode():
            generator.generate(
                input_ids=ids, attention_mask=mask, min_new_tokens=new, max_new_tokens=new, do_sample=False,
                pad_token_id=pad,
            )  # fmt: skip


def share_right(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, float]:
    """Return the share of answers that hold one of the question's, whole words only, and its 95% interval.

    The interval is Wilson's (1927), of a share of independent questions.
    """
    from cosup.evaluation.answers import contains

    asked = [(q, a) for q, a in zip(questions, answers, strict=True) if q.answers]
    count = max(1, len(asked))
    share = sum(any(contains(a.text, gold) for gold in q.answers) for q, a in asked) / count
    z = NormalDist().inv_cdf(0.975)
    middle, width = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + sign * width) / (1 + z * z / count) for sign in (-1, 1))
    return {"share": share, "low": low, "high": high}


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines of a Markdown table."""
    lines = [
        "| at once | baseline, questions/s | cosup, questions/s | speedup | plain generate, questions/s | overhead |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for size in (1, BATCH):
        sides = (record[f"{side}_{size}"] for side in ("baseline", "cosup", "plain"))
        base, ours, plain = (side["questions_per_second"] for side in sides)
        lines.append(
            f"| {size} | {base:.2f} | {ours:.2f} | {record[f'speedup_{size}']:.2f}x | {plain:.2f} | "
            f"{record[f'overhead_{size}']:.2f}x |"
        )
    return lines


if __name__ == "__main__":
    main()
