"""What `cosup info` says of each kind of path."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.info.describe import describe
from cosup.records import Answer, Citation, Evidence, Example, Hit, Passage, Question, Retrieval, TextSegment
from cosup.training.saving import whole_folder
from tests.fuzz.places import tiny_gguf
from tests.pairs import TinyWorld


def rows_of(path: Path) -> dict[str, str]:
    return dict(describe(path).rows)


def test_a_model_is_described_without_loading_its_weights(
    tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosup.modeling import CoSupervisedModel

    pair = CoSupervisedModel.from_pretrained(tiny_world.model)
    generator = sum(p.numel() for p in pair.generator.parameters())
    embedder = sum(p.numel() for p in pair.embedder.parameters())
    monkeypatch.setattr(CoSupervisedModel, "from_pretrained", None)
    rows = rows_of(tiny_world.model)
    assert f"{generator:,} parameters" in rows["generator"]
    assert f"{embedder:,} parameters" in rows["embedder"]
    assert rows["embedder fingerprint"] == pair.fingerprint
    assert rows["max_length"] == "256"
    assert "\n" not in rows["prompt"]


def test_a_plain_model_is_told_from_a_pair(tiny_world: TinyWorld) -> None:
    assert "not yet a cosup pair" in describe(tiny_world.base).kind


def test_a_gguf_file_is_described_by_its_head(tmp_path: Path) -> None:
    content, path = tiny_gguf(tmp_path), tmp_path / "small.gguf"
    path.write_bytes(content)
    assert rows_of(path) == {"model": "llama, 760 parameters, 1 layers x 8, vocabulary 6"}
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"small\.gguf"):
        describe(path)


def test_an_index_is_verified(tiny_world: TinyWorld, tmp_path: Path) -> None:
    rows = rows_of(tiny_world.index)
    assert rows["passages"] == "40"
    assert rows["type"].startswith("flat (40 passages, at most")
    assert rows["checksums"].startswith("verified")
    shutil.copytree(tiny_world.index, tmp_path / "index")
    with next((tmp_path / "index").glob("segment-*/passages.jsonl")).open("a") as stream:
        stream.write(" ")
    with pytest.raises(InputError, match=r"passages\.jsonl: damaged"):
        describe(tmp_path / "index")
    with pytest.raises(InputError, match=r"passages\.jsonl: damaged"):
        describe(tmp_path / "index", verify=True)
    with pytest.raises(InputError, match="not an index folder"):
        describe(tmp_path, verify=True)


@pytest.mark.milvus
def test_an_index_in_milvus_is_described(tmp_path: Path) -> None:
    from cosup.index.milvus_index import MilvusIndex
    from tests.index import milvus
    from tests.index.makers import MINE, D, N, corpus, vectors

    for name, index_type in (("x.db", "ivf-sq"), ("x.db:other", "flat")):
        MilvusIndex.build(tmp_path / name, corpus(), vectors(), MINE, "inner_product", index_type)
    found = describe(tmp_path / "x.db")
    rows = dict(found.rows)
    assert found.kind == "index in Milvus"
    assert rows["type"] == f"IVF_SQ8 (nlist {N // 39})"
    assert (rows["passages"], rows["dimension"]) == (f"{N}", f"{D}, float32")
    assert rows["embedder fingerprint"] == MINE
    assert rows["metadata fields"] == f"lang, number, odd (of {N} passages looked at)"
    assert rows_of(tmp_path / "x.db:other")["type"] == "FLAT"
    assert dict(describe(tmp_path / "x.db", verify=True).rows)["checksums"].startswith("Milvus keeps its own; --verify")
    with pytest.raises(InputError, match="no index 'third' of cosup's there; it has cosup, other"):
        describe(tmp_path / "x.db:third")
    with pytest.raises(UsageError, match="go with a recipe"):
        describe(tmp_path / "x.db", devices=2)
    milvus.stop_servers()


def test_an_index_in_milvus_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.db: no such Milvus Lite file; make one with 'cosup index'"):
        describe(tmp_path / "x.db", verify=True)


@pytest.mark.milvus
def test_a_server_of_milvus_that_is_not_there_is_told() -> None:
    with pytest.raises(CosupError, match=r"^milvus://127\.0\.0\.1:1/x: no Milvus answers there"):
        describe("milvus://127.0.0.1:1/x")


def test_passages_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [Passage("a", "T", "one two three"), Passage("b", "", "one")])
    rows = rows_of(tmp_path / "p.jsonl")
    assert rows == {
        "passages": "2",
        "with a title": "1 (50.0%)",
        "words": "1 to 3, mean 2.0, 4 in all",
        "distinct texts": "2",
    }


def test_questions_are_counted(tiny_world: TinyWorld) -> None:
    rows = rows_of(tiny_world.questions)
    assert rows["questions"] == "12"
    assert rows["with evidence"] == "12 (100.0%)"
    assert rows["with candidates"] == "0 (0.0%)"


def test_examples_and_predictions_are_told_apart(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "e.jsonl", [Example("a", "who", (TextSegment("she"),), ("x",))])
    hits = (Hit("x", 1.0),)
    cited = Answer(
        "a", "who", "she [1]", "she", citations=(Citation(1, "x", "she", 0, 3, 1.0),), retrievals=(Retrieval(0, hits),)
    )
    write_jsonl(tmp_path / "a.jsonl", [cited, Answer("b", "who", "", "", finish_reason="length")])
    assert describe(tmp_path / "e.jsonl").kind == "training examples"
    assert rows_of(tmp_path / "e.jsonl")["with negatives"] == "1 (100.0%)"
    rows = rows_of(tmp_path / "a.jsonl")
    assert rows["citations an answer"] == "0 to 1, mean 0.5, 1 in all"
    assert rows["finished by"] == "eos 1, length 1"


def test_a_data_folder_lists_its_files_and_a_text_folder_its_passages(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "passages.jsonl", [Passage("a", "T", "one two three")])
    write_jsonl(tmp_path / "data" / "questions.test.jsonl", [Question("q", "who?")])
    assert {"passages.jsonl", "questions.test.jsonl"} <= rows_of(tmp_path / "data").keys()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Title\n\nSome words here.\n", encoding="utf-8")
    assert rows_of(tmp_path / "notes")["passages"] == "1"


def recipe_text(world: TinyWorld, **training: object) -> str:
    data = f"{{passages: {world.passages}, questions: {world.questions}, max_length: 256, max_passage_length: 96}}"
    settings = json.dumps({"max_steps": 2, **training})
    return f"generator: {world.base}\nembedder: {world.base}\ndata: {data}\ntraining: {settings}\n"


def test_a_recipe_is_checked(tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(tiny_world), encoding="utf-8")
    assert rows_of(path)["training.max_steps"] == "2"
    path.write_text(recipe_text(tiny_world).replace("max_steps", "max_stepz"), encoding="utf-8")
    with pytest.raises(InputError.__bases__[0], match="did you mean 'max_steps'"):
        describe(path)


def test_a_recipe_says_what_it_will_need_without_its_weights(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Of the models there is the configuration, of the data a number."""
    (tmp_path / "base").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "base" / name).write_bytes((tiny_world.base / name).read_bytes())
    path = tmp_path / "r.yaml"
    text = recipe_text(tiny_world, max_steps=-1, per_device_train_batch_size=4, num_train_epochs=2, bf16=True)
    path.write_text(text.replace(str(tiny_world.base), str(tmp_path / "base")), encoding="utf-8")
    rows = dict(describe(path, devices=2, examples=100).rows)
    width, words, inner = 32, json.loads((tmp_path / "base" / "config.json").read_text())["vocab_size"], 64
    body = words * width + 2 * (4 * width * width + 3 * width * inner + 2 * width) + width
    whole = 2 * body + words * width + 2 * 3 * width
    assert rows["parameters"] == f"{whole:,}, trained {whole:,} (all)"
    assert rows["devices"] == "2 x DDP"
    assert rows["  weights"] == f"{4 * whole / 2**20:.1f} MiB"
    assert rows["  optimizer"] == f"{8 * whole / 2**20:.1f} MiB"
    assert rows["examples"] == "100; 8 a step"
    assert rows["steps"] == "26 (2 epochs of 13)"


