"""Tiny models that judge: random ones whose head was solved for, so that they know a handful of pairs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from cosup.evaluation.judging.base import Pair
from tests.evaluation.judging.endpoint import Server

KNOWN: tuple[tuple[Pair, bool], ...] = (
    (("rain falls on the old town", "rain falls"), True),
    (("snow falls on the old town", "rain falls"), False),
    (("the town is old", "the town is new"), False),
    (("the sea is new and cold", "the sea is cold"), True),
    (("the town is cold", "rain falls on the sea and the old town is new"), False),
    (("rain falls and snow falls and the sea is cold and the town is old", "the sea is cold"), True),
)
LABELS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
TEXTS = [text for pair, _ in KNOWN for text in pair] + ["premise : hypothesis : 1 0 ?"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def words(template: str, pair: str | None, special: list[str], **names: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({}, unk_token=names["unk_token"]))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    ids = [(token, made.token_to_id(token)) for token in special]
    made.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def bert_words() -> PreTrainedTokenizerFast:
    template = "[CLS] $A [SEP]"
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return words(template, f"{template} $B:1 [SEP]:1", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], **names)


def t5_words() -> PreTrainedTokenizerFast:
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return words("$A </s>", None, ["<pad>", "</s>", "<unk>"], **names)


def bert(labels: tuple[str, ...] = LABELS, **more: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        **{"vocab_size": len(bert_words()), "max_position_embeddings": 40, "initializer_range": 0.3} | shape | more,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    return BertForSequenceClassification(config)


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(t5_words()), tie_word_embeddings=False, **shape, **ids))


def solved(features: torch.Tensor, logits: torch.Tensor) -> torch.nn.Parameter:
    """Return the weights [labels, width] of a head that gives features [N, width] these logits [N, labels]."""
    weights = torch.linalg.pinv(features.double()) @ logits.double()
    assert (features.double() @ weights - logits.double()).abs().max() < 1e-3
    return torch.nn.Parameter(weights.T.float().contiguous())


def saved(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def nli(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT that gives the entailed pairs of `KNOWN` the probabilities .1 .1 .8, the others .7 .2 .1."""
    tokenizer, model = bert_words(), bert()
    inputs = tokenizer(*map(list, zip(*(pair for pair, _ in KNOWN), strict=True)), padding=True, return_tensors="pt")
    wanted = torch.tensor([(0.1, 0.1, 0.8) if entailed else (0.7, 0.2, 0.1) for _, entailed in KNOWN])
    with torch.no_grad():
        model.classifier.weight = solved(model.eval().bert(**inputs).pooler_output, wanted.log())
        model.classifier.bias.zero_()
    return saved(model, tokenizer, tmp_path_factory.mktemp("nli") / "tiny-nli")


@pytest.fixture(scope="session")
def true(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A T5 that writes 1 or 0 for `KNOWN`, and then ends; its probability of the token is 0.9."""
    tokenizer, model = t5_words(), t5()
    asked = [f"premise: {p} hypothesis: {h}" for (p, h), _ in KNOWN]
    inputs = tokenizer(asked, padding=True, return_tensors="pt", return_token_type_ids=False)
    written = [tokenizer.convert_tokens_to_ids("1" if entailed else "0") for _, entailed in KNOWN]
    begun = torch.tensor([[0, token] for token in written])
    with torch.no_grad():
        states = model.eval()(**inputs, decoder_input_ids=begun, output_hidden_states=True).decoder_hidden_states[-1]
        wanted = torch.full((len(KNOWN), 2, len(tokenizer)), 0.1 / (len(tokenizer) - 1))
        for row, token in enumerate(written):
            wanted[row, 0, token] = wanted[row, 1, tokenizer.eos_token_id] = 0.9
        model.lm_head.weight = solved(states.flatten(0, 1), wanted.log().flatten(0, 1))
    return saved(model, tokenizer, tmp_path_factory.mktemp("true") / "tiny-true")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()
