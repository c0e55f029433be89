"""The corpus over HTTP: searched, embedded, changed; answers keep to the index that they began with."""

from __future__ import annotations

import base64
import gc
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from cosup.errors import UsageError
from cosup.index import faiss_index
from cosup.index.faiss_index import FaissIndex
from cosup.index.manifest import IndexManifest
from cosup.locks import LOCK, held
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage
from cosup.serving.settings import Limits
from tests import pairs
from tests.serving.servers import NAME, Running, running, wait_for
from tests.training.test_run_folder import full_disk

ADMIN = {"Authorization": "Bearer root"}
KEYS = {"admin_keys": frozenset({"root"})}
NEW = {
    "id": "w9",
    "title": "Black Hen",
    "text": "Black Hen is a book. It was written by Bo Reed.",
    "metadata": {"year": 2001},
}


# -- searching and embedding ------------------------------------------------------------------------------------------


def test_a_search_finds_what_an_answer_would_find_first(server: Running) -> None:
    """The same passages with the same scores as the first `[Ret]` of an answer that begins with one."""
    for question in pairs.QUESTIONS[:3]:
        found = server.ask("POST", "/v1/search", {"query": question.question, "top_k": 4})
        assert found.status == 200
        answer = server.chat(question.question, cosup={"ret_first": True, "hits": True, "top_k": 4}).json
        expected = answer["cosup"]["retrievals"][0]["hits"]
        assert [hit["passage"]["id"] for hit in found.json["data"]] == [hit["passage_id"] for hit in expected]
        assert [hit["score"] for hit in found.json["data"]] == pytest.approx(
            [hit["score"] for hit in expected], abs=1e-4
        )
        first = found.json["data"][0]["passage"]
        assert first == {**pairs.BY_ID[first["id"]].to_dict(), "metadata": {}}


def test_a_search_obeys_candidates_and_filters(server: Running) -> None:
    found = server.ask("POST", "/v1/search", {"query": "Red Tide", "candidates": ["p1", "w2"]}).json["data"]
    assert {hit["passage"]["id"] for hit in found} == {"p1", "w2"}
    assert server.ask("POST", "/v1/search", {"query": "Red Tide", "filter": {"lang": "en"}}).json["data"] == []
    assert server.ask("POST", "/v1/search", {"query": " "}).error["message"] == "query is empty"
    assert server.ask("POST", "/v1/search", {"query": "x", "candidates": ["zz"]}).status == 400
    assert "unknown field 'k'" in server.ask("POST", "/v1/search", {"query": "x", "k": 3}).error["message"]
    assert server.ask("POST", "/v1/search", {"query": "x y " * 900}).status == 400


def test_openais_client_embeds_passages_as_the_index_has_them(server: Running) -> None:
    """Base64 (what the client asks for by itself) and floats; questions find their passages by these vectors."""
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused", max_retries=0)
    texts = [p.rendered for p in pairs.PASSAGES]
    made = client.embeddings.create(model=NAME, input=texts)
    vectors = np.array([entry.embedding for entry in made.data], dtype=np.float32)
    assert [entry.index for entry in made.data] == list(range(len(texts)))
    assert made.usage.prompt_tokens == made.usage.total_tokens > len(texts)
    model = server.served.corpus.model
    expected = model.embed_ids(model.encode_passages(texts)).numpy()
    assert vectors == pytest.approx(expected, abs=1e-5)
    plain = server.ask("POST", "/v1/embeddings", {"model": NAME, "input": texts[0]}).json["data"][0]["embedding"]
    assert plain == pytest.approx(vectors[0].tolist(), abs=1e-6)
    asked = client.embeddings.create(
        model=NAME, input=[q.question for q in pairs.QUESTIONS], extra_body={"input_type": "query"}
    )
    scores = np.array([entry.embedding for entry in asked.data]) @ vectors.T
    assert [pairs.PASSAGES[row].id for row in scores.argmax(axis=1)] == [q.gold_ids[0] for q in pairs.QUESTIONS]
    raw = server.ask("POST", "/v1/embeddings", {"model": NAME, "input": "x", "encoding_format": "base64"}).json
    assert len(base64.b64decode(raw["data"][0]["embedding"])) == 4 * vectors.shape[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "text 0 of the input is empty"),
        ({"input": ["x", " "]}, "text 1 of the input is empty"),
        ({"input": [[1, 2]]}, "token ids are of another tokenizer; send texts (LangChain: check_embedding_ctx_length"),
        ({"input": [1, 2]}, "token ids are of another tokenizer"),
        ({"input": "x", "dimensions": 7}, "dimensions is 7; the pair's vectors have 32"),
        ({"input": ["x"] * 257}, "input has 257 texts; expected 256 at most"),
        ({"input": "x", "input_type": "document"}, "input_type: "),
    ],
)
def test_what_cannot_be_embedded_is_refused(server: Running, more: dict[str, Any], message: str) -> None:
    reply = server.ask("POST", "/v1/embeddings", {"model": NAME, **more})
    assert reply.status == 400
    assert message in reply.error["message"]


