"""cosup: one language model that writes and retrieves, and cites what it read.

The names below are what a script needs; each is imported when it is first used, so that `import cosup` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cosup.version import __version__

if TYPE_CHECKING:
    from cosup.adapters import LoraSettings
    from cosup.data.reading import read_answers, read_examples, read_passages, read_questions
    from cosup.data.store import PassageStore
    from cosup.data.stream import StreamedExamples, StreamOrder
    from cosup.data.templates import question_to_example
    from cosup.errors import CosupError, InputError, UsageError
    from cosup.evaluation.report import evaluate
    from cosup.generation.engine import Engine
    from cosup.generation.settings import GenerationSettings
    from cosup.index.build import build_index
    from cosup.index.faiss_index import FaissIndex
    from cosup.model_folder import PairSettings
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Answer, Citation, Example, Passage, Question
    from cosup.training.config import CoSupervisionConfig
    from cosup.training.recipe import load_recipe, parse_recipe
    from cosup.training.run import train
    from cosup.training.trainer import CoSupervisionTrainer

__all__ = [
    "__version__",
    "Answer",
    "Citation",
    "CoSupervisedModel",
    "CoSupervisionConfig",
    "CoSupervisionTrainer",
    "CosupError",
    "Engine",
    "Example",
    "FaissIndex",
    "GenerationSettings",
    "InputError",
    "LoraSettings",
    "PairSettings",
    "Passage",
    "PassageStore",
    "Question",
    "StreamOrder",
    "StreamedExamples",
    "UsageError",
    "build_index",
    "evaluate",
    "load_recipe",
    "parse_recipe",
    "question_to_example",
    "read_answers",
    "read_examples",
    "read_passages",
    "read_questions",
    "train",
]

_HOMES = {
    "cosup.adapters": ("LoraSettings",),
    "cosup.data.reading": ("read_answers", "read_examples", "read_passages", "read_questions"),
    "cosup.data.store": ("PassageStore",),
    "cosup.data.stream": ("StreamOrder", "StreamedExamples"),
    "cosup.data.templates": ("question_to_example",),
    "cosup.errors": ("CosupError", "InputError", "UsageError"),
    "cosup.evaluation.report": ("evaluate",),
    "cosup.generation.engine": ("Engine",),
    "cosup.generation.settings": ("GenerationSettings",),
    "cosup.index.build": ("build_index",),
    "cosup.index.faiss_index": ("FaissIndex",),
    "cosup.model_folder": ("PairSettings",),
    "cosup.modeling": ("CoSupervisedModel",),
    "cosup.records": ("Answer", "Citation", "Example", "Passage", "Question"),
    "cosup.training.config": ("CoSupervisionConfig",),
    "cosup.training.recipe": ("load_recipe", "parse_recipe"),
    "cosup.training.run": ("train",),
    "cosup.training.trainer": ("CoSupervisionTrainer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cosup' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
