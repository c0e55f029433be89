"""What `cosup serve` does: open a pair with its index, and put both behind HTTP."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.errors import UsageError, needs_extra
from cosup.heap import keep_few_kernels
from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.generation.settings import GenerationSettings
    from cosup.modeling import CoSupervisedModel

NEEDED = ("fastapi", "pydantic", "prometheus_client", "uvicorn")


@dataclass(frozen=True)
class Listening:
    """Where to listen and who may ask, as the command line says it.

    Attributes:
        host: address to bind to.
        port: 0 takes a free one.
        name: of the model in requests; None takes that of its folder.
        api_keys: file of API keys.
        admin_keys: file of keys that may change the corpus.
        cors: pages of other sites that may ask.
        limits: fields of `Limits` that are not its defaults.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    api_keys: Path | None = None
    admin_keys: Path | None = None
    cors: tuple[str, ...] = ()
    limits: tuple[tuple[str, Any], ...] = ()


def check_installed() -> None:
    """Refuse to go on without the packages of the extra. Raises `UsageError`."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(needs_extra("serving", "serve", missing[0]))


def serve(
    shell: Shell,
    places: tuple[Path, str],
    settings: GenerationSettings,
    listening: Listening,
    load: Callable[[Path], CoSupervisedModel],
    opens: bool = False,
) -> None:
    """Serve a pair until it is told to stop.

    Args:
        shell: where the address is told.
        places: model folder and index.
        settings: how to write where a request does not say otherwise.
        listening: see there.
        load: checks a model folder and loads it.
        opens: whether to open the page in the user's browser, where there is a terminal before a user.

    Raises:
        UsageError, InputError: something cannot be used, the address among them; a package is missing.
    """
    check_installed()
    keep_few_kernels()
    from cosup.serving.app import Served
    from cosup.serving.corpus import Corpus
    from cosup.serving.runner import Runner
    from cosup.serving.server import bound, run_server
    from cosup.serving.settings import ADMIN_KEYS_VARIABLE, KEYS_VARIABLE, Limits, ServeSettings, read_keys

    own = ServeSettings(
        host=listening.host,
        port=listening.port,
        name=listening.name or _name_of(places[0]),
        api_keys=read_keys(os.environ.get(KEYS_VARIABLE), listening.api_keys),
        admin_keys=read_keys(os.environ.get(ADMIN_KEYS_VARIABLE), listening.admin_keys),
        cors=listening.cors,
        limits=replace(Limits(), **dict(listening.limits)),
    )

    def announce(address: str) -> None:
        shell.tell({"address": address, "model": own.name, "passages": len(served.corpus)}, [address])
        shell.note(f"{own.name} over {len(served.corpus):,} passages: the page at /, the API at /v1")
        if own.is_open:
            shell.note(
                f"no API key is set: only this machine can ask ({KEYS_VARIABLE} or --api-keys FILE lets others in)"
            )
        if own.admin_keys:
            shell.note("an admin key is set: whoever has it can change the corpus")
        if opens and sys.stdout.isatty():
            webbrowser.open(address)

    with bound(own.host, own.port, own.limits.stalled_seconds) as place:  # before the weights, which take their time
        corpus = Corpus(places[1], load(places[0]), settings)
        served = Served(own, corpus, Runner(corpus.engine(), own.limits, lambda: len(corpus)))
        run_server(place, served, announce)


def _name_of(folder: Path) -> str:
    """Return what to call a model: its folder's name, or that of the run whose `model` it is."""
    place = folder.resolve()
    return (place.parent.name if place.name == "model" else place.name) or "cosup"
