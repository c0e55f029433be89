"""Models as judges: tiny ones that know a handful of pairs, beside what transformers itself makes of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from cosup.errors import UsageError
from cosup.evaluation.judging.base import Decision, Pair
from cosup.evaluation.judging.classifier import ClassifierJudge, find_entailment
from cosup.evaluation.judging.loading import Checkpoint, ModelSettings, decide_by_length
from cosup.evaluation.judging.seq2seq import Seq2SeqJudge
from tests.evaluation.judging.conftest import KNOWN, LABELS, bert, bert_words, saved, t5, t5_words

PAIRS = [pair for pair, _ in KNOWN]
EXPECTED = [entailed for _, entailed in KNOWN]


def checkpoint(source: str, batch_size: int = 16) -> Checkpoint:
    return Checkpoint(source, ModelSettings(batch_size, "float32", "cpu"))


def scores(decisions: Sequence[Decision]) -> list[float]:
    return [d.score for d in decisions if d.score is not None]


# -- classifiers ---------------------------------------------------------------------------------------------------


def test_a_classifier_decides_by_the_likeliest_label(nli: str) -> None:
    found = ClassifierJudge(checkpoint(nli)).decide(PAIRS)
    assert [d.entailed for d in found] == EXPECTED
    assert scores(found) == pytest.approx([0.8 if entailed else 0.1 for entailed in EXPECTED], abs=1e-3)
    assert found[0].reason == "entailment 0.800"
    assert found[1].reason == "CONTRADICTION 0.700, entailment 0.100"


def test_scores_are_those_of_transformers_one_by_one_in_any_batch(nli: str) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(nli), AutoModelForSequenceClassification.from_pretrained(nli)
    pairs = [*PAIRS, *((h, p) for p, h in PAIRS), ("", "rain"), ("rain", "")]
    with torch.no_grad():
        one = [model(**tokenizer([p], [h], return_tensors="pt")) for p, h in pairs]  # bare, an empty text is left out
    wanted = [output.logits.softmax(-1)[0, 2].item() for output in one]
    assert len({round(score, 2) for score in wanted}) > 3
    for size in (1, 3, 32):
        found = ClassifierJudge(checkpoint(nli, size)).decide(pairs)
        assert scores(found) == pytest.approx(wanted, abs=1e-5)


def scripted(judge: ClassifierJudge, probabilities: Sequence[float]) -> ClassifierJudge:
    """Let a classifier give each pair the same probabilities."""
    logits = torch.tensor([probabilities]).log()
    named: Any = lambda **inputs: SimpleNamespace(logits=logits.expand(len(inputs["input_ids"]), -1))  # noqa: E731
    judge.__dict__.update(_model=named, _limit=None)
    return judge


@pytest.mark.parametrize(
    ("probabilities", "threshold", "decision"),
    [
        ((0.25, 0.25, 0.5), None, Decision(True, "entailment 0.500", 0.5)),
        ((0.1, 0.5, 0.4), None, Decision(False, "NEUTRAL 0.500, entailment 0.400", 0.4)),
        ((0.1, 0.5, 0.4), 0.3, Decision(True, "entailment 0.400 reaches 0.3", 0.4)),
        ((0.25, 0.25, 0.5), 0.75, Decision(False, "entailment 0.500 is below 0.75", 0.5)),
        ((float("nan"), 0.5, 0.5), None, Decision(None, "the model gives no numbers")),
    ],
)
def test_known_probabilities_give_known_decisions(
    nli: str, probabilities: tuple[float, ...], threshold: float | None, decision: Decision
) -> None:
    judge = scripted(ClassifierJudge(checkpoint(nli), threshold=threshold), probabilities)
    (found,) = judge.decide([("rain", "rain")])
    assert (found.entailed, found.reason) == (decision.entailed, decision.reason)
    assert found.score == (decision.score if decision.score is None else pytest.approx(decision.score, abs=1e-6))


@pytest.mark.parametrize(
    ("labels", "wanted", "number"),
    [
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), None, 2),
        (("entailment", "not_entailment"), None, 0),
        (("LABEL_0", "LABEL_1"), "label_1", 1),
        (("LABEL_0", "LABEL_1"), "0", 0),
        (("entailment", "neutral"), "neutral", 1),
    ],
)
def test_the_label_of_entailment_is_found_or_named(labels: tuple[str, ...], wanted: str | None, number: int) -> None:
    assert find_entailment(dict(enumerate(labels)), wanted, "model") == number


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("entailment", "Entails"), ("entailment",), ("yes", "no")])
def test_labels_that_say_nothing_ask_for_a_name(labels: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=rf"'model' has the labels 0 {labels[0]}.*not known which means entailment"):
        find_entailment(dict(enumerate(labels)), None, "model")


def test_an_unknown_label_is_refused_with_those_there_are() -> None:
    message = r"'m' has no label 'NEUTRL' \(did you mean 'NEUTRAL'\?\); expected one of 0 CONTRADICTION, 1 NEUTRAL, 2"
    with pytest.raises(UsageError, match=message):
        find_entailment(dict(enumerate(LABELS)), "NEUTRL", "m")


def test_only_the_premise_is_cut_and_the_reason_says_so(nli: str) -> None:
    """40 positions: 3 of the template, 3 of the hypothesis, 34 of the premise's 50 words."""
    judge = ClassifierJudge(checkpoint(nli))
    long, hypothesis = "rain " * 50, "the sea is"
    cut, fits, whole = judge.decide([(long, hypothesis), ("rain " * 34, hypothesis), ("rain", hypothesis)])
    assert cut.reason.endswith("; the premise was cut to 34 of 50 tokens")
    assert cut.score == pytest.approx(fits.score)
    assert "cut" not in fits.reason + whole.reason


