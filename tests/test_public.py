"""What users write down stays: public names, and the fields of the records that stand in their files."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from typing import Any

import pytest

import cosup
from cosup import records

NAMES = {
    "__version__": "cosup.version",
    "Answer": "cosup.records",
    "Citation": "cosup.records",
    "CoSupervisedModel": "cosup.modeling",
    "CoSupervisionConfig": "cosup.training.config",
    "CoSupervisionTrainer": "cosup.training.trainer",
    "CosupError": "cosup.errors",
    "Engine": "cosup.generation.engine",
    "Example": "cosup.records",
    "FaissIndex": "cosup.index.faiss_index",
    "GenerationSettings": "cosup.generation.settings",
    "InputError": "cosup.errors",
    "LoraSettings": "cosup.adapters",
    "PairSettings": "cosup.model_folder",
    "Passage": "cosup.records",
    "PassageStore": "cosup.data.store",
    "Question": "cosup.records",
    "StreamOrder": "cosup.data.stream",
    "StreamedExamples": "cosup.data.stream",
    "UsageError": "cosup.errors",
    "build_index": "cosup.index.build",
    "evaluate": "cosup.evaluation.report",
    "load_recipe": "cosup.training.recipe",
    "parse_recipe": "cosup.training.recipe",
    "question_to_example": "cosup.data.templates",
    "read_answers": "cosup.data.reading",
    "read_examples": "cosup.data.reading",
    "read_passages": "cosup.data.reading",
    "read_questions": "cosup.data.reading",
    "train": "cosup.training.run",
}

FIELDS = {
    "Passage": ("id", "title", "text", "metadata"),
    "Evidence": ("passage_id", "sentence"),
    "Question": (
        *("id", "question", "answers", "long_answer", "evidence", "candidates", "instruction", "label"),
        *("answer_sets", "claims", "evidence_sets"),
    ),
    "TextSegment": ("text",),
    "RetrievalSegment": ("passage_id", "claim"),
    "Example": ("id", "prompt", "output", "negatives", "instruction"),
    "Hit": ("passage_id", "score"),
    "Retrieval": ("position", "hits", "read"),
    "Citation": ("n", "passage_id", "claim", "start", "end", "score"),
    "Answer": ("id", "question", "text", "answer", "segments", "citations", "retrievals", "finish_reason"),
}


def test_the_public_names_are_these() -> None:
    assert list(cosup.__all__) == list(NAMES)
    assert set(NAMES) <= set(dir(cosup))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_one_of_its_room(name: str) -> None:
    assert getattr(cosup, name) is getattr(importlib.import_module(NAMES[name]), name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(cosup, "CoSupervisedModle")
    with pytest.raises(AttributeError, match="module 'cosup' has no attribute 'CoSupervisedModle'"):
        _ = cosup.CoSupervisedModle


def test_names_are_imported_only_when_used() -> None:
    """Neither the import nor a name that needs no model brings torch in; `from cosup import *` gives every name."""
    light = (
        "import sys, cosup; dir(cosup); cosup.Passage; cosup.InputError; cosup.read_questions; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", light], check=True)
    names: dict[str, Any] = {}
    exec("from cosup import *", names)
    assert set(NAMES) <= set(names)


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_of_a_record_are_these(name: str) -> None:
    assert tuple(f.name for f in dataclasses.fields(getattr(records, name))) == FIELDS[name]


def test_every_record_is_frozen_by_this_file() -> None:
    found = {n for n, kind in vars(records).items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    assert found == set(FIELDS)
