"""The real run: index SQuAD's passages with a trained SmolLM2 pair, answer, measure, and write docs/squad.md.

    python benchmarks/squad_smollm2.py --run runs/squad-smollm2-short --data data/squad

Needs a run of recipes/squad-smollm2.yaml and the data folder (`passages.jsonl`, `questions.{train,dev,test}.jsonl`).
Every step calls the `cosup` command as a user would; finished steps are not repeated, so an interrupted call goes on.
The record of it all, docs/squad.json, is what the page is made from; the notes at its end are in squad_smollm2.md.
Settings: `retrieved` searches all passages; `gold` gives each question its gold passage alone (candidates); `dev pool`
searches the passages of the three dev articles with the dev questions.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cosup.data.reading import read_passages, read_questions
from cosup.data.writing import write_json, write_jsonl
from cosup.evaluation.answers import contains, gold_answers
from cosup.experiments.provenance import commit, processor
from cosup.records import Passage, Question

logger = logging.getLogger(__name__)

NOTES = Path(__file__).with_name("squad_smollm2.md")
FIGURES = {
    "retrieved": ("retrieved_first", "recall@1", "recall@10", "mrr", "contains_answer", "exact_match", "f1",
                  "citation_precision", "citation_recall"),
    "gold": ("retrieved_first", "contains_answer", "exact_match", "f1", "citation_precision", "citation_recall"),
    "dev": ("retrieved_first", "recall@1", "recall@10", "mrr"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to run on what."""

    run: Path
    data: Path
    every: int
    dev_every: int
    dtype: str
    page_only: bool
    notes: Path

    @property
    def folder(self) -> Path:
        """Where everything of this script goes."""
        return self.run / "evaluation"


