"""Options of how answers are written (of `ask`, `generate` and `serve`) and who finds passages (`ask`, `generate`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosup.commands.options import check_together, with_group
from cosup.errors import UsageError

if TYPE_CHECKING:
    from cosup.generation.retrievers.opening import RetrieverChoice
    from cosup.generation.settings import GenerationSettings

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
        Annotated[bool, typer.Option("--do-sample", help="Sample instead of taking the likeliest token.")],
        False,
    ),
    "temperature": (
        Annotated[float, typer.Option("--temperature", help="Of sampling; 0 takes the likeliest token.")],
        0.7,
    ),
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
    "read": (
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
    "distinct": (
        Annotated[bool, typer.Option("--distinct", help="Never read a passage twice in one answer.")],
        False,
    ),
    "filter": (
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
    "beam": (
        Annotated[int, typer.Option("--beam", help="Partial answers kept at each search; 1: the first hit.")],
        1,
    ),
    "beam_passages": (Annotated[int, typer.Option("--beam-passages", help="Hits each of them goes on with.")], 2),
}

with_writing = with_group("writing", WRITING)

#: Options of writing that say something only beside another one; a server's are for requests, which may turn it on.
_TOGETHER = {"do_sample": {"temperature", "top_p", "seed"}, "beam": {"beam_passages"}}


def check_writing(context: typer.Context) -> None:
    """Refuse options of writing that would do nothing: how to sample where nothing is sampled.

    Raises:
        UsageError: names the option and what it goes with.
    """
    check_together(context, _TOGETHER)


def settings_of(writing: Mapping[str, Any]) -> GenerationSettings:
    """Return the settings that the options of `WRITING` ask for.

    Raises:
        UsageError: a value cannot be used.
    """
    from cosup.generation.settings import GenerationSettings
    from cosup.index.filters import Filter

    chosen = None
    if writing["filter"] is not None:
        try:
            chosen = Filter.parse(json.loads(writing["filter"]))
        except ValueError:
            raise UsageError(f'--filter is {writing["filter"]!r}; expected JSON such as {{"lang": "en"}}') from None
    return GenerationSettings(**{**writing, "filter": chosen})


def retriever_choice(name: str | None, query_text: str | None, *prompts: str | None) -> RetrieverChoice | None:
    """Check which retriever was asked for; None for the pair's own."""
    if name is None:
        if query_text is not None or prompts != (None, None):
            raise UsageError("--query-text, --query-prompt and --passage-prompt go with --retriever")
        return None
    from cosup.generation.retrievers.opening import RetrieverChoice

    return RetrieverChoice(name, query_text or "text", *prompts)
