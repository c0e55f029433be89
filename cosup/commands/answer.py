"""`cosup ask` and `cosup generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosup.commands import writing as write
from cosup.commands.loading import load_engine
from cosup.commands.options import Dtype, DtypeOption, Index, Model
from cosup.errors import UsageError
from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.generation.events import Retrieved
    from cosup.index.base import VectorIndex


@write.with_writing
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.", show_default=False)],
    model: Model,
    index: Index,
    writing: dict[str, Any],
    retriever: write.RetrieverName = None,
    query_text: write.QueryText = None,
    query_prompt: write.QueryPrompt = None,
    passage_prompt: write.PassagePrompt = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer one question and show the passages it cites.

    \b
    cosup ask --model runs/demo/model --index runs/demo/index "What is Copper Cove known for making?"
    cosup ask --model runs/demo/model --index runs/demo/index --json "What is Copper Cove known for making?"
    """
    from cosup.records import Question

    shell: Shell = context.obj
    asked = Question("question", _checked_text(question))
    write.check_writing(context)
    settings = write.settings_of(writing)
    choice = write.retriever_choice(retriever, query_text, query_prompt, passage_prompt)
    engine, found, _ = load_engine(shell, (model, index), settings, dtype, choice)
    engine.check(asked)
    if shell.as_json:
        shell.record(engine.generate([asked])[0].to_dict())
    else:
        _show_live(shell, engine, asked, found)


@write.with_writing
def generate(
    context: typer.Context,
    model: Model,
    index: Index,
    writing: dict[str, Any],
    questions: Annotated[Path, typer.Option("--questions", help="questions.jsonl.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="predictions.jsonl to write.", show_default=False)],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 32,
    retriever: write.RetrieverName = None,
    query_text: write.QueryText = None,
    query_prompt: write.QueryPrompt = None,
    passage_prompt: write.PassagePrompt = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer a file of questions.

    The same command goes on after an interruption.

    \b
    cosup generate --model runs/demo/model --index runs/demo/index --questions runs/demo/questions.jsonl \\
      --output predictions.jsonl
    """
    from cosup.data.reading import read_questions
    from cosup.data.writing import check_apart
    from cosup.generation import predict

    shell: Shell = context.obj
    write.check_writing(context)
    settings = write.settings_of(writing)
    predict.check_output(output)
    check_apart([output], [questions])
    asked = read_questions(questions)
    choice = write.retriever_choice(retriever, query_text, query_prompt, passage_prompt)
    engine, found, more = load_engine(shell, (model, index), settings, dtype, choice)
    predict.check_questions(engine, asked, questions)
    identity = predict.identity_of(model, found.identity, questions, settings, str(engine.model.generator.dtype)) | more
    with shell.progress("answering", "questions") as report:
        answers = predict.predict(engine, asked, output, identity, batch_size, report)
    record = {"predictions": str(output), "count": len(answers)}
    shell.tell(record, [f"{output}  {len(answers):,} predictions"])


def _show_live(shell: Shell, engine: Engine, question: Any, index: VectorIndex) -> None:
    """Write an answer as it comes, in a terminal with what it finds, then draw what it cites."""
    from cosup.console import draw_citations, safe_text
    from cosup.generation.events import Retrieved
    from cosup.generation.live import LiveText

    live = LiveText(question)
    for event in engine.stream(question):
        if isinstance(event, Retrieved) and sys.stdout.isatty():
            sys.stdout.write("\n" if live.shown else "")
            shell.note(_found(event, index))
        sys.stdout.write(safe_text(live.add(event)))
        sys.stdout.flush()
    sys.stdout.write("\n")
    if live.answer is not None and live.answer.citations:
        shell.result()
        draw_citations(
            shell.out, live.answer, {c.passage_id: index.passage(c.passage_id) for c in live.answer.citations}
        )


def _found(event: Retrieved, index: VectorIndex) -> str:
    """Say in a line what a search found, and whether it is read."""
    hits = [f"{index.passage(h.passage_id).title or h.passage_id} {h.score:.3f}" for h in event.hits[:3]]
    return f"{'reads' if event.read else 'reads none of'} {' | '.join(hits) or 'nothing found'}"


def _checked_text(question: str) -> str:
    if not question.strip():
        raise UsageError("the question is empty")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the question is not UTF-8 text") from None
    return question
