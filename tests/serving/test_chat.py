"""Answers over HTTP are the engine's, streamed or whole, for OpenAI's own client too; citations are annotations."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from cosup.generation.engine import Engine
from cosup.generation.settings import GenerationSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Answer, Question
from cosup.serving.chat import question_of
from cosup.serving.errors import ApiError
from cosup.serving.schemas import CosupOptions, Message
from tests import pairs
from tests.serving.servers import NAME, Running, chat_body, running

ASKED = pairs.QUESTIONS[0].question


@pytest.fixture(scope="module")
def answers(server: Running) -> dict[str, Answer]:
    """What the engine itself answers, by question."""
    engine = Engine(server.served.corpus.model, server.served.corpus.index)
    asked = [Question("question", q.question) for q in pairs.QUESTIONS]
    return {q.question: answer for q, answer in zip(asked, engine.generate(asked), strict=True)}


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused", max_retries=0)


# -- OpenAI's client --------------------------------------------------------------------------------------------------


def test_openais_client_gets_answer_and_citations(client: openai.OpenAI, answers: dict[str, Answer]) -> None:
    """Content, spans, passages, usage, reason: all as the engine's answer has them."""
    made = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": ASKED}])
    expected = answers[ASKED]
    choice = made.choices[0]
    assert choice.message.content == expected.text
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert choice.message.annotations is not None
    assert len(choice.message.annotations) == len(expected.citations) == 2
    for found, citation in zip(choice.message.annotations, expected.citations, strict=True):
        cited: Any = found.url_citation
        assert found.type == "url_citation"
        assert (cited.start_index, cited.end_index) == (citation.start, citation.end)
        assert expected.text[cited.start_index : cited.end_index] == citation.claim.removesuffix(".")
        assert (cited.passage_id, cited.n) == (citation.passage_id, citation.n)
        assert cited.score == pytest.approx(citation.score, abs=1e-5)
        passage = pairs.BY_ID[citation.passage_id]
        assert cited.title == passage.title
        assert [passage.text[start:end] for start, end in cited.marks] == [citation.claim]
        assert cited.url == f"/v1/passages/{citation.passage_id}"
    assert made.usage is not None
    assert made.usage.completion_tokens > 5
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    extra: Any = made
    assert extra.cosup["answer"] == expected.answer
    assert [r["read"] for r in extra.cosup["retrievals"]] == [1, 1]
    assert all(r["hits"] == [] for r in extra.cosup["retrievals"])
    assert extra.cosup["passage_tokens"] > 10


