"""The yardstick writes what the engine writes, the slow way."""

from __future__ import annotations

import copy
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.generation.engine import Engine
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.records import Answer, Question
from tests import foreign, pairs
from tests.generation.conftest import Known

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # they import one another as scripts do

import answering
import answering_yardstick as yardstick
from answering_yardstick import Corpus

GREEDY = GenerationSettings(max_new_tokens=48, top_k=4)
SETTINGS = {
    "plain": GREEDY,
    "retrieving first": replace(GREEDY, ret_first=True),
    "passages dropped": replace(GREEDY, ctx_truncate=True),
    "passages dropped, retrieving first": replace(GREEDY, ctx_truncate=True, ret_first=True),
    "one retrieval": replace(GREEDY, max_retrievals=1),
    "few tokens": replace(GREEDY, max_new_tokens=7),
    "short context": replace(GREEDY, max_length=75),
    "shorter context": replace(GREEDY, max_length=62),
}


def same(ours: Answer, theirs: Answer) -> None:
    """All of an answer but the last digits of its scores."""
    assert (ours.text, ours.answer, ours.finish_reason) == (theirs.text, theirs.answer, theirs.finish_reason)
    assert ours.segments == theirs.segments
    assert [[h.passage_id for h in r.hits] for r in ours.retrievals] == [
        [h.passage_id for h in r.hits] for r in theirs.retrievals
    ]
    for mine, other in zip(ours.retrievals, theirs.retrievals, strict=True):
        assert [h.score for h in mine.hits] == pytest.approx([h.score for h in other.hits], abs=1e-5)


def test_the_benchmark_runs_every_side(known: Known, tmp_path: Path) -> None:
    """On a pair that knows its questions; each side's figures are there, and the texts agree."""
    model = copy.deepcopy(known.model)
    model.save_pretrained(tmp_path / "model")
    build_index(model, pairs.PASSAGES, tmp_path / "index")
    write_jsonl(tmp_path / "questions.jsonl", pairs.QUESTIONS)
    words = ["--model", str(tmp_path / "model"), "--index", str(tmp_path / "index"), "--count", "6", "--alone", "2"]
    words += ["--questions", str(tmp_path / "questions.jsonl"), "--rounds", "2", "--max-new-tokens", "48"]
    found = answering.measure(answering.arguments([*words, "--threads", str(torch.get_num_threads())]))
    for side in ("baseline_1", "baseline_32", "cosup_1", "cosup_32", "plain_1", "plain_32"):
        assert len(found[side]["rates"]) == 2
        assert min(found[side]["rates"]) > 0
    assert found["same_text"] == found["same_text_1"] == 1
    assert found["right"]["share"] == found["baseline_right"]["share"] == 1
    assert min(found[f"{what}_{size}"] for what in ("speedup", "overhead") for size in (1, 32)) > 0


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_same_checkpoint_gives_the_same_answers(known: Known, settings: GenerationSettings) -> None:
    corpus = Corpus.of(known.model, pairs.PASSAGES)
    found = yardstick.answer_all(known.model, corpus, pairs.QUESTIONS, settings)
    ours = Engine(known.model, known.index, settings).generate(pairs.QUESTIONS)
    for mine, other in zip(ours, found.answers, strict=True):
        same(mine, other)
    if settings is GREEDY:
        assert all(len(a.retrievals) >= 2 for a in found.answers)
        assert [a.answer for a in found.answers] == [q.answers[0] for q in pairs.QUESTIONS]
    ends = {"few tokens": "length", "short context": "context", "shorter context": "context"}
    name = next(name for name, known in SETTINGS.items() if known == settings)
    assert ends.get(name, "eos") in {a.finish_reason for a in found.answers}


def test_candidates_limit_the_index(known: Known) -> None:
    asked = [replace(q, candidates=("w5", "p2", "w1")) for q in pairs.QUESTIONS]
    corpus = Corpus.of(known.model, pairs.PASSAGES)
    ours = Engine(known.model, known.index, GREEDY).generate(asked)
    for question, mine in zip(asked, ours, strict=True):
        same(mine, yardstick.answer(known.model, corpus, question, GREEDY))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [15, 25, 40])
