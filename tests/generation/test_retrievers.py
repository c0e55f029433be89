"""Retrieval by others: what they are asked, that candidates and filters are obeyed, and what they keep on disk."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from cosup.data.store import PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.generation.engine import Engine
from cosup.generation.retrieval import (
    RetrievalRequest,
    Retriever,
    TextRetriever,
    query_text,
    search_index,
    text_so_far,
)
from cosup.generation.retrievers import bm25
from cosup.generation.retrievers.bm25 import BM25Retriever, is_current
from cosup.generation.retrievers.opening import RetrieverChoice, open_retriever
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerEmbedder, SentenceTransformerRetriever
from cosup.generation.settings import GenerationSettings
from cosup.index.base import PARTIAL
from cosup.index.embed import EmbedOptions
from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from cosup.modeling import CoSupervisedModel
from cosup.records import Hit, Passage
from tests import foreign, pairs
from tests.commands import Cosup
from tests.generation.conftest import Known
from tests.pairs import TinyWorld

STATE = torch.zeros(4)
CORPUS = tuple(
    Passage(p.id, p.title, p.text, {"kind": "book" if p.id[0] == "w" else "person", "n": int(p.id[1:])})
    for p in pairs.PASSAGES
)
EARLY_PEOPLE = Filter.parse({"kind": "person", "n": {"lt": 3}})


def request(text: str, candidates: Sequence[str] | None = None, where: Filter | None = None) -> RetrievalRequest:
    return RetrievalRequest(STATE, [1, 2], candidates, where, text, text)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> BM25Retriever:
    return BM25Retriever.build(CORPUS, tmp_path_factory.mktemp("bm25") / "index", "corpus")


@pytest.fixture(scope="module")
def st_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return foreign.sentence_transformer(tmp_path_factory.mktemp("st") / "tiny", normalize=True)


@pytest.fixture(scope="module")
def sentence(st_folder: str, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformerRetriever:
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    return SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path_factory.mktemp("vectors") / "index")


@pytest.fixture(params=["words", "sentence"])
def retriever(request: pytest.FixtureRequest) -> Retriever:
    found: Retriever = request.getfixturevalue(request.param)
    return found


# -- what is asked -------------------------------------------------------------------------------------------------


def test_the_query_is_all_the_text_the_question_or_its_last_sentence() -> None:
    text = text_so_far(" Who was he? ", ["", " He was Bo. ", "He fell. He got up."])
    assert text == "Who was he? He was Bo. He fell. He got up."
    asked = RetrievalRequest(STATE, [1], question="Who was he?", text=text)
    assert query_text(asked, "text") == text
    assert query_text(asked, "question") == "Who was he?"
    assert query_text(asked, "last_sentence") == "Who was he? He got up."
    first = RetrievalRequest(STATE, [1], question="Who was he?", text="Who was he?")
    assert query_text(first, "last_sentence") == "Who was he?"


class Recorder:
    """Answers as the pair does, and keeps what it was asked."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.requests: list[RetrievalRequest] = []

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        self.requests += requests
        return self.retriever.search(requests, k)

    def passage(self, passage_id: str) -> Passage:
        return self.retriever.passage(passage_id)


def test_the_engine_sends_what_was_written_without_passages_and_control_tokens(known: Known) -> None:
    engine = Engine(known.model, known.index, GenerationSettings(max_new_tokens=40))
    recorder = Recorder(engine.retriever)
    answers = Engine(known.model, recorder, GenerationSettings(max_new_tokens=40)).generate(pairs.QUESTIONS[:2])
    assert answers == engine.generate(pairs.QUESTIONS[:2])
    asked = pairs.QUESTIONS[0]
    sent = [r for r in recorder.requests if r.question == asked.question]
    claim = answers[0].citations[0].claim
    assert claim == asked.evidence[0].sentence
    assert [r.text for r in sent] == [asked.question, f"{asked.question} {claim}"]


def test_the_engine_reads_passages_found_by_words(known: Known, words: BM25Retriever) -> None:
    """A trained pair asks twice: BM25 is asked by the question first, then with the claim that followed."""
    answers = Engine(known.model, words, GenerationSettings(max_new_tokens=40, top_k=3)).generate(pairs.QUESTIONS)
    for question, answer in zip(pairs.QUESTIONS, answers, strict=True):
        first, second = answer.retrievals[:2]
        assert first.hits[0].passage_id == question.gold_ids[0]
        so_far = text_so_far(question.question, [answer.citations[0].claim])
        assert list(second.hits) == words.search([request(so_far)], 3)[0]


