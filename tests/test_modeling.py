"""The pair: embeddings depend on the passage alone; a saved pair is the same pair, here and in other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput

from cosup.checkpoints import load_generator
from cosup.data.padding import pad_right
from cosup.errors import InputError, UsageError
from cosup.model_folder import PairSettings, read_model_record
from cosup.modeling import CoSupervisedModel
from cosup.tokens import CONTROL_TOKENS
from tests import pairs

TEXTS = [p.rendered for p in pairs.PASSAGES]


def test_of_a_query_that_is_too_long_the_prompt_and_the_end_are_read() -> None:
    """What was written last says best what is missing; the question alone would find one passage again and again."""
    model = pairs.pair(settings=PairSettings(max_length=200, max_passage_length=12, query_prompt="written by ")).eval()
    long = " ".join(TEXTS)
    found, other_start, other_end = model.embed_queries([long, f"a book {long}", f"{long} a book"])
    assert torch.allclose(found, other_start, atol=1e-6)
    assert not torch.allclose(found, other_end, atol=1e-2)
    model.configure(query_prompt="born in ")
    assert not torch.allclose(found, model.embed_queries([long])[0], atol=1e-2)


@pytest.mark.parametrize("family", pairs.FAMILIES)
def test_an_embedding_ignores_padding_side_neighbours_and_batch_size(family: str) -> None:
    """Proof 4: one by one, in a batch, padded left or right: the same vector."""
    model = pairs.pair(family).eval()
    rows = [model.encode_passage(text) for text in TEXTS]
    rows[0] = rows[0][:3]
    alone = torch.cat([model.embed_ids([row]) for row in rows])
    together = model.embed_ids(rows)
    assert torch.allclose(alone, together, atol=1e-5)
    ids, mask = pad_right(rows, 0)
    width = ids.shape[1]
    left_ids = torch.stack([torch.cat([i[len(r) :], i[: len(r)]]) for i, r in zip(ids, rows, strict=True)])
    left_mask = torch.stack([torch.cat([m[len(r) :], m[: len(r)]]) for m, r in zip(mask, rows, strict=True)])
    assert left_mask[:, -1].all()
    assert width > len(rows[0])
    assert torch.allclose(model.embed(left_ids, left_mask), alone, atol=1e-5)


def test_an_embedding_is_the_last_real_token_and_no_pad() -> None:
    """Another pad id, or more padding, changes nothing; another last token does."""
    model = pairs.pair().eval()
    row = model.encode_passage(TEXTS[0])
    plain = model.embed_ids([row])
    padded = model.embed(torch.tensor([row + [7] * 9]), torch.tensor([[1] * len(row) + [0] * 9]))
    assert torch.allclose(plain, padded, atol=1e-6)
    assert not torch.allclose(plain, model.embed_ids([[*row[:-1], row[0]]]), atol=1e-2)


@pytest.mark.parametrize(("similarity", "length"), [("cosine", 1.0), ("inner_product", None)])
def test_vectors_have_unit_length_only_for_cosine(similarity: str, length: float | None) -> None:
    """Cosine normalises queries and passages alike; inner product leaves the states' own length."""
    model = pairs.pair(settings=PairSettings(similarity=similarity, max_length=200, max_passage_length=40)).eval()
    norms = [model.embed_ids([model.encode_passage(TEXTS[0])]).norm(), model.to_query(torch.full((1, 32), 3.0)).norm()]
    assert [torch.isclose(n, torch.tensor(1.0)).item() for n in norms] == [length is not None] * 2


@pytest.mark.parametrize("family", pairs.FAMILIES)
@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
def test_saved_and_loaded_gives_the_same_numbers(family: str, similarity: str, tmp_path: Path) -> None:
    """Proof 9, with another width on the embedder's side, so that the projection is saved too."""
    settings = PairSettings(similarity, 0.1, prompt="{question}?", max_length=99, max_passage_length=20)
    model = pairs.pair(family, "llama", embedder_width=16, settings=settings).eval()
    model.save_pretrained(tmp_path)
    again = CoSupervisedModel.from_pretrained(tmp_path)
    assert again.settings == settings
    assert again.fingerprint == model.fingerprint
    words = model.generator_tokenizer
    assert [again.generator_tokenizer.encode(t) for t in TEXTS] == [words.encode(t) for t in TEXTS]
    rows = [model.encode_passage(text) for text in TEXTS]
    assert [again.encode_passage(text) for text in TEXTS] == rows
    assert torch.equal(again.embed_ids(rows), model.embed_ids(rows))
    again.save_pretrained(tmp_path / "copy")
    assert again.fingerprint == model.fingerprint, "a model that is loaded and saved still has its index"
    ids, mask = pad_right([[5, 6, 7, 8], [9, 4]], 0)
    with torch.no_grad():
        assert torch.equal(again.hidden_states(ids, mask), model.hidden_states(ids, mask))
    rights = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert len(rights) == 1, "weights are readable by whom the other files are"
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.rglob("*.pt"))


