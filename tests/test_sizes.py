"""Files and functions of the house stay short enough to be read at once."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE, FUNCTION, MEDIAN = 400, 60, 12  # lines at most: of a file; of a function without its docstring; of most bodies
# Folders, and the fewest functions that they have. An example is one `main` to be read from top to bottom: what is
# usual of its functions is not asked for, only that none is long.
FOLDERS = {"cosup": 1000, "tests": 1000, "benchmarks": 300, "examples": 0}
MODULES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in FOLDERS}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def docstring_lines(function: Function) -> int:
    if ast.get_docstring(function, clean=False) is None:
        return 0
    return lines_of(function.body[0])


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def length_of(function: Function) -> int:
    return lines_of(function) - docstring_lines(function)


def body_of(function: Function) -> int:
    """Count the lines from the first statement to the last; none where there is a docstring alone."""
    statements = function.body[1:] if docstring_lines(function) else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("module", [m for own in MODULES.values() for m in own], ids=lambda m: str(m.relative_to(ROOT)))
def test_a_file_is_read_at_one_sitting(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    count = len(source.splitlines())
    assert count <= FILE, f"{count} lines, more than {FILE}: part it where its subject does, not where it is full"
    long = {f.name: length_of(f) for f in functions_of(source) if length_of(f) > FUNCTION}
    assert not long, f"longer than {FUNCTION} lines without the docstring: {long}"


@pytest.mark.parametrize("folder", [folder for folder, fewest in FOLDERS.items() if fewest])
def test_most_functions_are_short(folder: str) -> None:
    bodies = [body_of(f) for module in MODULES[folder] for f in functions_of(module.read_text(encoding="utf-8"))]
    assert len(bodies) > FOLDERS[folder]
    assert statistics.median(bodies) <= MEDIAN


def test_lines_are_counted_as_they_stand() -> None:
    """A docstring counts for nothing, a decorator for nothing, a signature over three lines for three."""
    source = '''@cache
def f(
    a: int,
) -> int:
    """One.

    Two.
    """
    b = a

    return b
'''
    (function,) = functions_of(source)
    assert (length_of(function), body_of(function)) == (6, 3)