# -- every retriever -----------------------------------------------------------------------------------------------


def test_k_hits_come_back_best_first_and_never_more_than_there_are(retriever: Retriever) -> None:
    found = retriever.search([request("Where was Bo Reed born?"), request("Gold Coin")], 5)
    for hits in found:
        assert len(set(ids(hits))) == 5
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert len(retriever.search([request("Bo")], 99)[0]) == len(CORPUS)
    assert retriever.passage("w3") == CORPUS[3]
    with pytest.raises(InputError, match="no passage 'x' among the 16"):
        retriever.passage("x")


def test_candidates_and_filters_leave_k_hits_where_k_match(retriever: Retriever) -> None:
    """Also where none of them shares a word with the query."""
    asked = "Ed Thorn of Westbay"
    found = retriever.search(
        [
            request(asked, ["w7", "p1", "w2", "p4"]),
            request(asked, where=EARLY_PEOPLE),
            request(asked, ["w1", "p2", "p7", "p0"], EARLY_PEOPLE),
            request(asked, ["w1"], EARLY_PEOPLE),
            request(asked),
        ],
        3,
    )
    assert set(ids(found[0])) <= {"w7", "p1", "w2", "p4"}
    assert set(ids(found[1])) == {"p0", "p1", "p2"}
    assert set(ids(found[2])) == {"p0", "p2"}
    assert found[3] == []
    assert [len(hits) for hits in found] == [3, 3, 2, 0, 3]


def test_limits_take_the_best_of_the_whole_ranking(retriever: Retriever) -> None:
    """A limited search is the unlimited one with the others left out, scores and order alike."""
    whole = retriever.search([request("Where was Cy Moss born?")], len(CORPUS))[0]
    some = ["p5", "w2", "p2", "w6"]
    limited = retriever.search([request("Where was Cy Moss born?", some)], 3)[0]
    wanted = [hit for hit in whole if hit.passage_id in some][:3]
    assert ids(limited) == ids(wanted)
    assert [h.score for h in limited] == pytest.approx([h.score for h in wanted], abs=1e-6)


def test_unknown_candidates_are_refused(retriever: Retriever) -> None:
    with pytest.raises(InputError, match="no passage 'nobody'"):
        retriever.search([request("Bo", ["p1", "nobody"])], 2)


def test_an_unknown_query_text_is_refused(words: BM25Retriever, sentence: SentenceTransformerRetriever) -> None:
    message = r"query text is 'txt' \(did you mean 'text'\?\); expected one of text, question, last_sentence"
    with pytest.raises(UsageError, match=message):
        BM25Retriever(words.folder, "txt")
    with pytest.raises(UsageError, match=message):
        TextRetriever(sentence.embedder, sentence.index, "txt")


def test_requests_of_one_filter_are_searched_in_one_call() -> None:
    class Index:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def search(self, queries: Any, k: int, candidates: Any, filter: Any) -> list[list[Hit]]:
            self.calls.append((queries[:, 0].tolist(), candidates, filter))
            return [[Hit(str(int(q)), 1.0)] for q in queries[:, 0]]

    index, other = Index(), Filter.parse({"n": 1})
    requests = [request("a"), request("b", where=other), request("c", ["x"]), request("d", where=other)]
    found = search_index(index, torch.arange(4.0)[:, None], requests, 2)  # type: ignore[arg-type]
    assert [ids(hits) for hits in found] == [["0"], ["1"], ["2"], ["3"]]
    assert index.calls == [([0.0, 2.0], [None, ["x"]], None), ([1.0, 3.0], None, other)]


# -- BM25 ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_bm25s(words: BM25Retriever) -> None:
    plain = bm25s.BM25()
    plain.index(bm25s.tokenize([p.rendered for p in CORPUS], show_progress=False), show_progress=False)
    asked = "Green Door, written by Di Lark"
    rows, scores = plain.retrieve(bm25s.tokenize([asked], show_progress=False), k=2, show_progress=False)
    hits = words.search([request(asked)], 2)[0]
    assert ids(hits) == [CORPUS[row].id for row in rows[0]] == ["w3", "p3"]
    assert [h.score for h in hits] == pytest.approx(scores[0].tolist())


