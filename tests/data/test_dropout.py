"""Passage dropout: what is left of an example, and that the draw can be made again."""

from __future__ import annotations

import pytest

from cosup.data.dropout import PassageDropout
from cosup.data.encoding import Kind
from tests import pairs
from tests.training.examples import pair


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_dropped_passages_are_not_read_and_still_to_be_picked(share: float) -> None:
    """What stays is the example without those tokens; the draw is that of seed, epoch and example."""
    encoder = pair({}).example_encoder()
    drop, gone, epochs = PassageDropout(share, seed=3), 0, set()
    for example in pairs.EXAMPLES:
        whole = encoder.example(example, pairs.BY_ID)
        before = (list(whole.input_ids), list(whole.ret_positions))
        for epoch in range(8):
            drop.epoch = epoch
            left = drop(whole)
            assert left == drop(whole)
            assert [left.input_ids[i] for i in left.ret_positions] == [encoder.control.ret] * len(whole.ret_positions)
            assert left.passage_ids == whole.passage_ids
            pieces = [encoder.passage(pairs.BY_ID[i]) for i in whole.passage_ids]
            read = [i for i, kind in zip(left.input_ids, left.kinds, strict=True) if kind == Kind.PASSAGE]
            kept = [n for n in range(len(pieces)) if left.kinds[left.ret_positions[n] + 1] == Kind.PASSAGE]
            assert read == [token for n in kept for token in pieces[n]]
            others = [i for i, kind in zip(whole.input_ids, whole.kinds, strict=True) if kind != Kind.PASSAGE]
            assert others == [i for i, kind in zip(left.input_ids, left.kinds, strict=True) if kind != Kind.PASSAGE]
            gone += len(pieces) - len(kept)
            epochs.add((epoch, len(left.input_ids)))
        assert (list(whole.input_ids), list(whole.ret_positions)) == before
    count = 8 * sum(len(e.passage_ids) for e in pairs.EXAMPLES)
    assert gone == count if share == 1 else 0.3 * count < gone < 0.7 * count
