"""Continuous batching and what an answer can be told: nothing that shares a step changes what is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cosup.errors import InputError, UsageError
from cosup.generation.beam import branches
from cosup.generation.cache import PaddedRows
from cosup.generation.engine import Engine
from cosup.generation.events import ClaimClosed, Finished, PassageOpened, Retrieved, TextDelta
from cosup.generation.live import LiveText
from cosup.generation.retrieval import RetrievalRequest, StateRetriever
from cosup.generation.rows import Piece, Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.index.filters import Filter
from cosup.records import Answer, Hit, Question, TextSegment
from tests import pairs
from tests.generation.conftest import Known

LONG = replace(pairs.QUESTIONS[1], id="long", question="It was written by Ada Vale. " * 3 + pairs.QUESTIONS[1].question)
QUESTIONS = (*pairs.QUESTIONS[:5], LONG)
#: Making a run of a model smaller takes minutes.
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
PLAIN = GenerationSettings(max_new_tokens=60)


def told(answer: Answer) -> tuple[object, ...]:
    """Return all of an answer but its scores, which depend on rounding."""
    spans = [(c.n, c.passage_id, c.claim, c.start, c.end) for c in answer.citations]
    return answer.text, answer.answer, answer.segments, spans, answer.finish_reason


class Counting(StateRetriever):
    """Counts how many `[Ret]` tokens each search serves."""

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        self.served = [*getattr(self, "served", []), len(requests)]
        return super().search(requests, k)


# -- rows that share steps ---------------------------------------------------------------------------------------------


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


# -- control -----------------------------------------------------------------------------------------------------------


def test_several_passages_are_read_for_one_claim_and_all_are_cited(known: Known) -> None:
    engine = Engine(known.model, known.index, replace(PLAIN, read=2, ret_first=True))
    scheduler, row = engine.scheduler(1), engine.row(QUESTIONS[0])
    scheduler.add(row)
    while scheduler.busy:
        scheduler.step()
    answer = engine.answer(row)
    first = answer.retrievals[0]
    read = [token for hit in first.hits[:2] for token in engine._passage(hit.passage_id)]
    start = row.context.index(known.model.control.ret) + 1
    assert row.context[start : start + len(read)] == read
    assert first.read == 2
    both = [c for c in answer.citations if (c.start, c.end) == (answer.citations[0].start, answer.citations[0].end)]
    assert [c.passage_id for c in both] == [hit.passage_id for hit in first.hits[:2]]
    assert answer.text[both[0].end :].startswith(" [1][2]")
    assert Answer.from_dict(answer.to_dict()) == answer


def test_below_the_threshold_nothing_is_read_and_nothing_cited(known: Known) -> None:
    """The text goes on from where `[Ret]` was asked for; the search is on record."""
    usual = Engine(known.model, known.index, PLAIN).generate([QUESTIONS[0]])[0]
    scores = [r.hits[0].score for r in usual.retrievals]
    none = Engine(known.model, known.index, replace(PLAIN, min_score=2.0)).generate([QUESTIONS[0]])[0]
    assert none.citations == ()
    assert none.retrievals[0].read == 0
    assert none.retrievals[0].hits == usual.retrievals[0].hits
    assert none.segments == tuple(s for s in none.segments if hasattr(s, "text"))
    enough = replace(PLAIN, min_score=min(scores) - 1e-3)
    assert told(Engine(known.model, known.index, enough).generate([QUESTIONS[0]])[0]) == told(usual)


def test_hits_below_the_threshold_are_not_read_beside_one_above_it(known: Known) -> None:
    asked = replace(PLAIN, ret_first=True, max_retrievals=1, read=3)
    first, second = Engine(known.model, known.index, asked).generate([QUESTIONS[0]])[0].retrievals[0].hits[:2]
    between = replace(asked, min_score=(first.score + second.score) / 2)
    for own in (between, replace(between, read=1, beam=2, beam_passages=3)):
        answer = Engine(known.model, known.index, own).generate([QUESTIONS[0]])[0]
        assert answer.retrievals[0].read == 1
        assert {c.passage_id for c in answer.citations} <= {first.passage_id}


def test_a_text_that_abstaining_interrupts_is_put_together_again(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a word, and where the bytes of a character stand on both sides."""
    engine = Engine(known.model, known.index, PLAIN)
    monkeypatch.setattr(engine, "_text", lambda ids: bytes(ids).decode(errors="replace"))
    row = engine.row(QUESTIONS[0])
    before, after = b"A caf\xc3", b"\xa9."
    row.pieces = [Piece(list(before)), Piece(hits=(Hit("w0", 0.1),)), Piece(list(after), before=tuple(before))]
    row.finish("eos")
    answer = engine.answer(row)
    assert answer.text == answer.answer == "A caf\u00e9."
    assert answer.segments == (TextSegment("A caf\u00e9."),)
    live = LiveText(QUESTIONS[0])
    assert "".join(live.add(event) for event in engine.events(row).news()) == answer.text


