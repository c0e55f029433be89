"""`cosup convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosup.commands.completing import formats
from cosup.shell import Shell


def convert(
    context: typer.Context,
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="One of: folder, squad, hotpotqa, selfrag, kilt, kilt-knowledge, alce, beir, tevatron, parquet, "
            "examples; or, out of cosup's files: trec, kilt-submission, alce-output, beir-output, tevatron-output.",
            show_default=False,
            autocompletion=formats,
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
    """Convert published formats into cosup's files, or back.

    \b
    cosup convert squad dev-v1.1.json data/squad
    cosup convert folder docs/ data/docs            # Markdown and text files into passages
    cosup convert examples data/squad data/squad    # questions into training examples, to look at or to change
    cosup convert kilt-knowledge kilt_knowledgesource.json data/kilt   # pages into passages of 100 words
    cosup convert kilt nq-dev-kilt.jsonl data/kilt                     # evidence is found in data/kilt/passages.jsonl
    cosup convert kilt-submission runs/mine guess.jsonl                # predictions as KILT scores them
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
    written = {str(path): count for path, count in done.written.items()}
    record = {"written": written, "skipped": done.skipped, "noted": done.noted}
    shell.tell(record | {"replaced": list(done.replaced)}, [f"{path}  {count:,}" for path, count in written.items()])
