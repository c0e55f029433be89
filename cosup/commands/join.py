"""`cosup join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosup.shell import Shell

Generator = Annotated[
    str, typer.Option("--generator", help="Causal language model: a folder, hub id or .gguf.", show_default=False)
]
Embedder = Annotated[
    Path,
    typer.Option("--embedder", help="Folder of transformers or of sentence-transformers.", show_default=False),
]
Pooling = Annotated[
    str | None, typer.Option("--pooling", help="last_token, mean or cls.  [default: the folder's own, else last_token]")
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
Length = Annotated[int | None, typer.Option("--max-length", min=2, help="Tokens of a whole sequence.")]
PassageLength = Annotated[int | None, typer.Option("--max-passage-length", min=1, help="Tokens of a passage.")]
QueryPrompt = Annotated[
    str | None, typer.Option("--query-prompt", help="Put before a query that is text, such as 'query: '.")
]
PassagePrompt = Annotated[str | None, typer.Option("--passage-prompt", help="Put before a passage that is embedded.")]


def join(
    context: typer.Context,
    generator: Generator,
    embedder: Embedder,
    output: Annotated[Path, typer.Option("--output", help="Model folder to write.", show_default=False)],
    pooling: Pooling = None,
    query: Query = None,
    similarity: Similarity = None,
    prompt: Prompt = None,
    ret_token: RetToken = None,
    cs_token: CsToken = None,
    ce_token: CeToken = None,
    max_length: Length = None,
    max_passage_length: PassageLength = None,
    query_prompt: QueryPrompt = None,
    passage_prompt: PassagePrompt = None,
) -> None:
    """Make a pair of two models that others trained.

    What was found and decided is printed: token ids, pooling, how the pair asks.

    \b
    cosup join --generator nest-gen --embedder nest-emb --output model           # two that were trained together
    cosup join --generator my-llama --embedder all-MiniLM-L6-v2 --output model   # any generator, any embedder
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
    shell.tell({"model": str(joined.folder), "settings": dict(joined.rows)}, [str(joined.folder)])
