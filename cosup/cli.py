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
from cosup.errors import InputError, UsageError, did_you_mean
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


class ScoredFormat(StrEnum):
    """Whose form predictions have."""

    cosup = "cosup"
    kilt = "kilt"
    alce = "alce"


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
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto: bfloat16 where the device has it, else float32.")]


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
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve it; a demo that is there already is served at once.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of --serve; 0 takes a free one.")] = 8000,
) -> None:
    """Train, index, ask and measure a small pair.

    On a made-up corpus, without any download: a progress bar, a table of measures over 500+ held-out questions, and
    three answers with their citations.
    """
    from cosup.demo import run_demo

    shell: Shell = context.obj
    if not serve:
        run_demo(output, seed, compare, notes=shell.err)
        return
    from cosup import serve as serving
    from cosup.generation.settings import GenerationSettings

    serving.check_installed()
    places = (output / "model", str(output / "index"))
    if not ((places[0] / "cosup.json").is_file() and (output / "report.json").is_file()):
        run_demo(output, seed, compare, notes=shell.err)
    listening = serving.Listening(port=port, name="demo")
    load = lambda folder: _load_pair(folder, Dtype.auto)  # noqa: E731
    serving.serve(shell, places, GenerationSettings(), listening, load, opens=True)


@app.command()
def convert(
    context: typer.Context,
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="One of: folder, squad, hotpotqa, selfrag, kilt, kilt-knowledge, alce, beir, tevatron, parquet, "
            "examples; or, out of cosup's files: trec, kilt-submission, alce-output, beir-output, tevatron-output.",
            show_default=False,
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="IN", help="File or folder to read.", show_default=False)],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Folder to write into, or a file (.jsonl, .json, .trec, .run, .txt) for formats with one output.",
            show_default=False,
        ),
    ],
    passages: Annotated[
        Path | None,
        typer.Option(
            "--passages",
            help="passages.jsonl or its folder, for kilt, kilt-submission and alce-output, where it lies beside "
            "neither IN nor OUT.",
        ),
    ] = None,
    gold: Annotated[Path | None, typer.Option("--gold", help="The published ALCE file, for alce-output.")] = None,
) -> None:
    """Convert a published format into cosup's own files, or cosup's files into another.

    \b
    cosup convert squad dev-v1.1.json data/squad
    cosup convert folder docs/ data/docs          Markdown and text files into passages
    cosup convert examples data/squad data/squad  questions into training examples, to look at or to change
    cosup convert kilt-knowledge kilt_knowledgesource.json data/kilt   pages into passages of 100 words
    cosup convert kilt nq-dev-kilt.jsonl data/kilt                     evidence is found in data/kilt/passages.jsonl
    cosup convert kilt-submission runs/mine guess.jsonl                predictions as KILT scores them
    cosup convert alce-output runs/mine result.json --passages data/asqa --gold asqa.json
    """
    from cosup.data.convert import convert as convert_files

    shell: Shell = context.obj
    done = convert_files(format_name, source, output, passages=passages, gold=gold)
    for reason, count in done.skipped.items():
        shell.note(f"skipped {count:,} {reason}")
    for what, count in done.noted.items():
        shell.note(f"{count:,} {what}")
    for path in done.replaced:
        shell.note(f"replaced {path}, which was there before")
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
        _add_to_index(shell, output, (model, dtype, batch_tokens), passages, replace)
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
    cosup ask --model runs/demo/model --index runs/demo/index "What is Copper Cove known for making?"
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
    from cosup.data.writing import check_apart
    from cosup.generation import predict

    shell: Shell = context.obj
    settings = opt.settings_of(writing)
    predict.check_output(output)
    check_apart([output], [questions])
    asked = read_questions(questions)
    choice = _retriever_choice(retriever, query_text, query_prompt, passage_prompt)
    engine, found, more = _load_engine(shell, (model, index), settings, dtype, choice)
    predict.check_questions(engine, asked, questions)
    identity = predict.identity_of(model, found.identity, questions, settings, str(engine.model.generator.dtype)) | more
    with shell.progress("answering", "questions") as report:
        answers = predict.predict(engine, asked, output, identity, batch_size, report)
    shell.result(f"{output}  {len(answers):,} predictions")


