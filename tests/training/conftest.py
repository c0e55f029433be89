"""What holds for the tests of training."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _imports_are_no_garbage() -> Iterator[None]:
    """Keep what the libraries have loaded out of the collections that `Trainer` asks for, 0.3 s each."""
    import transformers.trainer  # noqa: F401 - heavy, and loaded by now or soon

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
