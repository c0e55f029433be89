"""Every retriever: what it is asked, and that k, candidates and filters are obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

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
from cosup.generation.retrievers.bm25 import BM25Retriever
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerRetriever
from cosup.generation.settings import GenerationSettings
from cosup.index.filters import Filter
from cosup.records import Hit, Passage
from tests import pairs
from tests.generation.conftest import Known
from tests.generation.retrievers.corpus import CORPUS, STATE, ids, request

EARLY_PEOPLE = Filter.parse({"kind": "person", "n": {"lt": 3}})


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
