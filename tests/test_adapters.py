"""LoRA pairs: one frozen base in memory, two adapters, the control tokens' rows; merged, saved and loaded exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from cosup.adapters import LoraSettings
from cosup.errors import InputError, UsageError
from cosup.modeling import SHARED, CoSupervisedModel
from tests.bases import SETTINGS, TEXTS, batch, gradients, loss_of, write, write_all

BASES = ("gpt2", "llama", "llama-tied", "qwen2")
SMALL = LoraSettings(r=2, alpha=8)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_all(tmp_path_factory.mktemp("bases"))


def start(bases: dict[str, str], generator: str, embedder: str, **more: Any) -> CoSupervisedModel:
    torch.manual_seed(0)
    source = bases.get(embedder, embedder)
    return CoSupervisedModel.from_base(bases[generator], source, SETTINGS, **({"adapters": SMALL} | more))


def trained(model: CoSupervisedModel, steps: int = 3) -> CoSupervisedModel:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02)
    for _ in range(steps):
        gradients(model, batch(model))
        optimizer.step()
    return model.eval()


def frozen(model: CoSupervisedModel) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


@torch.no_grad()
def numbers(model: CoSupervisedModel) -> tuple[torch.Tensor, ...]:
    output = model(**batch(model))
    assert output.ntp_sum is not None
    assert output.queries is not None
    return output.ntp_sum, output.queries, model.embed_ids([model.encode_passage(text) for text in TEXTS])


@pytest.mark.parametrize("base", BASES)
def test_one_base_in_memory_and_two_adapters_that_learn(base: str, bases: dict[str, str]) -> None:
    """About one model's parameters; the base stays bit-identical, the adapters part from one another."""
    model = start(bases, base, base)
    one = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(bases[base]).parameters())
    fixed = {id(p): p for p in model.parameters() if not p.requires_grad}
    extra = 3 * (model.dimension * (1 if base == "llama-tied" else 2))
    assert one <= sum(p.numel() for p in fixed.values()) <= one + extra
    body = {p.data_ptr() for p in model.generator.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in model.embedder.parameters() if not p.requires_grad} <= body
    before = {name: p.clone() for name, p in frozen(model).items()}
    parts = {"generator": 0, "embedder": 0}
    learnt = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    for name in learnt:
        assert ".lora_" in name or name.endswith(".rows")
        parts[name.split(".")[0]] += 1
    assert parts["generator"] > parts["embedder"] > 0
    trained(model)
    assert all(torch.equal(p, before[name]) for name, p in frozen(model).items())
    assert not [name for name, p in model.named_parameters() if name in learnt and torch.equal(p, learnt[name])]
    prefix = f"generator.{model.generator.base_model_prefix}."
    state = model.state_dict()
    twins = [(n, n.replace(prefix, "embedder.")) for n in state if n.startswith(prefix) and ".lora_" in n]
    assert twins
    assert not [one for one, other in twins if torch.equal(state[one], state[other])]


