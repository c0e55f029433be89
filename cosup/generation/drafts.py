"""Guesses at what a row writes next: claims are mostly copied from the passage that was just read.

A guess is fed together with the token it follows, and the states at all of them say in one step how far it was right.
What is written is what would have been written token by token (prompt lookup decoding; Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_FIRST = 8  # tokens of a row's first guess
_AMBIGUOUS = -1


class Drafter:
    """Looks the last two tokens up in what a row has seen, and guesses what followed them there.

    Args:
        control: ids that are never guessed.
        most: tokens of a guess at most; 0 guesses nothing.
        ends_sentence: whether a token ends a sentence.
        close: the id that closes a claim.
    """

    def __init__(self, control: Sequence[int], most: int, ends_sentence: Callable[[int], bool], close: int) -> None:
        self.control = frozenset(control)
        self.most = most
        self.ends_sentence = ends_sentence
        self.close = close
        self._size = min(_FIRST, most)
        self._after_two: dict[tuple[int, int], int] = {}
        self._after_one: dict[int, int] = {}
        self._seen = 1

    def guess(self, context: Sequence[int], claiming: bool) -> list[int]:
        """Return what may come next; empty where nothing is known.

        Args:
            context: all tokens so far.
            claiming: whether a claim is open: it may then end where a sentence ends.
        """
        if not self._size or len(context) < 2 or context[-1] in self.control:
            return []
        self._learn(context)
        start = self._after_two.get((context[-2], context[-1]))
        if start is None and claiming:
            start = self._after_one.get(context[-1])
        if start is None or start == _AMBIGUOUS:
            return []
        return self._cut(context[start : start + self._size], claiming)

    def told(self, right: int, guessed: int) -> None:
        """Guess more where guesses were right to the end, and less where they were wrong from the start."""
        if guessed and right == guessed:
            self._size = min(self.most, 2 * self._size)
        elif guessed and right == 0:
            self._size = max(1, self._size // 2)

    def forget(self) -> None:
        """Start anew: the context was cut."""
        self._after_two.clear()
        self._after_one.clear()
        self._seen = 1

    def fork(self) -> Drafter:
        """Return a copy that goes on by itself."""
        other = Drafter((), self.most, self.ends_sentence, self.close)
        other.control, other._size = self.control, self._size
        return other

    def _learn(self, context: Sequence[int]) -> None:
        for end in range(self._seen, len(context)):
            if end > 1:
                self._after_two[context[end - 2], context[end - 1]] = end
            known = context[end - 1] in self._after_one
            self._after_one[context[end - 1]] = _AMBIGUOUS if known else end
        self._seen = len(context)

    def _cut(self, found: Sequence[int], claiming: bool) -> list[int]:
        """Leave out control tokens and what follows them; in a claim, guess that it ends with a sentence."""
        kept: list[int] = []
        for token in found:
            if token in self.control:
                break
            kept.append(token)
            if claiming and self.ends_sentence(token):
                return [*kept, self.close]
        return kept
