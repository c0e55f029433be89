"""`cosup serve`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosup.commands import writing as write
from cosup.commands.loading import load_pair, model_folder
from cosup.commands.options import Dtype, DtypeOption, Index, Model, with_group
from cosup.serving.settings import Limits

if TYPE_CHECKING:
    from cosup.serve import Listening

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
    "api_keys": (Annotated[Path | None, typer.Option("--api-keys", help="File of keys, one a line.")], None),
    "admin_keys": (
        Annotated[Path | None, typer.Option("--admin-keys", help="File of keys that may change the corpus.")],
        None,
    ),
    "cors": (
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
    "timeout": (
        Annotated[float, typer.Option("--timeout", min=1, help="Seconds after which an answer ends as it is.")],
        Limits.timeout,
    ),
    "max_body": (Annotated[int, typer.Option("--max-body", min=1000, help="Bytes of a request.")], Limits.max_body),
    "grace": (
        Annotated[float, typer.Option("--grace", min=0, help="Seconds that answers have when the server stops.")],
        Limits.grace,
    ),
}
_PLACES = ("host", "port", "name", "api_keys", "admin_keys")


@write.with_writing
@with_group("listening", LISTENING)
def serve(
    context: typer.Context,
    model: Model,
    index: Index,
    listening: dict[str, Any],
    writing: dict[str, Any],
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Serve an OpenAI-style API with citations, and a page.

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
        (model_folder(model), index),
        write.settings_of(writing),
        _listening_of(listening),
        lambda folder: load_pair(folder, dtype),
    )


def _listening_of(options: Mapping[str, Any]) -> Listening:
    """Return where to listen, as the options of `LISTENING` say it."""
    from cosup.serve import Listening

    limits = tuple((name, value) for name, value in options.items() if name not in (*_PLACES, "cors"))
    return Listening(**{name: options[name] for name in _PLACES}, cors=tuple(options["cors"] or ()), limits=limits)
