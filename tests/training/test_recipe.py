"""Recipes: every shipped one parses, and what cannot be used is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from cosup.errors import InputError
from cosup.training.config import CoSupervisionConfig
from cosup.training.recipe import OBJECTIVE_KEYS, TOP_KEYS, DataSettings, Recipe, known_keys, load_recipe, parse_recipe
from cosup.training.run import pair_settings
from tests.training.recipes import LEAST, refused, with_, written

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


# What ships


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_parses_and_gives_a_configuration(path: Path, tmp_path: Path) -> None:
    """On a machine without an accelerator too: bf16 asks for nothing that a CPU has not."""
    recipe = load_recipe(path, [("output_dir", str(tmp_path))])
    config = recipe.config()
    settings = pair_settings(recipe)
    assert config.output_dir == str(tmp_path)
    assert config.learning_rate == recipe.training["learning_rate"]
    assert settings.max_length == recipe.data.max_length
    assert settings.prompt == recipe.data.prompt


# What a recipe says


def test_the_least_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert recipe == Recipe("g", "e", "ntp+nsp", DataSettings(("p.jsonl",), ("q.jsonl",)), {}, {}, LEAST)
    config = recipe.config()
    assert (config.similarity, config.temperature, config.nsp_weight) == ("cosine", 0.05, 0.2)
    assert (config.supervise_passages, config.mask_same_passage) == (False, True)
    assert config.trains_ntp
    assert config.trains_nsp


def test_the_paper_preset_has_the_papers_values() -> None:
    config = parse_recipe(with_("objective", preset="paper")).config()
    assert (config.similarity, config.temperature, config.nsp_weight) == ("inner_product", 1.0, 0.01)
    assert (config.supervise_passages, config.mask_same_passage) == (True, False)


def test_the_objectives_own_keys_go_over_the_preset() -> None:
    config = parse_recipe(with_("objective", preset="paper", nsp_weight=0.5)).config()
    assert (config.similarity, config.nsp_weight) == ("inner_product", 0.5)


@pytest.mark.parametrize(
    ("supervision", "ntp", "nsp"), [("ntp+nsp", True, True), ("ntp", True, False), ("nsp", False, True)]
)
def test_the_supervisions(supervision: str, ntp: bool, nsp: bool) -> None:
    config = parse_recipe({**LEAST, "supervision": supervision}).config()
    assert (config.trains_ntp, config.trains_nsp) == (ntp, nsp)


def test_more_settings_go_over_the_recipe() -> None:
    recipe = parse_recipe(with_("training", learning_rate=1e-4, seed=3))
    config = recipe.config(seed=4)
    assert (config.learning_rate, config.seed) == (1e-4, 4)


def test_paths_are_one_or_several() -> None:
    data = parse_recipe(with_("data", passages=["a", "b"], eval_questions="c")).data
    assert (data.passages, data.questions, data.eval_questions) == (("a", "b"), ("q.jsonl",), ("c",))


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "2.0e-5", "'2e-5'", ".00002", "+2e-5"])
def test_a_learning_rate_is_a_number_however_it_is_spelled(text: str, tmp_path: Path) -> None:
    """YAML 1.1 takes `2e-5` for text."""
    record = yaml.safe_dump(LEAST) + f"training:\n  learning_rate: {text}\n"
    rate = load_recipe(written(tmp_path, record)).config().learning_rate
    assert isinstance(rate, float)
    assert rate == pytest.approx(2e-5)


def test_names_that_only_look_like_numbers_stay_text() -> None:
    recipe = parse_recipe({**LEAST, "generator": "e5", "embedder": "models/1e5b"})
    assert (recipe.generator, recipe.embedder) == ("e5", "models/1e5b")


# What is refused


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**LEAST, "genrator": "x"}, "unknown key 'genrator' (did you mean 'generator'?)"),
        (with_("data", pasages="x"), "unknown key 'data.pasages' (did you mean 'passages'?)"),
        (with_("objective", temprature=1), "unknown key 'objective.temprature' (did you mean 'temperature'?)"),
        (with_("training", learning_rat=1), "unknown key 'training.learning_rat' (did you mean 'learning_rate'?)"),
        (with_("training", zzzz=1), "unknown key 'training.zzzz'"),
        (with_("training", temperature=1), "unknown key 'training.temperature'"),
        (
            with_("objective", supervision="ntp"),
            "unknown key 'objective.supervision'",
        ),
        ({**LEAST, 3: 4}, "unknown key '3'"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_an_unknown_key_is_refused_with_the_nearest(record: dict[str, Any], message: str) -> None:
    assert refused(record) == f"recipe: {message}"


@pytest.mark.parametrize("key", ["generator", "embedder", "data"])
def test_a_missing_key_is_named(key: str) -> None:
    record = {name: value for name, value in LEAST.items() if name != key}
    assert refused(record) == f"recipe: no key '{key}'; a recipe needs generator, embedder and data"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**LEAST, "data": "x"}, "'data' is 'x'; expected a mapping"),
        ({**LEAST, "training": [1]}, "'training' is [1]; expected a mapping"),
        ({**LEAST, "generator": None}, "'generator' is None; expected a hub id, a folder or a .gguf file"),
        ({**LEAST, "embedder": 3}, "'embedder' is 3; expected a hub id, a folder or a .gguf file"),
        (with_("data", passages=3), "data.passages is 3; expected a path or a list of paths"),
        (with_("data", passages=[3]), "data.passages is [3]; expected a path or a list of paths"),
        (with_("data", passages={"a": 1}), "data.passages is {'a': 1}; expected a path or a list of paths"),
        (with_("data", passages=[]), "data.passages is missing; name the file or folder of the passages"),
        (with_("data", questions=None), "data needs either 'questions' or 'examples'"),
        (with_("data", examples="e.jsonl"), "data needs either 'questions' or 'examples'"),
        (with_("data", max_length="long"), "data.max_length is 'long'; expected a whole number of at least 1"),
        (with_("data", max_length=1.5), "data.max_length is 1.5; expected a whole number of at least 1"),
        (with_("data", max_length=None), "data.max_length is None; expected a whole number of at least 1"),
        (with_("data", max_eval_examples=0), "data.max_eval_examples is 0; expected a whole number of at least 1"),
        (with_("data", max_passage_length=True), "data.max_passage_length is True; expected a whole number of at"),
        (with_("data", template=3), "data.template is 3; expected text"),
        (with_("data", template="clams"), "data.template is 'clams' (did you mean 'claims'?); there are claims"),
        (
            with_("data", template="clams", questions=None, examples="e.jsonl"),
            "data.template is 'clams' (did you mean 'claims'?); there are claims",
        ),
        (with_("data", prompt=["{question}"]), "data.prompt is ['{question}']; expected text"),
    ],
    ids=lambda v: v[:40] if isinstance(v, str) else "",
)
def test_a_wrong_value_is_named(record: dict[str, Any], message: str) -> None:
    assert refused(record).startswith(f"recipe: {message}")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**LEAST, "supervision": "ntp+nps"}, "supervision is 'ntp+nps' (did you mean 'ntp+nsp'?); expected one of"),
        (with_("objective", preset="papr"), "preset is 'papr' (did you mean 'paper'?); there are default, paper"),
        (with_("objective", preset=["paper"]), "preset is '['paper']' (did you mean 'paper'?); there are default"),
        (with_("objective", similarity="cosin"), "similarity is 'cosin' (did you mean 'cosine'?); expected one of"),
        (
            with_("objective", similarity=["cosine"]),
            "similarity is ['cosine'] (did you mean 'cosine'?); expected one of",
        ),
        (with_("objective", temperature=0), "temperature is 0; expected a number above 0"),
        (with_("objective", temperature="warm"), "recipe: objective.temperature is 'warm'; expected a number"),
        (with_("objective", nsp_weight=-1), "nsp_weight is -1; expected a number of at least 0"),
        (with_("objective", nsp_weight=float("nan")), "nsp_weight is nan; expected a number of at least 0"),
        (
            with_("objective", supervise_passages="yes please"),
            "recipe: objective.supervise_passages is 'yes please'; expected true",
        ),
        (with_("training", same_title_examples=0), "same_title_examples is 0; expected at least 1"),
        (
            with_("training", same_title_examples="two"),
            "recipe: training.same_title_examples is 'two'; expected a whole",
        ),
        (with_("training", learning_rate=-1e-4), "learning_rate is -0.0001; expected a number of at least 0"),
        (with_("training", embedder_learning_rate=-1.0), "embedder_learning_rate is -1.0; expected a number of at"),
        (with_("training", num_train_epochs=-1), "num_train_epochs is -1; expected a number of at least 0"),
        (with_("training", per_device_train_batch_size=0), "per_device_train_batch_size is 0; expected at least 1"),
        (with_("training", gradient_accumulation_steps=0), "gradient_accumulation_steps is 0; expected at least 1"),
        (with_("training", recall_batch_tokens=0), "recall_batch_tokens is 0; expected at least 1"),
        (with_("training", max_steps=0), "max_steps is 0; expected at least 1, or -1"),
        (with_("training", seed=-1), "seed is -1; expected a number of at least 0"),
        (with_("training", max_steps=-2), "max_steps is -2; expected at least -1"),
        (
            with_("training", attention="flesh"),
            "attention is 'flesh' (did you mean 'flash'?); expected one of",
        ),
        ({**with_("objective", hard_negatives=2), "supervision": "ntp"}, "hard_negatives is for retrieval, which sup"),
        ({**with_("objective", nsp_batch_size=9), "supervision": "ntp"}, "nsp_batch_size is for retrieval, which sup"),
        ({**with_("objective", symmetric_nsp=True), "supervision": "ntp"}, "symmetric_nsp is for retrieval, which s"),
        ({**with_("objective", nsp_warmup_steps=3), "supervision": "nsp"}, "nsp_warmup_steps weighs retrieval against"),
        (
            with_("objective", pooling="men"),
            "pooling is 'men' (did you mean 'mean'?); expected one of last_token, mean",
        ),
        (with_("objective", passage_dropout=1.5), "passage_dropout is 1.5; expected a share from 0 to 1"),
        (with_("objective", nsp_weight_end=-1.0), "nsp_weight_end is -1.0; expected a number of at least 0"),
        ({**with_("objective", mask_same_answer=True), "supervision": "ntp"}, "mask_same_answer is for retrieval, w"),
        ({**with_("objective", learn_temperature=True), "supervision": "ntp"}, "learn_temperature is for retrieval, "),
        (with_("training", resume_from_checkpoint="x"), "resume_from_checkpoint is 'x'; cosup cannot train with it"),
        (
            with_("training", fsdp_config={"activation_checkpointing": True}),
            "fsdp_config has activation_checkpointing; set activation_checkpointing itself instead",
        ),
        (with_("training", bf16_full_eval=True), "bf16_full_eval is True; cosup cannot train with it"),
        (with_("training", fp16_full_eval=True), "fp16_full_eval is True; cosup cannot train with it"),
        (with_("training", save_adapters=True), "save_adapters is true, and the recipe has no adapters to save"),
        (
            {**with_("training", embedder_learning_rate=1e-4), "embedder": "shared"},
            "embedder_learning_rate is set, and a shared embedder has no weights of its own",
        ),
        ({**with_("training", freeze_embedder=True), "embedder": "shared"}, "a shared embedder cannot be frozen"),
        ({**with_("training", muon_learning_rate=0.1), "adapters": "lora"}, "muon_learning_rate is for whole matrices"),
        ({**with_("objective", nsp_batch_size=9), "training": {"grad_cache": False}}, "nsp_batch_size needs grad"),
        (with_("objective", gather="all"), "gather is 'all'; expected one of full, own"),
        (with_("training", fsdp=True, muon_learning_rate=0.1), "muon_learning_rate needs whole matrices"),
        ({**LEAST, "adapters": "prefix"}, "recipe: adapters is 'prefix'; expected 'lora' or a mapping"),
        ({**LEAST, "adapters": {"rank": 8}}, "recipe: unknown key 'adapters.rank'"),
        ({**LEAST, "adapters": {"r": 0}}, "recipe: adapters: LoRA r is 0"),
        ({**LEAST, "generator": "shared"}, "recipe: generator is 'shared'; only the embedder can share"),
        (with_("data", streaming="yes"), "recipe: data.streaming is 'yes'; expected true or false"),
        (with_("training", label_smoothing_factor=0.1), "label_smoothing_factor is 0.1; cosup cannot train with it"),
        (with_("training", neftune_noise_alpha=5.0), "neftune_noise_alpha is 5.0; cosup cannot train with it"),
        (with_("training", deepspeed="x.json"), "deepspeed is 'x.json'; cosup cannot train with it"),
        (with_("training", train_sampling_strategy="sequential"), "train_sampling_strategy is 'sequential'; expected"),
        (with_("training", eval_strategy="steps"), "eval_strategy is 'steps', but data has neither eval_questions"),
        (with_("training", eval_strategy="sometimes"), "training settings: "),
        (with_("training", warmup_steps=-1), "training settings: "),
        (with_("training", learning_rate="fast"), "recipe: training.learning_rate is 'fast'; expected a number"),
        (with_("training", max_steps="many"), "recipe: training.max_steps is 'many'; expected a whole number"),
        (with_("training", seed=None), "recipe: training.seed is None; expected a whole number"),
    ],
    ids=lambda v: v[:40] if isinstance(v, str) else "",
)
def test_a_setting_that_cannot_be_used_is_named(record: dict[str, Any], message: str) -> None:
    found = refused(record)
    assert found.startswith(message)
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_activation_checkpointing_by_either_name(name: str, tmp_path: Path) -> None:
    config = CoSupervisionConfig(output_dir=str(tmp_path), **{name: True})
    assert config.activation_checkpointing
    assert not CoSupervisionConfig(output_dir=str(tmp_path)).activation_checkpointing


def test_one_device_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Trainer` would spread a batch over all GPUs, and part its retrievals from their rows."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    config = CoSupervisionConfig(output_dir=str(tmp_path), per_device_train_batch_size=3)
    assert (config.n_gpu, config.train_batch_size) == (1, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"generator: g\nembedder: [e\ndata: {}\n",
            r":3: not valid YAML \(.+, while parsing a flow sequence that begins in line 2\)",
        ),
        (b"generator: g\nembedder: e\ngenerator: h\n", ":3: the key 'generator' comes twice; expected it once"),
        (b"data: {passages: p, passages: q}\n", ":1: the key 'passages' comes twice; expected it once"),
        (b"generator: 'g\n", r":2: not valid YAML \(.+\)"),
        (b"generator: \xff\n", r": not valid YAML \(not UTF-8 text\)"),
        (b"generator: \x00\n", r": not valid YAML \(.+\)"),
        (b"", ": expected a mapping with the keys generator, embedder"),
        (b"- generator\n", ": expected a mapping with the keys generator, embedder"),
        (b"!!python/object/apply:os.getcwd []\n", r":1: not valid YAML \(.+\)"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="bad.yaml" + message):
        load_recipe(path)


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(no such recipe|is a folder); expected a YAML file"):
        load_recipe(tmp_path / name)


# The names


def test_every_bare_name_belongs_to_one_part() -> None:
    """Else a bare override would have to guess."""
    names = [name for part in known_keys().values() for name in part] + list(TOP_KEYS)
    assert len(names) == len(set(names))


def test_the_keys_of_our_own_are_these() -> None:
    """Frozen: users' recipes have them."""
    assert TOP_KEYS == ("generator", "embedder", "adapters", "supervision", "data", "objective", "training")
    assert set(OBJECTIVE_KEYS) == {
        *("preset", "similarity", "temperature", "learn_temperature", "nsp_weight", "symmetric_nsp"),
        *("nsp_weight_end", "nsp_warmup_steps", "pooling", "passage_dropout"),
        *("supervise_passages", "mask_same_passage", "mask_same_answer", "gather", "nsp_batch_size"),
        *("hard_negatives", "hard_negatives_depth", "hard_negatives_every"),
    }
    assert set(known_keys()["data"]) == {
        *("passages", "questions", "examples", "eval_questions", "eval_examples", "max_eval_examples"),
        *("template", "prompt", "max_length", "max_passage_length", "streaming", "shuffle_buffer"),
    }
    own = {"embedder_learning_rate", "muon_learning_rate", "same_title_examples", "recall_batch_tokens", "packing"}
    own |= {"attention", "micro_batch_tokens", "grad_cache", "ntp_chunk_tokens", "freeze_embedder", "lr_epoch_decay"}
    own |= {"curriculum_steps"}
    assert own <= set(known_keys()["training"])