def main() -> None:
    """Run every step that has not been run and write the page."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan, target = _arguments()
    file = target.with_suffix(".json")
    if not (plan.page_only and file.is_file()):
        write_json(file, _measure(plan))
    target.write_text(page(json.loads(file.read_text(encoding="utf-8")), plan.notes), encoding="utf-8")
    logger.info("wrote %s", target)


def _measure(plan: Plan) -> dict[str, Any]:
    """Index, answer and measure, as far as that has not been done; return the record of everything."""
    passages, test = read_passages(plan.data / "passages.jsonl"), read_questions(plan.data / "questions.test.jsonl")
    dev = read_questions(plan.data / "questions.dev.jsonl")
    sets = _question_sets(plan, test, dev)
    commands = [_index(plan)]
    reports = {}
    for name, asked in sets.items():
        commands += _answer(plan, name, asked)
        reports[name] = json.loads((plan.folder / name / "report.json").read_text(encoding="utf-8"))
    bm25 = {
        "test": _bm25(passages, sets["retrieved"]),
        "dev": _bm25([p for p in passages if p.id in _pool(dev)], sets["dev"]),
    }
    return {
        "hardware": processor(),
        "commit": commit(),
        "commands": [_training_command(plan), *commands],
        "every": plan.every,
        "training": json.loads((plan.run / "metrics.json").read_text(encoding="utf-8")),
        "reports": {name: {"count": r["count"], "metrics": r["metrics"]} for name, r in reports.items()},
        "bm25": bm25,
        "passages": {"test": len(passages), "dev": len(_pool(dev))},
    }


def _arguments() -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/squad-smollm2"), help="run folder with model/ in it")
    parser.add_argument("--data", type=Path, default=Path("data/squad"), help="folder of the SQuAD files")
    parser.add_argument("--every", type=int, default=5, help="take every n-th test question")
    parser.add_argument("--dev-every", type=int, default=5, help="take every n-th dev question")
    parser.add_argument("--dtype", default="bfloat16", help="type of the weights while answering")
    parser.add_argument("--page", type=Path, default=Path("docs/squad.md"), help="page, its record beside it")
    parser.add_argument("--page-only", action="store_true", help="write the page from the record of an earlier call")
    parser.add_argument("--notes", type=Path, default=NOTES, help="text that ends the page: what the figures mean")
    found = parser.parse_args()
    plan = Plan(found.run, found.data, found.every, found.dev_every, found.dtype, found.page_only, found.notes)
    return plan, found.page


def _pool(questions: Sequence[Question]) -> list[str]:
    return sorted({i for q in questions for i in q.gold_ids})


def _question_sets(plan: Plan, test: Sequence[Question], dev: Sequence[Question]) -> dict[str, list[Question]]:
    """Write the question files: every n-th question; with candidates for the gold and the dev-pool settings."""
    pool = tuple(_pool(dev))
    chosen = list(test[:: plan.every])
    sets = {
        "retrieved": chosen,
        "gold": [replace(q, candidates=q.gold_ids) for q in chosen],
        "dev": [replace(q, candidates=pool) for q in dev[:: plan.dev_every]],
    }
    for name, questions in sets.items():
        write_jsonl(plan.folder / f"questions.{name}.jsonl", questions)
    return sets


def _index(plan: Plan) -> str:
    index = plan.run / "index"
    model, passages = plan.run / "model", plan.data / "passages.jsonl"
    return _cosup(
        index / "index.json",
        ["index", "--model", model, "--passages", passages, "--output", index, "--dtype", plan.dtype],
    )


def _answer(plan: Plan, name: str, questions: Sequence[Question]) -> list[str]:
    """Answer a set with `[Ret]` left to the model, and measure."""
    asked, output = plan.folder / f"questions.{name}.jsonl", plan.folder / f"predictions.{name}.jsonl"
    logger.info("%s: %d questions", name, len(questions))
    model, index = plan.run / "model", plan.run / "index"
    where = ["--model", model, "--index", index, "--questions", asked, "--output", output]
    first = _cosup(output, ["generate", *where, "--max-new-tokens", "160", "--dtype", plan.dtype])
    judged = ["--predictions", output, "--questions", asked, "--passages", plan.data / "passages.jsonl"]
    second = _cosup(plan.folder / name / "report.json", ["evaluate", *judged, "--output", plan.folder / name])
    return [first, second]


def _cosup(result: Path, arguments: Sequence[Any]) -> str:
    """Run a cosup command unless its result is there; return the command as one would type it."""
    words = [str(a) for a in arguments]
    if not result.exists():
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "cosup", *words], check=True)
        logger.info("cosup %s: %.0f s", words[0], time.monotonic() - start)
    return shlex.join(["cosup", *words])


def _bm25(passages: Sequence[Passage], questions: Sequence[Question]) -> dict[str, float]:
    """Search with BM25 (bm25s, its defaults) over `title text`: recall@1, recall@10, and answer in the top passage."""
    import bm25s

    searcher = bm25s.BM25()
    texts = [f"{p.title} {p.text}" for p in passages]
    searcher.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize([q.question for q in questions], stopwords="en", show_progress=False)
    rows, _ = searcher.retrieve(tokens, k=10, show_progress=False)
    ranked = [[passages[i] for i in row] for row in rows.tolist()]
    pairs = list(zip(ranked, questions, strict=True))
    figures = {
        "recall@1": [r[0].id in q.gold_ids for r, q in pairs],
        "recall@10": [bool({p.id for p in r} & set(q.gold_ids)) for r, q in pairs],
        "answer_in_passage": [any(contains(r[0].text, gold) for gold in gold_answers(q)) for r, q in pairs],
    }
    return {name: 100 * sum(map(bool, hits)) / len(hits) for name, hits in figures.items()}


def page(record: dict[str, Any], notes: Path) -> str:
    """Return the page's text: what the record says, then the notes."""
    training = record["training"]
    steps = max(entry["step"] for entry in training["log"])
    reports = record["reports"]
    lines = [
        "# Results",
        "",
        "Written by `benchmarks/squad_smollm2.py` from `docs/squad.json`; no figure is typed by hand. The notes at the "
        "end are. All figures in percent.",
        "",
        f"## SQuAD, a pair of SmolLM2-135M-Instruct, {steps} steps",
        "",
        f"Commit {record['commit']}; {record['hardware']}.",
        "",
        "```sh",
        *record["commands"],
        "```",
        "",
        f"`retrieved`: {reports['retrieved']['count']} test questions (every {record['every']}th) over all "
        f"{record['passages']['test']} passages. `gold`: the same with their gold passage given. `dev`: "
        f"{reports['dev']['count']} dev questions over the {record['passages']['dev']} passages of the dev articles.",
        "",
        "| figure | retrieved | gold | dev |",
        "|---|---:|---:|---:|",
    ]
    for figure in FIGURES["retrieved"]:
        cells = [f"{reports[name]['metrics'][figure]:.1f}" if figure in FIGURES[name] else "" for name in FIGURES]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    for figure in ("recall@1", "recall@10"):
        test, dev = record["bm25"]["test"][figure], record["bm25"]["dev"][figure]
        lines.append(f"| BM25 {figure} | {test:.1f} | | {dev:.1f} |")
    lines.append(f"| BM25 top passage contains the answer | {record['bm25']['test']['answer_in_passage']:.1f} | | |")
    lines += ["", "Training curve (mean since the line before):", "", *_curve(training["log"])]
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


def _training_command(plan: Plan) -> str:
    """Return the command that makes this run: the recipe and what the run changed in it."""
    recipe, run = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (Path("recipes/squad-smollm2.yaml"), plan.run / "recipe.yaml")
    )
    words = ["cosup", "train", "recipes/squad-smollm2.yaml"]
    for part in ("generator", "embedder"):
        if run[part] != recipe[part]:
            words += [f"--{part}", Path(run[part]).name]
    for part in ("data", "objective", "training"):
        words += [f"--{k}={v}" for k, v in run[part].items() if recipe[part].get(k) != v]
    return shlex.join(words)


def _curve(log: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| step | NTP loss | NSP loss | in-batch accuracy |", "|---:|---:|---:|---:|"]
    trained = [entry for entry in log if "ntp_loss" in entry]
    kept = [entry for entry in trained if entry["step"] in (5, 10, 20) or entry["step"] % 50 == 0]
    for entry in kept:
        accuracy = 100 * entry["nsp_accuracy"]
        rows.append(f"| {entry['step']} | {entry['ntp_loss']:.3f} | {entry['nsp_loss']:.3f} | {accuracy:.0f} |")
    return rows


if __name__ == "__main__":
    main()
