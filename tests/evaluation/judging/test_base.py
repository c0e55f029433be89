"""Functions as judges: what they may return, what is refused, and by which names verdicts are told apart."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cosup.errors import InputError, UsageError
from cosup.evaluation.judging.base import Decision, FunctionJudge, one_line


def contains(premise: str, hypothesis: str) -> bool:
    return hypothesis in premise


def test_a_function_decides_each_pair_in_order() -> None:
    judge = FunctionJudge(contains)
    found = judge.decide([("a b", "b"), ("a b", "c"), ("", "")])
    assert [d.entailed for d in found] == [True, False, True]
    assert found[1] == Decision(False, "the function says False")


@pytest.mark.parametrize(
    ("value", "decision"),
    [
        (0.5, Decision(True, "entailment 0.500 reaches 0.5", 0.5)),
        (0.25, Decision(False, "entailment 0.250 is below 0.5", 0.25)),
        (1, Decision(True, "entailment 1.000 reaches 0.5", 1.0)),
        (np.float64(0.25), Decision(False, "entailment 0.250 is below 0.5", 0.25)),
        (np.bool_(True), Decision(True, "the function says True")),
        (Decision(None, "no idea"), Decision(None, "no idea")),
    ],
)
def test_a_function_may_return_a_truth_value_a_probability_or_a_decision(value: Any, decision: Decision) -> None:
    assert FunctionJudge(lambda premise, hypothesis: value).decide([("p", "h")]) == [decision]


def test_the_threshold_is_reached_from_below() -> None:
    judge = FunctionJudge(lambda premise, hypothesis: float(hypothesis), threshold=0.7)
    assert [d.entailed for d in judge.decide([("", "0.69"), ("", "0.7")])] == [False, True]
    with pytest.raises(UsageError, match=r"threshold is 1.5; expected a probability in 0..1"):
        FunctionJudge(contains, threshold=1.5)


@pytest.mark.parametrize("value", [None, "yes", 1.5, -0.1, float("nan"), [True]])
def test_anything_else_that_a_function_returns_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"the judge .* returned .*; expected True, False, a probability in 0..1"):
        FunctionJudge(lambda premise, hypothesis: value).decide([("p", "h")])


def test_a_function_that_fails_is_told_with_its_pair() -> None:
    def judge(premise: str, hypothesis: str) -> bool:
        if hypothesis == "refused":
            raise InputError("not mine", "file.jsonl", 3)
        raise KeyError("gone")

    with pytest.raises(UsageError, match=r"failed with KeyError: 'gone', on hypothesis 'second'"):
        FunctionJudge(judge).decide([("p", "second")])
    with pytest.raises(InputError, match=r"^file.jsonl:3: not mine$"):
        FunctionJudge(judge).decide([("p", "refused")])


def imported(path: Path, text: str) -> ModuleType:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("judges_of_a_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_an_edited_function_has_another_name(tmp_path: Path) -> None:
    def name(file: str, text: str) -> str:
        return FunctionJudge(imported(tmp_path / file, text).judge).name

    text = "def judge(premise, hypothesis):\n    return True\n"
    assert name("a.py", text) == name("b.py", text)
    assert name("a.py", text).startswith("function judges_of_a_user:judge@")
    assert name("a.py", text) != name("a.py", text.replace("True", "False"))
    assert FunctionJudge(contains).name != FunctionJudge(contains, threshold=0.6).name


def test_functions_that_hold_values_never_share_a_name_unless_they_are_given_one() -> None:
    def made(letter: str) -> FunctionJudge:
        return FunctionJudge(lambda premise, hypothesis: letter in premise)

    assert made("a").name != made("a").name
    assert FunctionJudge(made, name="mine 1").name == "function mine 1, threshold 0.5"  # type: ignore[arg-type]


def test_a_decision_is_a_truth_value_and_a_probability() -> None:
    with pytest.raises(UsageError, match="decision is 'yes'; expected True, False or None"):
        Decision("yes", "")  # type: ignore[arg-type]
    for score in (1.1, -0.1, float("nan")):
        with pytest.raises(UsageError, match="score is"):
            Decision(True, "", score)


def test_a_reason_is_one_printable_line() -> None:
    assert one_line(" a\n\tb\x1b[31m\u2028c\ud800 ") == "a b [31m c"
    assert one_line("abcdef", longest=4) == "abc…"
    assert len(one_line("x" * 1000)) == 300


def test_a_function_that_leaves_the_process_is_a_failure_like_any_other() -> None:
    def leave(premise: str, hypothesis: str) -> bool:
        raise SystemExit(3)

    with pytest.raises(UsageError, match="failed with SystemExit: 3"):
        FunctionJudge(leave, name="leave").decide([("p", "h")])
