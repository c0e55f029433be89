"""The demo: train a small pair from scratch on the atlas, index, answer held-out questions, measure, draw.

Nothing is downloaded. Every stage is the one that real models go through; only the corpus and the sizes are the demo's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cosup.console import Meter, draw_answer, draw_table, progress
from cosup.data.atlas import Atlas, build_atlas, hop_of
from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.evaluation.html import write_html
from cosup.evaluation.report import Report, evaluate
from cosup.evaluation.report_text import write_report
from cosup.records import Answer, Passage, Question

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from cosup.generation.engine import Engine
    from cosup.modeling import CoSupervisedModel
    from cosup.training.config import CoSupervisionConfig

SHOWN = ("recall@1", "exact_match", "f1", "citation_precision", "citation_recall")
BATCH_SIZE = 64  # questions answered at once
ANSWERS_DRAWN = ("single_hop", "two_hop", "two_hop")


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo; the defaults are what `cosup demo` runs.

    Attributes:
        train_entities: passages to train on.
        test_entities: passages to index and to be asked about, none of them seen in training.
        width: of both models.
        generator_layers: of the generator.
        embedder_layers: of the embedder, which starts from the generator's first layers.
        heads: attention heads of both.
        steps: optimizer steps.
        batch_size: questions a step.
        learning_rate: of the generator's embeddings and norms.
        muon_learning_rate: of the generator's matrices.
        embedder_learning_rate: of the embedder.
        nsp_weight: lambda of the loss.
        temperature: of the NSP loss.
    """

    train_entities: int = 3000
    test_entities: int = 640
    width: int = 128
    generator_layers: int = 3
    embedder_layers: int = 2
    heads: int = 4
    steps: int = 900
    batch_size: int = 32
    learning_rate: float = 3e-3
    muon_learning_rate: float = 6e-3
    embedder_learning_rate: float = 2e-3
    nsp_weight: float = 1.0
    temperature: float = 0.05


def run_demo(
    output: Path = Path("runs/demo"),
    seed: int = 0,
    compare: bool = False,
    settings: DemoSettings | None = None,
    console: Console | None = None,
    notes: Console | None = None,
) -> dict[str, Any]:
    """Run the demo and print what it found.

    `output` then holds `model/`, `index/`, `passages.jsonl`, `questions.jsonl`, `predictions.jsonl`, `report.json`
    (with `report.md` and `per_question.jsonl`) and, with `compare`, separate supervision's under `compare/`.

    Args:
        output: folder to write to; an older demo's files in it are replaced.
        seed: of the corpus, the first weights and the order of the examples.
        compare: whether to train with separate supervision too, for as many steps, and print both columns.
        settings: sizes.
        console: where to print; standard output by default.
        notes: where to show progress; standard error by default.

    Returns:
        The content of `report.json`.

    Raises:
        UsageError: `output` is not a folder, its `model/` or `index/` holds something else, or the seed is negative.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write to {output}: it is a file; expected a folder")
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected a number of at least 0")
    console, settings = console or Console(), settings or DemoSettings()
    run = _Run(build_atlas(seed, settings.train_entities, settings.test_entities), seed, settings, notes)
    report, answers = run.co_supervised(output)
    columns = {"co-supervised": report}
    if compare:
        columns["separate"] = run.separate(output / "compare")
    _draw(console, columns, run.atlas, answers)
    console.print(Text(f"Kept in {output}: model, index, passages, questions, predictions, report."), soft_wrap=True)
    return report.to_dict()


def build_pair(texts: Sequence[str], seed: int, settings: DemoSettings) -> CoSupervisedModel:
    """Return an untrained pair with a word-level vocabulary.

    Both models start from the same weights, as the paper's do: words that a question and a passage share lie close
    in the sequence space from the first step.

    Args:
        texts: whose words are the vocabulary.
        seed: of the weights.
        settings: sizes.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    from cosup.data.wordlevel import build_word_tokenizer
    from cosup.model_folder import PairSettings
    from cosup.modeling import CoSupervisedModel
    from cosup.tokens import add_control_tokens

    def config(layers: int) -> Any:
        return Qwen3Config(
            vocab_size=len(words),
            hidden_size=settings.width,
            intermediate_size=2 * settings.width,
            num_hidden_layers=layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            head_dim=settings.width // settings.heads,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=words.pad_token_id,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
        )

    torch.manual_seed(seed)
    words, tokenizer = build_word_tokenizer(texts), build_word_tokenizer(texts)
    generator = Qwen3ForCausalLM(config(settings.generator_layers))
    embedder = Qwen3Model(config(settings.embedder_layers))
    start = generator.base_model.state_dict()
    embedder.load_state_dict({name: start[name] for name in embedder.state_dict()})
    add_control_tokens(tokenizer, generator)
    own = PairSettings(temperature=settings.temperature, prompt="{question}", max_length=384, max_passage_length=64)
    return CoSupervisedModel(generator, embedder, tokenizer, words, own)