def test_abstaining_leaves_the_context_as_if_ret_had_been_banned_there(known: Known) -> None:
    """What is written after abstaining is what is written where `[Ret]` may not come next."""
    engine = Engine(known.model, known.index, replace(PLAIN, min_score=2.0, max_retrievals=1))
    answer, row = engine.generate([QUESTIONS[0]])[0], engine.row(QUESTIONS[0])
    control = known.model.control
    context = engine.encoder.prompt(QUESTIONS[0].question)
    written: list[int] = []
    while len(written) < 60:
        with torch.no_grad():
            state = known.model.hidden_states(torch.tensor([context]))[0, -1:]
            logits = known.model.generator.get_output_embeddings()(state)[0]
        logits[[control.ret, control.cs, control.ce]] = -torch.inf
        token = int(logits.argmax())
        if token == control.eos:
            break
        written.append(token)
        context.append(token)
    row.pieces[0].ids = written
    assert answer.text == engine.answer(row).text


def test_no_passage_is_read_twice(known: Known) -> None:
    """With an index that finds the same passage every time, the second `[Ret]` reads the next one."""

    class Stubborn(StateRetriever):
        def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
            return [[Hit("w0", 0.9), Hit("p0", 0.8), Hit("p1", 0.7)][:k] for _ in requests]

    stubborn = Stubborn(known.model, known.index)
    twice = Engine(known.model, stubborn, replace(PLAIN, top_k=1)).generate([QUESTIONS[0]])[0]
    assert [r.hits[0].passage_id for r in twice.retrievals][:2] == ["w0", "w0"]
    once = Engine(known.model, stubborn, replace(PLAIN, top_k=1, distinct=True)).generate([QUESTIONS[0]])[0]
    assert [r.hits[0].passage_id for r in once.retrievals][:2] == ["w0", "p0"]


def test_a_filter_limits_what_is_found(known: Known, tmp_path: Path) -> None:
    """Rows of one search may have different filters; where nothing matches, the answer abstains."""
    tagged = [replace(p, metadata={"kind": "work" if p.id[0] == "w" else "person"}) for p in pairs.PASSAGES]
    model = known.model
    index = build_index(model, tagged, tmp_path / "index")
    engine = Engine(model, index, replace(PLAIN, ret_first=True))
    scheduler = engine.scheduler(3)
    wheres = ({"kind": "person"}, {"kind": "work"}, {"kind": "none"})
    rows = [
        engine.row(QUESTIONS[0], replace(engine.settings, filter=Filter.parse(where), max_retrievals=1))
        for where in wheres
    ]
    for row in rows:
        scheduler.add(row)
    while scheduler.busy:
        scheduler.step()
    person, work, nothing = (engine.answer(row) for row in rows)
    assert {hit.passage_id[0] for r in person.retrievals for hit in r.hits} == {"p"}
    assert {hit.passage_id[0] for r in work.retrievals for hit in r.hits} == {"w"}
    assert (nothing.retrievals[0].hits, nothing.retrievals[0].read, nothing.citations) == ((), 0, ())