@pytest.mark.parametrize("base", BASES)
def test_the_control_tokens_can_be_learnt(base: str, bases: dict[str, str]) -> None:
    """With rows alone, adapters held: `[Ret]` gets likelier, and the head of a tied model sees the embedding's row."""
    model = start(bases, base, base)
    rows = [p for name, p in model.named_parameters() if name.endswith(".rows")]
    assert len(rows) == (2 if base in ("llama", "qwen2") else 1)
    inputs = batch(model)
    inputs["labels"] = torch.where(inputs["labels"] == -100, -100, model.control.ret)
    optimizer = torch.optim.Adam(rows, 0.3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(**inputs).ntp_sum
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    head: Any = model.generator.get_output_embeddings()
    embedding: Any = model.generator.get_input_embeddings()
    states = torch.randn(4, model.dimension)
    assert torch.allclose(head(states), torch.nn.functional.linear(states, head.weight, head.bias), atol=1e-5)
    assert torch.equal(embedding(torch.tensor([[model.control.ret, 5]]))[0], embedding.weight[[model.control.ret, 5]])
    assert torch.equal(head.weight[model.control.ret], rows[-1][0])
    assert head.weight.shape[0] == embedding.num_embeddings


class Watch(TorchDispatchMode):
    """Counts the tensors of a shape that operations make."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.shape == self.shape:
            known = [x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)]
            self.count += out.untyped_storage().data_ptr() not in known  # a view makes nothing
        return out


@pytest.mark.parametrize("base", BASES)
def test_a_step_makes_nothing_as_large_as_the_vocabulary(base: str, bases: dict[str, str]) -> None:
    """Neither a copy nor a gradient of embedding or head, forwards and backwards."""
    model = start(bases, base, base)
    head: Any = model.generator.get_output_embeddings()
    inputs = batch(model)
    with Watch(head.base_layer.weight.shape) as watch:
        gradients(model, inputs)
    assert watch.count == 0


@pytest.mark.parametrize(
    ("generator", "embedder"),
    [*((b, b) for b in BASES), ("gpt2", "llama"), ("llama", "gpt2"), ("llama", SHARED), ("gpt2", SHARED)],
)
def test_merged_is_a_plain_pair_with_the_same_numbers(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """And the pair in memory is as it was; packed equals padded before merging."""
    model = trained(start(bases, generator, embedder))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = numbers(model)
    assert torch.allclose(model(**batch(model, packed=True)).ntp_sum, expected[0], rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain = CoSupervisedModel.from_pretrained(tmp_path)
    assert plain.base is None
    assert plain.shared == (embedder == SHARED)
    for theirs, ours in zip(numbers(plain), expected, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-4)
    ids = torch.tensor([[5, model.control.ret, 6]])
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "generator")
    assert torch.allclose(causal(ids).logits, model.generator(ids).logits, atol=1e-4)
    names = set(causal.state_dict())
    assert not [name for name in names if "lora" in name or "rows" in name or "base_layer" in name]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_merged_embedder_is_a_sentence_transformer(bases: dict[str, str], tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = trained(start(bases, "llama", "gpt2"))
    model.save_pretrained(tmp_path)
    theirs = library.SentenceTransformer(str(tmp_path / "embedder"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(theirs, numbers(model)[2], atol=1e-4)


@pytest.mark.parametrize(
    ("generator", "embedder"), [*((b, b) for b in BASES), ("gpt2", "llama"), ("llama", SHARED), ("gpt2", SHARED)]
)
def test_adapters_are_saved_without_their_base_and_come_back_to_the_bit(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """By `from_pretrained`, and in place into a fresh pair."""
    model = trained(start(bases, generator, embedder, learn_temperature=True))
    expected = numbers(model)
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.save_pretrained(tmp_path, state_dict={n: p.detach() for n, p in learnt.items()}, adapters="adapters")
    weights = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors")}
    assert weights - {"embedder/2_Dense/model.safetensors"} == {
        f"{part}/adapter_model.safetensors" for part in ("generator", "embedder")
    }
    config = json.loads((tmp_path / "embedder" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) in (3, 7)
    again = CoSupervisedModel.from_pretrained(tmp_path)
    assert again.base == model.base
    assert again.fingerprint == model.fingerprint
    fresh = start(bases, generator, embedder, learn_temperature=True)
    fresh.load_weights(tmp_path)
    for other in (again, fresh.eval()):
        for name, p in other.named_parameters():
            assert torch.equal(p, model.get_parameter(name)), name
        assert all(torch.equal(one, two) for one, two in zip(numbers(other), expected, strict=True))
    again.save_pretrained(tmp_path / "more", adapters="adapters")
    assert again.fingerprint == model.fingerprint
    again.save_pretrained(tmp_path / "merged")
    assert again.fingerprint != model.fingerprint
    with pytest.raises(InputError, match=r"plain weights of a .* pair, and this is adapters of"):
        fresh.load_weights(tmp_path / "merged")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize("base", BASES)
def test_peft_itself_loads_the_adapters(base: str, bases: dict[str, str], tmp_path: Path) -> None:
    """On the plain base, its embeddings resized for the control tokens."""
    model = trained(start(bases, base, base))
    model.save_pretrained(tmp_path, adapters="adapters")
    plain = AutoModelForCausalLM.from_pretrained(bases[base])
    plain.resize_token_embeddings(len(AutoTokenizer.from_pretrained(tmp_path / "generator")), mean_resizing=False)
    generator = peft.PeftModel.from_pretrained(plain, str(tmp_path / "generator"))
    ids = torch.tensor([[5, model.control.ret, 6, model.control.ce, 9]])
    assert torch.allclose(generator(ids).logits, model.generator(ids).logits, atol=1e-5)
    body = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(bases[base]), str(tmp_path / "embedder"))
    assert torch.allclose(body(ids[:, :1]).last_hidden_state, model.embedder(ids[:, :1]).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_checkpointed_equals_not_with_one_base(base: str, bases: dict[str, str]) -> None:
    """Proof 3, with dropout in the adapters: what is computed again sees the same adapter and randomness."""
    model = start(bases, base, base, adapters=LoraSettings(r=2, alpha=8, dropout=0.3))
    trained(model, 1).train()
    torch.manual_seed(5)
    plain = gradients(model, batch(model))
    model.gradient_checkpointing_enable()
    torch.manual_seed(5)
    again = gradients(model, batch(model))
    assert plain.keys() == again.keys()
    assert all(torch.allclose(again[name], gradient, atol=1e-6) for name, gradient in plain.items())
    torch.manual_seed(6)
    assert any(not torch.equal(again[n], g) for n, g in gradients(model, batch(model)).items())


def test_half_precision_base_with_adapters_in_full(bases: dict[str, str], tmp_path: Path) -> None:
    """What is learnt is float32 on a bfloat16 base, and so it is saved; the base counts as the same in either type."""
    model = trained(start(bases, "llama", "gpt2", dtype=torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    expected = numbers(model)
    model.save_pretrained(tmp_path, adapters="adapters")
    again = CoSupervisedModel.from_pretrained(tmp_path, torch.bfloat16)
    assert all(torch.equal(one, two) for one, two in zip(numbers(again), expected, strict=True))
    model.save_pretrained(tmp_path / "merged")
    merged = CoSupervisedModel.from_pretrained(tmp_path / "merged", torch.bfloat16)
    assert torch.allclose(numbers(merged)[2], expected[2], atol=0.1)
    assert CoSupervisedModel.from_pretrained(tmp_path).generator.dtype == torch.float32


def test_a_frozen_embedder_keeps_an_adapter_that_does_nothing(bases: dict[str, str], tmp_path: Path) -> None:
    """So that its folder is one of peft's all the same."""
    model = trained(start(bases, "llama", "llama", freeze_embedder=True))
    assert not [name for name, p in model.embedder.named_parameters() if p.requires_grad]
    plain = AutoModel.from_pretrained(bases["llama"])
    ids = torch.tensor([[4, 5, 6]])
    assert torch.equal(model.embedder(ids).last_hidden_state, plain(ids).last_hidden_state)
    model.save_pretrained(tmp_path, adapters="adapters")
    again = CoSupervisedModel.from_pretrained(tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(numbers(again), numbers(model), strict=True))


def test_layers_are_given_their_own_base_where_they_are_to_be_sharded(bases: dict[str, str]) -> None:
    """The same numbers from two; ties within a model stay, and can be made again after a move that splits them."""
    model = start(bases, "llama-tied", "llama-tied")
    expected = numbers(model.eval())
    model.unshare_layers()
    layers = {p.data_ptr() for p in model.generator.model.layers.parameters()}  # type: ignore[union-attr]
    assert layers.isdisjoint(p.data_ptr() for p in model.embedder.layers.parameters())  # type: ignore[union-attr]
    assert all(torch.equal(one, two) for one, two in zip(numbers(model), expected, strict=True))
    head: Any = model.generator.get_output_embeddings()
    embedding: Any = model.generator.get_input_embeddings()
    head.rows = torch.nn.Parameter(head.rows.detach().clone())
    assert head.rows is not embedding.rows
    model.tie_weights()
    assert head.rows is embedding.rows


# -- what people get wrong -----------------------------------------------------------------------------------------


def test_a_base_that_is_missing_or_another_is_named(bases: dict[str, str], tmp_path: Path) -> None:
    """One line, before anything is answered with the wrong weights."""
    base = write(tmp_path / "base", "llama")
    start({"own": base}, "own", "own").save_pretrained(tmp_path / "pair", adapters="adapters")
    write(tmp_path / "base", "llama", seed=9)
    with pytest.raises(InputError, match="is not the base that the adapters were trained on"):
        CoSupervisedModel.from_pretrained(tmp_path / "pair")
    with pytest.raises(InputError, match="is not the base that the adapters were trained on"):
        start({"own": base}, "own", "own").load_weights(tmp_path / "pair")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"holds adapters, and their base is missing: no folder") as caught:
        CoSupervisedModel.from_pretrained(tmp_path / "pair")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("generator/adapter_config.json", "lacks generator/adapter_config.json"),
        ("embedder/adapter_model.safetensors", "missing or damaged: it must hold a LoRA adapter"),
    ],
)
def test_a_damaged_adapter_folder_is_named(path: str, message: str, bases: dict[str, str], tmp_path: Path) -> None:
    model = start(bases, "llama", "llama")
    model.save_pretrained(tmp_path, adapters="adapters")
    (tmp_path / path).unlink()
    with pytest.raises(InputError, match=message):
        CoSupervisedModel.from_pretrained(tmp_path)


