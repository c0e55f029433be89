"""Options of the command line that need many words: for pairs made elsewhere, and for retrieval by others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
