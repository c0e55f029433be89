"""The command line: wires the rooms together, nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosup import options as opt
from cosup.errors import InputError, UsageError
from cosup.shell import Shell, run
from cosup.version import __version__

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.generation.events import Retrieved
    from cosup.generation.retrievers.opening import RetrieverChoice
    from cosup.generation.settings import GenerationSettings
    from cosup.index.base import VectorIndex
    from cosup.index.structures import IndexSettings
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Answer, Question

app = typer.Typer(
    help="""Train one language model to write and to retrieve, and answer questions with checkable citations.

    \b
    See it work (a few minutes on a CPU, no download):
      cosup demo
    From your own data to measured answers:
      cosup train recipe.yaml
      cosup index --model runs/train/model --passages passages.jsonl --output index
      cosup ask --model runs/train/model --index index "Who wrote it?"
      cosup generate --model runs/train/model --index index --questions questions.jsonl --output predictions.jsonl
      cosup evaluate --predictions predictions.jsonl --questions questions.jsonl --passages passages.jsonl --output .
    """,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


class Dtype(StrEnum):
    """Type of the weights in memory."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class IndexType(StrEnum):
    """How an index is searched."""

    auto = "auto"
    flat = "flat"
    ivf_sq = "ivf-sq"
    ivf_pq = "ivf-pq"
    hnsw = "hnsw"


class VectorDtype(StrEnum):
    """Type of the vectors that an index keeps."""

    float32 = "float32"
    float16 = "float16"


Model = Annotated[Path, typer.Option("--model", help="Model folder, as 'cosup train' writes it.", show_default=False)]
Index = Annotated[
    str,
    typer.Option(
        "--index",
        help="Index folder, as 'cosup index' writes it; or a Milvus file NAME.db, or milvus://HOST:PORT/COLLECTION.",
        show_default=False,
    ),
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto: bfloat16 on a GPU, float32 on a CPU.")]


@app.callback(invoke_without_command=True)
def _globals(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and other libraries' warnings.")] = False,  # noqa: ARG001
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no notes; errors and warnings stay.")] = False,
) -> None:
    context.obj = Shell(quiet=quiet)
    if version:
        context.obj.result(f"cosup {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", help="Folder for model, index, predictions and report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the made-up corpus and of training.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train with separate supervision and show both.")
    ] = False,
) -> None:
    """Train, index, ask and measure a small pair.

    On a made-up corpus, without any download: a progress bar, a table of measures over 500+ held-out questions, and
    three answers with their citations.
    """
    from cosup.demo import run_demo

    shell: Shell = context.obj
    run_demo(output, seed, compare, notes=shell.err)


@app.command()
def convert(
    context: typer.Context,
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="One of: folder, squad, hotpotqa, beir, tevatron, parquet, examples.",
            show_default=False,
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="IN", help="File or folder to read.", show_default=False)],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Folder to write into, or a .jsonl file for formats with one output.",
            show_default=False,
        ),
    ],
) -> None:
    """Convert a published format into cosup's own files.

    \b
    cosup convert squad dev-v1.1.json data/squad
    cosup convert folder docs/ data/docs          Markdown and text files into passages
    cosup convert examples data/squad data/squad  questions into training examples, to look at or to change
    """
    from cosup.data.convert import convert as convert_files

    shell: Shell = context.obj
    done = convert_files(format_name, source, output)
    for reason, count in done.skipped.items():
        shell.note(f"skipped {count:,} {reason}")
    for path, count in done.written.items():
        shell.result(f"{path}  {count:,}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file; --KEY VALUE pairs may follow.", show_default=False)
    ],
) -> None:
    """Train a pair as a recipe says.

    The same command goes on after an interruption.

    Every key of the recipe can be given another value: --learning_rate 1e-4, --data.max_length 512,
    --generator ./my-model, --output_dir runs/second. The names of Hugging Face's TrainingArguments work; the
    few that cosup cannot honour are refused.

    \b
    cosup train recipes/squad-smollm2.yaml --max_steps 300 --output_dir runs/short
    """
    from cosup.info import Info, run_figures
    from cosup.training.recipe import load_recipe

    shell: Shell = context.obj
    path, overrides = split_overrides([recipe, *context.args])
    loaded = load_recipe(path, overrides)
    with shell.progress("training", "steps") as report:
        from cosup.processes import rank
        from cosup.training.run import train as train_recipe

        model = train_recipe(loaded, report)
    if rank() > 0:
        return  # one process of a run speaks
    for line in Info(f"trained: {model}", tuple(run_figures(model.parent))).lines:
        shell.note(line)
    shell.result(str(model))


