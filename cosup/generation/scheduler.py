"""Continuous batching: rows at different stages share each step of the generator.

A step answers every `[Ret]` that waits in one search, lets waiting questions into free places, and feeds one token of
each row that writes (with a guess at the next ones) beside long prompts and passages, cut into chunks. Rows that are
done leave at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cosup.generation.beam import Beam, branches
from cosup.generation.cache import RowCache
from cosup.generation.choice import Choices
from cosup.generation.retrieval import RetrievalRequest, Retriever, text_so_far
from cosup.generation.rows import Piece, Row, Stage
from cosup.modeling import CoSupervisedModel
from cosup.records import Hit


@dataclass(frozen=True)
class Codec:
    """Between texts and the generator's tokens.

    Attributes:
        passage: gives the tokens of the passage that has an id.
        text: gives the text of a piece of output.
    """

    passage: Callable[[str], list[int]]
    text: Callable[[Piece], str]


class Scheduler:
    """Drives rows to their ends, step by step.

    Args:
        model: the pair, in evaluation mode.
        retriever: answers `[Ret]`.
        codec: turns passages into tokens, and output into text.
        forbidden: ids that are never written.
        cache: empty; its `most` is how many rows are on their way at a time (a beam's partial answers not counted).
        chunk_tokens: tokens of prompts and passages fed in a step at most, beside the rows that write.
        bear_failures: whether of an error of a retrieval that row alone ends, for the reason `failed`, whose retrieval
            it was; see `take_failures`. Else the error comes out of `step`.
    """

    def __init__(
        self,
        model: CoSupervisedModel,
        retriever: Retriever,
        codec: Codec,
        forbidden: torch.Tensor,
        cache: RowCache,
        chunk_tokens: int = 512,
        bear_failures: bool = False,
    ) -> None:
        self.model = model
        self.retriever = retriever
        self.codec = codec
        self.forbidden = forbidden
        self.cache = cache
        self.chunk_tokens = chunk_tokens
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        self._beams: dict[int, Beam] = {}  # by id of each of their rows
        self._done: list[Row] = []
        self._bears = bear_failures
        self._failures: dict[int, Exception] = {}

    def add(self, row: Row) -> None:
        """Let a row wait for its place."""
        self.waiting.append(row)

    def take_failures(self) -> dict[int, Exception]:
        """Return the errors that were borne since the last call, by the origin of their rows."""
        found, self._failures = self._failures, {}
        return found

    @torch.inference_mode()  # as `step`: what was stored in that mode can be changed in it alone
    def cancel(self, row: Row) -> None:
        """Take a row out, wherever it is; its place is free at once. What is done stays as it is.

        Args:
            row: as it was added; of a beam, all partial answers are taken out.
        """
        if row in self.waiting:
            self.waiting.remove(row)
        beam = next((beam for beam in self._all_beams() if beam.rows[0].origin == row.origin), None)
        if beam is None and row.stage is Stage.DONE:
            return
        for member in [row] if beam is None else list(beam.rows):
            self._beams.pop(id(member), None)
            if member in self.rows:
                self._drop(member)
            member.finish("cancelled")

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.waiting or self.rows)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Do one step; return the rows that are done with it."""
        self._admit()
        self._retrieve()
        self._feed()
        self._settle()
        done, self._done = self._done, []
        return done

    # -- places ----------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        on_the_way = len(self.rows) - sum(len(beam.rows) - 1 for beam in self._all_beams())
        while self.waiting and on_the_way < self.cache.most:
            row = self.waiting.popleft()
            self.rows.append(row)
            self.cache.enter()
            on_the_way += 1
            if row.settings.beam > 1:
                self._beams[id(row)] = Beam(row)

    def _drop(self, row: Row) -> None:
        place = self.rows.index(row)
        self.cache.leave(place)
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last

    def _settle(self) -> None:
        """Let the rows that are done leave; a beam's leave when all of it is done."""
        for row in [r for r in self.rows if r.stage is Stage.DONE and id(r) not in self._beams]:
            self._drop(row)
            self._done.append(row)
        for beam in self._all_beams():
            if all(row.stage is Stage.DONE for row in beam.rows):
                self._end_beam(beam)

    # -- retrieval -------------------------------------------------------------------------------------------------

    def _retrieve(self) -> None:
        """Search for all rows that wait and hand each its passages.

        Rows that want as many hits are searched for in one call. Approximate indexes look at more where more is wanted,
        so a row must not depend on what others want.
        """
        self._prune()
        waiting: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.stage is Stage.RETRIEVING and self._may_search(row):
                passed_over = len(row.read_ids) if row.settings.distinct else 0
                waiting.setdefault(row.settings.top_k + passed_over, []).append(row)
        for most, rows in waiting.items():
            self._search(rows, most)

    def _search(self, rows: Sequence[Row], most: int) -> None:
        """Search for rows that want as many hits; where that fails and it is to be borne, for each by itself."""
        try:
            found = self.retriever.search([self._request(row) for row in rows], most)
        except Exception as error:
            if not self._bears:
                raise
            if len(rows) == 1:
                self._give_up(rows[0], error)
            else:
                for row in rows:
                    self._search([row], most)
            return
        for row, hits in zip(rows, found, strict=True):
            read = row.read_ids if row.settings.distinct else ()
            try:
                self._go_on(row, [hit for hit in hits if hit.passage_id not in read][: row.settings.top_k])
            except Exception as error:
                if not self._bears:
                    raise
                self._give_up(row, error)

    def _give_up(self, row: Row, error: Exception) -> None:
        self._failures[row.origin] = error
        row.finish("failed")

    def _request(self, row: Row) -> RetrievalRequest:
        assert row.state is not None
        asked = row.question
        text = text_so_far(asked.question, [self.codec.text(piece) for piece in row.pieces])
        return RetrievalRequest(row.state, row.context, asked.candidates, row.settings.filter, asked.question, text)

    def _may_search(self, row: Row) -> bool:
        beam = self._beams.get(id(row))
        return beam is None or beam.waits

    def _go_on(self, row: Row, hits: Sequence[Hit]) -> None:
        least = row.settings.min_score
        near = [hit for hit in hits if least is None or hit.score >= least]
        if not near:
            row.abstain(hits)
            self.cache.forget(self.rows.index(row), len(row.context))
        elif id(row) in self._beams:
            self._branch(row, hits, min(len(near), row.settings.beam_passages))
        else:
            read = near[: row.settings.read]
            row.read(hits, [self.codec.passage(hit.passage_id) for hit in read])

    # -- beams -----------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        for beam in self._all_beams():
            if beam.waits:
                for row in beam.prune():
                    del self._beams[id(row)]
                    self._drop(row)
        self._settle()

    def _all_beams(self) -> list[Beam]:
        return list({id(beam): beam for beam in self._beams.values()}.values())

    def _branch(self, row: Row, hits: Sequence[Hit], most: int) -> None:
        """Go on with each of the best hits, the first in the row itself."""
        beam = self._beams[id(row)]
        chosen = branches(hits, self.model.temperature, most)
        places = [row]
        for _ in chosen[1:]:
            other = row.fork()
            self.cache.fork(self.rows.index(row))
            self.rows.append(other)
            beam.rows.append(other)
            self._beams[id(other)] = beam
            places.append(other)
        for place, (hit, chance) in zip(places, chosen, strict=True):
            rest = [h for h in hits if h is not hit]
            place.read([hit, *rest], [self.codec.passage(hit.passage_id)])
            place.likelihood.retrieval += chance

    def _end_beam(self, beam: Beam) -> None:
        for row in beam.rows:
            del self._beams[id(row)]
            self._drop(row)
        self._done.append(beam.best)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Feed every row's pending tokens, long ones in chunks, and let those that are through react."""
        room, chunks = self.chunk_tokens, []
        for row in self.rows:
            long = len(row.pending) > 1
            chunks.append(row.take(max(0, room) if long else 1 + row.settings.draft_tokens))
            room -= len(chunks[-1]) if long else 0
        if not any(chunks):
            return
        parts = self.cache.feed(chunks).split([len(chunk) for chunk in chunks])
        through = [
            (place, row, part[-1 - len(row.drafts) :])
            for place, (row, part, chunk) in enumerate(zip(self.rows, parts, chunks, strict=True))
            if chunk and not row.pending
        ]
        if not through:
            return
        ret = self.model.control.ret
        head = self.model.generator.get_output_embeddings()
        writers = [(row, states) for _, row, states in through if row.context[-1] != ret]
        choose = Choices(head, self.forbidden, writers) if writers else None
        for place, row, states in through:
            row.react(states, choose)  # type: ignore[arg-type]
            if row.stage is not Stage.DONE and self.cache.lengths[place] > len(row.context):
                self.cache.forget(place, len(row.context))
