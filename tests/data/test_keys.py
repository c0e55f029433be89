"""Keys of answers: the text after all retrievals, one key for what says the same, in every process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cosup.data.encoding import ExampleEncoder
from cosup.data.keys import answer_key, stable_key
from cosup.records import Example, RetrievalSegment, TextSegment
from cosup.tokens import control_token_ids
from tests.data.packs import PASSAGES, collator, encoded, one_pack
from tests.kinds import kind


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ((RetrievalSegment("1", "fox"), TextSegment("Saltmere")), "Saltmere"),
        ((TextSegment("Saltmere"),), "Saltmere"),
        ((TextSegment("Saltmere"), RetrievalSegment("1", "fox")), None),
    ],
)
def test_the_answer_is_the_text_after_all_retrievals(output: tuple[Any, ...], answer: str | None) -> None:
    made = ExampleEncoder(kind("words"), control_token_ids(kind("words")))
    found = made.example(Example("q 7", "the fox", output), PASSAGES)
    assert (found.example_id, found.answer) == ("q 7", answer)


def test_answers_that_say_the_same_have_one_key() -> None:
    answers = ["The Hague.", "hague", "  the  HAGUE ", "Saltmere"]
    pack = one_pack(collator(), *(encoded("1", example_id=a, answer=a) for a in answers))
    keys = pack["answer_keys"].tolist()
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert 0 not in keys
    assert len(set(pack["example_keys"].tolist())) == 4


@pytest.mark.parametrize("answer", [None, "", " . ", "the", "Yes", "no.", "SUPPORTS"])
def test_verdicts_and_nothing_are_no_answer(answer: str | None) -> None:
    assert answer_key(answer) == 0


def test_keys_are_the_same_in_every_process() -> None:
    """Whatever the seed of Python's own hashes; as signed 64-bit numbers, known ones."""
    program = "from cosup.data.keys import *; print(stable_key('q1'), answer_key('Ada Vale'), stable_key('a', 'b'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert printed == {f"{stable_key('q1')} {answer_key('ada vale')} {stable_key('a', 'b')}\n"}
    assert stable_key("q1") == 6410765672723523138
    many = [stable_key(str(i)) for i in range(5000)]
    assert len(set(many)) == 5000
    assert min(many) >= -(2**63)
    assert max(many) < 2**63
    assert min(many) < 0 < max(many)
    assert stable_key("ab", "c") != stable_key("a", "bc")