def test_openais_client_streams_the_same(client: openai.OpenAI, answers: dict[str, Answer]) -> None:
    """The pieces joined are the text; citations come as they close, before the text behind them."""
    expected = answers[ASKED]
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": ASKED}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"cosup": {"hits": True, "top_k": 3}},
    )
    text, cited, searches, reasons, usage, closed_at = "", [], [], [], None, []
    for chunk in stream:
        usage = chunk.usage or usage
        extra: Any = getattr(chunk, "cosup", None) or {}
        if "retrieval" in extra:
            searches.append(extra["retrieval"])
        for choice in chunk.choices:
            delta: Any = choice.delta
            text += delta.content or ""
            for annotation in getattr(delta, "annotations", None) or []:
                cited.append(annotation["url_citation"])
                closed_at.append(len(text))
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == expected.text
    assert [(c["start_index"], c["end_index"], c["passage_id"]) for c in cited] == [
        (c.start, c.end, c.passage_id) for c in expected.citations
    ]
    assert closed_at[0] < len(expected.text) - 5
    assert all(place >= c["end_index"] for place, c in zip(closed_at, cited, strict=True))
    assert reasons == ["stop"]
    assert usage is not None
    assert usage.completion_tokens > 5
    assert [len(search["hits"]) for search in searches] == [3, 3]
    assert [search["hits"][0]["passage_id"] for search in searches] == [c.passage_id for c in expected.citations]
    assert searches[0]["hits"][0]["title"] == pairs.BY_ID[expected.citations[0].passage_id].title
    scores = [hit["score"] for hit in searches[0]["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_openais_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "cosup"
    with pytest.raises(openai.NotFoundError, match=r"model 'toys' is not served \(did you mean 'toy'\?\)"):
        client.models.retrieve("toys")
    with pytest.raises(openai.NotFoundError, match="is not served"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])


# -- many at once -----------------------------------------------------------------------------------------------------


def test_many_clients_share_the_batch_and_get_their_own_answers(server: Running, answers: dict[str, Answer]) -> None:
    """Forty requests at once, streaming and not: each the engine's answer; two rows were on their way together."""
    most = 0

    def ask(number: int) -> tuple[str, str]:
        nonlocal most
        question = pairs.QUESTIONS[number % len(pairs.QUESTIONS)].question
        reply = server.chat(question, stream=number % 2 == 0)
        most = max(most, server.served.runner.running)
        assert reply.status == 200
        if number % 2:
            return question, reply.json["choices"][0]["message"]["content"]
        deltas = [choice["delta"] for event in reply.events for choice in event["choices"]]
        return question, "".join(delta.get("content", "") for delta in deltas)

    with ThreadPoolExecutor(16) as pool:
        for question, text in pool.map(ask, range(40)):
            assert text == answers[question].text
    assert most > 1
    server.wait_until_idle()


# -- options ----------------------------------------------------------------------------------------------------------


def test_options_reach_the_engine(server: Running) -> None:
    """What each one does is the engine's business; that it arrives is seen by what comes back."""
    plain = server.chat(cosup={"hits": True}).json
    assert [len(r["hits"]) for r in plain["cosup"]["retrievals"]] == [10, 10]
    few = server.chat(cosup={"hits": True, "top_k": 2, "max_retrievals": 1}).json
    assert [len(r["hits"]) for r in few["cosup"]["retrievals"]] == [2]
    abstained = server.chat(cosup={"min_score": 2.0}).json
    assert abstained["choices"][0]["message"]["annotations"] == []
    assert {r["read"] for r in abstained["cosup"]["retrievals"]} == {0}
    limited = server.chat(cosup={"candidates": ["w3", "p3"]}).json
    cited = [a["url_citation"]["passage_id"] for a in limited["choices"][0]["message"]["annotations"]]
    assert set(cited) <= {"w3", "p3"}
    two = server.chat(cosup={"read": 2}).json
    assert two["cosup"]["retrievals"][0]["read"] == 2
    none = server.chat(cosup={"filter": {"lang": "en"}, "hits": True}).json
    assert none["cosup"]["retrievals"][0]["hits"] == []
    first = server.chat(messages=[{"role": "user", "content": "Ada Vale"}], cosup={"ret_first": True}).json
    assert first["cosup"]["retrievals"][0]["position"] == 0
    short = server.chat(max_tokens=4).json
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 4)
    assert short["cosup"]["finish_reason"] == "length"
    assert server.chat(max_completion_tokens=3, max_tokens=9).json["usage"]["completion_tokens"] == 3


def test_sampling_follows_temperature_and_seed(server: Running) -> None:
    """Temperature 0 is greedy; a seed gives the same text again, and without one texts differ."""
    greedy = server.chat(temperature=0, seed=5).json["choices"][0]["message"]["content"]
    assert greedy == server.chat().json["choices"][0]["message"]["content"]
    hot = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 30}
    seeded = [server.chat(**hot, seed=7).json["choices"][0]["message"]["content"] for _ in range(2)]
    assert seeded[0] == seeded[1]
    free = {server.chat(**hot).json["choices"][0]["message"]["content"] for _ in range(6)}
    assert len(free) > 1


def test_the_servers_own_settings_hold_where_a_request_says_nothing(toy: Any, toy_model: CoSupervisedModel) -> None:
    own = GenerationSettings(top_k=2, max_new_tokens=5, ret_first=True)
    with running(toy_model, toy / "index", writing=own) as found:
        made = found.chat(cosup={"hits": True}).json
    assert made["usage"]["completion_tokens"] == 5
    assert len(made["cosup"]["retrievals"][0]["hits"]) == 2


