"""Vectors in files read like an array that is in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.index.shards import ShardedVectors

LENGTHS = [4, 4, 1, 5]
N, D = sum(LENGTHS), 3
VALUES = np.arange(N * D, dtype=np.float32).reshape(N, D)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> ShardedVectors:
    folder, start, paths = tmp_path_factory.mktemp("shards"), 0, []
    for number, length in enumerate(LENGTHS):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], VALUES[start : start + length])
        start += length
    return ShardedVectors(paths, LENGTHS, D, np.dtype(np.float32))


def test_its_shape_is_that_of_all_files(vectors: ShardedVectors) -> None:
    assert (vectors.shape, vectors.ndim, len(vectors), vectors.dtype) == ((N, D), 2, N, VALUES.dtype)
    np.testing.assert_array_equal(np.asarray(vectors), VALUES)
    np.testing.assert_array_equal(np.asarray(vectors, dtype=np.float64), VALUES)
    np.testing.assert_array_equal(list(vectors), VALUES)
    assert [len(part) for part in vectors.parts()] == LENGTHS


numbers = st.one_of(st.none(), st.integers(-N - 3, N + 3))


@given(start=numbers, stop=numbers, step=st.sampled_from([None, 1, 2, 5, -1, -3]))
def test_slices(vectors: ShardedVectors, start: int | None, stop: int | None, step: int | None) -> None:
    np.testing.assert_array_equal(vectors[start:stop:step], VALUES[start:stop:step])


@given(rows=st.lists(st.integers(-N, N - 1), max_size=30))
def test_rows_by_number(vectors: ShardedVectors, rows: list[int]) -> None:
    found = np.array(rows, dtype=np.int64)
    np.testing.assert_array_equal(vectors[found], VALUES[found])
    for row in rows:
        np.testing.assert_array_equal(vectors[row], VALUES[row])


def test_rows_by_mask(vectors: ShardedVectors) -> None:
    mask = np.arange(N) % 3 == 0
    np.testing.assert_array_equal(vectors[mask], VALUES[mask])


@pytest.mark.parametrize("row", [N, -N - 1])
def test_rows_that_are_not_there(vectors: ShardedVectors, row: int) -> None:
    with pytest.raises(IndexError):
        vectors[row]
    with pytest.raises(IndexError):
        vectors[np.array([row])]


def test_what_is_read_can_be_changed_without_harm(vectors: ShardedVectors) -> None:
    vectors[0:2][:] = -1
    next(vectors.parts())[:] = -1
    np.testing.assert_array_equal(vectors[:], VALUES)
