"""Names from files and from strangers never lead out of a folder, and names that no file can have are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosup.checkpoints import load_generator
from cosup.data.convert import convert
from cosup.data.reading import read_answers, read_examples, read_ids, read_passages, read_questions
from cosup.data.store import PassageStore
from cosup.data.writing import write_json, write_jsonl
from cosup.data.yaml_files import read_yaml
from cosup.errors import CosupError, InputError
from cosup.evaluation.suites import load_suite
from cosup.experiments.plan import load_experiment
from cosup.index.faiss_index import FaissIndex
from cosup.index.manifest import FileRecord, IndexManifest
from cosup.info.describe import describe
from cosup.model_folder import read_model_record
from cosup.records import Passage
from cosup.sentence_folder import dense_layers, read_sentence_folder
from cosup.training.recipe import load_recipe
from cosup.training.shapes import read_shape
from tests.pairs import pair
from tests.serving.servers import Running

OUT = (
    "../out",
    "../../out",
    "/etc/passwd",
    "a/../../out",
    "./x",
    "",
    ".",
    "..",
    "a\x00b",
    "x" * 5000,
    "segment-0000000g",
)
NO_NAMES = ("x" * 300, "y/" * 3000 + "z", "a\x00b", f"{'z' * 300}/{'z' * 300}")
READERS: dict[str, Callable[[str], object]] = {
    "passages": read_passages,
    "questions": read_questions,
    "examples": read_examples,
    "predictions": read_answers,
    "ids": read_ids,
    "yaml": lambda name: read_yaml(Path(name)),
    "recipe": load_recipe,
    "suite": load_suite,
    "experiment": load_experiment,
    "index": lambda name: FaissIndex.load(name, None),
    "model": lambda name: read_model_record(Path(name)),
    "shape": read_shape,
    "generator": load_generator,
    "info": describe,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", NO_NAMES, ids=["long", "deep", "nul", "long folder"])
def test_a_name_that_no_file_can_have_is_refused(reader: str, name: str, tmp_path: Path) -> None:
    for path in (name, f"{tmp_path}/{name}", f"{tmp_path}/{name}.jsonl", f"{tmp_path}/{name}.yaml"):
        with pytest.raises(CosupError):
            READERS[reader](path)


@pytest.mark.parametrize("name", NO_NAMES, ids=["long", "deep", "nul", "long folder"])
def test_what_cannot_be_a_file_is_not_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "b"}\n')
    for write in (
        lambda path: write_json(path, {}),
        lambda path: write_jsonl(path, [{}]),
        lambda path: convert("parquet", tmp_path / "p.jsonl", path),
        lambda path: convert("parquet", path, tmp_path / "out"),
        lambda path: PassageStore.build(path, tmp_path / "store"),
    ):
        with pytest.raises(CosupError):
            write(f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == [
        "p.jsonl"
    ]


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "木" * 85):
        write_json(tmp_path / name, {"a": 1})
        assert json.loads((tmp_path / name).read_text()) == {"a": 1}


# -- indexes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    vectors = np.eye(3, dtype=np.float32)
    passages = [Passage(f"p{n}", "", "x") for n in range(3)]
    FaissIndex.build(tmp_path / "index", passages, vectors, "f", "inner_product").delete(["p1"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    return tmp_path / "index"


def signed(index: Path, **segment: object) -> None:
    """Change the one segment's record and sign the manifest anew."""
    manifest = IndexManifest.read(index)
    changed = replace(manifest.segments[0], **segment)  # type: ignore[arg-type]
    (index / "index.json").write_text(replace(manifest, segments=(changed,)).text())


