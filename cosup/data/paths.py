"""Names of files that people give: looked up before anything is made of them."""

from __future__ import annotations

from pathlib import Path

from cosup.errors import InputError


def looked_up(path: str | Path) -> Path:
    """Return a path after a look at what is there; nothing need be.

    Raises:
        InputError: no file can have this name (it is too long, or has a NUL), or it may not be looked at.
    """
    place = Path(path)
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise InputError(f"cannot be used: {error.strerror or error}", path) from None
    except ValueError:
        raise InputError("cannot be used: no file's name has a NUL in it", repr(str(path))) from None
    return place
