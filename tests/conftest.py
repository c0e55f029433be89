"""What holds for every test: nothing is downloaded, and torch doesn't fight for cores.

Set here, before torch or transformers is imported, since both read it on import.
"""

from __future__ import annotations

import gc
import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # which inherits what is set below in the process that started it
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["NO_COLOR"] = "1"
os.environ.pop("FORCE_COLOR", None)

import hypothesis
import pytest

# A busy machine is no failure.
hypothesis.settings.register_profile("cosup", deadline=None)
hypothesis.settings.load_profile("cosup")

pytest_plugins = ["tests.pairs", "tests.commands"]


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of later collections, which trainers ask for: 0.3 s each else."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and experiments draw nothing, which takes longer than what tiny models do, but where `pictures` is asked."""
    if "pictures" not in request.fixturenames:
        for module, name in (("cosup.training.run", "draw_curves"), ("cosup.experimenting", "_draw")):
            if module in sys.modules:
                monkeypatch.setattr(sys.modules[module], name, lambda *given: None)


@pytest.fixture
def pictures() -> None:
    """Runs and experiments draw their pictures."""