def test_a_beam_of_one_is_greedy_and_a_wider_one_finds_what_is_likelier(known: Known) -> None:
    """With passages in the wrong order, greedy reads the wrong one; the beam takes the one whose text is likelier."""

    class Misled(StateRetriever):
        """Puts a wrong passage first, by a hair."""

        def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
            found = super().search(requests, k)
            return [[Hit(h[1].passage_id, h[0].score + 1e-4), h[0], *h[2:]] for h in found]

    misled = Misled(known.model, known.index)
    question = QUESTIONS[0]
    greedy = Engine(known.model, misled, PLAIN).generate([question])[0]
    assert greedy.citations[0].passage_id != question.gold_ids[0]
    beam = Engine(known.model, misled, replace(PLAIN, beam=2, beam_passages=2, max_retrievals=3))
    both = beam.generate([question, QUESTIONS[2]], batch_size=2)
    alone = [beam.generate([q])[0] for q in (question, QUESTIONS[2])]
    assert [told(a) for a in both] == [told(a) for a in alone]
    assert tuple(c.passage_id for c in both[0].citations) == question.gold_ids
    assert both[0].answer == question.answers[0]
    narrow = replace(PLAIN, beam=2, beam_passages=1)
    plain = Engine(known.model, known.index, PLAIN).generate(QUESTIONS)
    assert [told(a) for a in Engine(known.model, known.index, narrow).generate(QUESTIONS)] == [told(a) for a in plain]


def test_the_chances_of_a_branch_are_those_among_all_hits() -> None:
    hits = [Hit("a", 0.5), Hit("b", 0.4), Hit("c", 0.1)]
    total = sum(math.exp(h.score / 0.1) for h in hits)
    found = branches(hits, 0.1, 2)
    assert [hit.passage_id for hit, _ in found] == ["a", "b"]
    assert [chance for _, chance in found] == pytest.approx(
        [math.log(math.exp(h.score / 0.1) / total) for h in hits[:2]]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"read": 11}, "more than top_k 10"),
        ({"read": 0}, "read is 0"),
        ({"min_score": math.nan}, "min_score is nan"),
        ({"beam": 2, "do_sample": True}, "leave out do_sample"),
        ({"beam": 2, "read": 2}, "leave out read"),
        ({"beam_retrieval_weight": -1.0}, "beam_retrieval_weight is -1.0"),
        ({"draft_tokens": -1}, "draft_tokens is -1"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerationSettings(**changes)  # type: ignore[arg-type]


def test_settings_of_a_call_are_checked_like_the_engines(known: Known) -> None:
    engine = Engine(known.model, known.index, PLAIN)
    with pytest.raises(UsageError, match="256 positions"):
        engine.generate([QUESTIONS[0]], settings=GenerationSettings(max_length=999))
    with pytest.raises(InputError, match="context of 40"):
        engine.generate([QUESTIONS[0]], settings=GenerationSettings(max_length=40))


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_come_in_order_and_say_what_the_answer_says(known: Known) -> None:
    """Retrieval, passage, claim, its close with the span; the deltas add up; the last is the answer."""
    engine = Engine(known.model, known.index, PLAIN)
    events = list(engine.stream(QUESTIONS[0]))
    assert isinstance(events[-1], Finished)
    answer = events[-1].answer
    assert told(answer) == told(engine.generate([QUESTIONS[0]])[0])
    kinds = [type(event) for event in events if not isinstance(event, TextDelta)]
    assert kinds == [Retrieved, PassageOpened, ClaimClosed] * len(answer.citations) + [Finished]
    closed = [c for event in events if isinstance(event, ClaimClosed) for c in event.citations]
    assert tuple(closed) == answer.citations
    opened = [event.passage.id for event in events if isinstance(event, PassageOpened)]
    assert opened == [r.hits[0].passage_id for r in answer.retrievals]
    claims = "".join(event.text for event in events if isinstance(event, TextDelta) and event.claim)
    assert claims == "".join(c.claim for c in answer.citations)


def test_a_beam_tells_all_at_the_end(known: Known) -> None:
    engine = Engine(known.model, known.index, replace(PLAIN, beam=2))
    events = list(engine.stream(QUESTIONS[0]))
    assert [type(e) for e in events].count(Finished) == 1
    assert told(events[-1].answer) == told(engine.generate([QUESTIONS[0]])[0])  # type: ignore[union-attr]


def test_an_abstention_is_told(known: Known) -> None:
    events = list(Engine(known.model, known.index, replace(PLAIN, min_score=2.0)).stream(QUESTIONS[0]))
    assert next(e for e in events if isinstance(e, Retrieved)).read == 0
    assert not any(isinstance(e, PassageOpened | ClaimClosed) for e in events)