class _Run:
    """One run's corpus and settings, and what is done with them."""

    def __init__(self, atlas: Atlas, seed: int, settings: DemoSettings, notes: Console | None = None) -> None:
        self.atlas, self.seed, self.settings, self.notes = atlas, seed, settings, notes
        self.started = time.monotonic()

    def co_supervised(self, output: Path) -> tuple[Report, list[Answer]]:
        """Train a pair with both losses, index with its embedder, answer, and keep everything."""
        from cosup.generation.engine import Engine
        from cosup.training.run_folder import check_model_target

        check_model_target(output / "model")
        write_jsonl(output / "passages.jsonl", self.atlas.passages)
        write_jsonl(output / "questions.jsonl", self.atlas.test_questions)
        model, seconds = self._trained("ntp+nsp", output / "model")
        engine = Engine(model, _indexed(model, self.atlas.passages, output / "index", self.notes))
        return self._measured(engine, output, {"supervision": "ntp+nsp", "train_seconds": seconds})

    def separate(self, output: Path) -> Report:
        """Train one pair on NTP alone to write and another on NSP alone to retrieve; same start, steps and order.

        The paper's separate retriever is one model for both sides; here the sides start equal and are trained apart.
        """
        from cosup.generation.engine import Engine
        from cosup.generation.retrieval import SeparateRetriever

        self.started = time.monotonic()
        writer, writer_seconds = self._trained("ntp", output / "writer")
        searcher, searcher_seconds = self._trained("nsp", output / "retriever")
        index = _indexed(searcher, self.atlas.passages, output / "index", self.notes)
        engine = Engine(writer, SeparateRetriever(searcher, index))
        told = {"supervision": "ntp, nsp", "train_seconds": writer_seconds + searcher_seconds}
        return self._measured(engine, output, told)[0]

    def _trained(self, supervision: str, folder: Path) -> tuple[CoSupervisedModel, float]:
        """Return a trained and saved pair, and the seconds that its training took."""
        from cosup.training.run_folder import save_whole

        model = build_pair(self.atlas.train_texts, self.seed, self.settings)
        started = time.monotonic()
        with progress(f"training ({supervision})", self.settings.steps, console=self.notes) as meter:
            config = _config(supervision, self.seed, self.settings, folder.parent)
            _train(model, self.atlas, config, meter)
        seconds = time.monotonic() - started
        save_whole(model, folder)
        return model, seconds

    def _measured(self, engine: Engine, output: Path, told: Mapping[str, Any]) -> tuple[Report, list[Answer]]:
        """Answer the test questions, measure, and write predictions and report."""
        questions = self.atlas.test_questions
        answers = _answered(engine, questions, self.notes)
        write_jsonl(output / "predictions.jsonl", answers)
        report = evaluate(answers, questions, self.atlas.passages, task_of=hop_of)
        kept = {**asdict(self.settings), **told, "seed": self.seed, "passages": len(self.atlas.passages)}
        kept["parameters"] = sum(p.numel() for p in engine.model.parameters())
        kept["total_seconds"] = time.monotonic() - self.started
        report = replace(report, settings=kept)
        write_report(report, output)
        write_html(report, {p.id: p for p in self.atlas.passages}, output / "report.html")
        return report, answers


def _config(supervision: str, seed: int, settings: DemoSettings, folder: Path) -> CoSupervisionConfig:
    from cosup.training.config import CoSupervisionConfig

    return CoSupervisionConfig(
        output_dir=str(folder),
        supervision=supervision,
        nsp_weight=settings.nsp_weight,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        muon_learning_rate=settings.muon_learning_rate,
        embedder_learning_rate=settings.embedder_learning_rate,
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.steps,
        warmup_steps=settings.steps // 10,
        lr_scheduler_type="cosine",
        adam_beta2=0.99,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )


def _train(model: CoSupervisedModel, atlas: Atlas, config: CoSupervisionConfig, meter: Meter) -> None:
    from cosup.data.templates import question_to_example
    from cosup.training.trainer import CoSupervisionTrainer

    passages = {p.id: p for p in atlas.train_passages}
    examples = [question_to_example(q, passages) for q in atlas.train_questions]
    trainer = CoSupervisionTrainer(model, config, examples, passages, callbacks=[_follower(meter)])
    _silence(trainer)
    trainer.train()
    model.eval()


def _follower(meter: Meter) -> TrainerCallback:
    """Return a callback that moves the meter on."""
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.update(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            shown = [f"{name[:3]} {logs[name]:.2f}" for name in ("ntp_loss", "nsp_loss") if name in (logs or {})]
            meter.note = ", ".join(shown) or meter.note

    return Follower()


def _silence(trainer: Any) -> None:
    """Keep the trainer from printing its logs: the meter shows them."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _indexed(model: CoSupervisedModel, passages: Sequence[Passage], folder: Path, notes: Console | None) -> Any:
    from cosup.index.build import build_index

    with progress("indexing", len(passages), "passages", console=notes) as meter:
        return build_index(model, passages, folder, lambda done, _: meter.update(done))


def _answered(engine: Engine, questions: Sequence[Question], notes: Console | None) -> list[Answer]:
    answers: dict[int, Answer] = {}
    with progress("answering", len(questions), "questions", console=notes) as meter:
        for number, answer in engine.finished(questions, BATCH_SIZE):
            answers[number] = answer
            meter.update(len(answers))
    return [answers[number] for number in range(len(questions))]


def _draw(console: Console, columns: Mapping[str, Report], atlas: Atlas, answers: Sequence[Answer]) -> None:
    draw_table(console, _rows(columns), f"{len(answers)} questions, {len(atlas.passages)} unseen passages, in percent")
    console.print()
    passages = {p.id: p for p in atlas.passages}
    left = list(zip(atlas.test_questions, answers, strict=True))
    for hop in ANSWERS_DRAWN:
        chosen = next((i for i, (question, _) in enumerate(left) if hop_of(question) == hop), None)
        if chosen is not None:
            draw_answer(console, left.pop(chosen)[1], passages)


def _rows(columns: Mapping[str, Report]) -> list[list[str]]:
    """Return the table: measures over all questions and by number of hops, one column a system, and their time."""
    names = [prefix + name for prefix in ("", "single_hop.", "two_hop.") for name in SHOWN]
    rows = [["measure", *columns]]
    for name in names:
        rows.append([name, *(f"{report.metrics[name]:.1f}" for report in columns.values())])
    for name in ("train_seconds", "total_seconds"):
        rows.append([name, *(f"{report.settings[name]:.0f}" for report in columns.values())])
    return rows