def test_a_hypothesis_that_does_not_fit_is_undecided(nli: str) -> None:
    """3 tokens of the template and at least one of the premise: 36 are the most."""
    judge = ClassifierJudge(checkpoint(nli))
    found = judge.decide([("rain", "sea " * 37), ("rain", "sea " * 36), ("rain", "rain")])
    assert found[0] == Decision(None, "the hypothesis is longer than the 40 tokens that the judge reads")
    assert None not in (found[1].entailed, found[2].entailed)


def test_the_tokenizers_own_limit_counts_too(nli: str, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(nli, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 10}))
    (decision,) = ClassifierJudge(checkpoint(str(folder))).decide([("rain " * 20, "sea")])
    assert decision.reason.endswith("cut to 6 of 20 tokens")


def test_positions_that_begin_after_the_padding_token_are_not_counted(tmp_path: Path) -> None:
    """RoBERTa with 30 positions and padding token 0 reads 29 tokens."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=len(bert_words()), max_position_embeddings=30, pad_token_id=0, **shape)
    config.id2label = {0: "entailment", 1: "other"}
    folder = saved(RobertaForSequenceClassification(config), bert_words(), tmp_path / "roberta")
    (decision,) = ClassifierJudge(checkpoint(folder)).decide([("rain " * 50, "sea")])
    assert decision.reason.endswith("cut to 25 of 50 tokens")


def test_no_text_becomes_a_special_token(nli: str) -> None:
    judge = ClassifierJudge(checkpoint(nli))
    spelled, apart = judge.decide([("rain [SEP] falls", "sea"), ("rain [ sep ] falls", "sea")])
    assert spelled == apart


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = saved(bert().bert, bert_words(), tmp_path / "headless")
    config = json.loads(Path(folder, "config.json").read_text())
    Path(folder, "config.json").write_text(json.dumps(config | {"id2label": {"0": "entailment", "1": "no"}}))
    with pytest.raises(UsageError, match=r"is no whole BertForSequenceClassification: weights are missing"):
        ClassifierJudge(checkpoint(folder)).decide(PAIRS)


# -- encoder-decoders ----------------------------------------------------------------------------------------------


def official(folder: str, pairs: Sequence[Pair]) -> list[str]:
    """What ALCE's scorer lets the model write, one pair after the other."""
    tokenizer, model = t5_words(), AutoModelForSeq2SeqLM.from_pretrained(folder)
    rows = [tokenizer(f"premise: {p} hypothesis: {h}", return_tensors="pt").input_ids for p, h in pairs]
    with torch.no_grad():
        written = [model.generate(ids, max_new_tokens=10)[0] for ids in rows]
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]


def test_a_t5_that_writes_1_says_entailed(true: str) -> None:
    found = Seq2SeqJudge(checkpoint(true)).decide(PAIRS)
    assert [d.entailed for d in found] == EXPECTED
    assert found[0].reason == "the model answers 1, P(1) = 0.900"
    assert found[1].reason.startswith("the model answers 0, P(1) = 0.00")


def test_a_batch_gives_what_each_pair_gives_alone(true: str) -> None:
    pairs = [*PAIRS, *((h, p) for p, h in PAIRS)]
    alone = Seq2SeqJudge(checkpoint(true, 1)).decide(pairs)
    for size in (3, 32):
        found = Seq2SeqJudge(checkpoint(true, size)).decide(pairs)
        assert [d.entailed for d in found] == [d.entailed for d in alone]
        assert scores(found) == pytest.approx(scores(alone), abs=1e-5)


