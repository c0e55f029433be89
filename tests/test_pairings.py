"""Pairs of any two families, widths and tokenizers; one model for both; a frozen embedder; a learnt temperature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from cosup import checkpoints
from cosup.adapters import LoraSettings
from cosup.errors import InputError, UsageError
from cosup.model_folder import PairSettings
from cosup.modeling import SHARED, CoSupervisedModel
from cosup.temperature import MIN_TEMPERATURE
from cosup.training.config import CoSupervisionConfig
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.bases import SETTINGS, TEXTS, WIDTHS, batch, gradients, loss_of, write_all

COMBINATIONS = [(one, other) for one in pairs.FAMILIES for other in pairs.FAMILIES]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_all(tmp_path_factory.mktemp("bases"))


def start(bases: dict[str, str], generator: str, embedder: str, **more: Any) -> CoSupervisedModel:
    torch.manual_seed(0)
    return CoSupervisedModel.from_base(bases[generator], bases.get(embedder, embedder), SETTINGS, **more)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        assert torch.allclose(gradient / scale, other[name] / scale, atol=tolerance), name


@pytest.mark.parametrize(("generator", "embedder"), COMBINATIONS)
def test_any_two_families_widths_and_tokenizers_make_a_pair(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """Proofs 3 and 9: packed equals padded, every parameter learns, and the saved pair gives the same numbers."""
    model = start(bases, generator, embedder)
    assert (model.projection is None) == (generator == embedder)
    assert model.can_pack
    padded, packed = batch(model), batch(model, packed=True)
    whole = gradients(model, padded)
    close(whole, gradients(model, packed))
    assert all(gradient.abs().sum() > 0 for name, gradient in whole.items() if not name.endswith("k_proj.bias"))
    assert torch.allclose(model(**padded).passages, model(**packed).passages, atol=1e-5)
    model.eval().save_pretrained(tmp_path)
    again = CoSupervisedModel.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(loss_of(again, padded), loss_of(model, padded))
    rows = [model.encode_passage(text) for text in TEXTS]
    assert [again.encode_passage(text) for text in TEXTS] == rows
    assert torch.equal(again.embed_ids(rows), model.embed_ids(rows))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("generator", "embedder"), [*COMBINATIONS, ("gpt2", SHARED), ("llama", SHARED)])
def test_the_embedder_folder_is_a_sentence_transformer(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """With the vectors that cosup gives, whatever the pairing."""
    library = pytest.importorskip("sentence_transformers")
    model = start(bases, generator, embedder).eval()
    model.save_pretrained(tmp_path)
    theirs = library.SentenceTransformer(str(tmp_path / "embedder"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    ours = model.embed_ids([model.encode_passage(text) for text in TEXTS])
    assert torch.allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("embedder", ["llama", "gpt2", SHARED])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_every_parameter_takes_part_where_a_batch_has_nothing_for_it(
    embedder: str, labels: bool, packed: bool, bases: dict[str, str]
) -> None:
    """A device without `[Ret]`, or without a supervised token, keeps step with the others."""
    model = start(bases, "llama", embedder, learn_temperature=True)
    for retrievals in (True, False):
        inputs = batch(model, packed, retrievals, supervised=False)
        output = model(**inputs if labels else inputs | {"labels": None})
        assert (output.ntp_sum is not None, output.tokens) == (labels, 0)
        model.zero_grad()
        (output.queries.sum() if output.ntp_sum is None else output.ntp_sum + output.queries.sum()).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert not without
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_passages_are_embedded_alone_by_the_same_forward(bases: dict[str, str]) -> None:
    """A sharded pair can be run in no other way."""
    model = start(bases, "llama", "gpt2").eval()
    inputs = batch(model)
    both = model(**inputs)
    alone = model(
        passage_input_ids=inputs["passage_input_ids"], passage_attention_mask=inputs["passage_attention_mask"]
    )
    assert alone.queries is None
    assert torch.equal(alone.passages, both.passages)


# -- one model for both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", pairs.FAMILIES)
def test_a_shared_pair_is_one_model_in_memory_and_two_plain_folders(
    family: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """Counted once, trained by both losses, and one again after loading."""
    model = start(bases, family, SHARED)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in model.generator.parameters())
    assert not set(model.embedder_tokenizer.get_vocab()) & {"[Ret]", "[Cs]", "[Ce]"}
    close(gradients(model, batch(model)), gradients(model, batch(model, packed=True)))
    whole = gradients(model, batch(model))
    without_nsp = gradients(model, batch(model, retrievals=False))
    assert not torch.allclose(next(iter(whole.values())), next(iter(without_nsp.values())))
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "cosup.json").read_text())["pairing"] == "shared"
    assert (tmp_path / "embedder" / "model.safetensors").is_file()
    again = CoSupervisedModel.from_pretrained(tmp_path)
    assert again.shared
    assert sum(p.numel() for p in again.parameters()) == count
    with torch.no_grad():
        assert torch.equal(loss_of(again, batch(model)), loss_of(model, batch(model)))


def test_another_kind_of_pair_is_not_loaded_over_this_one(bases: dict[str, str], tmp_path: Path) -> None:
    """The message says what both are."""
    start(bases, "llama", SHARED).save_pretrained(tmp_path / "shared")
    with pytest.raises(InputError, match="plain weights of a shared pair, and this is the plain weights of a separate"):
        start(bases, "llama", "llama").load_weights(tmp_path / "shared")
    start(bases, "llama", "gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="its weights don't fit this pair"):
        start(bases, "llama", "qwen2").load_weights(tmp_path / "other")


# -- saving and loading in place -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("generator", "embedder"), [("gpt2", "llama"), ("llama-tied", "llama"), ("gpt2", SHARED)])
def test_a_gathered_state_is_written_in_place_of_the_pairs_own(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path
) -> None:
    """By any one of a parameter's names, as sharded models give it; loaded again in place, bit for bit."""
    model, other = start(bases, generator, embedder), start(bases, generator, embedder)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p))
    wanted = {name: p.detach().clone() for name, p in other.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.save_pretrained(tmp_path, state_dict=wanted)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.load_weights(tmp_path)
    assert all(torch.equal(p, wanted[name]) for name, p in model.named_parameters())
    with pytest.raises(UsageError, match=r"'module\.x', which is not the pair's"):
        model.save_pretrained(tmp_path, state_dict={"module.x": torch.zeros(1)})


@pytest.mark.parametrize(("generator", "embedder"), [*COMBINATIONS, ("llama-tied", "llama"), ("gpt2", SHARED)])
def test_weights_are_loaded_in_place_without_a_second_pair(
    generator: str, embedder: str, bases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor by tensor from the files, to the bit; a damaged file is still named, and changes nothing."""
    model, other = start(bases, generator, embedder), start(bases, generator, embedder)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p))
    other.save_pretrained(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(CoSupervisedModel, "from_pretrained", None)
        model.load_weights(tmp_path)
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in model.named_parameters())
    path = tmp_path / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match="cannot load a model from"):
        model.load_weights(tmp_path)
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in model.named_parameters())


# -- frozen embedder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedder", ["gpt2", "llama"])
def test_a_frozen_embedder_with_its_vectors_equals_one_without(embedder: str, bases: dict[str, str]) -> None:
    """Loss and gradients; the projection, where there is one, still learns; dropout stays off in the embedder."""
    model = start(bases, "llama", embedder, freeze_embedder=True).train()
    assert model.generator.training
    assert not any(m.training for m in model.embedder.modules())
    inputs = batch(model)
    plain = gradients(model, inputs)
    assert not [name for name in plain if name.startswith("embedder.")]
    assert ("projection.weight" in plain) == (embedder != "llama")
    vectors = model.pooled(inputs.pop("passage_input_ids"), inputs.pop("passage_attention_mask"))
    assert vectors.shape == (3, WIDTHS[embedder])
    assert not vectors.requires_grad
    close(plain, gradients(model, inputs | {"passage_vectors": vectors}), 1e-6)
    with pytest.raises(UsageError, match="cannot be frozen"):
        start(bases, "llama", SHARED, freeze_embedder=True)


# -- learnt temperature --------------------------------------------------------------------------------------------


def test_a_learnt_temperature_learns_and_is_kept_to_the_bit(bases: dict[str, str], tmp_path: Path) -> None:
    """`cosup.json` has the present value; an exact one is restored, here and in a pair of its own."""
    model = start(bases, "llama", "llama", learn_temperature=True)
    assert model.temperature == pytest.approx(SETTINGS.temperature)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(3):
        gradients(model, batch(model))
        optimizer.step()
    assert model.temperature != pytest.approx(SETTINGS.temperature, rel=1e-3)
    model.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "cosup.json").read_text())
    assert record["temperature"] == pytest.approx(model.temperature)
    again, fresh = CoSupervisedModel.from_pretrained(tmp_path), start(bases, "llama", "llama", learn_temperature=True)
    fresh.load_weights(tmp_path)
    assert model.log_temperature is not None
    for other in (again, fresh):
        assert other.log_temperature is not None
        assert torch.equal(other.log_temperature, model.log_temperature)
        assert other.settings.temperature == record["temperature"]
    fixed = start(bases, "llama", "llama")
    fixed.load_weights(tmp_path)
    assert fixed.log_temperature is None
    assert fixed.temperature == record["temperature"]
    again.configure(temperature=0.2)
    assert again.temperature == pytest.approx(0.2)


@pytest.mark.parametrize(("direction", "moves"), [(1.0, False), (-1.0, True)])
def test_a_learnt_temperature_stays_above_its_bound_and_can_come_back(
    direction: float, moves: bool, bases: dict[str, str]
) -> None:
    """Below the bound its value is the bound, and only a gradient that raises it passes."""
    model = start(bases, "llama", "llama", learn_temperature=True)
    assert model.log_temperature is not None
    model.log_temperature.data.fill_(-9.0)
    output = model(**batch(model))
    assert output.log_temperature is not None
    assert output.log_temperature.exp().item() == pytest.approx(MIN_TEMPERATURE)
    assert model.temperature == MIN_TEMPERATURE
    (direction * output.log_temperature).backward()
    assert model.log_temperature.grad is not None
    assert bool(model.log_temperature.grad.item() != 0) == moves
    low = PairSettings(temperature=0.001, max_length=200, max_passage_length=12)
    with pytest.raises(UsageError, match=r"temperature is 0\.001"):
        CoSupervisedModel.from_base(bases["llama"], bases["llama"], low, learn_temperature=True)


# -- activation checkpointing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedder", ["gpt2", SHARED])
def test_checkpointed_equals_not(embedder: str, bases: dict[str, str]) -> None:
    """Proof 3; and it is really on, in both models: nothing but the layers' inputs is kept."""
    model = start(bases, "llama", embedder).train()
    kept: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t)
    with hooks:
        plain = gradients(model, batch(model))
    before = sum(kept)
    model.gradient_checkpointing_enable()
    kept.clear()
    with hooks:
        found = loss_of(model, batch(model))
        after = sum(kept)
        model.zero_grad()
        found.backward()
    assert after < 0.8 * before
    close(plain, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, 1e-6)
    model.gradient_checkpointing_disable()
    kept.clear()
    with hooks:
        loss_of(model, batch(model))
    assert sum(kept) == before


def test_fsdp_is_told_the_layers_of_both_models(bases: dict[str, str]) -> None:
    assert start(bases, "llama", "gpt2")._no_split_modules == ["GPT2Block", "LlamaDecoderLayer"]


# -- attention -----------------------------------------------------------------------------------------------------


def _implementations(model: CoSupervisedModel) -> list[str]:
    return [m.config._attn_implementation for m in (model.generator, model.embedder)]


@pytest.mark.parametrize(
    ("embedder", "more"), [("qwen2", {}), (SHARED, {}), ("llama", {"adapters": LoraSettings(r=2)})]
)
def test_the_attention_asked_for_is_both_models(embedder: str, more: dict[str, Any], bases: dict[str, str]) -> None:
    """Whatever the pairing; the pair can take packed rows, and cosup's own attention is the default."""
    flex = start(bases, "llama", embedder, attention="flex", **more)
    assert _implementations(flex) == ["flex_attention"] * 2
    assert flex.can_pack
    assert _implementations(start(bases, "llama", embedder, **more)) == ["cosup_packed"] * 2


def test_flash_is_taken_by_itself_where_it_is_installed(bases: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name where it is not, it is refused in a line."""
    assert _implementations(start(bases, "llama", "gpt2", attention="auto")) == ["cosup_packed"] * 2
    with pytest.raises(UsageError, match=r"^attention is 'flash', which needs a GPU and flash-attn \(pip install"):
        start(bases, "llama", "gpt2", attention="flash")
    with pytest.raises(UsageError, match=r"^GPT2Model \('.*'\) cannot attend by 'flex'; leave out attention"):
        start(bases, "llama", "gpt2", attention="flex")
    with pytest.raises(UsageError, match="attention is 'flsh'"):
        start(bases, "llama", "gpt2", attention="flsh")
    monkeypatch.setattr(checkpoints, "has_flash", lambda: True)
    chosen: list[str] = []
    monkeypatch.setattr(PreTrainedModel, "set_attn_implementation", lambda _, name: chosen.append(name))
    checkpoints.load_embedder(bases["gpt2"], attention="auto")
    checkpoints.load_generator(bases["llama"], attention="flash")
    assert chosen == ["flash_attention_2"] * 2
    monkeypatch.setattr(LlamaPreTrainedModel, "_supports_flash_attn", False)
    checkpoints.load_embedder(bases["llama"], attention="auto")
    assert len(chosen) == 2
    with pytest.raises(UsageError, match=r"LlamaModel \('.*'\) cannot attend by 'flash'; leave out attention"):
        checkpoints.load_embedder(bases["llama"], attention="flash")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attention": "flex"}, "attention is 'flex', which torch cannot train with on a CPU; leave it out"),
        ({"attention": "flash", "bf16": True}, "attention is 'flash', which needs a GPU and flash-attn"),
    ],
)
def test_an_attention_that_cannot_train_here_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = CoSupervisionConfig(output_dir=str(tmp_path), use_cpu=True, **more)
    with pytest.raises(UsageError, match=message):
        _ = config.chosen_attention
    assert CoSupervisionConfig(output_dir=str(tmp_path), use_cpu=True, bf16=True).chosen_attention == "sdpa"
    with pytest.raises(UsageError, match=r"load the pair with it: from_base\(\.\., attention=\.\.\)"):
        CoSupervisionTrainer(pairs.pair(), config, pairs.EXAMPLES, pairs.PASSAGES)