def test_an_adapter_of_another_shape_is_named(bases: dict[str, str], tmp_path: Path) -> None:
    start(bases, "llama", "llama").save_pretrained(tmp_path, adapters="adapters")
    with pytest.raises(InputError, match="the adapter doesn't fit the model"):
        start(bases, "llama", "llama", adapters=LoraSettings(r=3)).load_weights(tmp_path)


@pytest.mark.parametrize("change", [{"lora": {"r": 0}}, {"digests": ["one"]}, {"generator": None}])
def test_a_wrong_base_in_the_record_is_named(change: dict[str, object], bases: dict[str, str], tmp_path: Path) -> None:
    start(bases, "llama", "llama").save_pretrained(tmp_path, adapters="adapters")
    record = json.loads((tmp_path / "cosup.json").read_text())
    record["base"] = {k: v for k, v in (record["base"] | change).items() if v is not None}
    (tmp_path / "cosup.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="'base' must name generator, embedder, digests and lora"):
        CoSupervisedModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_settings_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="LoRA"):
        LoraSettings(**change)


def test_layers_that_are_not_there_are_named(bases: dict[str, str]) -> None:
    """And named ones alone get adapters."""
    with pytest.raises(UsageError, match=r"target_modules is \('nothing',\): LlamaForCausalLM has no such layer"):
        start(bases, "llama", "llama", adapters=LoraSettings(target_modules=("nothing",)))
    model = start(bases, "llama", "llama", adapters=LoraSettings(target_modules=["q_proj"]))  # type: ignore[arg-type]
    names = [name for name, p in model.embedder.named_parameters() if p.requires_grad]
    assert names
    assert all(".q_proj." in name for name in names)
    assert loss_of(model, batch(model)).requires_grad
