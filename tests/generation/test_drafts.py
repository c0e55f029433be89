"""Guesses: what is looked up where, what is never guessed, how their length adapts."""

from __future__ import annotations

from cosup.generation.drafts import Drafter

RET, CS, CE, EOS, STOP = 2, 3, 4, 1, 9


def drafter(most: int = 16) -> Drafter:
    return Drafter((RET, CS, CE, EOS), most, lambda token: token == STOP, CE)


def test_what_followed_the_last_two_tokens_is_guessed() -> None:
    assert drafter().guess([10, 20, 30, 40, 50, 20, 30], claiming=False) == [40, 50, 20, 30]
    assert drafter().guess([10, 20, 30, 40], claiming=False) == []


def test_the_latest_place_counts() -> None:
    assert drafter().guess([20, 30, 40, 20, 30, 50, 20, 30], claiming=False)[0] == 50


def test_in_a_claim_one_token_is_enough_where_it_stands_once() -> None:
    assert drafter().guess([10, 20, 30, CS, 20], claiming=True) == [30]
    assert drafter().guess([10, 20, 30, CS, 20], claiming=False) == []
    assert drafter().guess([20, 30, 20, 40, CS, 20], claiming=True) == []


def test_a_claim_is_guessed_to_end_with_its_sentence() -> None:
    context = [10, 20, 30, STOP, 40, 50, CS, 10, 20]
    assert drafter().guess(context, claiming=True) == [30, STOP, CE]
    assert drafter().guess(context, claiming=False) == [30, STOP, 40, 50]


def test_control_tokens_are_never_copied() -> None:
    assert drafter().guess([10, 20, RET, 30, 10, 20], claiming=False) == []
    assert drafter().guess([10, CS, 30, 40, CS], claiming=True) == []


def test_guesses_grow_while_they_are_right_and_shrink_while_they_are_wrong() -> None:
    own, context = drafter(), [*range(100, 140), 100, 101]
    assert len(own.guess(context, claiming=False)) == 8
    own.told(8, 8)
    assert len(own.guess(context, claiming=False)) == 16
    for _ in range(9):
        own.told(0, 5)
    assert len(own.guess(context, claiming=False)) == 1
    own.told(0, 0)  # nothing was guessed, nothing is learnt
    own.told(1, 1)
    assert len(own.guess(context, claiming=False)) == 2


def test_a_context_that_was_cut_is_learnt_anew() -> None:
    own = drafter()
    own.guess([10, 20, 30, 40, 50], claiming=False)
    own.forget()
    assert own.guess([10, 20, 60, 10, 20], claiming=False) == [60, 10, 20]


def test_nothing_is_guessed_where_none_are_wanted() -> None:
    assert drafter(0).guess([10, 20, 30, 10, 20], claiming=True) == []