def test_a_pair_that_knows_little_is_followed_wherever_it_goes(steps: int, tmp_path: Path) -> None:
    """Half trained, it asks too often, inside claims too, never closes them, and fills its context."""
    model = pairs.pair(seed=steps)
    pairs.overfit(model, str(tmp_path / "run"), steps)
    model.eval().save_pretrained(tmp_path / "model")
    index = build_index(model, pairs.PASSAGES, tmp_path / "index")
    corpus = Corpus.of(model, pairs.PASSAGES)
    answers = []
    for name in ("plain", "retrieving first", "passages dropped, retrieving first", "short context"):
        answers += Engine(model, index, SETTINGS[name]).generate(pairs.QUESTIONS)
        for question, mine in zip(pairs.QUESTIONS, answers[-len(pairs.QUESTIONS) :], strict=True):
            same(mine, yardstick.answer(model, corpus, question, SETTINGS[name]))
    assert sum(len(a.retrievals) for a in answers) >= 24
    assert {a.finish_reason for a in answers} - {"eos"}


def test_a_pair_made_elsewhere_answers_alike(tmp_path: Path) -> None:
    from cosup.joining import join
    from cosup.modeling import CoSupervisedModel

    model = CoSupervisedModel.from_pretrained(join(*foreign.authors_pair(tmp_path), tmp_path / "model").folder)
    index = build_index(model, pairs.PASSAGES, tmp_path / "index")
    settings = SETTINGS["retrieving first"]
    corpus = Corpus.of(model, pairs.PASSAGES)
    for question, mine in zip(pairs.QUESTIONS, Engine(model, index, settings).generate(pairs.QUESTIONS), strict=True):
        same(mine, yardstick.answer(model, corpus, question, settings))


def test_the_whole_context_is_read_again_after_each_retrieval(known: Known) -> None:
    """Read are the prompt and what was written up to `[Ret]`, then all of it again with the passage, and so on."""
    corpus, question = Corpus.of(known.model, pairs.PASSAGES), pairs.QUESTIONS[0]
    runs: list[list[int]] = []
    forward = known.model.generator.forward

    def spy(**inputs: Any) -> Any:
        if inputs["past_key_values"] is None:
            runs.append([])
        runs[-1].append(inputs["input_ids"].shape[1])
        assert inputs["output_hidden_states"]
        output = forward(**inputs)
        assert output.logits.shape[1] == inputs["input_ids"].shape[1]
        return output

    known.model.generator.forward = spy
    try:
        found = yardstick.answer_all(known.model, corpus, [question], GREEDY)
    finally:
        known.model.generator.forward = forward
    retrievals = len(found.answers[0].retrievals)
    assert len(runs) == retrievals + 1 >= 3
    assert all(tokens == 1 for run in runs for tokens in run[1:])
    for before, after in itertools.pairwise(runs):
        assert after[0] > sum(before)  # all that was read, and the passage
    assert (found.counts.forwards, found.counts.tokens) == (sum(map(len, runs)), sum(map(sum, runs)))


def test_every_question_builds_its_own_index_from_lists(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    index = yardstick.faiss.IndexFlatIP
    monkeypatch.setattr(yardstick.faiss, "IndexFlatIP", lambda width: built.append(width) or index(width))
    corpus = Corpus.of(known.model, pairs.PASSAGES)
    assert isinstance(corpus.vectors[0], list)
    found = yardstick.answer_all(known.model, corpus, pairs.QUESTIONS[:3], replace(GREEDY, max_new_tokens=2))
    assert built == [known.model.dimension] * 3
    assert len(found.seconds) == 3
    assert found.questions_per_second == pytest.approx(3 / sum(found.seconds))


def test_it_never_samples(known: Known) -> None:
    corpus = Corpus.of(known.model, pairs.PASSAGES)
    with pytest.raises(UsageError, match="greedy"):
        yardstick.answer(known.model, corpus, Question("q", "Who?"), replace(GREEDY, do_sample=True))
