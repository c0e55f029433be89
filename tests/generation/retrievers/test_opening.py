"""From a name to a retriever, and `generate` with it: built once, never mixed, refused in a line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.generation.engine import Engine
from cosup.generation.retrieval import (
    RetrievalRequest,
    TextRetriever,
)
from cosup.generation.retrievers.bm25 import BM25Retriever
from cosup.generation.retrievers.opening import RetrieverChoice, open_retriever
from cosup.generation.settings import GenerationSettings
from cosup.index.faiss_index import FaissIndex
from cosup.modeling import CoSupervisedModel
from tests import foreign, pairs
from tests.commands import Cosup
from tests.generation.conftest import Known
from tests.generation.retrievers.corpus import CORPUS, STATE, ids, request
from tests.pairs import TinyWorld


def generate(world: TinyWorld, index: Path, output: Path, *more: object) -> list[object]:
    words: list[object] = ["generate", "--model", world.model, "--index", index, "--questions", world.questions]
    return [*words, "--ret-first", "--max-new-tokens", 6, "--output", output, *more]


@pytest.fixture
def own_index(tiny_world: TinyWorld, tmp_path: Path) -> Path:
    """A copy of the world's index: what is built beside it is the test's own."""
    return Path(shutil.copytree(tiny_world.index, tmp_path / "index"))


def test_predictions_by_others_have_the_same_form(
    cosup: Cosup, tiny_world: TinyWorld, own_index: Path, st_folder: str, tmp_path: Path
) -> None:
    forms = {}
    choices = {"own": (), "bm25": ("--retriever", "bm25"), "st": ("--retriever", st_folder, "--query-text", "question")}
    choices |= {"separate": ("--retriever", f"separate:{tiny_world.model}")}
    for name, more in choices.items():
        done = cosup(*generate(tiny_world, own_index, tmp_path / f"{name}.jsonl", *more))
        assert done.code == 0, done.err
        built = {"bm25": "bm25", "st": Path(st_folder).name}.get(name)
        line = f"built for {more[1] if more else ''}: {own_index}.retrievers/{built}\n"
        assert (line in done.err) == (built is not None)
        records = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert len(records) == 12
        assert all(len(r["retrievals"][0]["hits"]) == 10 for r in records)
        forms[name] = [sorted(r) for r in records]
    assert forms["own"] == forms["bm25"] == forms["st"] == forms["separate"]
    first = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in choices}
    assert first["separate"] == first["own"]  # the same pair, reading the text by itself
    assert len(set(first.values())) == 3


def test_what_was_built_is_used_again_until_the_index_changes(
    cosup: Cosup, tiny_world: TinyWorld, own_index: Path, st_folder: str, tmp_path: Path
) -> None:
    for choice in ("bm25", st_folder):
        words = ["ask", "--model", tiny_world.model, "--index", own_index, "--retriever", choice, "--json", "Where?"]
        words += ["--ret-first", "--max-new-tokens", 4]
        assert "built for" in cosup(*words).err
        assert "built for" not in cosup(*words).err
        other = FaissIndex.load(own_index, None)
        few = [p for p in other if p.id == next(iter(other)).id]
        shutil.copytree(own_index, tmp_path / "kept")
        FaissIndex.build(own_index, few, np.eye(1, other.dimension, dtype=np.float32), "x" * 64, "cosine")
        done = cosup(*words)
        assert "built for" in done.err
        assert len(json.loads(done.out)["retrievals"][0]["hits"]) == 1
        shutil.rmtree(own_index)
        (tmp_path / "kept").rename(own_index)


def test_answers_of_another_retriever_are_not_mixed(
    cosup: Cosup, tiny_world: TinyWorld, own_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosup.generation import predict

    append = predict._append

    def append_and_stop(*arguments: Any) -> None:
        append(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "_append", append_and_stop)
    words = generate(tiny_world, own_index, tmp_path / "out.jsonl", "--batch-size", 5)
    assert cosup(*words, "--retriever", "bm25").code == 130
    monkeypatch.setattr(predict, "_append", append)
    assert "differs in retriever" in cosup.refused(*words)
    assert "differs in retriever.query" in cosup(*words, "--retriever", "bm25", "--query-text", "question").err
    assert cosup(*words, "--retriever", "bm25").code == 0


def test_a_missing_library_is_named_with_its_extra(
    cosup: Cosup,
    tiny_world: TinyWorld,
    own_index: Path,
    st_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    words = generate(tiny_world, own_index, tmp_path / "out.jsonl", "--retriever")
    for choice in ("bm25", st_folder):
        said = cosup.refused(*words, choice)
        assert " needs the extra 'retrievers' (" in said
        assert said.endswith("is not installed): pip install 'cosup[retrievers]'\n")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_wrong_choices_are_refused(
    cosup: Cosup, tiny_world: TinyWorld, own_index: Path, tmp_path: Path, st_folder: str
) -> None:
    words = generate(tiny_world, own_index, tmp_path / "out.jsonl")
    assert "go with --retriever" in cosup.refused(*words, "--query-text", "question")
    assert "did you mean 'question'" in cosup.refused(*words, "--retriever", "bm25", "--query-text", "questoin")
    assert "no use to 'bm25'" in cosup.refused(*words, "--retriever", "bm25", "--query-prompt", "query: ")
    assert "no such model folder" in cosup.refused(*words, "--retriever", f"separate:{tmp_path / 'none'}")
    assert "expected bm25, separate:MODEL_FOLDER" in cosup.refused(*words, "--retriever", "separate:")
    other = tmp_path / "other"
    pairs.pair().save_pretrained(other)
    assert "made by embedder" in cosup.refused(*words, "--retriever", f"separate:{other}")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_separate_pair_of_another_vocabulary_is_refused(known: Known, tmp_path: Path) -> None:
    words = foreign.authors_pair(tmp_path)
    from cosup.joining import join

    folder = join(*words, tmp_path / "model").folder
    writer, choice = CoSupervisedModel.from_pretrained(folder), RetrieverChoice(f"separate:{tmp_path / 'known'}")
    known.model.save_pretrained(tmp_path / "known")
    with pytest.raises(UsageError, match="another vocabulary than the model that writes"):
        open_retriever(choice, writer, known.index, tmp_path)


def test_a_pair_that_asks_by_text_retrieves_for_another(known: Known, st_folder: str, tmp_path: Path) -> None:
    from cosup.joining import join

    generator, _ = foreign.authors_pair(tmp_path)
    joined = join(generator, st_folder, tmp_path / "model").folder
    pair = CoSupervisedModel.from_pretrained(joined)
    from cosup.index.build import build_index

    index = build_index(pair, pairs.PASSAGES, tmp_path / "index")
    choice = RetrieverChoice(f"separate:{joined}", "question")
    opened = open_retriever(choice, known.model, index, tmp_path / "index").retriever
    assert isinstance(opened, TextRetriever)
    sent = RetrievalRequest(STATE, [1], question="Bo Reed", text="Bo Reed and more")
    wanted = index.search(pair.embed_queries(["Bo Reed"]).numpy(), 3)
    assert opened.search([sent], 3) == wanted
    answers = Engine(known.model, opened, GenerationSettings(max_new_tokens=30)).generate(pairs.QUESTIONS[:2])
    assert all(len(a.retrievals) == 2 for a in answers)


def test_a_passages_file_is_enough_for_bm25(tmp_path: Path) -> None:
    from cosup.data.reading import read_passages

    write_jsonl(tmp_path / "passages.jsonl", CORPUS)
    retriever = BM25Retriever.build(read_passages(tmp_path / "passages.jsonl"), tmp_path / "index")
    assert retriever.passage("p3").metadata == {"kind": "person", "n": 3}
    assert ids(retriever.search([request("Pale Moon")], 1)[0]) == ["w5"]
