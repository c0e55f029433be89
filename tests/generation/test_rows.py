"""The row's state machine, driven by a script instead of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosup.generation.rows import CLAIM_ROOM, Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.records import Hit, Question
from cosup.tokens import ControlTokenIds

EOS, RET, CS, CE = 1, 2, 3, 4
STATE = torch.zeros(1, 2)
HITS = (Hit("a", 0.5),)


def _row(script: Sequence[int], settings: GenerationSettings | None = None, length: int = 200) -> tuple[Row, list[str]]:
    """Run a row on scripted tokens with a passage of [90, 91]; return it and a trace of what was fed."""
    row = Row(Question("q", "?"), [10, 11], ControlTokenIds(RET, CS, CE, EOS), settings or GenerationSettings(), length)
    tokens = iter(script)
    trace = []
    while row.stage is not Stage.DONE:
        if row.stage is Stage.RETRIEVING:
            row.read(HITS, [[90, 91]])
            trace.append("read")
            continue
        trace.append(",".join(map(str, row.take(1000))))
        seen = len(row.context)
        row.react(STATE, lambda *_: next(tokens))
        if len(row.context) < seen and row.stage is not Stage.DONE:
            trace.append(f"forget {len(row.context)}")
    return row, trace


def test_retrieve_claim_answer() -> None:
    """The plain way: prompt, [Ret], passage and a forced [Cs], claim, [Ce], text, end."""
    row, trace = _row([RET, 50, 51, CE, 60, EOS])
    assert trace == ["10,11", "2", "read", "90,91,3", "50", "51", "4", "60"]
    assert row.context == [10, 11, RET, 90, 91, CS, 50, 51, CE, 60]
    assert [(p.ids, p.hits) for p in row.pieces] == [([], None), ([50, 51], HITS), ([60], None)]
    assert row.finish_reason == "eos"


def test_a_ret_inside_a_claim_closes_it_first() -> None:
    """[Ce] is fed before [Ret]; both claims stand."""
    row, trace = _row([RET, 50, RET, 51, EOS])
    assert trace == ["10,11", "2", "read", "90,91,3", "50", "4,2", "read", "90,91,3", "51"]
    assert [p.ids for p in row.pieces if p.hits] == [[50], [51]]
    assert row.retrievals == 2


def test_ret_first_is_fed_with_the_prompt() -> None:
    """The first token is forced, not chosen."""
    _, trace = _row([50, EOS], GenerationSettings(ret_first=True))
    assert trace == ["10,11,2", "read", "90,91,3", "50"]


def test_ctx_truncate_feeds_the_claim_again_without_its_passage() -> None:
    """[Ret] and the passage leave the context once the claim is closed; the claim stays."""
    row, trace = _row([RET, 50, CE, 60, EOS], GenerationSettings(ctx_truncate=True))
    assert trace == ["10,11", "2", "read", "90,91,3", "50", "forget 2", "3,50,4", "60"]
    assert row.context == [10, 11, CS, 50, CE, 60]


def test_what_is_banned_where() -> None:
    """[Cs] always; [Ce] outside claims; [Ret] when they are spent, and inside claims under ctx_truncate."""
    for settings, in_claim in ((GenerationSettings(), [CS]), (GenerationSettings(ctx_truncate=True), [CS, RET])):
        row = Row(Question("q", "?"), [10], ControlTokenIds(RET, CS, CE, EOS), settings, 200)
        assert row.banned() == [CS, CE]
        row.read(HITS, [[90]])
        assert row.banned() == in_claim
    spent, _ = _row([RET, 50, CE, 60, EOS], GenerationSettings(max_retrievals=1))
    spent.stage = Stage.WRITING
    assert spent.banned() == [CS, CE, RET]


def test_limits() -> None:
    """Own tokens are counted without passages; a claim cut by a limit is kept; a full context ends the row."""
    row, _ = _row([RET, 50, 51, 52, 53], GenerationSettings(max_new_tokens=3))
    assert (row.finish_reason, row.pieces[1].ids) == ("length", [50, 51])
    row, _ = _row([60] * 100, length=20)
    assert row.finish_reason == "context"
    assert len(row.context) < 20
    row, trace = _row([RET, 50, CE, EOS], length=30)
    assert row.finish_reason == "context"
    assert trace[-1] == "read"
    assert (row.pieces[-1].hits, row.pieces[-1].read) == (HITS, 0)


def test_a_passage_without_room_is_neither_read_nor_cited() -> None:
    row = Row(Question("q", "?"), [10], ControlTokenIds(RET, CS, CE, EOS), GenerationSettings(), 5 + CLAIM_ROOM)
    row.take(10)
    row.read((Hit("a", 0.5), Hit("b", 0.4), Hit("c", 0.3)), [[90, 91], [92, 93], [94]])
    assert row.pending == [90, 91, 92, CS]
    assert row.pieces[-1].read == 2
    assert row.read_ids == {"a", "b"}


def test_text_after_an_abstention_knows_what_it_goes_on_with() -> None:
    """Twice in a row; after a claim nothing is gone on with."""
    row, _ = _row([50, RET, 51, EOS])
    assert row.pieces[-1].before == ()
    row = Row(Question("q", "?"), [10], ControlTokenIds(RET, CS, CE, EOS), GenerationSettings(), 200)
    tokens = iter([60, RET, 61, RET, 62, EOS])
    while row.stage is not Stage.DONE:
        if row.stage is Stage.RETRIEVING:
            row.abstain(HITS)
        row.take(10)
        row.react(STATE, lambda *_: next(tokens))
    assert [(p.ids, p.before) for p in row.pieces if p.hits is None] == [([60], ()), ([61], (60,)), ([62], (60, 61))]
