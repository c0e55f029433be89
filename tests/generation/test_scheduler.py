"""Continuous batching: nothing that shares a step changes what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cosup.generation.cache import PaddedRows
from cosup.generation.engine import Engine
from cosup.generation.retrieval import RetrievalRequest, StateRetriever
from cosup.generation.rows import Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.records import Hit, Question
from tests import pairs
from tests.generation.asked import LONG, PLAIN, QUESTIONS, told
from tests.generation.conftest import Known

#: Making a run of a model smaller takes minutes.
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


class Counting(StateRetriever):
    """Counts how many `[Ret]` tokens each search serves."""

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        self.served = [*getattr(self, "served", []), len(requests)]
        return super().search(requests, k)


@given(data=st.data())
@settings(max_examples=2, phases=WITHOUT_SHRINKING)
def test_whoever_comes_when_each_row_is_the_row_alone(known: Known, data: st.DataObject) -> None:
    """Proof 5 over random mixes: arrivals, places, chunk sizes and settings are drawn; some are cancelled."""
    check_a_mix(known, data)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=8, phases=WITHOUT_SHRINKING)
def test_in_many_mixes_each_row_is_the_row_alone(known: Known, data: st.DataObject) -> None:
    """The same over more mixes."""
    check_a_mix(known, data)


def check_a_mix(known: Known, data: st.DataObject) -> None:
    engine = Engine(known.model, known.index, PLAIN)
    scheduler = engine.scheduler(data.draw(st.integers(1, 4), "places"), data.draw(st.sampled_from([3, 17, 512])))
    picked = data.draw(st.lists(st.sampled_from(QUESTIONS), min_size=2, max_size=7), "questions")
    rows: list[tuple[Row, GenerationSettings, Question]] = []
    finished: list[Row] = []
    cancelled: list[Row] = []
    while picked or scheduler.busy:
        if picked and data.draw(st.integers(0, 2), "arrives") == 0:
            question = picked.pop()
            own = GenerationSettings(
                max_new_tokens=60,
                do_sample=data.draw(st.booleans()),
                ctx_truncate=data.draw(st.booleans()),
                draft_tokens=data.draw(st.sampled_from([0, 3, 16])),
                seed=5,
                ret_first=data.draw(st.booleans()),
                top_k=data.draw(st.sampled_from([2, 5])),
                read=data.draw(st.sampled_from([1, 1, 2])),
                distinct=data.draw(st.booleans()),
                min_score=data.draw(st.sampled_from([None, None, 2.0])),
                max_retrievals=data.draw(st.sampled_from([1, 3, 8])),
            )
            rows.append((engine.row(question, own), own, question))
            scheduler.add(rows[-1][0])
        if rows and data.draw(st.integers(0, 30), "cancels") == 0:
            row = data.draw(st.sampled_from([row for row, _, _ in rows]))
            if row.stage is not Stage.DONE:
                scheduler.cancel(row)
                cancelled.append(row)
        finished += scheduler.step()
        assert len(scheduler.rows) == len(scheduler.cache) <= scheduler.cache.most
    assert {id(r) for r in finished} | {id(r) for r in cancelled} == {id(r) for r, _, _ in rows}
    for row, own, question in rows:
        if row in cancelled:
            assert row.finish_reason == "cancelled"
        else:
            alone = engine.generate([question], settings=replace(own, draft_tokens=0))[0]
            assert told(engine.answer(row)) == told(alone)


class Failing(StateRetriever):
    """Cannot search for one question."""

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        if any(request.question == QUESTIONS[0].question for request in requests):
            raise RuntimeError("the index is gone")
        return super().search(requests, k)


def test_a_failed_retrieval_is_borne_where_that_was_asked_for(known: Known) -> None:
    """Its row alone ends, though others were searched for with it; the error is told once. Else a step raises it."""
    own = Engine(known.model, known.index, replace(PLAIN, ret_first=True))
    engine = own.searching_with(Failing(known.model, known.index))
    rows = [engine.row(question) for question in QUESTIONS[:2]]
    scheduler = engine.scheduler(2, bear_failures=True)
    for row in rows:
        scheduler.add(row)
    while scheduler.busy:
        scheduler.step()
    assert rows[0].finish_reason == "failed"
    assert told(engine.answer(rows[1])) == told(own.generate(QUESTIONS[1:2])[0])
    assert {origin: str(error) for origin, error in scheduler.take_failures().items()} == {
        rows[0].origin: "the index is gone"
    }
    assert scheduler.take_failures() == {}
    with pytest.raises(RuntimeError, match="the index is gone"):
        engine.generate(QUESTIONS[:1])


def test_a_batch_of_these_has_rows_with_two_retrievals(known: Known) -> None:
    """What the proofs compare is not trivial."""
    answers = Engine(known.model, known.index, PLAIN).generate(QUESTIONS)
    assert sum(len(a.retrievals) >= 2 for a in answers) >= 4


@pytest.mark.parametrize("sampled", [False, True])
def test_guesses_change_nothing_that_is_written(known: Known, sampled: bool) -> None:
    """Greedy and sampled, with and without drafts, also on rows that are padded."""
    own = GenerationSettings(max_new_tokens=60, do_sample=sampled, seed=3)
    engine = Engine(known.model, known.index, own)
    plain = [told(a) for a in engine.generate(QUESTIONS, settings=replace(own, draft_tokens=0))]
    assert [told(a) for a in engine.generate(QUESTIONS)] == plain
    engine._cache = PaddedRows
    assert [told(a) for a in engine.generate(QUESTIONS)] == plain


def test_guesses_save_steps(known: Known) -> None:
    """Claims are copied from their passages: fewer feedings than tokens written."""

    def steps(settings: GenerationSettings) -> int:
        engine = Engine(known.model, known.index, settings)
        scheduler, count = engine.scheduler(1), 0
        scheduler.add(engine.row(QUESTIONS[0]))
        while scheduler.busy:
            scheduler.step()
            count += 1
        return count

    assert steps(PLAIN) < 0.75 * steps(replace(PLAIN, draft_tokens=0))


def test_places_are_filled_at_once_and_one_search_serves_all_that_wait(known: Known) -> None:
    """More questions than places: the places stay full while questions wait, and rows of a step search together."""
    counting = Counting(known.model, known.index)
    engine = Engine(known.model, counting, replace(PLAIN, ret_first=True))
    scheduler = engine.scheduler(3)
    for question in (*pairs.QUESTIONS, *pairs.QUESTIONS):
        scheduler.add(engine.row(question))
    feed, seen = scheduler._feed, []

    def watched() -> None:
        seen.append((len(scheduler.rows), bool(scheduler.waiting)))
        feed()

    scheduler._feed = watched  # type: ignore[method-assign]
    while scheduler.busy:
        scheduler.step()
    assert all(places == 3 for places, waits in seen if waits)
    assert sum(waits for _, waits in seen) > 10
    assert counting.served[0] == 3  # ret_first: the first three ask together
    assert sum(counting.served) >= 2 * len(pairs.QUESTIONS)


def test_a_long_passage_does_not_hold_up_a_row_that_writes(known: Known) -> None:
    """With chunks of 4 tokens, a row goes on writing in every step in which another one reads."""
    engine = Engine(known.model, known.index, replace(PLAIN, draft_tokens=0))
    scheduler = engine.scheduler(2, chunk_tokens=4)
    writer = engine.row(QUESTIONS[0])
    scheduler.add(writer)
    while writer.stage is not Stage.CLAIMING or writer.pending[1:]:
        scheduler.step()
    reader = engine.row(LONG)
    scheduler.add(reader)
    written = []
    for _ in range(4):
        scheduler.step()
        written.append(writer.new_tokens)
        assert len(reader.context) == 4 * len(written)
    assert written == list(range(written[0], written[0] + 4))


def test_a_cancelled_row_frees_its_place(known: Known) -> None:
    engine = Engine(known.model, known.index, PLAIN)
    scheduler = engine.scheduler(1)
    first, second = engine.row(QUESTIONS[0]), engine.row(QUESTIONS[1])
    scheduler.add(first)
    scheduler.add(second)
    scheduler.step()
    scheduler.cancel(first)
    scheduler.step()
    assert scheduler.rows == [second]
    assert engine.answer(first).finish_reason == "cancelled"
    scheduler.cancel(second)
    assert not scheduler.busy


def test_cancelling_a_beam_takes_all_of_it_out_and_what_is_done_stays(known: Known) -> None:
    """Whichever of its partial answers are left."""
    engine = Engine(known.model, known.index, replace(PLAIN, beam=2, beam_passages=3))
    scheduler, row = engine.scheduler(2), engine.row(QUESTIONS[0])
    scheduler.add(row)
    while len(scheduler.rows) < 2:
        scheduler.step()
    scheduler._beams[id(row)].rows.remove(row)  # as pruning does
    del scheduler._beams[id(row)]
    with torch.inference_mode():
        scheduler._drop(row)
    scheduler.cancel(row)
    assert not scheduler.busy
    assert len(scheduler.cache) == 0
    done = engine.row(QUESTIONS[1], PLAIN)
    scheduler.add(done)
    while scheduler.busy:
        scheduler.step()
    scheduler.cancel(done)
    assert done.finish_reason == "eos"


def test_what_a_row_finds_does_not_depend_on_how_many_hits_others_want(known: Known) -> None:
    """An approximate index looks at more where more is wanted: rows that want the same are searched together."""

    class Wanting(StateRetriever):
        calls: list[tuple[int, int]] = []  # noqa: RUF012

        def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
            self.calls.append((len(requests), k))
            return super().search(requests, k)

    engine = Engine(known.model, Wanting(known.model, known.index), replace(PLAIN, ret_first=True, max_retrievals=1))
    scheduler = engine.scheduler(3)
    for question, top_k in zip(QUESTIONS, (1, 4, 1), strict=False):
        scheduler.add(engine.row(question, replace(engine.settings, top_k=top_k)))
    while scheduler.busy:
        scheduler.step()
    assert sorted(Wanting.calls) == [(1, 4), (2, 1)]
