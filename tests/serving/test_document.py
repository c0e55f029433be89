"""The OpenAPI document says what the server does: schemathesis asks by it, and gets no 5xx and no surprise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cosup.modeling import CoSupervisedModel
from cosup.serving.settings import Limits
from tests.serving.servers import NAME, Running, running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_every_route_is_in_the_document(server: Running) -> None:
    """With every status it can have, no 422 of FastAPI's own, and the key."""
    found = server.ask("GET", "/openapi.json").json
    routes = {(method, path) for path, operations in found["paths"].items() for method in operations}
    assert routes == {
        ("post", "/v1/chat/completions"), ("post", "/v1/embeddings"), ("post", "/v1/search"), ("post", "/v1/passages"),
        ("get", "/v1/passages/{passage_id}"), ("delete", "/v1/passages/{passage_id}"), ("get", "/v1/models"),
        ("get", "/v1/models/{name}"), ("get", "/healthz"), ("get", "/readyz"), ("get", "/metrics"),
    }  # fmt: skip
    text = str(found)
    assert "422" not in text
    assert "HTTPValidationError" not in text
    assert found["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    described = [operation for operations in found["paths"].values() for operation in operations.values()]
    assert all(operation.get("description") for operation in described)


def test_metrics_are_prometheus_text(server: Running) -> None:
    """Every line parses, and what answers take is among it."""
    server.chat()
    text = server.ask("GET", "/metrics").body.decode()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(line.startswith("#") or sample.fullmatch(line) for line in text.splitlines())
    for name in ("prefill_seconds", "decode_step_seconds", "retrieval_seconds", "queue_seconds", "answer_seconds"):
        count = re.search(rf"^cosup_{name}_count (\S+)", text, re.MULTILINE)
        assert count, name
        assert float(count[1]) > 0, name
    for line in (
        'tokens_total{kind="written"}',
        'tokens_total{kind="passage"}',
        "retrievals_total",
        "queue_length 0.0",
    ):
        assert f"cosup_{line}" in text
    assert 'cosup_requests_total{method="POST",route="/v1/chat/completions",status="200"}' in text


def test_times_are_those_that_passed(toy: Path, toy_model: CoSupervisedModel) -> None:
    """Each step takes 0.2 s longer: reading the prompt took that long, and nobody waited."""
    with running(toy_model, toy / "index", pace=0.2) as server:
        server.chat(max_tokens=2)
        text = server.served.runner.metrics.text().decode()
        sums = {name: float(value) for name, value in re.findall(r"^cosup_(\w+)_seconds_sum (\S+)", text, re.MULTILINE)}
        assert sums["prefill"] >= 0.2
        assert sums["queue"] < 0.1
        assert sums["answer"] >= sums["prefill"]
        assert sums["decode_step"] >= 0.4


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_schemathesis_finds_no_fault(own_index: Path, toy_model: CoSupervisedModel) -> None:
    """Valid and invalid requests to every operation, made from the document, the admin's key in hand."""
    with running(toy_model, own_index, Limits(max_tokens=4), admin_keys=frozenset({"root"})) as server:
        schema: Any = schemathesis.openapi.from_url(
            f"{server.address}/openapi.json", headers={"Authorization": "Bearer root"}
        )
        asked = 0
        statuses: dict[str, set[int]] = {}
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @schemathesis_given(operation)
            def check(case: Any) -> None:
                nonlocal asked
                asked += 1
                if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                    case.body["model"] = NAME  # else all would end at the name
                response = case.call(headers={"Authorization": "Bearer root"})
                statuses.setdefault(case.path, set()).add(response.status_code)
                case.validate_response(response, checks=CHECKS)

            check()
        assert asked > 300
        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/search"):
            assert {200, 400} <= statuses[path], path
        assert server.chat(headers={"Authorization": "Bearer root"}).status == 200
        server.wait_until_idle()


def schemathesis_given(operation: Any) -> Any:
    """Return the decorator that draws cases of an operation, valid ones and invalid ones."""
    from hypothesis import given
    from hypothesis import strategies as st
    from schemathesis.generation import GenerationMode

    return given(
        case=st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        )
    )
