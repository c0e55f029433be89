"""Choosing tokens: from hidden states to the next token of each row, greedy or sampled, without what is banned.

Shapes: N states, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cosup.generation.rows import Row


class Choices:
    """The next tokens after a step's states; asked row by row, state by state.

    Args:
        head: the generator's output embeddings.
        forbidden: ids that are never written.
        fed: rows with the states [n, H] from which each may choose.
    """

    def __init__(self, head: Any, forbidden: torch.Tensor, fed: Sequence[tuple[Row, torch.Tensor]]) -> None:
        self._head = head
        self._forbidden = forbidden
        self._first: dict[int, int] = {}
        self._banned: dict[int, list[int]] = {}
        self._states = torch.cat([states for _, states in fed])
        begin, rows, columns = 0, [], []
        for row, states in fed:
            self._first[id(row)], banned = begin, row.banned()
            self._banned[id(row)] = banned
            for number in range(begin, begin + len(states)):
                rows += [number] * len(banned)
                columns += banned
            begin += len(states)
        self._logits = self._scores(self._states)
        self._logits[rows, columns] = -torch.inf
        self._greedy: list[int] = self._logits.argmax(dim=-1).tolist()

    def __call__(self, row: Row, number: int) -> int:
        """Return the token that a row writes after its state of this number."""
        at = self._first[id(row)] + number
        same = row.banned() == self._banned[id(row)]
        if same and not row.settings.do_sample and row.settings.beam == 1:
            return self._greedy[at]
        logits = self._logits[at] if same else self._again(at, row.banned())
        token = _sample(row, logits.cpu()) if row.settings.do_sample else int(logits.argmax())
        if row.settings.beam > 1:
            row.likelihood.text += float(torch.log_softmax(logits, dim=-1)[token])
            row.likelihood.tokens += 1
        return token

    def _scores(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [N, V], float32, without what no row may write."""
        logits: torch.Tensor = self._head(states).float()
        logits[:, self._forbidden] = -torch.inf
        return logits

    def _again(self, at: int, banned: Sequence[int]) -> torch.Tensor:
        """Return one state's logits under other bans: the row has changed its stage on the way."""
        logits = self._scores(self._states[at : at + 1])[0]
        logits[list(banned)] = -torch.inf
        return logits


_COLDEST = float(torch.finfo(torch.float32).tiny)  # below it the division is one by zero


def _sample(row: Row, logits: torch.Tensor) -> int:
    """Draw from the smallest set of tokens whose probability reaches top_p."""
    temperature = max(row.settings.temperature, _COLDEST)
    scaled = (logits - logits.max()) / temperature  # the best stays 0, however cold
    chances, order = torch.softmax(scaled, dim=-1).sort(descending=True)
    outside = chances.cumsum(dim=-1) - chances >= row.settings.top_p
    chances = chances.masked_fill(outside, 0.0)
    return int(order[torch.multinomial(chances, 1, generator=row.random)])