def test_words_that_nobody_has_leave_the_order_of_the_corpus(words: BM25Retriever) -> None:
    for text in ("xylophone quartz", "", "the of", "\x00"):
        hits = words.search([request(text)], 3)[0]
        assert hits == [Hit("w0", 0.0), Hit("w1", 0.0), Hit("w2", 0.0)]


def test_scores_are_memory_mapped_and_the_folder_may_move(words: BM25Retriever, tmp_path: Path) -> None:
    shutil.copytree(words.folder, tmp_path / "moved")
    moved = BM25Retriever(tmp_path / "moved", "question")
    assert isinstance(moved._scores.scores["data"], np.memmap)
    asked = [request("Blue Hour")]
    assert moved.search(asked, 4) == words.search(asked, 4)
    assert moved._store.folder == tmp_path / "moved" / "store"


def test_a_damaged_or_stale_folder_is_seen(words: BM25Retriever, tmp_path: Path) -> None:
    assert is_current(words.folder, "corpus")
    assert not is_current(words.folder, "another corpus")
    for name in ("bm25.json", "passages.jsonl", "bm25/data.csc.index.npy"):
        copied = shutil.copytree(words.folder, tmp_path / name.replace("/", "-"))
        (copied / name).write_bytes((copied / name).read_bytes()[:-1] if name != "bm25.json" else b"{")
        assert not is_current(copied, "corpus")
        with pytest.raises(InputError, match="no whole BM25 index; build it again"):
            BM25Retriever(copied)


def test_a_build_that_fails_leaves_the_older_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    BM25Retriever.build(CORPUS, folder, "old")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bm25, "_write_scores", full)
    with pytest.raises(UsageError, match="No space left on device"):
        BM25Retriever.build(CORPUS[:3], folder, "new")
    monkeypatch.undo()
    assert is_current(folder, "old")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    BM25Retriever.build(CORPUS[:3], folder, "new")
    assert len(BM25Retriever(folder)) == 3


