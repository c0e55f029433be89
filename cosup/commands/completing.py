"""What a shell offers at TAB: global flags after a command as well, formats, and YAML files where one is asked for.

Where nothing is offered, shells offer files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

_FOLDERS_DEEP = 2  # how far below what is typed YAML files are looked for
_MOST = 200


class Command(TyperCommand):
    """A command that offers the program's flags beside its own; `cosup.shell.globals_first` lets them stand there."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return what may stand at the end of a command line."""
        own = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-") or ctx.parent is None:
            return own
        known = {item.value for item in own} | {"--version"}
        more = ctx.parent.command.shell_complete(ctx.parent, incomplete)
        return own + [item for item in more if item.value not in known and "completion" not in item.value]


def formats(incomplete: str) -> list[str]:
    """Return the formats of `convert` that begin with what is typed."""
    from cosup.data.convert import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


def yaml_files(incomplete: str) -> list[str]:
    """Return the YAML files whose paths begin with what is typed, those in folders a little deeper included."""
    folder, slash, begin = incomplete.rpartition("/")
    top = Path(folder + slash).expanduser()
    found = [p for p in _files(top, _FOLDERS_DEEP) if str(p.relative_to(top)).startswith(begin)]
    return [f"{folder}{slash}{p.relative_to(top)}" for p in found[:_MOST]]


def _files(folder: Path, deeper: int) -> list[Path]:
    """List YAML files, near ones first; hidden ones, and what cannot be read, are left out."""
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    here = [path for path in inside if path.suffix in (".yaml", ".yml")]
    if not deeper:
        return here
    return here + [file for path in inside if path.is_dir() for file in _files(path, deeper - 1)]
