"""What a server is told: where it listens, what it takes, who may ask."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosup.errors import InputError, UsageError

_ORIGIN = re.compile(r"https?://[^/\s*]+")
KEYS_VARIABLE, ADMIN_KEYS_VARIABLE = "COSUP_API_KEYS", "COSUP_ADMIN_KEYS"


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        batch_size: answers written at once.
        queue: requests that wait beside them; one more is refused (429).
        max_tokens: tokens that an answer may have at most, whatever a request asks for.
        timeout: seconds from the request to the end of its answer; past it, what is written so far is the answer.
        max_body: bytes of a request.
        stalled_seconds: that a client may take to send its request, or to take what it is sent.
        passages: of a request that adds passages.
        texts: of a request that embeds.
        grace: seconds that answers on their way have when the server is to stop.
    """

    batch_size: int = 32
    queue: int = 256
    max_tokens: int = 1024
    timeout: float = 120.0
    max_body: int = 1_000_000
    stalled_seconds: float = 30.0
    passages: int = 256
    texts: int = 256
    grace: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("queue", "grace") else 1
            if not value >= least:
                raise UsageError(f"{name} is {value}; expected at least {least}")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        host: address to bind to; only a loopback one without keys.
        port: 0 takes a free one.
        name: of the model, in `model` fields.
        api_keys: who may ask; empty: everybody who reaches the address.
        admin_keys: who may also change the corpus; empty: nobody.
        cors: pages of other sites that may ask from a browser (CORS).
        reload_seconds: between two looks at whether the index on disk was changed; 0 never looks.
        limits: see there.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "cosup"
    api_keys: frozenset[str] = frozenset()
    admin_keys: frozenset[str] = frozenset()
    cors: tuple[str, ...] = ()
    reload_seconds: float = 2.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.is_open and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} can be reached from elsewhere and there is no API key; set {KEYS_VARIABLE} or "
                "give --api-keys FILE, or leave --host out"
            )

        wrong = next((origin for origin in self.cors if not _ORIGIN.fullmatch(origin)), None)
        if wrong is not None:
            raise UsageError(f"--cors is {wrong!r}; expected a site such as https://our.site, without a path")

    @property
    def is_open(self) -> bool:
        """Whether whoever reaches the address may ask; changing the corpus needs an admin key all the same."""
        return not self.api_keys


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own and no other machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(variable: str | None, file: Path | None) -> frozenset[str]:
    """Read keys from an environment variable's value (parted by commas) and a file (one a line, `#` begins a remark).

    Raises:
        InputError: the file cannot be read, or holds no key.
        UsageError: a key has white space or characters beyond ASCII, which no header can carry.
    """
    found = [part.strip() for part in (variable or "").split(",")]
    if file is not None:
        own = _lines(file)
        if not own:
            raise InputError("holds no key; expected one a line", file)
        found += own
    keys = frozenset(key for key in found if key)
    if any(not key.isascii() or any(c.isspace() for c in key) for key in keys):
        raise UsageError("an API key has white space or characters beyond ASCII; expected printable ASCII alone")
    return keys


def _lines(file: Path) -> Sequence[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})", file) from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
