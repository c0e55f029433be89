"""From examples to a step's packs: passages are read as the pair reads them, and draws stay within the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.data.collate import ExampleDataset
from cosup.training.batches import collated, collator_of, drawn_besides, measuring
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, pair
from tests.training.trained import quiet_config


@pytest.mark.parametrize("packing", [True, False])
def test_passages_are_read_after_the_pairs_own_prompt(packing: bool, tmp_path: Path) -> None:
    """As embedders made elsewhere want it: in packs, in those of measurements, and in the pool of recall alike."""
    model = pair({})
    model.configure(passage_prompt="book ")
    examples = [model.example_encoder().example(e, pairs.BY_ID) for e in MIXED]
    collator = collator_of(model, quiet_config(tmp_path, packing=packing), pairs.BY_ID)
    for made in (collator, measuring(collator)):
        (pack,) = collated(made, examples[:1], 1)
        wanted = [model.encode_passage(pairs.BY_ID[i].rendered) for i in dict.fromkeys(MIXED[0].passage_ids)]
        rows = pack["passage_input_ids"]
        if packing:
            assert [ids.tolist() for ids in rows[0].split(pack["passage_lengths"].tolist())] == wanted
        else:
            assert [
                row[mask == 1].tolist() for row, mask in zip(rows, pack["passage_attention_mask"], strict=True)
            ] == wanted
    metrics = CoSupervisionTrainer(model, quiet_config(tmp_path), MIXED, pairs.PASSAGES, MIXED).evaluate()
    assert 0 <= metrics["eval_recall@1"] <= 1


def test_what_is_drawn_besides_is_of_the_data_and_not_of_the_step(tmp_path: Path) -> None:
    """As many as there is room for, each once and only up to its last `[Ret]`; the same for the same step."""
    encoder = pair({}).example_encoder()
    dataset = ExampleDataset(MIXED, pairs.BY_ID, encoder)
    args = quiet_config(tmp_path, nsp_batch_size=6)
    step = [MIXED[0].id, MIXED[1].id]
    drawn = drawn_besides(dataset, step, args, 3)
    ids = [e.example_id for e in drawn]
    assert 3 <= len(ids) == len(set(ids)) <= 4  # one of the examples has no [Ret]
    assert not set(ids) & set(step)
    assert all(e.input_ids[-1] == encoder.control.ret for e in drawn)
    assert ids == [e.example_id for e in drawn_besides(dataset, step, args, 3)]
    assert drawn_besides(dataset, step, quiet_config(tmp_path), 3) == []
