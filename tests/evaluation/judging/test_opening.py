"""From what `--judge` says to a judge, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosup.errors import UsageError
from cosup.evaluation.judging.base import FunctionJudge
from cosup.evaluation.judging.cache import CachedJudge
from cosup.evaluation.judging.chat import ChatJudge
from cosup.evaluation.judging.classifier import ClassifierJudge
from cosup.evaluation.judging.opening import JudgeOptions, open_judge
from cosup.evaluation.judging.seq2seq import Seq2SeqJudge
from tests.evaluation.judging.conftest import KNOWN, bert, bert_words, saved

PAIRS = [pair for pair, _ in KNOWN]

MODULE = """
from cosup.evaluation.judging.base import Decision

def contains(premise, hypothesis):
    return hypothesis in premise

def share(premise, hypothesis):
    return 0.6

class Own:
    name = "own 1"
    def decide(self, pairs):
        return [Decision(True, "always") for _ in pairs]

own = Own()
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the working folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("judges_for_tests.py").write_text(MODULE, encoding="utf-8")
    yield "judges_for_tests"
    sys.modules.pop("judges_for_tests", None)


def test_a_classifier_and_a_t5_are_told_apart_by_their_config(nli: str, true: str) -> None:
    options = JudgeOptions(dtype="float32", device="cpu", batch_size=2)
    for folder, kind in ((nli, ClassifierJudge), (true, Seq2SeqJudge)):
        judge = open_judge(folder, options)
        assert isinstance(judge, kind)
        assert [d.entailed for d in judge.decide(PAIRS)] == [entailed for _, entailed in KNOWN]


def test_options_reach_the_classifier(nli: str) -> None:
    judge = open_judge(nli, JudgeOptions(label="0", threshold=0.75))
    assert judge.name.endswith("label CONTRADICTION, threshold 0.75")


@pytest.mark.parametrize(
    "spec",
    [
        "http://host:8000/v1#org/model",
        "https://host:8000/v1/chat/completions#org/model",
        "http://host:8000/v1/#org/model",
    ],
)
def test_an_address_and_a_model_are_an_endpoint(spec: str) -> None:
    judge = open_judge(spec, JudgeOptions(timeout=1.5, parallel=2, key_variable="MY_KEY"))
    assert isinstance(judge, ChatJudge)
    assert judge.name.startswith(f"chat org/model at {spec.partition(':')[0]}://host:8000/v1, prompt ")
    assert (judge._settings.timeout, judge._settings.parallel, judge._settings.key_variable) == (1.5, 2, "MY_KEY")


def test_a_function_of_the_working_folder(module: str) -> None:
    judge = open_judge(f"{module}:contains")
    assert isinstance(judge, FunctionJudge)
    assert [d.entailed for d in judge.decide([("a b", "b"), ("a b", "c")])] == [True, False]
    strict = open_judge(f"{module}:share", JudgeOptions(threshold=0.7))
    assert strict.decide([("a", "b")])[0].entailed is False


def test_a_module_may_hold_a_judge_of_its_own(module: str) -> None:
    judge = open_judge(f"{module}:own")
    assert judge.name == "own 1"
    assert [d.entailed for d in judge.decide(PAIRS[:2])] == [True, True]


def test_with_a_folder_verdicts_are_kept(module: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    judge = open_judge(f"{module}:contains", cache=tmp_path / "kept", progress=lambda *done: told.append(done))
    assert isinstance(judge, CachedJudge)
    assert judge.decide(PAIRS) == open_judge(f"{module}:contains").decide(PAIRS)
    assert judge.path.parent == tmp_path / "kept"
    assert told == [(0, 6), (6, 6)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "the judge is ''; expected a hub id or folder .*MODULE:FUNCTION"),
        ("http://host/v1", "http://host/v1 names no model; expected http://host/v1#MODEL"),
        ("http://#model", r"address is 'http://'; expected http\(s\)://HOST/v1"),
        ("./nowhere", "no folder './nowhere'.*; a judge is a hub id or folder .*MODULE:FUNCTION"),
        ("no-such-org/no-such-model", "cannot load a model from 'no-such-org/no-such-model': .*; a judge is a hub id"),
        ("nowhere_at_all:judge", "module 'nowhere_at_all' cannot be imported: ModuleNotFoundError: .*; looked in"),
        ("judges_for_tests:contain", r"judges_for_tests has no function 'contain' \(did you mean 'contains'\?\)"),
        ("judges_for_tests:number", "the judge is 'judges_for_tests:number', but that is no function"),
        ("broken_for_tests:judge", "'broken_for_tests' cannot be imported: ZeroDivisionError: division by zero$"),
    ],
)
def test_what_is_no_judge_is_refused_with_what_there_is(module: str, spec: str, message: str) -> None:
    Path("broken_for_tests.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        open_judge(spec)


def test_models_that_do_not_judge_are_refused(tmp_path: Path, nli: str) -> None:
    plain = saved(bert().bert, bert_words(), tmp_path / "plain")
    with pytest.raises(UsageError, match=r"plain' is a BertModel, which does not judge pairs; a judge is a hub id"):
        open_judge(plain)
    unnamed = saved(bert(labels=("LABEL_0", "LABEL_1")), bert_words(), tmp_path / "unnamed")
    with pytest.raises(UsageError, match=r"has the labels 0 LABEL_0, 1 LABEL_1, .* name it with --judge-label"):
        open_judge(unnamed)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for text in ("{", json.dumps({"model_type": "no such thing"}), "[]", "{}"):
        (damaged / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="cannot load a model from"):
            open_judge(str(damaged))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("http://host/v1#m", {"label": "0"}, "--judge-label is of no use to an endpoint"),
        ("http://host/v1#m", {"threshold": 0.5}, "--judge-threshold is of no use to an endpoint"),
        ("judges_for_tests:contains", {"timeout": 1.0}, "--judge-timeout is of no use to a function"),
        ("NLI", {"parallel": 2}, "--judge-parallel is of no use to a classifier"),
        ("TRUE", {"threshold": 0.5}, "--judge-threshold is of no use to a model that writes 1 or 0"),
    ],
)
def test_options_of_other_judges_are_refused(
    module: str, nli: str, true: str, spec: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_judge({"NLI": nli, "TRUE": true}.get(spec, spec), JudgeOptions(**options))
