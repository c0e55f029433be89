"""The yardstick does what is said of it, and figures of a run are counted rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import yardstick
from yardstick import Counts, Meter

from cosup.data.encoding import EncodedExample, Kind
from tests.benchmarks.records import settings
from tests.pairs import BY_ID, EXAMPLES, encoder, pair

CPU = torch.device("cpu")


def encoded(model: Any, count: int = 4) -> list[EncodedExample]:
    own = encoder(model)
    found = [own.example(e, BY_ID) for e in EXAMPLES[:count]]
    found[0].add([found[0].input_ids[-1]] * 7, Kind.WRITTEN)  # so that the others are padded
    return found


def passage_encoder(model: Any) -> Callable[[str], list[int]]:
    return lambda passage_id: model.encode_passage(BY_ID[passage_id].rendered)


def batch_of(model: Any) -> dict[str, torch.Tensor]:
    return yardstick.collate(encoded(model), passage_encoder(model), settings())


# -- the yardstick -----------------------------------------------------------------------------------------------------


def test_the_yardstick_labels_padding_and_passages_and_not_the_prompt() -> None:
    model = pair()
    examples, batch = encoded(model), batch_of(model)
    for row, example in enumerate(examples):
        own, prompt = len(example.input_ids), sum(kind == Kind.PROMPT for kind in example.kinds)
        assert batch["labels"][row, :prompt].tolist() == [-100] * prompt
        assert batch["labels"][row, prompt:own].tolist() == example.input_ids[prompt:]
        assert set(batch["labels"][row, own:].tolist()) <= {0}
    assert (batch["attention_mask"][1:, -1] == 0).all()
    assert len(batch["passage_input_ids"]) == sum(len(e.passage_ids) for e in examples)


@torch.no_grad()
def test_the_yardstick_loss_is_the_one_computed_by_hand() -> None:
    model = pair()
    model.double()
    batch = batch_of(model)
    own = settings(nsp_weight=0.5)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    out = model.generator(ids, attention_mask=mask, output_hidden_states=True)
    terms = []
    for row in range(len(ids)):
        for place in range(1, ids.shape[1]):
            target = int(batch["labels"][row, place])
            if target != -100:
                terms.append(-float(out.logits[row, place - 1].log_softmax(-1)[target]))
    queries = out.hidden_states[-1][batch["ret_rows"], batch["ret_columns"]]
    states = model.embedder(batch["passage_input_ids"], attention_mask=batch["passage_attention_mask"])
    scores = queries @ states.last_hidden_state[:, -1].T
    nsp = [-float(scores[i].log_softmax(-1)[i]) for i in range(len(scores))]
    expected = sum(terms) / len(terms) + 0.5 * sum(nsp) / len(nsp)
    found = yardstick.step_loss(model.generator, model.embedder, batch, own)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_the_yardstick_reads_padding_states_as_embeddings() -> None:
    model = pair()
    batch = batch_of(model)
    assert (batch["passage_attention_mask"][:, -1] == 0).any()
    longer = dict(batch)
    for name in ("passage_input_ids", "passage_attention_mask"):
        longer[name] = torch.cat([batch[name], torch.zeros_like(batch[name][:, :3])], dim=1)
    losses = [float(yardstick.step_loss(model.generator, model.embedder, b, settings())) for b in (batch, longer)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)  # the fault it is there to show


def test_the_yardstick_clips_the_body_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair()
    norms: dict[str, float] = {}

    def spy(self: Any, closure: Any = None) -> None:
        for name, part in (("body", model.generator.base_model), ("embedder", model.embedder)):
            norms[name] = float(torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm())

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    examples, own = encoded(model), settings(max_norm=1e-3, nsp_weight=1.0)
    yardstick.train((model.generator, model.embedder), examples, passage_encoder(model), own, Meter(CPU))
    assert norms["body"] == pytest.approx(1e-3, rel=1e-2)
    assert norms["embedder"] > 1e-2


def test_the_yardstick_learns() -> None:
    model = pair()
    meter = Meter(CPU)
    examples = encoded(model) * 15
    losses = yardstick.train((model.generator, model.embedder), examples, passage_encoder(model), settings(1e-2), meter)
    assert len(losses) == len(meter.steps) == 15
    assert losses[-1] < 0.7 * losses[0]


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_packed_and_padded_batches_count_alike() -> None:
    ids, labels = torch.ones(1, 5, dtype=torch.long), torch.tensor([[-100, 7, 7, -100, 7]])
    packed = {"input_ids": ids, "lengths": torch.tensor([3, 2]), "labels": labels}
    packed |= {"passage_input_ids": ids[:, :4], "passage_lengths": torch.tensor([4])}
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    padded = {"input_ids": mask, "attention_mask": mask, "labels": torch.tensor([[-100, 7, 7], [-100, 7, -100]])}
    padded |= {"passage_input_ids": ids[:, :4], "passage_attention_mask": ids[:, :4]}
    expected = Counts(5, 4, 2 * 16, 13, 16, 3)  # packed rows are rounded up
    assert yardstick.count_batch(packed) == expected
    assert yardstick.count_batch(padded) == replace(expected, slots=10)
    assert yardstick.count_batch({"packs": [packed, padded]}) == Counts(10, 8, 42, 26, 32, 6)


def test_a_meter_leaves_the_warm_up_out_of_the_rate_and_not_of_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 10.0, 12.0, 16.0])
    monkeypatch.setattr(yardstick.time, "perf_counter", lambda: next(times))
    meter = Meter(CPU)
    meter.start()
    for real, slots in ((1, 2), (8, 10), (12, 12)):
        meter.add(Counts(generator=real - 1, embedder=1, slots=slots))
        meter.end_step()
    report = meter.report()
    assert report["rates"] == [4.0, 3.0]
    assert report["tokens_per_second"] == pytest.approx(20 / 6)  # a step counts by the time it takes
    assert report["padding_share"] == pytest.approx(1 - 21 / 24)


def test_peak_memory_grows_with_what_is_held() -> None:
    before = yardstick.peak_memory_gb(CPU)
    held = torch.ones(int(before * 1e9) // 4 + 50_000_000)
    after = yardstick.peak_memory_gb(CPU)
    assert after - before > 0.15
    assert held[0] == 1


@torch.no_grad()
def test_the_held_out_loss_is_over_what_the_model_writes_whatever_the_batch() -> None:
    model = pair()
    examples = encoded(model)
    terms = []
    for example in examples:
        logits = model.generator(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        for place, (token, kind) in enumerate(zip(example.input_ids, example.kinds, strict=True)):
            if kind == Kind.WRITTEN:
                terms.append(-float(logits[place - 1, token]))
    for size in (1, 4):
        found = yardstick.held_out_loss(model.generator, examples, size)
        assert found == pytest.approx(sum(terms) / len(terms), rel=1e-5)
