"""Events come in order and say what the answer says, with beams and abstentions."""

from __future__ import annotations

from dataclasses import replace

from cosup.generation.engine import Engine
from cosup.generation.events import ClaimClosed, Finished, PassageOpened, Retrieved, TextDelta
from tests.generation.asked import PLAIN, QUESTIONS, told
from tests.generation.conftest import Known


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
