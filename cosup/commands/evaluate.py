"""`cosup evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cosup.commands.completing import yaml_files
from cosup.commands.loading import load_pair, model_folder
from cosup.commands.options import Dtype, DtypeOption, check_options, check_together, given_options, with_group
from cosup.errors import UsageError
from cosup.shell import Shell


class ScoredFormat(StrEnum):
    """Whose form predictions have."""

    cosup = "cosup"
    kilt = "kilt"
    alce = "alce"


Predictions = Annotated[
    list[Path] | None, typer.Option("--predictions", help="predictions.jsonl; several times.", show_default=False)
]
Questions = Annotated[
    list[Path] | None,
    typer.Option(
        "--questions", help="questions.jsonl; several times, each then a task of its own.", show_default=False
    ),
]
Passages = Annotated[
    list[Path] | None,
    typer.Option("--passages", help="The corpus that was searched; several times.", show_default=False),
]
Output = Annotated[
    Path | None, typer.Option("--output", help="Folder for the report; of --format kilt and alce, a .json file.")
]
Against = Annotated[
    list[Path] | None,
    typer.Option("--against", help="Other predictions for the same questions, to compare with; several times."),
]


JUDGING: dict[str, tuple[Any, Any]] = {
    "judge": (
        Annotated[
            str | None,
            typer.Option(
                "--judge",
                help="Decides whether passages entail what cites them: a hub id or folder (NLI classifier, or T5 of "
                "TRUE's kind), http(s)://HOST/v1#MODEL, or MODULE:FUNCTION.",
            ),
        ],
        None,
    ),
    "cache": (
        Annotated[
            Path | None,
            typer.Option("--judge-cache", help="Folder of verdicts.  [default: ~/.cache/cosup/verdicts]"),
        ],
        None,
    ),
    "label": (
        Annotated[str | None, typer.Option("--judge-label", help="Label of a classifier that means entailment.")],
        None,
    ),
    "threshold": (
        Annotated[
            float | None,
            typer.Option("--judge-threshold", help="Probability from which on a classifier or function entails."),
        ],
        None,
    ),
    "timeout": (
        Annotated[float | None, typer.Option("--judge-timeout", help="Seconds that an endpoint may take.")],
        None,
    ),
    "parallel": (
        Annotated[int | None, typer.Option("--judge-parallel", help="Requests to an endpoint at once.")],
        None,
    ),
    "key_variable": (
        Annotated[
            str | None,
            typer.Option("--judge-key-variable", help="Variable with the endpoint's key.  [default: OPENAI_API_KEY]"),
        ],
        None,
    ),
}

OFFICIAL: dict[str, tuple[Any, Any]] = {
    "gold": (Annotated[Path | None, typer.Option("--gold", help="KILT: the gold file.")], None),
    "citations": (
        Annotated[bool, typer.Option("--citations", help="ALCE: citation recall and precision, by --judge.")],
        False,
    ),
    "claims": (
        Annotated[bool, typer.Option("--claims", help="ALCE: share of the gold claims entailed, by --judge.")],
        False,
    ),
    "mauve": (
        Annotated[str | None, typer.Option("--mauve", metavar="MODEL", help="ALCE: MAUVE with this featurizer.")],
        None,
    ),
    "rouge": (
        Annotated[bool, typer.Option("--rouge/--no-rouge", help="KILT, ALCE: ROUGE, which takes the longest.")],
        True,
    ),
    "at_most_citations": (
        Annotated[int, typer.Option("--at-most-citations", min=1, help="ALCE: citations of a sentence that count.")],
        3,
    ),
    "qampari": (
        Annotated[
            bool | None,
            typer.Option("--qampari/--no-qampari", help="ALCE: outputs are lists.  [default: by the file's name]"),
        ],
        None,
    ),
}


#: What `evaluate` measures -> the parameters that it looks at there; any other one is refused.
EVALUATED: Mapping[str, frozenset[str]] = {
    "predictions of our own form": frozenset(
        {"predictions", "questions", "passages", "against", "output", "format_name", *JUDGING}
    ),
    "--format kilt": frozenset({"predictions", "output", "format_name", "gold", "rouge"}),
    "--format alce": frozenset({"predictions", "output", "format_name", *JUDGING, *OFFICIAL} - {"gold"}),
    "--suite": frozenset({"suite", "model", "dtype", "output", *JUDGING}),
}


@with_group("judging", JUDGING)
@with_group("official", OFFICIAL)
def evaluate(
    context: typer.Context,
    official: dict[str, Any],
    judging: dict[str, Any],
    predictions: Predictions = None,
    questions: Questions = None,
    passages: Passages = None,
    output: Output = None,
    against: Against = None,
    format_name: Annotated[
        ScoredFormat, typer.Option("--format", help="Of the predictions: our own, or scored as KILT or ALCE do.")
    ] = ScoredFormat.cosup,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite", help="A YAML file of tasks: index, answer and measure each.", autocompletion=yaml_files
        ),
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
        evaluating.evaluate_suite(shell, suite, places, lambda path: load_pair(model_folder(path), dtype), judging)
        return
    if output is None:
        raise UsageError("--output is missing; run 'cosup evaluate --help'")
    if format_name is not ScoredFormat.cosup:
        evaluating.evaluate_official(shell, format_name, (predictions or [], output), official, judging)
        return
    inputs = evaluating.Inputs(predictions or (), questions or (), passages or (), against or ())
    evaluating.evaluate_predictions(shell, inputs, output, judging)


def _check_evaluate(context: typer.Context, chosen: str) -> None:
    """Refuse options of `evaluate` that would do nothing.

    Args:
        chosen: a format of predictions, or `--suite`.
    """
    own = chosen == ScoredFormat.cosup
    where = chosen if chosen == "--suite" else "predictions of our own form" if own else f"--format {chosen}"
    check_options(context, where, EVALUATED[where])
    if chosen != ScoredFormat.alce:
        return
    check_together(context, {"citations": {"at_most_citations"}})
    given = given_options(context)
    if "judge" in given and not {"citations", "claims"} & given.keys():
        raise UsageError("--judge goes with --citations or --claims; without them --format alce asks it nothing")