@app.command()
@opt.with_judging
@opt.with_official
def evaluate(
    context: typer.Context,
    official: dict[str, Any],
    judging: dict[str, Any],
    predictions: Annotated[
        list[Path] | None, typer.Option("--predictions", help="predictions.jsonl; several times.", show_default=False)
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            "--questions", help="questions.jsonl; several times, each then a task of its own.", show_default=False
        ),
    ] = None,
    passages: Annotated[
        list[Path] | None,
        typer.Option("--passages", help="The corpus that was searched; several times.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for the report; of --format kilt and alce, a .json file."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Other predictions for the same questions, to compare with; several times."),
    ] = None,
    format_name: Annotated[
        ScoredFormat, typer.Option("--format", help="Of the predictions: our own, or scored as KILT or ALCE do.")
    ] = ScoredFormat.cosup,
    suite: Annotated[
        Path | None, typer.Option("--suite", help="A YAML file of tasks: index, answer and measure each.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Of --suite: a model folder in place of the suite's own.")
    ] = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Measure answers, retrieval and citations.

    Writes report.json, report.md, report.html and per_question.jsonl into the output folder.

    \b
    cosup evaluate --predictions predictions.jsonl --questions questions.jsonl --passages passages.jsonl --output report
    cosup evaluate --predictions new.jsonl --against old.jsonl --questions questions.jsonl --passages passages.jsonl \\
      --output report
    cosup evaluate --format kilt --gold gold.jsonl --predictions guess.jsonl --output report.json
    cosup evaluate --format alce --predictions output.json --citations --judge google/t5_xxl_true_nli_mixture \\
      --output report.json
    cosup evaluate --suite recipes/suites/twelve-sets.yaml --model runs/mine/model --output runs/suite
    """
    from cosup import evaluating

    shell: Shell = context.obj
    _check_evaluate(context, "--suite" if suite is not None else format_name)
    if suite is not None:
        places = (model, output)
        evaluating.evaluate_suite(shell, suite, places, lambda path: _load_pair(_model_folder(path), dtype), judging)
        return
    if output is None:
        raise UsageError("--output is missing; run 'cosup evaluate --help'")
    if format_name is not ScoredFormat.cosup:
        evaluating.evaluate_official(shell, format_name, (predictions or [], output), official, judging)
        return
    inputs = evaluating.Inputs(predictions or (), questions or (), passages or (), against or ())
    evaluating.evaluate_predictions(shell, inputs, output, judging)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def experiment(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A YAML file.", show_default=False)],
    scale: Annotated[
        str | None, typer.Option("--scale", help="One of the file's scales.  [default: the whole experiment]")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is done and what is to do, and stop.")] = False,
    records: Annotated[
        Path | None,
        typer.Option("--records", help="Folder of records: finished ones are taken from there, new ones put there."),
    ] = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Compare systems: train each, answer and measure on several tasks, and print the tables.

    What is done is never done again, and the same command goes on after an interruption: every training and every
    measurement lies in a folder named by what it is made from. Any key of the recipe can follow, for every system that
    does not set it itself.

    \b
    cosup experiment recipes/experiments/main.yaml --plan
    cosup experiment recipes/experiments/main.yaml --scale cpu --generator models/mine --embedder models/mine
    """
    from cosup import experimenting

    shell: Shell = context.obj
    file, overrides = split_overrides([path, *context.args], _options(context), "experiment")
    precision = None if dtype is Dtype.auto else dtype.value
    chosen = experimenting.Chosen(Path(file), scale, overrides, records, precision)
    if plan:
        experimenting.show_plan(shell, chosen)
    else:
        experimenting.run(shell, chosen, lambda model: _load_pair(_model_folder(model), dtype))


@app.command()
@opt.with_writing
@opt.with_listening
def serve(
    context: typer.Context,
    model: Model,
    index: Index,
    listening: dict[str, Any],
    writing: dict[str, Any],
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Serve a pair: an OpenAI-style API with citations, and a page to ask on.

    Keys come from the variables COSUP_API_KEYS and COSUP_ADMIN_KEYS (parted by commas) or from files. Without any, only
    this machine can ask. Options of writing hold where a request does not say otherwise. What changes in the index
    folder meanwhile is taken up. Ctrl-C, or SIGTERM, lets the answers on their way come to their ends.

    \b
    cosup serve --model runs/demo/model --index runs/demo/index
    COSUP_API_KEYS=secret cosup serve --model runs/demo/model --index runs/demo/index --host 0.0.0.0 --port 80
    """
    from cosup import serve as serving

    serving.serve(
        context.obj,
        (_model_folder(model), index),
        opt.settings_of(writing),
        opt.listening_of(listening),
        lambda folder: _load_pair(folder, dtype),
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def info(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A model, index, run or data folder, an index in Milvus, a recipe, or a data file.",
            show_default=False,
        ),
    ],
    devices: Annotated[int | None, typer.Option(min=1, help="Of a recipe: plan for so many devices.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Of a recipe: training examples, not counted.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte of an index folder with its checksums.")
    ] = False,
) -> None:
    """Say what a path holds.

    Counts, lengths, parameters, fingerprints, settings, figures. The files of a small index are compared with their
    checksums; with --verify those of any, but not of one in Milvus. Of a recipe, also what training will take:
    parameters, memory of a device and steps, worked out without loading weights; --KEY VALUE pairs give settings
    other values, as for 'cosup train'.
    """
    from cosup.info import describe

    shell: Shell = context.obj
    given, overrides = split_overrides([path, *context.args], _options(context)) if context.args else (path, [])
    for line in describe(given, devices, examples, verify, overrides).lines:
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


def _options(context: typer.Context) -> list[str]:
    """Return the options of the command at hand, with which an override may be meant."""
    return [name for parameter in context.command.params for name in parameter.opts]


def split_overrides(
    words: Sequence[str], options: Sequence[str] = (), what: str = "recipe"
) -> tuple[str, list[tuple[str, str]]]:
    """Part the words after a command into its file and the `--key value` or `--key=value` overrides.

    Args:
        words: those that no option has taken.
        options: of the command, with which an override may be meant.
        what: the file is.

    Raises:
        UsageError: a key has no value, or there is not exactly one file.
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
                if hint := did_you_mean(word, options):
                    raise UsageError(f"no such option: {word}{hint}")
                raise UsageError(f"--{key} has no value; expected --{key} VALUE (true or false for a switch)")
            value = rest.pop(0)
        overrides.append((key, value))
    if len(recipes) != 1:
        found = f"found {', '.join(recipes)}" if recipes else "found none"
        raise UsageError(f"expected one {what} and --key value pairs; {found}")
    return recipes[0], overrides


def _check_evaluate(context: typer.Context, chosen: str) -> None:
    """Refuse options of `evaluate` that would do nothing.

    Args:
        chosen: a format of predictions, or `--suite`.
    """
    own = chosen == ScoredFormat.cosup
    where = chosen if chosen == "--suite" else "predictions of our own form" if own else f"--format {chosen}"
    given = opt.given_options(context)
    wrong = sorted(word for name, word in given.items() if name not in opt.EVALUATED[where])
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with {where}; run 'cosup evaluate --help'")
    if chosen != ScoredFormat.alce:
        return
    if "at_most_citations" in given and "citations" not in given:
        raise UsageError("--at-most-citations goes with --citations")
    if "judge" in given and not {"citations", "claims"} & given.keys():
        raise UsageError("--judge goes with --citations or --claims; without them --format alce asks it nothing")


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

    from cosup.devices import quick_dtype
    from cosup.modeling import CoSupervisedModel
    from cosup.processes import local_rank

    device = torch.device("cpu")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        device = torch.device("cuda")
    wanted = quick_dtype(device) if dtype is Dtype.auto else getattr(torch, dtype)
    return CoSupervisedModel.from_pretrained(folder, wanted).to(device)


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
        check_place(output, settings)
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


def _add_to_index(
    shell: Shell, output: str, embedding: tuple[Path, Dtype, int | None], passages: list[Path], replacing: bool
) -> None:
    from cosup.index.adding import adding_folder
    from cosup.index.build import add_passages, work_folder
    from cosup.index.corpus import store_passages
    from cosup.index.embed import EmbedOptions, tokens_for
    from cosup.index.faiss_index import FaissIndex
    from cosup.index.open import open_index
    from cosup.index.structures import FLAT_UP_TO
    from cosup.modeling import read_model_record

    model, dtype, batch_tokens = embedding
    record = read_model_record(_model_folder(model))
    found = open_index(output, str(record["embedder_fingerprint"]))
    with adding_folder(work_folder(output)) as work:
        corpus = store_passages(passages, work / "passages")
        pair = _load_pair(model, dtype)
        options = EmbedOptions(batch_tokens or tokens_for(pair.device), computed_in=str(pair.embedder.dtype))
        with shell.progress("indexing", "passages") as report:
            report(0, len(corpus), "")
            tell = lambda done, n: report(done, n, "")  # noqa: E731
            add_passages(pair, corpus, found, output, replacing, tell, options, work)
    if isinstance(found, FaissIndex) and found.outgrown:
        compact = f"'cosup index --output {output} --compact' makes search fast again"
        shell.note(f"{len(found):,} passages, more than {FLAT_UP_TO:,}, are all looked at for each query; {compact}")
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
