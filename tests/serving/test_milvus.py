"""A corpus in Milvus is served like one in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.index.build import build_index
from cosup.modeling import CoSupervisedModel
from tests import pairs
from tests.serving.servers import running

pytest.importorskip("pymilvus", reason="needs pip install 'cosup[milvus]'")
pytest.importorskip("milvus_lite", reason="needs pip install 'cosup[milvus]'")
pytestmark = pytest.mark.milvus

ADMIN = {"Authorization": "Bearer root"}


def test_it_is_asked_and_changed(toy_model: CoSupervisedModel, tmp_path: Path) -> None:
    place = str(tmp_path / "corpus.db")
    build_index(toy_model, pairs.PASSAGES, place)
    with running(toy_model, place, admin_keys=frozenset({"root"}), reload_seconds=0.05) as server:  # type: ignore[arg-type]
        made = server.chat(headers=ADMIN).json["choices"][0]["message"]
        assert [a["url_citation"]["passage_id"] for a in made["annotations"]] == list(pairs.QUESTIONS[0].gold_ids)
        new = {"passages": [{"id": "w9", "title": "Black Hen", "text": "Black Hen is a book."}]}
        assert server.ask("POST", "/v1/passages", new, **ADMIN).json["passages"] == 17
        assert server.ask("GET", "/v1/passages/w9", **ADMIN).json["title"] == "Black Hen"
        found = server.ask("POST", "/v1/search", {"query": "Black Hen", "candidates": ["w9", "w1"]}, **ADMIN).json
        assert {hit["passage"]["id"] for hit in found["data"]} == {"w9", "w1"}
        assert server.ask("DELETE", "/v1/passages/w9", **ADMIN).json["passages"] == 16
        assert server.ask("GET", "/v1/passages/w9", **ADMIN).status == 404
        server.wait_until_idle()
