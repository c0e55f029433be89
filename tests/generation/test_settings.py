"""What an answer can be told: several passages, a threshold, no repetition, filters, beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosup.errors import InputError, UsageError
from cosup.generation.beam import branches
from cosup.generation.engine import Engine
from cosup.generation.live import LiveText
from cosup.generation.retrieval import RetrievalRequest, StateRetriever
from cosup.generation.rows import Piece
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.index.filters import Filter
from cosup.records import Answer, Hit, TextSegment
from tests import pairs
from tests.generation.asked import PLAIN, QUESTIONS, told
from tests.generation.conftest import Known


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