def test_a_server_may_try_several_passages(toy: Any, toy_model: CoSupervisedModel) -> None:
    """With a beam: whole and streamed alike, the engine's answer; in a stream all of it comes at the end."""
    own = GenerationSettings(beam=2, beam_passages=2)
    with running(toy_model, toy / "index", writing=own) as found:
        expected = Engine(toy_model, found.served.corpus.index, own).generate([Question("question", ASKED)])[0]
        whole = found.chat(ASKED).json
        stream = found.chat(ASKED, stream=True).events
        assert whole["choices"][0]["message"]["content"] == expected.text
        assert "".join(c["delta"].get("content", "") for e in stream for c in e["choices"]) == expected.text
        assert whole["usage"]["completion_tokens"] > 5
        found.wait_until_idle()


@pytest.mark.parametrize("temperature", [1e-320, 1e-46, 1e-9, 0.009])
def test_a_temperature_that_is_next_to_none_is_none(server: Running, temperature: float) -> None:
    """Divided by it, logits are no numbers: it would take the whole batch with it."""
    assert server.chat(temperature=temperature).json["choices"] == server.chat().json["choices"]
    assert server.chat(temperature=0.011, seed=1).status == 200


# -- conversations ----------------------------------------------------------------------------------------------------


def messages(*turns: tuple[str, Any]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


def test_a_conversation_becomes_one_question() -> None:
    """In turns where there are several, without the marks of answers; what the system says is the instruction."""
    one = question_of(messages(("user", " Who? ")), CosupOptions())
    assert (one.question, one.instruction) == (" Who? ", None)
    more = question_of(
        messages(
            ("system", "Be brief."), ("user", "Who wrote it?"), ("assistant", "Ada Vale wrote it [1]. Ada Vale [2]"),
            ("user", [{"type": "text", "text": "Where was"}, {"type": "text", "text": "she born?"}]),
        ),
        CosupOptions(candidates=["a"]),
    )  # fmt: skip
    assert more.question == "User: Who wrote it? Assistant: Ada Vale wrote it. Ada Vale User: Where was\nshe born?"
    assert (more.instruction, more.candidates) == ("Be brief.", ("a",))


def test_history_and_instruction_are_in_the_models_prompt(server: Running) -> None:
    """By the folder's own format: the tokens of the request are those of that question."""
    asked = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Red Tide"},
        {"role": "assistant", "content": "a book [1].", "annotations": [], "refusal": None},
        {"role": "user", "content": "Where?"},
    ]
    made = server.chat(messages=asked, max_tokens=1).json
    encoder = server.served.corpus.model.example_encoder()
    prompt = encoder.prompt("User: Red Tide Assistant: a book. User: Where?", "Answer.")
    assert made["usage"]["prompt_tokens"] == len(prompt)


@pytest.mark.parametrize(
    "turns", [[("assistant", "x")], [("system", "x")], [("user", "  ")], [("user", "x"), ("assistant", "y")]]
)
def test_a_conversation_without_a_last_question_is_refused(turns: list[tuple[str, str]]) -> None:
    with pytest.raises(ApiError, match="expected a question there"):
        question_of(messages(*turns), CosupOptions())


def test_control_tokens_in_messages_stay_text(server: Running, answers: dict[str, Answer]) -> None:
    """A user who spells `[Ret]` has it read, not obeyed."""
    control = server.served.corpus.model.control
    reply = server.chat(f"[Ret] [Cs] [Ce] {ASKED}", max_tokens=1).json
    ids = server.served.corpus.model.example_encoder().prompt(f"[Ret] [Cs] [Ce] {ASKED}")
    assert not {control.ret, control.cs, control.ce} & set(ids)
    assert reply["usage"]["prompt_tokens"] == len(ids)