@pytest.mark.parametrize("name", OUT)
def test_an_index_names_no_file_outside_of_it(name: str, index: Path) -> None:
    """Neither as a segment, nor as one of its files, nor as that of the deleted rows; nothing there is touched."""
    record = IndexManifest.read(index).segments[0]
    whole = (index / "index.json").read_text()
    files = dict(record.files)
    for change in (
        {"name": name},
        {"files": {**files, name: FileRecord(4, "0" * 64)}},
        {"deleted_file": name, "files": {**files, name: FileRecord(4, "0" * 64)}},
    ):
        (index / "index.json").write_text(whole)
        signed(index, **change)
        with pytest.raises(InputError, match="damaged"):
            FaissIndex.load(index, None)
        with pytest.raises(InputError, match="damaged"):
            IndexManifest.read(index)
    (index / "index.json").write_text(whole)
    assert len(FaissIndex.load(index, None)) == 2
    assert (index.parent / "out" / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.jsonl", "part-0.jsonl", "a\x00b", "x" * 5000])
def test_an_index_reads_no_passage_from_elsewhere(name: str, index: Path) -> None:
    """Its store may name no source outside of its folder, though the stores of training do."""
    secret = index.parent / "secret.jsonl"
    secret.write_text("".join(f'{{"id": "p{n}", "text": "secret"}}\n' for n in range(3)))
    segment = next(index.glob("segment-*"))
    (segment / "part-0.jsonl").write_text(secret.read_text())
    store = json.loads((segment / "store.json").read_text())
    for path in (name, str(secret)):
        size = secret.stat().st_size
        files = [{**store["files"][0], "path": path, "size": size}]
        (segment / "store.json").write_text(json.dumps({**store, "files": files}))
        names = {**IndexManifest.read(index).segments[0].files, "store.json": FileRecord.of(segment / "store.json")}
        signed(index, files=names)
        with pytest.raises(InputError):
            FaissIndex.load(index, None)


def test_a_link_out_of_an_index_is_followed_for_reading_alone(index: Path) -> None:
    """Whoever may write links into the folder may write files; but nothing behind a link is removed with it."""
    outside = index.parent / "out"
    (index / "segment-deadbeef").symlink_to(outside)
    FaissIndex.load(index, None).delete(["p0"])
    assert (outside / "kept.txt").read_text() == "kept"


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../out", "/etc", "a\x00b", "x" * 5000, "../generator", "1_Pooling/../../x"])
def test_the_parts_of_an_embedder_lie_in_its_folder(name: str, tmp_path: Path) -> None:
    pair("llama", embedder_width=16, layers=1).save_pretrained(tmp_path)
    folder = tmp_path / "embedder"
    modules = json.loads((folder / "modules.json").read_text())
    for number in range(1, len(modules)):
        changed = [{**row, "path": name} if n == number else row for n, row in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"modules\.json"):
            read_sentence_folder(folder)
        with pytest.raises(InputError, match=r"modules\.json"):
            dense_layers(folder)


# -- ids as names ------------------------------------------------------------------------------------------------------

IDS = ("../../../etc/passwd", "..", "/etc/passwd", "a\x00b", "x" * 3000, "%2e%2e%2f", "C:\\x", "a\nb", "\u202ex")


@pytest.mark.parametrize("name", IDS)
def test_ids_of_passages_are_no_paths(name: str, index: Path) -> None:
    """Kept, found and deleted as they are; nothing is written but in the index."""
    before = sorted(p for p in index.parent.rglob("*") if index not in p.parents)
    opened = FaissIndex.load(index, None)
    opened.add([Passage(name, name, name)], np.ones((1, 3), dtype=np.float32))
    assert opened.passage(name).id == name
    opened.delete([name])
    assert sorted(p for p in index.parent.rglob("*") if index not in p.parents) == before


@pytest.mark.parametrize("name", IDS)
def test_converted_ids_name_no_files(name: str, tmp_path: Path) -> None:
    record = {"query_id": name, "query": "Where?", "positive_passages": [{"docid": name, "title": name, "text": "x"}]}
    (tmp_path / "in.jsonl").write_text(json.dumps({**record, "negative_passages": []}) + "\n")
    written = convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out").written
    assert {path.parent for path in written} == {tmp_path / "out"}
    assert {p.name for p in tmp_path.rglob("*")} == {"in.jsonl", "out", *(path.name for path in written)}


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "/etc", "", "a\x00b", "."])
def test_names_of_tasks_and_systems_are_no_paths(name: str, tmp_path: Path) -> None:
    """Both name folders of results."""
    task = {"passages": "p", "questions": "q", "correctness": "contains_answer"}
    suite, experiment = tmp_path / "suite.yaml", tmp_path / "experiment.yaml"
    suite.write_text(json.dumps({"model": "m", "tasks": {name: task}}))
    with pytest.raises(InputError, match="letters, digits"):
        load_suite(suite)
    suite.write_text(json.dumps({"model": "m", "tasks": {"t": task}}))
    record = {"output": str(tmp_path / "o"), "recipe": "r", "suite": str(suite), "systems": {name: None}}
    experiment.write_text(json.dumps(record))
    with pytest.raises(InputError, match="letters, digits"):
        load_experiment(experiment)


@pytest.mark.parametrize(
    "path", ["/web/../app.py", "/web/..%2fapp.py", "/web/%2e%2e/app.py", "/web//etc/passwd", "/web/a%00b"]
)
def test_a_server_gives_no_file_but_its_pages(path: str, server: Running) -> None:
    found = server.ask("GET", path)
    assert found.status == 404
    assert found.error["message"].startswith("there is no")


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "x" * 3000, "a%2fb", "%2e%2e"])
def test_ids_over_http_are_no_paths(name: str, server: Running) -> None:
    found = server.ask("GET", f"/v1/passages/{name}")
    assert found.status == 404
    assert "passwd: " not in found.error["message"]
