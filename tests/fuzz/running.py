"""What holds for every input: a valid value, or an error for people; in time, and with nothing half-written."""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import cosup
from cosup.errors import CosupError

FOUND = Path(__file__).parent / "found"
HOUSE = str(Path(cosup.__file__).parent)
SECONDS = 10.0  # of computing; a case that takes more hangs
_CHARACTERS = 2000

Run = Callable[[bytes], None]


class HangError(BaseException):
    """A case took too long; no `Exception`, so that nothing on the way takes it for its own."""


@dataclass(frozen=True)
class Target:
    """Something that reads what a stranger has written.

    Attributes:
        name: also of the folder that its kept inputs lie in.
        prepare: given an empty folder, returns what takes one input (or a context of it): it returns where the input
            is valid and raises `CosupError` where it is refused. Whatever else it raises is a fault.
        strategy: what hypothesis draws.
        seeds: whole inputs, with which a coverage-guided search begins; or what makes them.
        slow: whether a case takes so long that the quick suite tries a few only.
    """

    name: str
    prepare: Callable[[Path], Run | AbstractContextManager[Run]]
    strategy: st.SearchStrategy[bytes]
    seeds: tuple[bytes, ...] | Callable[[], tuple[bytes, ...]] = ()
    slow: bool = False

    def whole(self) -> tuple[bytes, ...]:
        """Return the whole inputs."""
        return self.seeds() if callable(self.seeds) else self.seeds

    @contextmanager
    def opened(self) -> Iterator[Run]:
        """Make what takes one input."""
        with quick_folder() as folder:
            made = self.prepare(folder)
            with made if isinstance(made, AbstractContextManager) else nullcontext(made) as run:
                yield run

    def kept(self) -> dict[str, bytes]:
        """Return the inputs that once were at fault, by name."""
        folder = FOUND / self.name
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


@dataclass
class Outcome:
    """What became of a target's cases.

    Attributes:
        valid: inputs that were read.
        refused: inputs that were refused with an error for people.
        faults: the shortest input of each fault, by what it raised and where.
    """

    valid: int = 0
    refused: int = 0
    faults: dict[str, bytes] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """How many inputs were tried."""
        return self.valid + self.refused + len(self.faults)


def is_valid(run: Run, data: bytes) -> bool:
    """Try one input and return whether it was read; the other outcome is an error for people.

    Raises:
        AssertionError: the error is none for people.
        HangError: it took too long.
        Exception: whatever escaped.
    """
    with in_time(SECONDS):
        try:
            run(data)
        except CosupError as error:
            text = str(error)
            assert text.strip(), "an error without a message"
            assert len(text) <= _CHARACTERS, f"an error of {len(text)} characters: {text[:200]!r}.."
            return False
        return True


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raise `HangError` where the block computes for longer; others that keep the machine busy do not count."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise HangError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Make a folder in memory, where that can be had: thousands of small files are written in it."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="cosup-fuzz-") as folder:
        yield Path(folder)


def noted(run: Run, data: bytes, outcome: Outcome) -> None:
    """Try one input and write down what became of it."""
    try:
        if is_valid(run, data):
            outcome.valid += 1
        else:
            outcome.refused += 1
    except (Exception, HangError) as error:  # noqa: BLE001 - whatever escapes is what is looked for
        key = fault_of(error)
        known = outcome.faults.get(key)
        if known is None or len(data) < len(known):
            outcome.faults[key] = data
        if known is not None:
            outcome.refused += 1  # counted once as a fault


def fault_of(error: BaseException) -> str:
    """Name a fault: what was raised, and the last place of cosup on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(HOUSE)]
    text = (str(error).strip().splitlines() or [""])[0][:160]
    if not own or isinstance(error, AssertionError):
        return f"{type(error).__name__}: {text}"
    place = f"cosup{own[-1].filename.removeprefix(HOUSE)} {own[-1].name}"
    last = "" if frames[-1] is own[-1] else f" (in {Path(frames[-1].filename).name} {frames[-1].name})"
    return f"{type(error).__name__} at {place}{last}"


def drawn(target: Target, count: int, number: int, try_one: Callable[[bytes], Any]) -> None:
    """Let hypothesis draw `count` inputs of a target.

    Args:
        number: the seed.
        try_one: is called with each; what it raises makes hypothesis look for a shorter input.
    """

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.strategy)
    def each(data: bytes) -> None:
        try_one(data)

    each()
