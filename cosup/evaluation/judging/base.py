"""Does a premise entail a hypothesis: what a judge is, and any Python function as one."""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from cosup.errors import CosupError, UsageError

Pair: TypeAlias = tuple[str, str]
"""A premise and a hypothesis."""

THRESHOLD = 0.5  # a probability from which on a function's answer means "entailed"
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True, slots=True)
class Decision:
    """What a judge says of one pair.

    Attributes:
        entailed: None where the judge failed or answered nonsense: undecided, to be counted apart.
        reason: one line.
        score: probability of entailment in 0..1, where the judge has one.

    Raises:
        UsageError: a field is something else.
    """

    entailed: bool | None
    reason: str
    score: float | None = None

    def __post_init__(self) -> None:
        if not (self.entailed is None or isinstance(self.entailed, bool)):
            raise UsageError(f"a judge's decision is {self.entailed!r}; expected True, False or None (undecided)")
        if self.score is not None and not 0 <= self.score <= 1:
            raise UsageError(f"a judge's score is {self.score}; expected a probability in 0..1")


class Judge(Protocol):
    """Decides whether premises entail hypotheses."""

    @property
    def name(self) -> str:
        """What decides, with everything that changes its decisions: the cache's key, kept in reports."""
        ...

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        """Return a decision for each pair, in order.

        Raises:
            UsageError: the judge cannot be asked at all.
        """
        ...


JudgeFunction: TypeAlias = Callable[[str, str], bool | float | Decision]


class FunctionJudge:
    """A Python function as a judge.

    Args:
        function: takes premise and hypothesis; returns True or False, a probability in 0..1, or a `Decision`.
        name: what decides. By default the function's name with a hash of the file that defines it, so that an edited
            function is not mistaken for the one that was cached; code in other files is not seen. A function that
            holds values of its own (a lambda, a closure, an object) gets a name that no other run has.
        threshold: a probability that reaches it means "entailed".

    Raises:
        UsageError: the threshold is no probability.
    """

    def __init__(self, function: JudgeFunction, name: str | None = None, threshold: float = THRESHOLD) -> None:
        check_threshold(threshold)
        self._function = function
        self._threshold = threshold
        self._name = f"function {name or _name_of(function)}, threshold {threshold:g}"

    @property
    def name(self) -> str:
        """The function's name, and the threshold."""
        return self._name

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        """Ask the function about one pair after the other.

        Raises:
            UsageError: it failed, or returned something else than a verdict.
        """
        return [self._decision(premise, hypothesis) for premise, hypothesis in pairs]

    def _decision(self, premise: str, hypothesis: str) -> Decision:
        try:
            value: Any = self._function(premise, hypothesis)
        except CosupError:
            raise
        except (Exception, SystemExit) as error:
            found = one_line(f"{type(error).__name__}: {error}")
            raise UsageError(f"the judge ({self.name}) failed with {found}, on hypothesis '{hypothesis}'") from error
        value = value.item() if hasattr(value, "item") else value  # a number of numpy or torch
        if isinstance(value, Decision):
            return value
        if isinstance(value, bool):
            return Decision(value, f"the function says {value}")
        if isinstance(value, int | float) and 0 <= value <= 1:
            reached = bool(value >= self._threshold)
            return Decision(reached, said_of_score(float(value), self._threshold), float(value))
        expected = "True, False, a probability in 0..1, or a Decision"
        raise UsageError(f"the judge ({self.name}) returned {one_line(repr(value))}; expected {expected}")


def check_threshold(threshold: float) -> None:
    """Raise `UsageError` where a threshold is no probability."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"the judge's threshold is {threshold}; expected a probability in 0..1")


def said_of_score(score: float, threshold: float) -> str:
    """Return the reason of a decision by threshold."""
    return f"entailment {score:.3f} {'reaches' if score >= threshold else 'is below'} {threshold:g}"


def one_line(text: str, longest: int = _LONGEST_REASON) -> str:
    """Return a text of others as one printable line, cut where it is longer than `longest` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _name_of(function: Any) -> str:
    qualified = getattr(function, "__qualname__", type(function).__qualname__)
    where = f"{getattr(function, '__module__', type(function).__module__)}:{qualified}"
    if not inspect.isfunction(function) or "<" in qualified:
        return f"{where}#{secrets.token_hex(4)}"
    file = inspect.getsourcefile(inspect.unwrap(function))
    if file is None or not Path(file).is_file():
        return f"{where}#{secrets.token_hex(4)}"
    return f"{where}@{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}"