@app.command()
def join(
    context: typer.Context,
    generator: opt.Generator,
    embedder: opt.Embedder,
    output: Annotated[Path, typer.Option("--output", help="Model folder to write.", show_default=False)],
    pooling: opt.Pooling = None,
    query: opt.Query = None,
    similarity: opt.Similarity = None,
    prompt: opt.Prompt = None,
    ret_token: opt.RetToken = None,
    cs_token: opt.CsToken = None,
    ce_token: opt.CeToken = None,
    max_length: opt.JoinedLength = None,
    max_passage_length: opt.JoinedPassageLength = None,
    query_prompt: opt.JoinedQueryPrompt = None,
    passage_prompt: opt.JoinedPassagePrompt = None,
) -> None:
    """Make a model folder of a generator and an embedder that others trained.

    What was found and decided is printed: token ids, pooling, how the pair asks.

    \b
    cosup join --generator nest-gen --embedder nest-emb --output model           two that were trained together
    cosup join --generator my-llama --embedder all-MiniLM-L6-v2 --output model   any generator, any embedder
    """
    from cosup.joining import JoinSettings
    from cosup.joining import join as join_models

    shell: Shell = context.obj
    chosen = JoinSettings(
        pooling, query, similarity, prompt, ret_token, cs_token, ce_token, max_length, max_passage_length,
        query_prompt, passage_prompt,
    )  # fmt: skip
    joined = join_models(generator, embedder, output, chosen)
    width = max(len(name) for name, _ in joined.rows)
    for name, value in joined.rows:
        shell.note(f"{name:<{width}}  {value}")
    shell.result(str(joined.folder))


@app.command()
def index(
    context: typer.Context,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            help="Index folder to write or to change; or a Milvus file NAME.db, or milvus://HOST:PORT/NAME.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="Model folder, as 'cosup train' writes it.", show_default=False)
    ] = None,
    passages: Annotated[
        list[Path] | None,
        typer.Option(
            "--passages",
            help="passages.jsonl, a Parquet file, or a folder of Markdown and text files; can be given several times.",
            show_default=False,
        ),
    ] = None,
    index_type: Annotated[
        IndexType, typer.Option("--index-type", help="auto: by the size of the corpus; flat: exact.")
    ] = IndexType.auto,
    vector_dtype: Annotated[
        VectorDtype, typer.Option("--vector-dtype", help="Of the stored vectors; float16 takes half the disk.")
    ] = VectorDtype.float32,
    add: Annotated[bool, typer.Option("--add", help="Add the passages to the index.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Add them; those of the same ids give way.")] = False,
    delete: Annotated[
        Path | None, typer.Option("--delete", help="Take out the passages whose ids a file has, one a line.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Free what changes have left and build the index's structure again.")
    ] = False,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens embedded at once.  [default: by the device]")
    ] = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Embed a corpus and write its index, or change an index.

    The same command goes on after an interruption. Under torchrun all processes share the work, on several machines too
    if they see the same folders. A change happens whole or not at all; who has the index open goes on with what it was.

    \b
    cosup index --model runs/train/model --passages data/passages.jsonl --output index
    cosup index --model runs/train/model --passages ~/notes --output notes-index    your own Markdown files
    cosup index --model runs/train/model --passages data/passages.jsonl --output corpus.db
    torchrun --nproc-per-node 8 -m cosup index --model runs/train/model --passages kilt.jsonl --output index
    cosup index --model runs/train/model --passages new.jsonl --output index --add
    cosup index --output index --delete ids.txt
    cosup index --output index --compact
    """
    from cosup.index.structures import IndexSettings

    shell: Shell = context.obj
    changes = {"--add": add, "--replace": replace, "--delete": delete is not None, "--compact": compact}
    asked = [name for name, given in changes.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} do not go together; give one at a time")
    if delete is not None or compact:
        _shrink_index(shell, output, delete)
    elif model is None or not passages:
        raise UsageError(f"{'--model' if model is None else '--passages'} is missing; run 'cosup index --help'")
    elif asked:
        _add_to_index(shell, output, model, passages, dtype, replace)
    else:
        settings = IndexSettings(index_type, vector_dtype)
        _build_index(shell, output, (model, dtype, batch_tokens), passages, settings)


@app.command()
@opt.with_writing
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.", show_default=False)],
    model: Model,
    index: Index,
    writing: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
    retriever: opt.RetrieverName = None,
    query_text: opt.QueryText = None,
    query_prompt: opt.QueryPrompt = None,
    passage_prompt: opt.PassagePrompt = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer one question and show the passages it cites.

    \b
    cosup ask --model runs/demo/model --index runs/demo/index "Where was Ada Thorne born?"
    """
    from cosup.records import Question

    shell: Shell = context.obj
    asked = Question("question", _checked_text(question))
    settings = opt.settings_of(writing)
    choice = _retriever_choice(retriever, query_text, query_prompt, passage_prompt)
    engine, found, _ = _load_engine(shell, (model, index), settings, dtype, choice)
    engine.check(asked)
    if as_json:
        shell.result(json.dumps(engine.generate([asked])[0].to_dict(), ensure_ascii=False))
    else:
        _show_live(shell, engine, asked, found)


