"""A tiny world of files: a made-up corpus, an untrained pair and its index, predictions, recipe and experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING = {
    "max_steps": 10,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "logging_steps": 1,
    "use_cpu": True,
    "learning_rate": 3e-3,
}


@dataclass(frozen=True)
class World:
    """Where everything lies; nothing here is changed by what is tried."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        """Return a place by its name: `model`, `index`, `passages.jsonl` as `passages_jsonl`."""
        if name.startswith("__"):
            raise AttributeError(name)
        stem, _, end = name.rpartition("_")
        return str(self.folder / (f"{stem}.{end}" if end in ("jsonl", "yaml", "txt") else name))


def make_world(folder: str, entities: int = 1200) -> int:
    """Write the world into a folder and return how many passages its large corpus has."""
    from cosup.data.atlas import build_atlas
    from cosup.data.writing import write_jsonl
    from cosup.index.build import build_index
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Passage

    place, world = Path(folder), World(Path(folder))
    atlas = build_atlas(seed=0, train_entities=entities, test_entities=20)
    passages = list(atlas.passages)[:600]
    known = {p.id for p in passages}
    asked = [q for q in atlas.test_questions if known.issuperset(q.gold_ids)][:40]
    changed = [Passage(p.id, p.title, f"{p.text} It was changed.") for p in passages[:50]]
    new = [Passage(f"new-{i}", p.title, f"{p.text} It is new.") for i, p in enumerate(passages[:50])]
    files = {"corpus": atlas.train_passages, "passages": passages, "questions": asked, "changed": changed, "new": new}
    for name, records in files.items():
        write_jsonl(place / f"{name}.jsonl", records)
    learnt = [q for q in atlas.train_questions if {e.passage_id for e in q.evidence} <= {p.id for p in files["corpus"]}]
    write_jsonl(place / "learnt.jsonl", learnt[:200])
    (place / "gone.txt").write_text("".join(f"{p.id}\n" for p in passages[:50]), encoding="utf-8")
    _write_pair(place, [p.rendered for p in [*files["corpus"], *passages]] + [q.question for q in [*asked, *learnt]])
    pair = CoSupervisedModel.from_pretrained(place / "model")
    build_index(pair, passages, world.index)
    _write_plans(place, world)
    return len(files["corpus"])


def _write_pair(place: Path, texts: list[str]) -> None:
    """Write a random two-layer Llama as `base`, and a pair that begins with it twice as `model`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosup.data.encoding import PROMPT
    from cosup.data.wordlevel import build_word_tokenizer
    from cosup.model_folder import PairSettings
    from cosup.modeling import CoSupervisedModel

    words = build_word_tokenizer([*texts, PROMPT, "search for the passage quote: begin end of quote."])
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    ends = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(vocab_size=len(words), num_attention_heads=2, max_position_embeddings=512, **shape, **ends)
    LlamaForCausalLM(config).save_pretrained(place / "base")
    words.save_pretrained(place / "base")
    base, settings = str(place / "base"), PairSettings(max_length=256, max_passage_length=96)
    CoSupervisedModel.from_base(base, base, settings).save_pretrained(place / "model")


def _write_plans(place: Path, world: World) -> None:
    """Write a recipe, and an experiment of two systems on one task."""
    import yaml

    lengths = {"max_length": 256, "max_passage_length": 96}
    data = {"passages": world.corpus_jsonl, "questions": world.learnt_jsonl, **lengths}
    recipe = {"generator": world.base, "embedder": world.base, "data": data, "training": TRAINING}
    files = {"passages": world.passages_jsonl, "questions": world.questions_jsonl}
    measures = {"retrieval": "passage_f1", "correctness": "contains_answer"}
    suite = {"generation": {"max_new_tokens": 12}, "tasks": {"one": {**files, **measures, "limit": 6}}}
    brief = {"recipe": world.recipe_yaml, "suite": world.suite_yaml, "seeds": [1]}
    changes = {"training.max_steps": 3, "training.save_strategy": "no"}
    systems = {"ntp": {"set": {"supervision": "ntp", **changes}, "retriever": "bm25"}, "both": {"set": changes}}
    experiment = {**brief, "output": "results", "systems": systems, "compare": [["both", "ntp"]]}
    for name, record in {"recipe": recipe, "suite": suite, "experiment": experiment}.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