# -- passages ---------------------------------------------------------------------------------------------------------


def test_passages_are_added_replaced_and_deleted(own_index: Path, toy_model: CoSupervisedModel) -> None:
    """Answers and searches know them at once; the index on disk has them; a refused change leaves all as it was."""
    with running(toy_model, own_index, **KEYS) as server:
        one = {"passages": [NEW]}
        assert server.ask("POST", "/v1/passages", one, **ADMIN).json == {"added": 1, "deleted": 0, "passages": 17}
        assert server.ask("GET", "/v1/passages/w9", **ADMIN).json == NEW
        assert FaissIndex.load(own_index, None).passage("w9").text == NEW["text"]
        found = server.ask("POST", "/v1/search", {"query": "Black Hen", "top_k": 17, "filter": {"year": 2001}}, **ADMIN)
        assert [hit["passage"]["id"] for hit in found.json["data"]] == ["w9"]
        limited = server.chat(cosup={"candidates": ["w9"], "ret_first": True}, headers=ADMIN).json
        cited = limited["choices"][0]["message"]["annotations"]
        assert {a["url_citation"]["passage_id"] for a in cited} == {"w9"}
        again = server.ask("POST", "/v1/passages", one, **ADMIN)
        assert (again.status, again.error["type"]) == (409, "conflict_error")
        assert "the index has a passage 'w9' already" in again.error["message"]
        twice = server.ask("POST", "/v1/passages", {"passages": [{**NEW, "id": "a"}, {**NEW, "id": "a"}]}, **ADMIN)
        assert (twice.status, "two passages have the id 'a'" in twice.error["message"]) == (409, True)
        other = {"passages": [{**NEW, "title": "White Hen"}], "replace": True}
        assert server.ask("POST", "/v1/passages", other, **ADMIN).json["passages"] == 17
        assert server.ask("GET", "/v1/passages/w9", **ADMIN).json["title"] == "White Hen"
        assert server.ask("DELETE", "/v1/passages/w9", **ADMIN).json == {"added": 0, "deleted": 1, "passages": 16}
        assert server.ask("DELETE", "/v1/passages/w9", **ADMIN).status == 404
        assert server.ask("GET", "/v1/passages/w9", **ADMIN).status == 404
        assert "cosup_passages 16.0" in server.ask("GET", "/metrics", **ADMIN).body.decode()
    assert len(FaissIndex.load(own_index, None)) == 16