@app.command()
@opt.with_writing
def generate(
    context: typer.Context,
    model: Model,
    index: Index,
    writing: dict[str, Any],
    questions: Annotated[Path, typer.Option("--questions", help="questions.jsonl.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="predictions.jsonl to write.", show_default=False)],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 32,
    retriever: opt.RetrieverName = None,
    query_text: opt.QueryText = None,
    query_prompt: opt.QueryPrompt = None,
    passage_prompt: opt.PassagePrompt = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Answer a file of questions.

    The same command goes on after an interruption.

    \b
    cosup generate --model runs/demo/model --index runs/demo/index --questions runs/demo/questions.jsonl \\
      --output predictions.jsonl
    """
    from cosup.data.reading import read_questions
    from cosup.generation import predict

    shell: Shell = context.obj
    settings = opt.settings_of(writing)
    predict.check_output(output)
    asked = read_questions(questions)
    choice = _retriever_choice(retriever, query_text, query_prompt, passage_prompt)
    engine, found, more = _load_engine(shell, (model, index), settings, dtype, choice)
    predict.check_questions(engine, asked, questions)
    identity = predict.identity_of(model, found.identity, questions, settings, str(engine.model.generator.dtype)) | more
    with shell.progress("answering", "questions") as report:
        answers = predict.predict(engine, asked, output, identity, batch_size, report)
    shell.result(f"{output}  {len(answers):,} predictions")


@app.command()
def evaluate(
    context: typer.Context,
    predictions: Annotated[
        list[Path], typer.Option("--predictions", help="predictions.jsonl; several times.", show_default=False)
    ],
    questions: Annotated[
        list[Path],
        typer.Option(
            "--questions", help="questions.jsonl; several times, each then a task of its own.", show_default=False
        ),
    ],
    passages: Annotated[
        list[Path],
        typer.Option("--passages", help="The corpus that was searched; several times.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for report.json and its like.", show_default=False)],
) -> None:
    """Measure answers, retrieval and citations.

    Writes report.json, report.md and per_question.jsonl into the output folder.

    \b
    cosup evaluate --predictions predictions.jsonl --questions questions.jsonl --passages passages.jsonl --output report
    """
    from cosup.console import draw_table
    from cosup.data.reading import check_references, read_all, read_answers, read_passages, read_questions
    from cosup.evaluation import report as reports

    shell: Shell = context.obj
    corpus = read_all(read_passages, passages)
    tasks: dict[str, str] = {}
    names = task_names(questions)

    def read_task(path: str) -> list[Question]:
        batch = read_questions(path)
        check_references(batch, corpus, path)
        tasks.update({question.id: names[Path(path)] for question in batch})
        return batch

    def read_given(path: str) -> list[Answer]:
        batch = read_answers(path)
        check_references((answer for answer in batch if answer.id in tasks), corpus, path)
        return batch

    asked = read_all(read_task, questions)
    answers = read_all(read_given, predictions)
    inputs = {"predictions": predictions, "questions": questions, "passages": passages}
    settings = {"cosup_version": __version__, **{name: [str(p) for p in paths] for name, paths in inputs.items()}}
    by_task = (lambda question: tasks[question.id]) if len(questions) > 1 else None
    report = reports.evaluate(answers, asked, corpus, settings, by_task)
    written = reports.write_report(report, output)
    if shell.out.is_terminal:
        draw_table(shell.out, reports.table_rows(report))
    else:
        shell.result(reports.markdown(report).rstrip())
    for line in reports.notes(report):
        shell.note(line)
    shell.note(f"written: {written}")


@app.command()
def info(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A model, index, run or data folder, a recipe, or a data file.", show_default=False
        ),
    ],
    devices: Annotated[int | None, typer.Option(min=1, help="Of a recipe: plan for so many devices.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Of a recipe: training examples, not counted.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte of an index with its checksums.")
    ] = False,
) -> None:
    """Say what a path holds.

    Counts, lengths, parameters, fingerprints, settings, figures. The files of a small index are compared with their
    checksums; with --verify those of any. Of a recipe, also what training will take: parameters, memory of a device
    and steps, worked out without loading weights.
    """
    from cosup.info import describe

    shell: Shell = context.obj
    for line in describe(path, devices, examples, verify).lines:
        shell.result(line)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default) and return its exit code."""
    command = typer.main.get_command(app)
    main_of: Callable[..., Any] = command.main
    code = run(
        lambda arguments: main_of(arguments, prog_name="cosup", standalone_mode=False),
        sys.argv[1:] if words is None else words,
    )
    if "torch.distributed" in sys.modules:
        from cosup.processes import leave

        leave(code)
    return code


def split_overrides(words: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Part the words after `train` into the recipe and its `--key value` or `--key=value` overrides.

    Raises:
        UsageError: a key has no value, or there is not exactly one recipe.
    """
    rest, overrides, recipes = list(words), [], []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            recipes.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--{key} has no value; expected --{key} VALUE (true or false for a switch)")
            value = rest.pop(0)
        overrides.append((key, value))
    if len(recipes) != 1:
        found = f"found {', '.join(recipes)}" if recipes else "found none"
        raise UsageError(f"expected one recipe and --key value pairs; {found}")
    return recipes[0], overrides


def task_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name the task of each question file: its stem, with as many folders before it as tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = {path: "/".join(path.with_suffix("").parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(names):
            break
    return names


def _model_folder(path: Path) -> Path:
    """Check a model folder without loading it."""
    from cosup.modeling import read_model_record

    if not (path / "cosup.json").is_file() and (path / "model" / "cosup.json").is_file():
        raise InputError(f"not a model folder, but it holds one; say --model {path / 'model'}", path)
    read_model_record(path)
    return path


def _load_pair(folder: Path, dtype: Dtype) -> CoSupervisedModel:
    """Load a pair onto the GPU, if there is one."""
    import torch

    from cosup.modeling import CoSupervisedModel
    from cosup.processes import local_rank

    has_gpu = torch.cuda.is_available()
    short = dtype is Dtype.bfloat16 or (dtype is Dtype.auto and has_gpu)
    pair = CoSupervisedModel.from_pretrained(folder, torch.bfloat16 if short else torch.float32)
    if not has_gpu:
        return pair
    torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    return pair.to("cuda")


def _build_index(
    shell: Shell,
    output: str,
    embedding: tuple[Path, Dtype, int | None],
    passages: list[Path],
    settings: IndexSettings,
) -> None:
    from cosup.index.build import check_place, work_folder, write_index
    from cosup.index.corpus import store_passages
    from cosup.index.embed import EmbedOptions, tokens_for
    from cosup.index.faiss_index import FaissIndex
    from cosup.info import index_rows
    from cosup.processes import join, rank

    model, dtype, batch_tokens = embedding
    folder = _model_folder(model)
    join()
    if rank() == 0:
        check_place(output)
    corpus = store_passages(passages, work_folder(output) / "passages")
    pair = _load_pair(folder, dtype)
    half = settings.vector_dtype == "float16"
    options = EmbedOptions(batch_tokens or tokens_for(pair.device), half=half, computed_in=str(pair.embedder.dtype))
    with shell.progress("indexing", "passages") as report:
        similarity = pair.settings.similarity
        tell = lambda done, n: report(done, n, "")  # noqa: E731
        built = write_index(pair, corpus, output, similarity, tell, settings, options)
    if isinstance(built, FaissIndex):
        for name, value in index_rows(built.manifest):
            shell.note(f"{name}: {value}")
    if rank() == 0:
        shell.result(f"{output}  {len(corpus):,} passages")


def _add_to_index(shell: Shell, output: str, model: Path, passages: list[Path], dtype: Dtype, replacing: bool) -> None:
    from cosup.data.reading import read_all, read_passages
    from cosup.index.build import add_passages
    from cosup.index.open import open_index
    from cosup.modeling import read_model_record

    record = read_model_record(_model_folder(model))
    found = open_index(output, str(record["embedder_fingerprint"]))
    corpus = read_all(read_passages, passages)
    pair = _load_pair(model, dtype)
    with shell.progress("indexing", "passages") as report:
        report(0, len(corpus), "")
        add_passages(pair, corpus, found, output, replacing, lambda done, n: report(done, n, ""))
    shell.result(f"{output}  {len(found):,} passages")


def _shrink_index(shell: Shell, output: str, delete: Path | None) -> None:
    """Delete the passages that a file names, or compact."""
    from cosup.data.reading import read_ids
    from cosup.index.open import open_index

    found = open_index(output, None)
    if delete is None:
        found.compact()
    else:
        found.delete(read_ids(delete))
    shell.result(f"{output}  {len(found):,} passages")


def _load_engine(
    shell: Shell, places: tuple[Path, str], settings: GenerationSettings, dtype: Dtype, choice: RetrieverChoice | None
) -> tuple[Engine, VectorIndex, dict[str, Any]]:
    """Load a pair with its index, and who else retrieves; what belongs together is checked before weights are read.

    Returns:
        The engine, the index, and what more than these and the settings decides the answers.
    """
    from cosup.generation.engine import Engine
    from cosup.index.open import open_index
    from cosup.modeling import read_model_record

    model, index = places
    record = read_model_record(_model_folder(model))
    own = str(record["embedder_fingerprint"])
    found = open_index(index, own if choice is None else choice.index_fingerprint)
    pair = _load_pair(model, dtype)
    if choice is None:
        return Engine(pair, found, settings), found, {}
    from cosup.generation.retrievers.opening import open_retriever

    with shell.progress("embedding", "passages") as report:
        opened = open_retriever(choice, pair, found, index, lambda done, n: report(done, n, ""))
    if opened.built is not None:
        shell.note(f"built for {choice.name}: {opened.built}")
    return Engine(pair, opened.retriever, settings), found, dict(opened.identity)


def _retriever_choice(name: str | None, query: str | None, *prompts: str | None) -> RetrieverChoice | None:
    """Check which retriever was asked for; None for the pair's own."""
    if name is None:
        if query is not None or prompts != (None, None):
            raise UsageError("--query-text, --query-prompt and --passage-prompt go with --retriever")
        return None
    from cosup.generation.retrievers.opening import RetrieverChoice

    return RetrieverChoice(name, query or "text", *prompts)


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