def test_verdicts_are_those_of_the_official_procedure(true: str, tmp_path: Path) -> None:
    """Also of a model that writes anything: then nothing is entailed, and the reason and a warning tell it."""
    random = saved(t5(), t5_words(), tmp_path / "random")
    for folder in (true, random):
        wanted = official(folder, PAIRS)
        found = Seq2SeqJudge(checkpoint(folder)).decide(PAIRS)
        assert [d.entailed for d in found] == [text == "1" for text in wanted]
        for decision, text in zip(found, wanted, strict=True):
            assert f"the model answers {text}," in decision.reason or f"'{text}', neither 1 nor 0" in decision.reason


def test_an_answer_that_is_neither_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = Seq2SeqJudge(checkpoint(saved(t5(), t5_words(), tmp_path / "random")))
    found = [*judge.decide(PAIRS), *judge.decide(PAIRS)]
    assert not any(d.entailed for d in found)
    assert all("neither 1 nor 0" in d.reason for d in found)
    assert caplog.text.count("Is it a model of TRUE's kind?") == 1


def test_nothing_is_cut_for_a_t5(tmp_path: Path) -> None:
    """As in ALCE's scorer: a word after 1,000 others still counts."""
    judge = Seq2SeqJudge(checkpoint(saved(t5(), t5_words(), tmp_path / "random")))
    first, second = judge.decide([("rain " * 1000 + "snow", "sea"), ("rain " * 1000 + "old", "sea")])
    assert first.score != second.score


def test_a_pair_beyond_the_positions_of_a_model_is_undecided(tmp_path: Path) -> None:
    config = BartConfig(
        vocab_size=len(t5_words()), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=30, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    judge = Seq2SeqJudge(checkpoint(saved(BartForConditionalGeneration(config), t5_words(), tmp_path / "bart")))
    long, short = judge.decide([("rain " * 50, "sea"), ("rain", "sea")])
    assert long == Decision(None, "the pair has 56 tokens; the judge reads 30")
    assert short.entailed is not None


# -- both ----------------------------------------------------------------------------------------------------------


def test_names_tell_weights_types_labels_and_thresholds_apart(nli: str, true: str, tmp_path: Path) -> None:
    moved = tmp_path / "tiny-nli"
    shutil.copytree(nli, moved)
    assert ClassifierJudge(checkpoint(str(moved))).name == ClassifierJudge(checkpoint(nli)).name
    saved(bert(), bert_words(), moved)
    half = Checkpoint(nli, ModelSettings(dtype="bfloat16", device="cpu"))
    names = {
        ClassifierJudge(checkpoint(nli)).name,
        ClassifierJudge(checkpoint(str(moved))).name,
        ClassifierJudge(half).name,
        ClassifierJudge(checkpoint(nli), "NEUTRAL").name,
        ClassifierJudge(checkpoint(nli), threshold=0.5).name,
        Seq2SeqJudge(checkpoint(true)).name,
    }
    assert len(names) == 6
    assert str(tmp_path) not in "".join(names)


def test_batches_hold_every_pair_once_longest_first() -> None:
    pairs = [("a" * n, "b") for n in (3, 9, 1, 7, 5)]
    batches: list[list[int]] = []

    def decide(batch: list[Pair]) -> list[Decision]:
        batches.append([pairs.index(pair) for pair in batch])
        return [Decision(True, premise) for premise, _ in batch]

    decisions = decide_by_length(pairs, 2, decide)
    assert batches == [[1, 3], [4, 0], [2]]
    assert [decision.reason for decision in decisions] == [premise for premise, _ in pairs]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch size is 0; expected at least 1"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected one of auto, float32, bfloat16"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSettings(**settings)


def test_an_unknown_device_is_named(nli: str) -> None:
    with pytest.raises(UsageError, match="device is 'gpu'; expected cpu, cuda or cuda:N"):
        ClassifierJudge(Checkpoint(nli, ModelSettings(device="gpu"))).decide(PAIRS)


def test_a_tokenizer_that_needs_a_library_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(saved(t5(), t5_words(), tmp_path / "t5"))
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"no model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: False)
    with pytest.raises(UsageError, match=r"needs: pip install sentencepiece protobuf"):
        Seq2SeqJudge(checkpoint(str(folder))).decide(PAIRS)


def test_decided_before_means_no_weights_are_read(nli: str, tmp_path: Path) -> None:
    from cosup.evaluation.judging.cache import CachedJudge

    decided = CachedJudge(ClassifierJudge(checkpoint(nli)), tmp_path).decide(PAIRS)
    judge = ClassifierJudge(checkpoint(nli))
    assert CachedJudge(judge, tmp_path).decide(PAIRS) == decided
    assert "_model" not in vars(judge)