def test_texts_are_indexed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are in memory, as bm25s needs them, but never all the texts."""
    read, ahead, at, tokenize = 0, [], PassageStore.at, bm25s.tokenize

    def counted(self: PassageStore, row: int) -> Passage:
        nonlocal read
        read += 1
        return at(self, row)

    def watched(texts: Iterable[str], **more: Any) -> Any:
        def each() -> Iterator[str]:
            for number, text in enumerate(texts):
                ahead.append(read - number)
                yield text

        return tokenize(each(), **more)

    monkeypatch.setattr(PassageStore, "at", counted)
    monkeypatch.setattr(bm25s, "tokenize", watched)
    BM25Retriever.build(CORPUS, tmp_path / "index")
    assert ahead == [1] * len(CORPUS)


def test_passages_of_an_index_are_embedded_from_the_disk(
    known: Known, st_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, build = [], SentenceTransformerRetriever.build
    monkeypatch.setattr(SentenceTransformerRetriever, "build", lambda *words: given.append(words[1]) or build(*words))
    opened = open_retriever(RetrieverChoice(st_folder), known.model, known.index, str(tmp_path / "index"))
    assert [type(passages) for passages in given] == [PassageStore]
    assert isinstance(opened.retriever, SentenceTransformerRetriever)
    assert list(opened.retriever.index) == list(known.index)
    assert opened.built is not None
    assert not (opened.built / PARTIAL).exists()


def test_what_cannot_be_indexed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        BM25Retriever.build([], tmp_path / "a")
    with pytest.raises(InputError, match="no words of two letters"):
        BM25Retriever.build([Passage("a", "", "?")], tmp_path / "a")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds 'mine\.txt'"):
        BM25Retriever.build(CORPUS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, -1.0]), min_size=1, max_size=12), st.integers(1, 14))
def test_the_best_are_those_of_a_stable_sort(scores: list[float], k: int) -> None:
    wanted = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    assert bm25._best(np.array(scores, np.float32), k).tolist() == wanted


# -- sentence-transformers -----------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8")))
def test_a_text_comes_back_from_its_ids(text: str) -> None:
    embedder = SentenceTransformerEmbedder.__new__(SentenceTransformerEmbedder)
    seen: list[str] = []
    embedder.passage_prompt = None
    embedder._encode = lambda encode, texts, prompt: seen.extend(texts) or torch.zeros(1)  # type: ignore[assignment, method-assign, func-returns-value]
    embedder.model = type("Model", (), {"encode_document": None})
    embedder.embed_ids(embedder.encode_passages([text]))
    assert seen == [text]
    assert len(embedder.encode_passages([text])[0]) == 1 + -(-len(text.encode()) // 4)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_hits_are_those_of_exact_search_with_the_models_own_vectors(similarity: str, tmp_path: Path) -> None:
    prompts = {"query": "Who was ", "passage": "It was written: "}
    folder = foreign.sentence_transformer(tmp_path / "st", similarity=similarity, prompts=prompts)
    theirs = SentenceTransformer(folder, device="cpu")
    embedder = SentenceTransformerEmbedder(folder, device="cpu")
    retriever = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index")
    asked = ["Where was Hal Pike born?", "Red Tide"]
    unit = {"normalize_embeddings": similarity == "cosine"}
    table = theirs.encode_document([p.rendered for p in CORPUS], **unit)
    for text, hits in zip(asked, retriever.search([request(text) for text in asked], 4), strict=True):
        scores = table @ theirs.encode_query(text, **unit)
        wanted = {CORPUS[i].id: float(scores[i]) for i in np.argsort(-scores)[:4]}
        assert {h.passage_id: h.score for h in hits} == pytest.approx(wanted, abs=1e-4)
    other = SentenceTransformerEmbedder(folder, "", "", device="cpu")
    assert other.fingerprint != embedder.fingerprint
    plain = theirs.encode(["Red Tide"], prompt="", **unit)
    np.testing.assert_allclose(other.embed_queries(["Red Tide"]).numpy(), plain, atol=1e-6)


def test_an_index_of_another_model_or_of_other_prompts_is_refused(st_folder: str, tmp_path: Path) -> None:
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index")
    SentenceTransformerRetriever.load(SentenceTransformerEmbedder(st_folder, device="cpu"), tmp_path / "index")
    for other in (
        SentenceTransformerEmbedder(st_folder, passage_prompt="passage: ", device="cpu"),
        SentenceTransformerEmbedder(foreign.sentence_transformer(tmp_path / "cls", pooling="cls"), device="cpu"),
    ):
        with pytest.raises(InputError, match="made by embedder"):
            SentenceTransformerRetriever.load(other, tmp_path / "index")


def test_embedding_goes_on_after_an_interruption(
    st_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = EmbedOptions(tokens_per_batch=64, shard_size=4)
    embedder = SentenceTransformerEmbedder(st_folder, device="cpu")
    embedded: list[int] = []
    embed = embedder.embed_ids

    def counting(batch: list[list[int]]) -> torch.Tensor:
        if sum(embedded) >= 8 and len(embedded) < 100:
            embedded.extend([0] * 100)
            raise KeyboardInterrupt
        embedded.append(len(batch))
        return embed(batch)

    monkeypatch.setattr(embedder, "embed_ids", counting)
    with pytest.raises(KeyboardInterrupt):
        SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index", options=small)
    before = sum(embedded)
    retriever = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "index", options=small)
    assert before == 8
    assert sum(embedded) == len(CORPUS)
    fresh = SentenceTransformerRetriever.build(embedder, CORPUS, tmp_path / "fresh")
    assert retriever.search([request("Bo")], 16) == fresh.search([request("Bo")], 16)


def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder '/no/such'"):
        SentenceTransformerEmbedder("/no/such")
    with pytest.raises(UsageError, match="cannot load a sentence-transformers model from 'no/such'"):
        SentenceTransformerEmbedder("no/such")
    euclid = foreign.sentence_transformer(tmp_path / "st", similarity="euclidean")
    with pytest.raises(UsageError, match="compares by euclidean"):
        SentenceTransformerEmbedder(euclid, device="cpu")


# -- from a name to a retriever, and the command line ----------------------------------------------------------------


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
