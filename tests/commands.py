"""Command lines run in the test's own process, and a demo of toy size for those that need one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cosup.cli import main
from cosup.demo import DemoSettings

TOY_DEMO = DemoSettings(
    train_entities=400, test_entities=20, width=32, generator_layers=2, embedder_layers=1, steps=2, batch_size=4
)


@dataclass
class Done:
    code: int
    out: str
    err: str


class Cosup:
    """Runs command lines in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Done:
        self.capsys.readouterr()
        code = main([str(word) for word in words])
        captured = self.capsys.readouterr()
        return Done(code, captured.out, captured.err)

    def refused(self, *words: object, code: int = 2) -> str:
        """Run what must fail: one or two lines on standard error, nothing on standard output."""
        done = self(*words)
        assert done.code == code, done.err
        assert done.out == ""
        assert 1 <= len(done.err.splitlines()) <= 2, done.err
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err
        return done.err


@pytest.fixture
def cosup(capsys: pytest.CaptureFixture[str]) -> Cosup:
    """Return what runs command lines."""
    return Cosup(capsys)