def test_a_change_that_cannot_be_written_is_told_and_can_be_sent_again(
    own_index: Path, toy_model: CoSupervisedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 where the disk is full or another process is at the index; searching goes on."""
    monkeypatch.setattr(faiss_index, "_PATIENCE", 0.1)
    with running(toy_model, own_index, **KEYS) as server:
        with full_disk(100):
            reply = server.ask("POST", "/v1/passages", {"passages": [NEW]}, **ADMIN)
        assert (reply.status, reply.error["code"]) == (503, "unavailable")
        with held(own_index / LOCK, "it is used"):
            reply = server.ask("DELETE", "/v1/passages/w1", **ADMIN)
        assert (reply.status, reply.error["code"]) == (503, "unavailable")
        assert server.ask("POST", "/v1/search", {"query": "Red Tide"}, **ADMIN).status == 200
        assert server.ask("POST", "/v1/passages", {"passages": [NEW]}, **ADMIN).json["passages"] == 17
    assert len(FaissIndex.load(own_index, None)) == 17


@pytest.mark.parametrize("passage_id", ["a/b", "place/a b", "\u00fc%2F?#", "..", "x" * 512])
def test_any_id_can_be_asked_for(own_index: Path, toy_model: CoSupervisedModel, passage_id: str) -> None:
    """Slashes, spaces, percent signs: percent-encoded, as citations link to it."""
    from urllib.parse import quote

    with running(toy_model, own_index, **KEYS) as server:
        assert server.ask("POST", "/v1/passages", {"passages": [{**NEW, "id": passage_id}]}, **ADMIN).status == 200
        place = f"/v1/passages/{quote(passage_id, safe='')}"
        assert server.ask("GET", place, **ADMIN).json["id"] == passage_id
        assert server.ask("DELETE", place, **ADMIN).json["deleted"] == 1


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ([], "passages: "),
        ([{"id": "x", "text": ""}], "passages.0.text: "),
        ([{"id": "", "text": "x"}], "passages.0.id: "),
        ([{"id": "x", "text": "   "}], "field 'text' is"),
        ([{"id": "x", "text": "y", "titel": "z"}], "unknown field 'passages.0.titel' (did you mean 'title'?)"),
        (
            [{"id": "x", "text": "y", "metadata": {"a": [1]}}],
            "passages.0.metadata.a: expected text, a number, true or false",
        ),
        ([{"id": f"x{i}", "text": "y"} for i in range(257)], "257 passages; expected 256 at most in a request"),
    ],
)
def test_what_is_no_passage_is_refused(
    own_index: Path, toy_model: CoSupervisedModel, passages: Any, message: str
) -> None:
    with running(toy_model, own_index, **KEYS) as server:
        reply = server.ask("POST", "/v1/passages", {"passages": passages}, **ADMIN)
        assert reply.status == 400
        assert message in reply.error["message"]
        assert len(server.served.corpus) == 16


# -- changes meanwhile ------------------------------------------------------------------------------------------------


def test_an_answer_keeps_to_the_index_it_began_with(own_index: Path, toy_model: CoSupervisedModel) -> None:
    """Its passages are deleted while it is written: it cites them still; one that begins later cannot."""
    with running(toy_model, own_index, pace=0.3, **KEYS) as server:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(server.chat(headers=ADMIN)))
        asking.start()
        wait_for(lambda: server.served.runner.running == 1)
        gold = pairs.QUESTIONS[0].gold_ids
        for passage_id in gold:
            assert server.ask("DELETE", f"/v1/passages/{passage_id}", **ADMIN).status == 200
        assert asking.is_alive()
        later = server.chat(headers=ADMIN)
        asking.join(60)
        cited = [a["url_citation"]["passage_id"] for a in found[0].json["choices"][0]["message"]["annotations"]]
        assert cited == list(gold)
        assert not set(gold) & {
            a["url_citation"]["passage_id"] for a in later.json["choices"][0]["message"]["annotations"]
        }
        server.wait_until_idle()
        wait_for(lambda: len(server.served.runner._lanes) == 1 or server.chat(headers=ADMIN).status != 200)


def test_what_others_change_on_disk_is_taken_up(own_index: Path, toy_model: CoSupervisedModel) -> None:
    """Added to by another process, then replaced by a whole new build, under questions: old or new, never an error."""
    vectors = toy_model.embed_ids(toy_model.encode_passages(["Black Hen :: Black Hen is a book."])).numpy()
    with running(toy_model, own_index, reload_seconds=0.05) as server:
        other = FaissIndex.load(own_index, None)
        statuses: list[int] = []
        asking = threading.Thread(target=lambda: statuses.extend(server.chat().status for _ in range(12)))
        asking.start()
        other.add([Passage("w9", "Black Hen", "Black Hen is a book.")], vectors)
        wait_for(lambda: server.ask("GET", "/v1/passages/w9").status == 200)
        kept = list(other)[:9]
        table = toy_model.embed_ids(toy_model.encode_passages([p.rendered for p in kept])).numpy()
        FaissIndex.build(own_index, kept, table, other.embedder_fingerprint, toy_model.settings.similarity)
        wait_for(lambda: server.ask("GET", "/v1/passages/w9").status == 404)
        asking.join(60)
        assert statuses == [200] * 12
        assert len(server.served.corpus) == 9


@pytest.mark.filterwarnings("default")
def test_an_index_that_is_gone_does_not_stop_the_server(
    own_index: Path, toy_model: CoSupervisedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """What was opened is searched on; it is said."""
    with running(toy_model, own_index, reload_seconds=0.05) as server:
        shutil.move(own_index / "index.json", own_index / "elsewhere.json")
        wait_for(lambda: "the index on disk cannot be taken up" in caplog.text)
        assert server.chat().status == 200
        shutil.move(own_index / "elsewhere.json", own_index / "index.json")
        assert server.chat().status == 200


def test_a_folder_that_cannot_be_read_for_a_while_is_taken_up_later(
    own_index: Path, toy_model: CoSupervisedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system does not end the watch."""
    read, broken = IndexManifest.read, [True]

    def reads(folder: Path) -> IndexManifest:
        if broken[0]:
            raise PermissionError(13, "not now")
        return read(folder)

    with running(toy_model, own_index, reload_seconds=0.05) as server:
        monkeypatch.setattr(IndexManifest, "read", staticmethod(reads))
        time.sleep(0.3)
        broken[0] = False
        vectors = toy_model.embed_ids(toy_model.encode_passages(["Black Hen"])).numpy()
        FaissIndex.load(own_index, None).add([Passage("w9", "", "Black Hen")], vectors)
        wait_for(lambda: server.ask("GET", "/v1/passages/w9").status == 200)


def test_what_is_asked_after_a_change_knows_it_however_much_waits(
    own_index: Path, toy_model: CoSupervisedModel
) -> None:
    """Searches that came before the change are still to be done when the answer after it is asked for."""
    with running(toy_model, own_index, Limits(batch_size=1, queue=50), pace=0.02, **KEYS) as server:
        with ThreadPoolExecutor(12) as pool:
            busy = [pool.submit(server.chat, headers=ADMIN) for _ in range(3)]
            busy += [pool.submit(server.ask, "POST", "/v1/search", {"query": "Red Tide"}, **ADMIN) for _ in range(8)]
            assert server.ask("POST", "/v1/passages", {"passages": [NEW]}, **ADMIN).status == 200
            found = server.chat(cosup={"candidates": ["w9"], "ret_first": True}, headers=ADMIN)
            assert found.status == 200, found.body
            assert {future.result().status for future in busy} == {200}
        server.wait_until_idle()
        assert len(server.served.runner._lanes) == 1


def test_changes_leave_no_open_file_behind(own_index: Path, toy_model: CoSupervisedModel) -> None:
    """Thirty additions and deletions: as many descriptors as before, once nobody uses the old states."""

    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with running(toy_model, own_index, **KEYS) as server:

        def change() -> None:
            assert server.ask("POST", "/v1/passages", {"passages": [NEW]}, **ADMIN).status == 200
            assert server.ask("DELETE", "/v1/passages/w9", **ADMIN).status == 200

        change()
        gc.disable()
        try:
            before = opened()
            for _ in range(15):
                change()
            assert server.chat(headers=ADMIN).status == 200
            assert opened() - before < 12
        finally:
            gc.enable()


def test_a_corpus_that_cannot_be_changed_is_our_fault(
    own_index: Path, toy_model: CoSupervisedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 without a word of the server's folders, and the corpus as it was."""

    def refuse(self: FaissIndex, *_: Any) -> None:
        raise UsageError(f"cannot write an index to {own_index}: No space left on device")

    with running(toy_model, own_index, **KEYS) as server:
        monkeypatch.setattr(FaissIndex, "add", refuse)
        refused = server.ask("POST", "/v1/passages", {"passages": [NEW]}, **ADMIN)
        assert (refused.status, refused.error["code"]) == (503, "unavailable")
        assert str(own_index) not in refused.body.decode()
        assert len(server.served.corpus) == 16


def test_a_client_that_goes_stops_its_embedding(server: Running) -> None:
    """The pieces that are left are not computed."""
    model, pieces = server.served.corpus.model, []
    embed = model.embed_ids

    def counted(batch: Any) -> Any:
        pieces.append(len(batch))
        time.sleep(0.1)
        return embed(batch)

    model.embed_ids = counted  # type: ignore[method-assign]
    try:
        content = json.dumps({"model": NAME, "input": ["x"] * 250}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            wait_for(lambda: len(pieces) >= 2)
        server.wait_until_idle()
        assert len(pieces) < 10
    finally:
        model.embed_ids = embed  # type: ignore[method-assign]
