"""What a recipe will need: parameters, memory and steps, held against models that are really made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from cosup.adapters import LoraSettings, add_lora
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.model_folder import PairSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Question
from cosup.training import memory, shapes
from cosup.training.length import count_records
from cosup.training.plan import Plan, base_dtype, pack_tokens, plan
from cosup.training.recipe import load_recipe, parse_recipe
from tests.pairs import TinyWorld, config

RECIPES = Path(__file__).parents[2] / "recipes"
LLAMA_2_7B = 6_738_415_616
SHORT = PairSettings(max_length=256, max_passage_length=96)
_known: dict[str, Plan] = {}


def planned(world: TinyWorld, devices: int = 1, examples: int | None = None, **parts: Any) -> Plan:
    """Plan a recipe over the tiny world, once; `parts` are put over it (dicts are merged)."""
    data = {"passages": str(world.passages), "questions": str(world.questions), "max_length": 256}
    record: dict[str, Any] = {
        "generator": str(world.base),
        "embedder": str(world.base),
        "data": data | {"max_passage_length": 96},
        "training": {"per_device_train_batch_size": 4, "use_cpu": True},
    }
    for name, value in parts.items():
        record[name] = record.get(name, {}) | value if isinstance(value, dict) else value
    key = json.dumps([record, devices, examples])
    _known[key] = _known.get(key) or plan(parse_recipe(record), devices, examples)
    return _known[key]


def parameters(model: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        ({"embedder": "shared"}, {}),
        ({"adapters": "lora"}, {"adapters": LoraSettings()}),
        ({"adapters": {"r": 4, "target_modules": ["q_proj"]}}, {"adapters": LoraSettings(4, 32, 0.0, ("q_proj",))}),
        ({"training": {"freeze_embedder": True}}, {"freeze_embedder": True}),
    ],
    ids=["separate", "shared", "lora", "lora by name", "frozen"],
)
def test_parameters_are_those_of_the_pair_that_is_trained(
    tiny_world: TinyWorld, parts: dict[str, Any], options: dict[str, Any]
) -> None:
    embedder = parts.get("embedder", str(tiny_world.base))
    pair = CoSupervisedModel.from_base(str(tiny_world.base), embedder, SHORT, **options)
    found = planned(tiny_world, **parts)
    assert (found.parameters, found.trained) == (parameters(pair), parameters(pair, trained=True))


def test_what_a_supervision_leaves_out_has_no_gradient(tiny_world: TinyWorld) -> None:
    generator = AutoModelForCausalLM.from_pretrained(tiny_world.base)
    generator.resize_token_embeddings(generator.config.vocab_size + 3, mean_resizing=False)
    body = AutoModel.from_pretrained(tiny_world.base)
    head = generator.lm_head.weight.numel()
    assert planned(tiny_world, supervision="ntp").trained == parameters(generator)
    assert planned(tiny_world, supervision="nsp").trained == parameters(generator) + parameters(body) - head


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("meta-llama/Llama-2-7b-hf", LLAMA_2_7B),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384),
        ("openai-community/gpt2-large", 774_030_080),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(source: str, count: int) -> None:
    found = shapes.read_shape(source)
    assert "table" in found.origin
    with torch.device("meta"):
        assert parameters(AutoModelForCausalLM.from_config(found.config)) == count


def test_a_vocabulary_grows_only_where_it_must(tiny_world: TinyWorld) -> None:
    assert shapes.read_shape(str(tiny_world.base)).fresh_rows == 3
    assert shapes.read_shape(str(tiny_world.model / "generator")).fresh_rows == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nothing/here", "no folder './nothing/here'; expected a hub id"),
        ("nothing.gguf", "no file 'nothing.gguf'"),
        ("nobody/such-a-model", "cannot read the configuration of 'nobody/such-a-model': "),
    ],
)
def test_a_model_that_is_not_there_is_one_line(source: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        shapes.read_shape(source)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_parts_are_those_of_a_real_adamw_step(tiny_world: TinyWorld) -> None:
    found = planned(tiny_world)
    pair = CoSupervisedModel.from_base(str(tiny_world.base), str(tiny_world.base), SHORT)
    optimizer = torch.optim.AdamW(pair.parameters())
    for p in pair.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = sum(t.nbytes for s in optimizer.state.values() for n, t in s.items() if n != "step")
    assert found.memory["weights"] == sum(p.nbytes for p in pair.parameters())
    assert found.memory["gradients"] == sum(p.grad.nbytes for p in pair.parameters() if p.grad is not None)
    assert found.memory["optimizer"] == state
    assert found.bytes_a_device == sum(size for size in found.memory.values() if size is not None)


@pytest.mark.parametrize(("optim", "share"), [("adamw_torch_8bit", 0.25), ("sgd", 0.0), ("lion_32bit", 0.5)])
def test_the_optimizer_is_the_recipes(tiny_world: TinyWorld, optim: str, share: float) -> None:
    whole = planned(tiny_world).memory["optimizer"]
    assert whole
    assert planned(tiny_world, training={"optim": optim}).memory["optimizer"] == share * whole


def test_muon_keeps_one_buffer(tiny_world: TinyWorld) -> None:
    plain, muon = planned(tiny_world), planned(tiny_world, training={"muon_learning_rate": 1e-3})
    body = AutoModel.from_pretrained(tiny_world.base)
    matrices = sum(p.numel() for p in body.layers.parameters() if p.ndim == 2)
    assert plain.memory["optimizer"] is not None
    assert muon.memory["optimizer"] == plain.memory["optimizer"] - 4 * matrices


def test_ddp_holds_everything_and_fsdp_a_share(tiny_world: TinyWorld) -> None:
    one, ddp = planned(tiny_world), planned(tiny_world, devices=4)
    fsdp = planned(tiny_world, devices=4, training={"fsdp": True})
    assert (one.layout, ddp.layout, fsdp.layout) == ("one process", "DDP", "FSDP")
    for name in ("weights", "gradients", "optimizer"):
        assert ddp.memory[name] == one.memory[name]
        assert 4 * float(fsdp.memory[name] or 0) == one.memory[name]
    assert ddp.memory["gradient buckets"] == one.memory["gradients"]
    assert fsdp.memory["gathered layers"]


def test_a_frozen_base_is_held_once_and_light(tiny_world: TinyWorld) -> None:
    full = planned(tiny_world, training={"bf16": True})
    found = planned(tiny_world, adapters={"r": 1}, training={"bf16": True})
    base = parameters(CoSupervisedModel.from_base(str(tiny_world.base), "shared", SHORT))
    assert found.memory["weights"] == 2 * base + 4 * found.trained
    assert float(found.memory["weights"] or 0) < 0.55 * float(full.memory["weights"] or 0)
    settings = load_recipe(RECIPES / "llama2-7b-lora-1gpu.yaml")
    assert base_dtype(settings.config(), settings.adapters) == torch.bfloat16
    assert base_dtype(settings.config(), None) == torch.float32


def test_packs_are_bounded_by_micro_batch_tokens(tiny_world: TinyWorld) -> None:
    assert planned(tiny_world).pack_tokens == (4 * 256, 4 * 256)
    assert planned(tiny_world, training={"micro_batch_tokens": 300}).pack_tokens == (300, 300)
    assert planned(tiny_world, training={"micro_batch_tokens": 10}).pack_tokens == (256, 96)
    assert planned(tiny_world, objective={"hard_negatives": 1}).pack_tokens == (4 * 256, 8 * 256)
    assert planned(tiny_world, supervision="ntp").pack_tokens == (4 * 256, 0)
    assert planned(tiny_world, training={"freeze_embedder": True}).pack_tokens == (4 * 256, 0)


def test_a_model_that_runs_on_data_only_is_said_to(tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("data-dependent")

    monkeypatch.setattr("cosup.training.plan.pack_bytes", refuse)
    monkeypatch.setitem(globals(), "_known", {})
    found = planned(tiny_world)
    assert found.memory["activations"] is None
    assert dict(found.rows)["  activations"] == "not known"
    assert dict(found.rows)["memory a device"].startswith("more than ")


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "training", "steps"),
    [
        (1, {"num_train_epochs": 1}, 3),
        (2, {"num_train_epochs": 1}, 2),
        (1, {"num_train_epochs": 2.5, "gradient_accumulation_steps": 2}, 5),
        (1, {"max_steps": 7}, 7),
    ],
)
def test_steps_follow_from_the_files(tiny_world: TinyWorld, devices: int, training: dict[str, Any], steps: int) -> None:
    found = planned(tiny_world, devices, training=training).steps
    assert (found.examples, found.total) == (12, steps)


def test_the_trainer_takes_as_many_steps(tiny_world: TinyWorld, tmp_path: Path) -> None:
    from cosup.training.run import train

    record = {
        "generator": str(tiny_world.base),
        "embedder": str(tiny_world.base),
        "data": {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions)}
        | {"max_length": 256, "max_passage_length": 96},
        "training": {"per_device_train_batch_size": 5, "num_train_epochs": 2, "save_strategy": "no", "use_cpu": True}
        | {"output_dir": str(tmp_path / "run"), "logging_steps": 1},
    }
    recipe = parse_recipe(record)
    train(recipe, lambda *_: None)
    log = yaml.safe_load((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["log"]
    assert max(entry["step"] for entry in log) == plan(recipe).steps.total == 6


def test_missing_files_are_said_and_a_number_goes_in_their_place(tiny_world: TinyWorld) -> None:
    data = {"questions": ["nothing.jsonl"]}
    rows = dict(planned(tiny_world, data=data).rows)
    assert rows["examples"] == "not known: nothing.jsonl: no such file here; 4 a step"
    assert rows["steps"] == "not known; give the number of examples (--examples N)"
    rows = dict(planned(tiny_world, examples=1000, data=data).rows)
    assert (rows["examples"], rows["steps"]) == ("1,000; 4 a step", "750 (3 epochs of 250)")


def test_records_are_counted_in_every_form(tiny_world: TinyWorld, tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    from datasets import Dataset

    write_jsonl(tmp_path / "q.jsonl", [Question(str(i), "who?") for i in range(7)])
    with (tmp_path / "q.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("\n \n")
    pq.write_table(pa.table({"id": ["a", "b", "c"]}), tmp_path / "q.parquet")
    Dataset.from_dict({"id": ["a", "b"]}).save_to_disk(str(tmp_path / "saved"))
    assert [count_records(tmp_path / name) for name in ("q.jsonl", "q.parquet", "saved")] == [7, 3, 2]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for wrong in ("bad.parquet", ".", "none.jsonl"):
        with pytest.raises(InputError):
            count_records(tmp_path / wrong)


@pytest.mark.parametrize(("devices", "examples"), [(0, None), (1, 0)])
def test_senseless_numbers_are_refused(tiny_world: TinyWorld, devices: int, examples: int | None) -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        planned(tiny_world, devices, examples)


# -- the recipes -------------------------------------------------------------------------------------------------------


def test_the_papers_recipe_fits_its_eight_devices() -> None:
    recipe = load_recipe(RECIPES / "llama2-7b-paper.yaml")
    found = plan(recipe, 8, 1000)
    settings = recipe.config()
    assert (settings.learning_rate, settings.weight_decay, settings.max_grad_norm) == (2e-5, 0.0, 1.0)
    assert (settings.seed, settings.num_train_epochs, recipe.data.max_length) == (2, 3, 1024)
    assert (settings.similarity, settings.nsp_weight, settings.supervise_passages) == ("inner_product", 0.01, True)
    assert found.parameters == 2 * LLAMA_2_7B - 32_000 * 4096 + 2 * 3 * 4096, "two bodies, one head, three new rows"
    assert found.trained == found.parameters
    assert found.steps.examples_a_step == 64
    assert 16 * found.parameters / 8 < found.bytes_a_device < 80e9


def test_the_one_gpu_recipe_fits_a_gpu_of_24_gb() -> None:
    recipe = load_recipe(RECIPES / "llama2-7b-lora-1gpu.yaml")
    found = plan(recipe, 1, 1000)
    assert found.trained < 0.02 * found.parameters
    assert 2 * LLAMA_2_7B < found.bytes_a_device < 24e9
    assert pack_tokens(recipe, recipe.config()) == (4096, 4096)


def test_lora_is_counted_as_peft_makes_it() -> None:
    shape = config("llama", 90, width=32, layers=2)
    with torch.device("meta"):
        model = AutoModel.from_config(shape)
        add_lora(model, LoraSettings(r=8))
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    assert parameters(model, trained=True) == 2 * sum(8 * (a + b) for a, b in sizes)


def test_every_name_of_an_optimizer_is_one_of_transformers() -> None:
    from transformers.training_args import OptimizerNames

    assert set(memory.STATE_BYTES) <= {name.value for name in OptimizerNames}


def test_host_memory_is_the_pair_and_what_a_checkpoint_copies(tiny_world: TinyWorld) -> None:
    """Every process builds the whole pair; the first gathers AdamW's moments, and weights where they are sharded."""
    alone = planned(tiny_world)
    weights, moments = 4 * alone.parameters, 8 * alone.parameters
    assert alone.host[0] == weights
    assert moments <= alone.host[1] < 1.01 * moments
    sharded = planned(tiny_world, devices=2, training={"fsdp": True})
    assert sharded.host == (weights, alone.host[1] + weights)
    assert dict(alone.rows)["host memory"].endswith("in the first to save")
