"""Every module has tests: in the file of its name, or in those named here, which import it or what uses it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE, TESTS = ROOT / "cosup", ROOT / "tests"
# A module, or all of a folder that have no file of their name -> the files that prove them; `x` is test_x.py.
ELSEWHERE = {
    "checkpoints": "modeling pairings",
    "commands/": "cli cli_refusals help",
    "data/atlas_words": "data/atlas",
    "data/formats/base": "data/convert",
    "data/formats/kilt_knowledge": "data/formats/kilt",
    "data/jsonl": "data/reading",
    "data/lines": "data/stream data/reading",
    "data/padding": "data/collate",
    "data/paths": "data/convert data/writing",
    "data/sources": "data/reading data/store",
    "data/store_build": "data/store",
    "data/store_layout": "data/store",
    "data/stream_sources": "data/stream data/stream_records",
    "data/tables": "data/reading data/stream_records",
    "data/wordlevel": "tokens",
    "data/yaml_files": "security/code",
    "errors": "records index/contract",
    "evaluation/alce_records": "evaluation/alce evaluation/alce_citations",
    "evaluation/figures": "evaluation/html",
    "evaluation/judging/classifier": "evaluation/judging/models",
    "evaluation/judging/loading": "evaluation/judging/models",
    "evaluation/judging/seq2seq": "evaluation/judging/models",
    "evaluation/kilt_measures": "evaluation/kilt",
    "evaluation/kilt_records": "evaluation/kilt",
    "evaluation/left_out": "evaluation/report",
    "evaluation/markup": "evaluation/html",
    "evaluation/mauve_score": "evaluation/alce",
    "evaluation/official": "evaluating",
    "evaluation/page_data": "evaluation/html",
    "evaluation/qampari": "evaluation/alce",
    "evaluation/report_text": "evaluation/report",
    "evaluation/rouge": "evaluation/kilt evaluation/alce",
    "evaluation/scoring": "evaluation/report",
    "evaluation/sentence_splitter": "evaluation/alce",
    "evaluation/suite_checks": "evaluation/suites",
    "evaluation/suite_run": "evaluation/suites",
    "evaluation/suite_table": "evaluation/suites",
    "experimenting": "experiments/table",
    "experiments/addresses": "experiments/experiment",
    "experiments/models": "experiments/experiment",
    "experiments/provenance": "experiments/experiment",
    "experiments/run": "experiments/experiment",
    "fields": "index/metadata records",
    "generation/beam": "generation/settings",
    "generation/prompts": "generation/engine",
    "generation/retrieval": "generation/retrievers/every_retriever",
    "generation/searching": "serving/corpus",
    "groups": "lean",
    "index/adding": "index/faiss_building",
    "index/base": "index/faiss_building index/contract",
    "index/build": "index/faiss_building",
    "index/corpus": "index/faiss_building",
    "index/manifest": "index/faiss_index security/paths",
    "index/milvus_build": "index/milvus_index",
    "index/milvus_client": "index/milvus_index index/milvus_reading",
    "index/milvus_expressions": "index/milvus_place",
    "index/milvus_state": "index/milvus_reading",
    "index/progress": "index/embed",
    "index/segment": "index/contract",
    "index/structures": "index/faiss_index",
    "index/vectors": "index/faiss_index",
    "info/": "info/describe",
    "model_folder": "modeling",
    "pair": "modeling",
    "processes": "index/sharing training/distributed",
    "sentence_folder": "training/sentence_folders security/paths",
    "serving/app": "serving/chat",
    "serving/errors": "serving/chat",
    "serving/jobs": "serving/faults",
    "serving/lanes": "serving/corpus",
    "serving/metrics": "serving/guard serving/chat",
    "serving/runner": "serving/faults",
    "serving/schemas": "serving/chat",
    "serving/server": "serving/faults",
    "serving/settings": "serving/guard",
    "serving/streaming": "serving/faults",
    "slots": "generation/cache",
    "temperature": "pairings",
    "training/config": "training/trainer training/recipe",
    "training/length": "training/plan",
    "training/preparing": "training/trainer",
    "training/progress": "training/run",
    "training/saving": "training/faults",
    "training/shapes": "training/plan",
    "training/sharding": "training/distributed",
    "training/step": "training/trainer",
    "training/sweep": "training/mining training/validation",
    "version": "help",
}
# Command lines reach these; what their tests import says nothing of it.
BY_COMMAND = (
    "commands/",
    "evaluation/official",
    "evaluation/suite_checks",
    "evaluation/suite_run",
    "experiments/figures",
)


def module_names() -> list[str]:
    found = (path.relative_to(HOUSE).with_suffix("").as_posix() for path in HOUSE.rglob("*.py"))
    return sorted(name for name in found if not name.rpartition("/")[2].startswith("__"))


def file_named(name: str) -> Path:
    folder, _, last = name.rpartition("/")
    return TESTS / folder / f"test_{last}.py"


def entry_of(module: str) -> str:
    """Return the key of the table that a module is under: its own, or its folder's."""
    return module if module in ELSEWHERE else module.rpartition("/")[0] + "/"


OTHERS = [name for name in module_names() if not file_named(name).is_file()]


def test_each_module_has_a_file_of_its_name_or_a_line_here() -> None:
    assert [name for name in OTHERS if entry_of(name) not in ELSEWHERE] == []
    assert sorted(ELSEWHERE.keys() - {entry_of(name) for name in OTHERS}) == [], "no such module, or it has its file"


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the modules of the house that a file imports, with those of helpers in `tests/` and of whole packages."""
    found: set[str] = set()
    for name in imports_of(path):
        place = ROOT.joinpath(*name.split("."))
        own = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not own.is_file() or own == path:
            continue
        if name.startswith("tests.") or (place.is_dir() and HOUSE not in path.parents):
            found |= imported(own)
        elif name.startswith("cosup."):
            found.add(place.relative_to(HOUSE).as_posix())
    return frozenset(found)


def imports_of(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return names | {n for f in froms for n in (str(f.module), *(f"{f.module}.{alias.name}" for alias in f.names))}


@pytest.mark.parametrize("module", OTHERS)
def test_the_files_named_are_there_and_come_near_the_module(module: str) -> None:
    """Each imports the module or one that imports it, or runs command lines where those are the way to it."""
    for name in ELSEWHERE[entry_of(module)].split():
        path = file_named(name)
        assert path.is_file(), f"{path} is not there: put right the line of {entry_of(module)!r}"
        if module.startswith(BY_COMMAND):
            assert "cosup: Cosup" in path.read_text(encoding="utf-8"), f"{name} runs no command line"
            continue
        near = imported(path)
        assert module in near.union(*(imported(file_of(own)) for own in near)), f"{name} does not come near {module}"


def file_of(module: str) -> Path:
    place = HOUSE / module
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
