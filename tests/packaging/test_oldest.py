"""The file of oldest versions is of `pyproject.toml` as it is."""

from __future__ import annotations

from tests.packaging.oldest import HOUSE, oldest, torch_pin


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    """Else write it anew: `python -m tests.packaging.oldest > constraints-oldest.txt`."""
    written = (HOUSE / "constraints-oldest.txt").read_text(encoding="utf-8")
    assert written == oldest()
    assert torch_pin() in written
    assert "\ntransformers==5." in written