def test_a_recipe_may_be_asked_about_with_other_values(tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(tiny_world, max_steps=7), encoding="utf-8")
    plain = dict(describe(path, examples=100).rows)
    other = dict(describe(path, examples=100, overrides=[("max_steps", "9"), ("adapters.r", "4")]).rows)
    assert plain["steps"].startswith("7 (max_steps")
    assert other["steps"].startswith("9 (max_steps")
    assert other["adapters"] != plain.get("adapters")
    with pytest.raises(UsageError, match="max_stepz"):
        describe(path, overrides=[("max_stepz", "9")])
    with pytest.raises(UsageError, match=r"no such option: --verifi \(did you mean 'verify'\?\); .* is no recipe"):
        describe(tiny_world.model, overrides=[("verifi", "true")])


def test_numbers_of_devices_and_examples_go_with_recipes_alone(tiny_world: TinyWorld) -> None:
    with pytest.raises(UsageError, match="--devices and --examples go with a recipe"):
        describe(tiny_world.model, devices=2)


def test_a_stopped_run_says_where_it_stands(tmp_path: Path) -> None:
    text = "generator: g\nembedder: e\ndata: {passages: p.jsonl, questions: q.jsonl}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert "no checkpoint" in rows_of(tmp_path)["state"]
    log = [{"loss": 3.0, "step": 5}, {"eval_recall@1": 0.25, "step": 7}]
    with whole_folder(tmp_path / "checkpoint-7") as draft:
        (draft / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")
    rows = rows_of(tmp_path)
    assert "checkpoint-7" in rows["state"]
    assert rows["eval_recall@1"] == "0.25"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no records"),
        ('{"foo": 1}\n', r":1: found 'foo'; expected passages"),
        ('{"id": "a", "txt": "b"}\n', r":1: found 'id', 'txt' \(did you mean 'text'\?\); expected passages"),
        ('{"output": "b"}\n', r":1: found 'output'; expected passages"),
        ('{"id": "a", "question": "x"}\n{"id": "a", "question": "x"}\n', r":2: id 'a' again"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        describe(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"x": 1}', r"report\.json: no 'metrics', 'count' and 'settings'; expected a report"),
        ('{"metrics": {"f1": 1.0}}', "no 'metrics', 'count' and 'settings'"),
        ('{"metrics": {"f1": 1.0}, "count": 1, "settings": 3}', "no 'metrics', 'count' and 'settings'"),
        ('{"metrics": {"f1": "high"}, "count": 1}', r"report\.json: metrics\.f1 is 'high'; expected a number"),
    ],
)
def test_a_wrong_report_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    for path in (tmp_path, tmp_path / "report.json"):
        with pytest.raises(InputError, match=message):
            describe(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer_state.json", "{}", "this is a part of a checkpoint: give {folder}"),
        ("config.json", '{"model_type": "llama"}', "this is a part of a model folder: give {folder}"),
        ("metrics.json", '{"metrics": {}, "log": []}', "this is a part of a run folder: give {folder}"),
        ("llama.json", '{"model_type": "llama"}', "it looks like a model's configuration: give the model's folder"),
        (
            "dev.json",
            '{"version": "1.1", "data": []}',
            "it looks like SQuAD: cosup convert squad {folder}/dev.json OUT",
        ),
        (
            "dev.json",
            '[{"question": "who?", "supporting_facts": []}]',
            "it looks like HotpotQA: cosup convert hotpotqa {folder}/dev.json OUT",
        ),
        ("q.json", '[{"question": "who?"}]', "it looks like data in one list: cosup reads JSONL, one object a line"),
        ("other.json", "[1, 2]", "found no JSON object; expected a report of 'cosup evaluate'"),
    ],
)
def test_an_unknown_json_file_is_told_by_what_it_is_near_to(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        describe(tmp_path / name)
    assert str(caught.value).endswith(message.format(folder=tmp_path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model/cosup.json", "index/index.json"], "its folders are known: give {folder}/index, {folder}/model"),
        (["model.safetensors"], "it has weights and no config.json, which a model folder needs"),
        (["a.parquet", "b.yaml"], "give one of its files: a.parquet, b.yaml"),
        (["picture.png"], "expected a model, index, run or data folder, or Markdown and text files"),
        ([], "expected a model, index, run or data folder, or Markdown and text files"),
    ],
)
def test_an_unknown_folder_is_told_by_what_it_is_near_to(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        describe(tmp_path)
    assert str(caught.value) == f"{tmp_path}: nothing here that cosup knows; {message.format(folder=tmp_path)}"


def test_damaged_weights_and_missing_paths_are_refused(tiny_world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        describe(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    with pytest.raises(InputError, match="not a safetensors file"):
        describe(tmp_path)


def test_lines_stand_in_columns(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [Question("q", "who?")])
    head, *rest = describe(tmp_path / "q.jsonl").lines
    assert head == "questions"
    assert all(line.startswith("  ") for line in rest)


def test_a_data_folder_counts_the_passages_that_it_names_and_has_not(tmp_path: Path) -> None:
    """What training refuses is seen before; a file of questions alone says nothing of passages."""
    asked = [Question("q", "who?", ("Ada",), evidence=(Evidence("p"), Evidence("z"))), Question("r", "x?", ("y",))]
    lost = [replace(asked[1], candidates=("y", "z", "p")), asked[0]]
    write_jsonl(tmp_path / "questions.jsonl", asked)
    write_jsonl(tmp_path / "questions.dev.jsonl", lost)
    assert not any("not there" in name for name, _ in describe(tmp_path).rows)
    write_jsonl(tmp_path / "passages.jsonl", [Passage("p", "", "Ada was born."), Passage("y", "", "Why.")])
    found = [value for name, value in describe(tmp_path).rows if name == "  passages named that are not there"]
    assert found == ["1", "1"]
    write_jsonl(tmp_path / "passages.jsonl", [Passage(name, "", "Ada was born.") for name in "pyz"])
    assert not any("not there" in name for name, _ in describe(tmp_path).rows)