def test_both_parts_are_plain_hugging_face_folders(tmp_path: Path) -> None:
    """The generator loads as a causal language model; only its tokenizer has control tokens."""
    model = pairs.pair().eval()
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "generator")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model.generator(ids).logits)
    assert set(CONTROL_TOKENS) <= set(AutoTokenizer.from_pretrained(tmp_path / "generator").get_vocab())
    assert not set(CONTROL_TOKENS) & set(AutoTokenizer.from_pretrained(tmp_path / "embedder").get_vocab())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
@pytest.mark.parametrize("width", [32, 16])
def test_the_embedder_folder_is_a_sentence_transformer(similarity: str, width: int, tmp_path: Path) -> None:
    """sentence-transformers loads the folder and gives the vectors that cosup gives, projection included."""
    library = pytest.importorskip("sentence_transformers")
    settings = PairSettings(similarity=similarity, max_length=200, max_passage_length=12)
    model = pairs.pair("llama", embedder_width=width, settings=settings).eval()
    model.save_pretrained(tmp_path)
    theirs = library.SentenceTransformer(str(tmp_path / "embedder"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    ours = model.embed_ids([model.encode_passage(text) for text in TEXTS])
    assert any(len(pairs.tokenizer().encode(text)) > 12 for text in TEXTS)
    assert torch.allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("embedder", pairs.FAMILIES)
def test_families_and_widths_mix(embedder: str) -> None:
    """Queries and passages meet in the generator's width whatever the embedder is."""
    model = pairs.pair("gpt2", embedder, embedder_width=48).eval()
    assert model.embed_ids([model.encode_passage(TEXTS[0])]).shape == (1, 32)
    assert pairs.pair("gpt2", "gpt2").projection is None


def test_control_tokens_start_apart_from_one_another() -> None:
    """Fresh rows drawn around the vocabulary's mean would be almost equal; ours are not, and are of ordinary length."""
    model = pairs.pair()
    weight = model.generator.get_input_embeddings().weight  # type: ignore[union-attr]
    rows = weight[[model.control.ret, model.control.cs, model.control.ce]]  # type: ignore[index]
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert (cosines - torch.eye(3)).max() < 0.9
    assert torch.allclose(rows.norm(dim=1), weight.norm(dim=1).mean(), rtol=0.05)  # type: ignore[operator, union-attr]


def test_from_base_starts_from_folders_and_checks_the_context(tmp_path: Path) -> None:
    """Local folders work as bases; a context longer than the model's is refused by name."""
    model, words = pairs.generator("gpt2")
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    settings = PairSettings(max_length=200, max_passage_length=40)
    pair = CoSupervisedModel.from_base(str(tmp_path), str(tmp_path), settings)
    assert pair.fingerprint is None
    with pytest.raises(UsageError, match="max_length 999 is more than the 256 positions"):
        CoSupervisedModel.from_base(str(tmp_path), str(tmp_path), PairSettings(max_length=999))
    pairs.generator("gpt2", n_positions=512)[0].save_pretrained(tmp_path / "long")
    words.save_pretrained(tmp_path / "long")
    with pytest.raises(UsageError, match="max_passage_length 300 is more than the 256 positions"):
        CoSupervisedModel.from_base(
            str(tmp_path / "long"), str(tmp_path), PairSettings(max_length=400, max_passage_length=300)
        )


def test_a_generator_that_changes_its_logits_after_the_head_is_refused(tmp_path: Path) -> None:
    """Gemma-2's soft cap would silently be left out of the loss."""
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.05, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(config)
    capped.save_pretrained(tmp_path)
    refused = r"changes its logits after the output head \(final_logit_softcapping 0.05\); cosup cannot train it"
    with pytest.raises(UsageError, match=rf"'{tmp_path}' \(Gemma2ForCausalLM\) {refused}"):
        load_generator(str(tmp_path))
    known, tokenizer = pairs.pair(), pairs.tokenizer()
    with pytest.raises(UsageError, match=f"^Gemma2ForCausalLM {refused}"):
        CoSupervisedModel(capped, known.embedder, tokenizer, tokenizer)


def test_a_head_that_settings_do_not_betray_is_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs.generator("gpt2")[0].save_pretrained(tmp_path)
    real = GPT2LMHeadModel.forward

    def halved(self: GPT2LMHeadModel, *words: Any, **more: Any) -> Any:
        output = real(self, *words, **more)
        return CausalLMOutput(logits=output.logits / 2)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", halved)
    with pytest.raises(UsageError, match=r"GPT2LMHeadModel\) changes its logits .* \(they differ from the head's\)"):
        load_generator(str(tmp_path))


def test_the_fingerprint_names_weights_and_settings_not_the_place(tmp_path: Path) -> None:
    """Moving a folder keeps it, one weight changes it, and so does what is pooled into a vector."""
    model = pairs.pair()
    model.save_pretrained(tmp_path / "a")
    first = model.fingerprint
    model.save_pretrained(tmp_path / "b")
    assert model.fingerprint == first
    model.configure(similarity="inner_product")
    model.save_pretrained(tmp_path / "c")
    assert model.fingerprint != first
    model.configure(similarity="cosine")
    with torch.no_grad():
        next(model.embedder.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path / "d")
    assert model.fingerprint != first


def _break(folder: Path, how: str) -> None:
    record = json.loads((folder / "cosup.json").read_text())
    if how == "format":
        record["format"] = 99
    elif how == "field":
        del record["token_ids"]
    elif how == "ids":
        record["token_ids"]["ret"] = 0
    (folder / "cosup.json").write_text("{" if how == "json" else json.dumps(record))
    if how == "part":
        (folder / "embedder" / "config.json").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("format", "format 99"),
        ("field", "token_ids"),
        ("json", "wrong JSON"),
        ("part", "lacks embedder/config.json"),
        ("ids", "differ from the tokenizer's"),
    ],
)
def test_a_damaged_model_folder_is_named(how: str, message: str, tmp_path: Path) -> None:
    """Every way a folder can be wrong is told with the folder or file in the message."""
    pairs.pair().save_pretrained(tmp_path)
    _break(tmp_path, how)
    with pytest.raises(InputError, match=message) as caught:
        CoSupervisedModel.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("similarity", 5, "'similarity' is 5; expected text"),
        ("similarity", "cosin", "similarity is 'cosin'"),
        ("temperature", "x", "'temperature' is 'x'; expected a number"),
        ("max_length", None, "'max_length' is None; expected a whole number"),
        ("max_passage_length", True, "'max_passage_length' is True; expected a whole number"),
        ("prompt", 9, "'prompt' is 9; expected text"),
        ("token_ids", 3, "'token_ids' is 3; expected an object"),
        ("embedder_fingerprint", 7, "'embedder_fingerprint' is 7; expected text"),
    ],
)
def test_a_wrong_field_of_the_record_is_named(name: str, value: object, message: str, tmp_path: Path) -> None:
    """Before any weights are read."""
    for part in ("generator", "embedder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    right = {"format": 1, "token_ids": {}, "embedder_fingerprint": "f", "similarity": "cosine", "prompt": "{question}"}
    path = tmp_path / "cosup.json"
    path.write_text(json.dumps(right))
    assert read_model_record(tmp_path) == right
    path.write_text(json.dumps(right | {name: value}))
    with pytest.raises(InputError, match=message) as caught:
        read_model_record(tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_projection_that_cannot_be_read_is_named(damage: str, tmp_path: Path) -> None:
    pairs.pair(embedder_width=16).save_pretrained(tmp_path)
    path = tmp_path / "embedder" / "2_Dense" / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:50])
    with pytest.raises(InputError, match=r"2_Dense.model\.safetensors: missing or damaged"):
        CoSupervisedModel.from_pretrained(tmp_path)


def test_a_missing_model_folder_or_checkpoint_is_told(tmp_path: Path) -> None:
    """Nothing is loaded in place of what is missing."""
    with pytest.raises(InputError, match="no such model folder"):
        CoSupervisedModel.from_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match=r"no cosup\.json"):
        CoSupervisedModel.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        load_generator(str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"expected a \.gguf"):
        load_generator(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize(
    "change",
    [{"similarity": "cosin"}, {"temperature": 0.0}, {"max_length": 10}, {"prompt": "x"}, {"prompt": "{question}{y}"}],
)
def test_settings_are_checked(change: dict[str, object]) -> None:
    """A setting that cannot be used is refused when it is made."""
    with pytest.raises(UsageError):
        PairSettings(**change)  # type: ignore[arg-type]
