"""Options of the command line that need many words: for pairs made elsewhere, retrieval by others, and writing."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cosup.errors import UsageError
from cosup.serving.settings import Limits

if TYPE_CHECKING:
    from cosup.generation.settings import GenerationSettings
    from cosup.serve import Listening

# -- join ----------------------------------------------------------------------------------------------------------

Generator = Annotated[
    str, typer.Option("--generator", help="Causal language model: a folder, hub id or .gguf.", show_default=False)
]
Embedder = Annotated[
    Path,
    typer.Option("--embedder", help="Folder of transformers or of sentence-transformers.", show_default=False),
]
Pooling = Annotated[
    str | None, typer.Option("--pooling", help="last, mean or cls.  [default: the folder's own, else last]")
]
Query = Annotated[
    str | None,
    typer.Option(
        "--query",
        help="state: of the generator at [Ret], for two that were trained together; text: the embedder reads the "
        "text so far.  [default: text for sentence-transformers and a generator without control tokens]",
    ),
]
Similarity = Annotated[
    str | None,
    typer.Option("--similarity", help="inner_product or cosine.  [default: the folder's own]"),
]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", help="paper, cosup, or a format with {question}.  [default: paper]"),
]
RetToken = Annotated[str | None, typer.Option("--ret-token", help="How the generator spells [Ret].")]
CsToken = Annotated[str | None, typer.Option("--cs-token", help="How the generator spells [Cs].")]
CeToken = Annotated[str | None, typer.Option("--ce-token", help="How the generator spells [Ce].")]
JoinedLength = Annotated[int | None, typer.Option("--max-length", min=2, help="Tokens of a whole sequence.")]
JoinedPassageLength = Annotated[int | None, typer.Option("--max-passage-length", min=1, help="Tokens of a passage.")]
JoinedQueryPrompt = Annotated[
    str | None, typer.Option("--query-prompt", help="Put before a query that is text, such as 'query: '.")
]
JoinedPassagePrompt = Annotated[
    str | None, typer.Option("--passage-prompt", help="Put before a passage that is embedded.")
]

# -- ask, generate -------------------------------------------------------------------------------------------------

RetrieverName = Annotated[
    str | None,
    typer.Option(
        "--retriever",
        help="Who finds passages: bm25, a model of sentence-transformers (hub id or folder), or separate:MODEL for the "
        "pair of another model folder, which made the index. What is needed is built in INDEX.retrievers, once.  "
        "[default: the model itself]",
    ),
]
QueryText = Annotated[
    str | None,
    typer.Option(
        "--query-text",
        help="What a retriever that reads text is asked: text (all so far), question, or last_sentence (with the "
        "question).  [default: text]",
    ),
]
QueryPrompt = Annotated[
    str | None, typer.Option("--query-prompt", help="Put before a query for sentence-transformers: 'query: '.")
]
PassagePrompt = Annotated[
    str | None, typer.Option("--passage-prompt", help="Put before a passage for sentence-transformers.")
]

#: What `ask` and `generate` say of how to write: field of `GenerationSettings` -> type and default of its option.
WRITING: Mapping[str, tuple[Any, Any]] = {
    "ret_first": (Annotated[bool, typer.Option("--ret-first", help="Retrieve before the first word.")], False),
    "ctx_truncate": (
        Annotated[bool, typer.Option("--ctx-truncate", help="Drop a passage from the context after its claim.")],
        False,
    ),
    "do_sample": (
        Annotated[bool, typer.Option("--sample", help="Sample instead of taking the likeliest token.")],
        False,
    ),
    "temperature": (Annotated[float, typer.Option("--temperature", help="Of sampling.")], 0.7),
    "top_p": (Annotated[float, typer.Option("--top-p", help="Of sampling: probability mass to draw from.")], 0.9),
    "seed": (Annotated[int, typer.Option("--seed", help="Of sampling.")], 0),
    "max_new_tokens": (
        Annotated[int, typer.Option("--max-new-tokens", help="Tokens to write; passages are not counted.")],
        256,
    ),
    "max_length": (
        Annotated[
            int | None,
            typer.Option("--max-length", help="Tokens of prompt, passages and text.  [default: the model's own]"),
        ],
        None,
    ),
    "max_retrievals": (Annotated[int, typer.Option("--max-retrievals", help="Searches in an answer at most.")], 8),
    "top_k": (Annotated[int, typer.Option("--top-k", help="Hits kept of each search.")], 10),
    "passages_per_retrieval": (
        Annotated[int, typer.Option("--read", help="Passages read after each search; a claim cites them all.")],
        1,
    ),
    "min_score": (
        Annotated[
            float | None,
            typer.Option("--min-score", help="Score of the best hit below which nothing is read and nothing cited."),
        ],
        None,
    ),
    "distinct_passages": (
        Annotated[bool, typer.Option("--distinct", help="Never read a passage twice in one answer.")],
        False,
    ),
    "where": (
        Annotated[
            str | None,
            typer.Option(
                "--filter",
                metavar="JSON",
                help='What a passage\'s metadata must meet: \'{"lang": "en", "year": {"gte": 2000}}\'.',
            ),
        ],
        None,
    ),
    "beam_size": (
        Annotated[int, typer.Option("--beam", help="Partial answers kept at each search; 1: the first hit.")],
        1,
    ),
    "beam_passages": (Annotated[int, typer.Option("--beam-passages", help="Hits each of them goes on with.")], 2),
}


# -- evaluate ------------------------------------------------------------------------------------------------------

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
    "entailment_label": (
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


def given_options(context: typer.Context) -> dict[str, str]:
    """Return the options that the command line names, as they are written there, by parameter.

    A switch that is turned off is its second form: `--no-rouge`.
    """
    found = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not None and not source.name.startswith("DEFAULT"):
            off = parameter.secondary_opts if context.params.get(name) is False else []
            found[name] = (off or parameter.opts)[0]
    return found


def with_group(name: str, options: Mapping[str, tuple[Any, Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that puts options in the place of a command's parameter, which gets them as a mapping.

    Args:
        name: of the parameter.
        options: their types, annotated for typer, and their defaults.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **{name: {key: kwargs.pop(key) for key in options}}, **kwargs)

        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters
        kept = [p.replace(annotation=hints.get(key, p.annotation)) for key, p in own.items() if key != name]
        more = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in options.items()
        ]
        wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept] + more, return_annotation=None
        )
        wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *more]}
        return wrapped

    return decorate


#: What `serve` says of where to listen: field of `Listening` or `Limits` -> type and default of its option.
LISTENING: Mapping[str, tuple[Any, Any]] = {
    "host": (
        Annotated[str, typer.Option("--host", help="Address to listen on; beyond this machine only with a key.")],
        "127.0.0.1",
    ),
    "port": (Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")], 8000),
    "name": (
        Annotated[str | None, typer.Option("--name", help="Of the model, in requests.  [default: its folder's]")],
        None,
    ),
    "keys": (Annotated[Path | None, typer.Option("--api-keys", help="File of keys, one a line.")], None),
    "admin_keys": (
        Annotated[Path | None, typer.Option("--admin-keys", help="File of keys that may change the corpus.")],
        None,
    ),
    "origins": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--cors", metavar="ORIGIN", help="A site whose pages may ask; several times.  [default: none]"
            ),
        ],
        None,
    ),
    "batch_size": (
        Annotated[int, typer.Option("--batch-size", min=1, help="Answers written at once.")],
        Limits.batch_size,
    ),
    "queue": (
        Annotated[int, typer.Option("--queue", min=0, help="Requests that wait; one more gets 429.")],
        Limits.queue,
    ),
    "max_tokens": (
        Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer at most.")],
        Limits.max_tokens,
    ),
    "seconds": (
        Annotated[float, typer.Option("--timeout", min=1, help="Seconds after which an answer ends as it is.")],
        Limits.seconds,
    ),
    "body_bytes": (Annotated[int, typer.Option("--max-body", min=1000, help="Bytes of a request.")], Limits.body_bytes),
    "grace_seconds": (
        Annotated[float, typer.Option("--grace", min=0, help="Seconds that answers have when the server stops.")],
        Limits.grace_seconds,
    ),
}
_PLACES = ("host", "port", "name", "keys", "admin_keys")

with_writing = with_group("writing", WRITING)
with_listening = with_group("listening", LISTENING)
with_judging = with_group("judging", JUDGING)
with_official = with_group("official", OFFICIAL)


def settings_of(writing: Mapping[str, Any]) -> GenerationSettings:
    """Return the settings that the options of `WRITING` ask for.

    Raises:
        UsageError: a value cannot be used.
    """
    from cosup.generation.settings import GenerationSettings
    from cosup.index.filters import Filter

    where = None
    if writing["where"] is not None:
        try:
            where = Filter.parse(json.loads(writing["where"]))
        except ValueError:
            raise UsageError(f'--filter is {writing["where"]!r}; expected JSON such as {{"lang": "en"}}') from None
    return GenerationSettings(**{**writing, "where": where})


def listening_of(options: Mapping[str, Any]) -> Listening:
    """Return where to listen, as the options of `LISTENING` say it."""
    from cosup.serve import Listening

    limits = tuple((name, value) for name, value in options.items() if name not in (*_PLACES, "origins"))
    return Listening(
        **{name: options[name] for name in _PLACES}, origins=tuple(options["origins"] or ()), limits=limits
    )
