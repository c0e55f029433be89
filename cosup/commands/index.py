"""`cosup index`: build an index, add to it, take out of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosup.commands.loading import load_pair, model_folder, model_record
from cosup.commands.options import Dtype, DtypeOption, check_options
from cosup.errors import UsageError
from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.index.structures import IndexSettings


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


Place = Annotated[
    str,
    typer.Option(
        "--output",
        help="Index folder to write or to change; or a Milvus file NAME.db, or milvus://HOST:PORT/NAME.",
        show_default=False,
    ),
]
EmbeddingModel = Annotated[
    Path | None, typer.Option("--model", help="Model folder, as 'cosup train' writes it.", show_default=False)
]
Sources = Annotated[
    list[Path] | None,
    typer.Option(
        "--passages",
        help="passages.jsonl, a Parquet file, a folder of Markdown and text files, a BEIR folder, a saved dataset or "
        "the hub id of one; can be given several times.",
        show_default=False,
    ),
]
IndexTypeOption = Annotated[
    IndexType, typer.Option("--index-type", help="auto: by the size of the corpus; flat: exact.")
]
VectorDtypeOption = Annotated[
    VectorDtype, typer.Option("--vector-dtype", help="Of the stored vectors; float16 takes half the disk.")
]


#: What `index` does -> the parameters that it looks at there; any other one is refused.
INDEXED: Mapping[str, frozenset[str]] = {
    "--add": frozenset({"add", "model", "passages", "output", "batch_tokens", "dtype"}),
    "--replace": frozenset({"replace", "model", "passages", "output", "batch_tokens", "dtype"}),
    "--delete": frozenset({"delete", "output"}),
    "--compact": frozenset({"compact", "output"}),
}


def index(
    context: typer.Context,
    output: Place,
    model: EmbeddingModel = None,
    passages: Sources = None,
    index_type: IndexTypeOption = IndexType.auto,
    vector_dtype: VectorDtypeOption = VectorDtype.float32,
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
    cosup index --model runs/train/model --passages ~/notes --output notes-index    # your own Markdown files
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
    if asked:
        check_options(context, asked[0], INDEXED[asked[0]])
    if delete is not None or compact:
        _shrink_index(shell, output, delete)
    elif model is None or not passages:
        raise UsageError(f"{'--model' if model is None else '--passages'} is missing; run 'cosup index --help'")
    elif asked:
        _add_to_index(shell, output, (model, dtype, batch_tokens), passages, replace)
    else:
        settings = IndexSettings(index_type, vector_dtype)
        _build_index(shell, output, (model, dtype, batch_tokens), passages, settings)


def _build_index(
    shell: Shell,
    output: str,
    embedding: tuple[Path, Dtype, int | None],
    passages: list[Path],
    settings: IndexSettings,
) -> None:
    model, dtype, batch_tokens = embedding
    folder = model_folder(model)
    from cosup.index.build import building, check_place, work_folder, write_index
    from cosup.index.corpus import store_passages
    from cosup.index.embed import EmbedOptions, tokens_for
    from cosup.processes import join, rank

    join()
    if rank() == 0:
        check_place(output, settings)
    with building(output):
        corpus = store_passages(passages, work_folder(output) / "passages")
        pair = load_pair(folder, dtype)
        half = settings.vector_dtype == "float16"
        options = EmbedOptions(batch_tokens or tokens_for(pair.device), half=half, computed_in=str(pair.embedder.dtype))
        with shell.progress("indexing", "passages") as report:
            tell = lambda done, n: report(done, n, "")  # noqa: E731
            built = write_index(pair, corpus, output, tell, settings, options)
    for name, value in built.rows() if built is not None else ():
        shell.note(f"{name}: {value}")
    if rank() == 0:
        _tell(shell, output, len(corpus))


def _add_to_index(
    shell: Shell, output: str, embedding: tuple[Path, Dtype, int | None], passages: list[Path], replacing: bool
) -> None:
    model, dtype, batch_tokens = embedding
    record = model_record(model)
    from cosup.index.adding import adding_folder
    from cosup.index.build import add_passages, work_folder
    from cosup.index.corpus import store_passages
    from cosup.index.embed import EmbedOptions, tokens_for
    from cosup.index.open import open_index
    from cosup.index.structures import FLAT_UP_TO

    found = open_index(output, str(record["embedder_fingerprint"]))
    with adding_folder(work_folder(output)) as work:
        corpus = store_passages(passages, work / "passages")
        pair = load_pair(model, dtype)
        options = EmbedOptions(batch_tokens or tokens_for(pair.device), computed_in=str(pair.embedder.dtype))
        with shell.progress("indexing", "passages") as report:
            report(0, len(corpus), "")
            tell = lambda done, n: report(done, n, "")  # noqa: E731
            add_passages(pair, corpus, found, output, replacing, tell, options, work)
    if found.outgrown:
        compact = f"'cosup index --output {output} --compact' makes search fast again"
        shell.note(f"{len(found):,} passages, more than {FLAT_UP_TO:,}, are all looked at for each query; {compact}")
    _tell(shell, output, len(found))


def _shrink_index(shell: Shell, output: str, delete: Path | None) -> None:
    """Delete the passages that a file names, or compact."""
    from cosup.data.reading import read_ids
    from cosup.index.open import open_index

    found = open_index(output, None)
    if delete is None:
        found.compact()
    else:
        found.delete(read_ids(delete))
    _tell(shell, output, len(found))


def _tell(shell: Shell, place: str, count: int) -> None:
    from cosup.index.milvus_place import shown_place

    shown = shown_place(place)
    shell.tell({"index": shown, "passages": count}, [f"{shown}  {count:,} passages"])
