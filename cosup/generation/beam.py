"""Segment beam: several passages are tried at each `[Ret]`, and what the model writes from each decides.

A segment goes from one `[Ret]` to the next. When all partial answers of a question wait at `[Ret]` or are done, the
best `beam` stay, and each that waits goes on with each of its `beam_passages` best hits (compare Self-RAG; Asai et
al., 2024). The score of a partial answer is the mean log-probability of the tokens that it wrote, plus
`beam_retrieval_weight` times the mean log-probability of its passages, each among the hits of its own search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cosup.generation.rows import Row, Stage
from cosup.records import Hit


class Beam:
    """The partial answers of one question.

    Attributes:
        rows: those that are kept.
    """

    def __init__(self, row: Row) -> None:
        self.settings = row.settings
        self.rows = [row]

    @property
    def waits(self) -> bool:
        """Whether every partial answer waits at `[Ret]` or is done."""
        return all(row.stage in (Stage.RETRIEVING, Stage.DONE) for row in self.rows)

    @property
    def best(self) -> Row:
        """The best of them."""
        return max(self.rows, key=self.score)

    def prune(self) -> list[Row]:
        """Keep the best; return the others. What cannot go on loses to its equal that is done."""
        ranked = sorted(self.rows, key=lambda row: (-self.score(row), row.stage is not Stage.DONE))
        self.rows = ranked[: self.settings.beam]
        return ranked[self.settings.beam :]

    def score(self, row: Row) -> float:
        """Return a partial answer's score; see the top of the file."""
        own = row.likelihood
        text = own.text / own.tokens if own.tokens else 0.0
        return text + self.settings.beam_retrieval_weight * own.retrieval / max(1, row.claims)


def branches(hits: Sequence[Hit], temperature: float, most: int) -> list[tuple[Hit, float]]:
    """Return the best hits, each with its log-probability among all hits of the search.

    Args:
        hits: best first.
        temperature: divides the similarities, as in the NSP loss.
        most: how many.
    """
    scores = [hit.score / temperature for hit in hits]
    highest = max(scores)
    total = highest + math.log(sum(math.exp(score - highest) for score in scores))
    return [(hit, score - total) for hit, score in zip(hits[:most], scores, strict=False)]
