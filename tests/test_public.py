"""What users write down stays: public names, fields of records and of settings, keys of recipes."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from typing import Any

import pytest
from transformers import TrainingArguments

import cosup
from cosup import records
from cosup.training import recipe

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

SETTINGS = {
    "GenerationSettings": (
        *("max_new_tokens", "max_length", "do_sample", "temperature", "top_p", "seed", "ret_first", "ctx_truncate"),
        *("max_retrievals", "top_k", "read", "min_score", "distinct", "filter"),
        *("beam", "beam_passages", "beam_retrieval_weight", "draft_tokens"),
    ),
    "LoraSettings": ("r", "alpha", "dropout", "target_modules"),
    "PairSettings": (
        *("similarity", "temperature", "prompt", "max_length", "max_passage_length", "pooling", "query"),
        *("query_prompt", "passage_prompt"),
    ),
    "StreamOrder": ("seed", "shuffle_buffer", "batch_size", "rank", "ranks", "repeat"),
}

#: What `CoSupervisionConfig` has besides the fields of `TrainingArguments`.
TRAINING = (
    *("supervision", "nsp_weight", "nsp_weight_end", "nsp_warmup_steps", "similarity", "temperature", "pooling"),
    *("supervise_passages", "passage_dropout", "mask_same_passage", "mask_same_answer", "learn_temperature"),
    *("symmetric_nsp", "gather", "attention", "packing", "micro_batch_tokens", "grad_cache", "nsp_batch_size"),
    *("ntp_chunk_tokens", "hard_negatives", "hard_negatives_depth", "hard_negatives_every", "freeze_embedder"),
    *("embedder_learning_rate", "muon_learning_rate", "same_title_examples", "curriculum_steps", "lr_epoch_decay"),
    *("save_minutes", "save_adapters", "recall_batch_tokens", "activation_checkpointing"),
)

RECIPE = ("generator", "embedder", "adapters", "supervision", "data", "objective", "training")
DATA = (
    *("passages", "questions", "examples", "eval_questions", "eval_examples", "max_eval_examples", "template"),
    *("prompt", "max_length", "max_passage_length", "streaming", "shuffle_buffer"),
)
OBJECTIVE = (
    *("preset", "similarity", "temperature", "learn_temperature", "nsp_weight", "nsp_weight_end", "nsp_warmup_steps"),
    *("pooling", "symmetric_nsp", "supervise_passages", "passage_dropout", "mask_same_passage", "mask_same_answer"),
    *("gather", "nsp_batch_size", "hard_negatives", "hard_negatives_depth", "hard_negatives_every"),
)

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


@pytest.mark.parametrize("name", SETTINGS)
def test_the_fields_of_settings_are_these(name: str) -> None:
    assert tuple(f.name for f in dataclasses.fields(getattr(cosup, name))) == SETTINGS[name]


def test_the_fields_of_training_are_these() -> None:
    inherited = {f.name for f in dataclasses.fields(TrainingArguments)}
    own = [f.name for f in dataclasses.fields(cosup.CoSupervisionConfig) if f.name not in inherited]
    assert own == [name for name in TRAINING if name not in inherited]
    assert set(TRAINING) <= {f.name for f in dataclasses.fields(cosup.CoSupervisionConfig)}


def test_the_keys_of_a_recipe_are_these() -> None:
    assert recipe.TOP_KEYS == RECIPE
    assert recipe.OBJECTIVE_KEYS == OBJECTIVE
    assert tuple(f.name for f in dataclasses.fields(recipe.DataSettings)) == DATA
    assert set(OBJECTIVE) - {"preset"} <= set(TRAINING)