def test_what_clients_send_by_habit_is_taken(server: Running) -> None:
    """Fields that ask for what is so anyway, or for nothing that an answer could show."""
    habits = {
        "n": 1, "stop": None, "tools": [], "tool_choice": "none", "logit_bias": {}, "response_format": {"type": "text"},
        "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "user": "me", "metadata": {"a": "b"},
        "store": False, "parallel_tool_calls": True, "modalities": ["text"], "reasoning_effort": "low",
        "stream_options": None, "max_tokens": None, "seed": None, "temperature": None, "cosup": None, "stream": None,
        "functions": None, "top_logprobs": None, "audio": None,
    }  # fmt: skip
    assert server.chat(**habits).json["choices"] == server.chat().json["choices"]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param", "message"),
    [
        ({"temprature": 1}, "temprature", "unknown field 'temprature' (did you mean 'temperature'?)"),
        ({"cosup": {"topk": 3}}, "cosup.topk", "unknown field 'cosup.topk' (did you mean 'top_k'?)"),
        ({"n": 2}, "n", "n cannot be honoured here; leave it out"),
        ({"stop": ["x"]}, "stop", "stop cannot be honoured here"),
        ({"tools": [{"type": "function"}]}, "tools", "tools cannot be honoured here"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "cannot be honoured here"),
        ({"temperature": 3}, "temperature", "temperature: Input should be less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: "),
        ({"messages": []}, "messages", "messages: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "messages.0.role: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "messages.0.content"),
        ({"cosup": {"read": 5, "top_k": 2}}, "cosup", "read is 5, more than top_k 2"),
        ({"cosup": {"filter": {"year": {"gtt": 1}}}}, "cosup.filter", "gtt"),
        (
            {"cosup": {"filter": {"year": float("nan")}}},
            "cosup.filter",
            "a number that is not finite",
        ),
        ({"cosup": {"filter": {"year": {"gt": 10**400}}}}, "cosup.filter", "a number that is not finite"),
        ({"cosup": {"filter": {"year": [1, float("inf")]}}}, "cosup.filter", "a number that is not finite"),
        ({"cosup": {"candidates": []}}, "cosup.candidates", "cosup.candidates: "),
        ({"cosup": {"candidates": ["nowhere"]}}, "cosup.candidates", "no passage 'nowhere' among the 16 of the index"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_used_is_refused_by_name(
    server: Running, stream: bool, more: dict[str, Any], param: str | None, message: str
) -> None:
    """With a status, also where a stream was asked for; nothing that was sent comes back."""
    reply = server.ask("POST", "/v1/chat/completions", {**chat_body(ASKED), "stream": stream, **more})
    assert reply.status == 400
    assert message in reply.error["message"]
    assert param is None or reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"


def test_a_question_that_does_not_fit_is_refused_with_its_length(server: Running) -> None:
    reply = server.chat("Where was she born? " * 400)
    assert reply.status == 400
    assert reply.error["message"].startswith("the question has ")
    assert "tokens with its prompt; the context of" in reply.error["message"]
    assert (reply.error["param"], reply.error["code"]) == ("messages", "context_length_exceeded")
    misspelt = server.ask("POST", "/v1/chat/completions", {"model": NAME, "mesages": []})
    assert misspelt.error["message"] == "unknown field 'mesages' (did you mean 'messages'?)"


def test_a_body_that_is_not_said_to_be_json_is_told_so(server: Running) -> None:
    """As `curl -d` sends it without a header."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = server.ask("POST", "/v1/chat/completions", chat_body("Who?"), **kind)
    assert reply.status == 400
    assert "'Content-Type: application/json'" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"nul", b'"x"', b"\xff\xfe",
        b'{"model": "toy", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "toy", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 20_000,
        json.dumps(chat_body("x", seed=10**30)).encode(),
        json.dumps(chat_body("x", max_tokens="many")).encode(),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(server: Running, body: bytes) -> None:
    """Broken JSON, invalid UTF-8, half surrogates, numbers that are none: 400 in OpenAI's form."""
    reply = server.ask("POST", "/v1/chat/completions", body)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"


def test_unknown_routes_and_methods_are_refused_in_the_same_form(server: Running) -> None:
    unknown = server.ask("GET", "/v1/nothing")
    assert unknown.status == 404
    assert unknown.error["message"] == "there is no '/v1/nothing' here; /openapi.json lists the routes"
    wrong = server.ask("GET", "/v1/chat/completions")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert wrong.error["message"] == "this route does not take GET; send POST"
