"""Proof 10: the README's commands run, in their order, as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosup.console import Console
from cosup.demo import run_demo
from tests.blocks import end_server, marked_blocks, run_block
from tests.commands import TOY_DEMO

README = Path(__file__).parents[1] / "README.md"
BLOCKS = marked_blocks(README)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """Every marked block, after a demo of toy size in place of `make demo`; what they promise is there afterwards."""
    run_demo(tmp_path / "runs" / "demo", settings=TOY_DEMO, console=Console(quiet=True))
    try:
        printed = [run_block(language, code, tmp_path) for language, code in BLOCKS]
    finally:
        end_server(tmp_path)
    reports = ("runs/mine/model/cosup.json", "runs/mine/report/report.json", "runs/experiment/main.json")
    for made in (*reports, "runs/notes-index/index.json"):
        assert (tmp_path / made).is_file(), made
    assert (tmp_path / "notes.jsonl").read_text(encoding="utf-8").count("\n") == 2
    assert any("espresso" in text for text in printed)
    assert any('"object":"chat.completion"' in text for text in printed)


def test_every_kind_of_command_is_among_them() -> None:
    """The marked blocks call every command but the demo, so that none goes untested unseen."""
    code = "\n".join(code for _, code in BLOCKS)
    for command in ("ask", "train", "index", "generate", "evaluate", "info", "convert", "experiment", "serve", "join"):
        assert re.search(rf"^cosup {command} ", code, flags=re.MULTILINE), command


@pytest.mark.parametrize(
    ("section", "commands"),
    [
        ("Ask", ["ask"]),
        ("Train on your own data", ["info", "train"]),
        ("Index your own documents", ["index", "ask"]),
        ("Evaluate", ["index", "generate", "evaluate"]),
        ("Serve", ["serve"]),
    ],
)
def test_each_step_begins_with_one_block_to_copy_that_runs(section: str, commands: list[str]) -> None:
    """It is the section's first block and marked, so that the test above runs it as it is."""
    text = README.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    before, _, code = text.partition("```sh\n")
    assert before.endswith("<!-- test -->\n")
    assert re.findall(r"^cosup (\w+) ", code.split("```")[0], flags=re.MULTILINE) == commands
