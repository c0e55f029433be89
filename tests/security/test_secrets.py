"""Keys and passwords are nowhere: not in what is said, not in what is written, not in what a server answers."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cosup.errors import UsageError
from cosup.experiments.plan import load_experiment
from cosup.info.describe import describe
from cosup.modeling import CoSupervisedModel
from cosup.training.recipe import load_recipe
from tests.commands import Cosup
from tests.pairs import TinyWorld
from tests.serving.servers import Running, running

SECRETS = {
    "COSUP_API_KEYS": "cskey-9f2d7b61",
    "COSUP_ADMIN_KEYS": "adminkey-77aa0c3e",
    "OPENAI_API_KEY": "sk-41c5be8d20",
    "HF_TOKEN": "hf_e0d1c2b3a4",
    "MILVUS_USER": "milvususer-5150",
    "MILVUS_PASSWORD": "milvuspass-6d5c",
    "MILVUS_TOKEN": "milvustoken-8b7a",
    "WANDB_API_KEY": "wandb-1a2b3c4d5e",
}
GIVEN = "urlpass-c0ffee42"  # in an address on a command line, or in a recipe
ALL = (*SECRETS.values(), GIVEN)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def told(folder: Path) -> list[str]:
    """Return the files of a folder that hold a secret, in their content or their name."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(secret.encode() in content or secret in path.name for secret in ALL):
            found.append(str(path))
    return found


def silent(*texts: str) -> bool:
    """Whether no text holds a secret."""
    return not any(secret in text for secret in ALL for text in texts)


def test_a_secret_that_is_told_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"key": GIVEN}))
    (tmp_path / SECRETS["HF_TOKEN"]).touch()
    assert len(told(tmp_path)) == 2
    assert not silent("the key is " + GIVEN)


# -- the way from data to a report, with every secret set -------------------------------------------------------------


def test_a_whole_way_writes_and_says_no_secret(
    cosup: Cosup,
    tiny_world: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Train, index, answer, measure, describe, in a folder that is searched through afterwards."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    recipe = {
        "generator": str(tiny_world.base),
        "embedder": str(tiny_world.base),
        "data": {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions), "max_length": 256},
        "training": {"output_dir": "run", "max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": "none"},
    }
    recipe["data"]["max_passage_length"] = 96  # type: ignore[index]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    data = ["--passages", tiny_world.passages]
    asked = ["--questions", tiny_world.questions]
    settings = ["--max-new-tokens", "4", "--ret-first"]
    commands: list[list[object]] = [
        ["train", "recipe.yaml"],
        ["index", "--model", "run/model", *data, "--output", "index"],
        ["generate", "--model", "run/model", "--index", "index", *asked, "--output", "p.jsonl", *settings],
        ["evaluate", "--predictions", "p.jsonl", *asked, *data, "--output", "report"],
        *(["info", place] for place in ("recipe.yaml", "run", "run/model", "index", "report", "p.jsonl")),
        ["--debug", "ask", "--model", "run/model", "--index", "nowhere", "Who?"],
    ]
    for words in commands:
        done = cosup(*words)
        assert done.code == (2 if "nowhere" in words else 0), done.err
        assert silent(done.out, done.err), words
    assert told(tmp_path) == []
    assert silent(caplog.text)


# -- what is wrong with a secret at hand ------------------------------------------------------------------------------


def test_an_index_at_an_address_with_a_password_is_told_of_without_it(
    cosup: Cosup, tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What went well says as little as what did not: `index`, `info`, who holds a build, who made an index."""
    from cosup.index import build
    from cosup.index import open as opening
    from cosup.info import describe as describing
    from cosup.info.base import Info

    class Elsewhere:
        """An index on a server; what the command line needs of one."""

        embedder_fingerprint = "another"

        def compact(self) -> None: ...

        def __len__(self) -> int:
            return 3

    monkeypatch.chdir(tmp_path)  # unfinished work lies in the working folder
    place = f"milvus://me:{GIVEN}@127.0.0.1:9/papers"
    monkeypatch.setattr(opening, "open_index", lambda *_: Elsewhere())
    monkeypatch.setattr(describing, "milvus_info", lambda _: Info("index", (("passages", "3"),)))
    for words in (["index", "--output", place, "--compact"], ["info", place]):
        for flags in ([], ["--json"]):
            done = cosup(*flags, *words)
            assert done.code == 0
            assert "127.0.0.1:9/papers" in done.out or flags != ["--json"]
            assert silent(done.out, done.err)
    with (
        build.building(place),
        pytest.raises(UsageError, match=r"127\.0\.0\.1:9/papers") as held,
        build.building(place),
    ):
        pass
    model = CoSupervisedModel.from_pretrained(tiny_world.model)
    with pytest.raises(UsageError, match="made by embedder another") as others:
        build.add_passages(model, [], Elsewhere(), place, replacing=False)  # type: ignore[arg-type]
    assert silent(str(held.value), str(others.value))


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
def test_an_address_with_a_password_is_refused_without_it(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, debug: list[str]
) -> None:
    """Of a judge and of Milvus, whether or not there is one; also with a traceback."""
    asked = ["--questions", tiny_world.questions, "--passages", tiny_world.passages]
    (tmp_path / "p.jsonl").write_text('{"id": "x", "text": "y"}\n')
    report = ["evaluate", "--predictions", tmp_path / "p.jsonl", *asked, "--output", tmp_path / "r"]
    judges = (f"http://me:{GIVEN}@127.0.0.1:9/v1#m", f"https://127.0.0.1/v1?key={GIVEN}#m", f"http://{GIVEN}@h:x/v1#m")
    places = (
        f"milvus://me:{GIVEN}@127.0.0.1:9/{name}"
        for name in ("papers", "", "no-name", "papers?sekure=true", "papers?secure=maybe", "papers?index_type=x")
    )
    model = ["--model", tiny_world.model]
    for words in (
        *([*report, "--judge", judge] for judge in judges),
        *(["ask", *model, "--index", place, "Who?"] for place in places),
        ["index", *model, "--passages", tiny_world.passages, "--output", f"milvus://me:{GIVEN}@127.0.0.1:x/papers"],
        ["info", f"milvus://me:{GIVEN}@127.0.0.1:9/papers"],
    ):
        done = cosup(*debug, *words)
        assert done.code in (1, 2)
        assert silent(done.out, done.err), (words, done.err)
    assert told(tmp_path) == []


def test_keys_of_a_server_are_not_in_its_errors(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Nor those of a file that cannot be used."""
    words = ["serve", "--model", tiny_world.model, "--index", tiny_world.index, "--port", "0"]
    (tmp_path / "keys").write_text(f"{GIVEN} and more\n")
    assert silent(cosup.refused(*words, "--api-keys", tmp_path / "keys"))
    (tmp_path / "keys").write_bytes(GIVEN.encode() + b"\xff\n")
    assert silent(cosup.refused(*words, "--api-keys", tmp_path / "keys"))


# -- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["training.hub_token", "hub_token", "hub-token"])
def test_a_token_in_a_recipe_is_refused_by_name(key: str, tmp_path: Path, cosup: Cosup) -> None:
    """A run folder keeps its recipe, `cosup info` shows it, records repeat it."""
    least = {"generator": "g", "embedder": "e", "data": {"passages": "p", "questions": "q"}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**least, "training": {"hub_token": GIVEN}}))
    for wrong in (lambda: load_recipe(path), lambda: describe(path)):
        with pytest.raises(UsageError, match="hub_token is a secret, which a recipe would keep and show") as error:
            wrong()
        assert silent(str(error.value))
    path.write_text(json.dumps(least))
    for value in (GIVEN, f"[{GIVEN}"):
        with pytest.raises(UsageError, match="is a secret") as error:
            load_recipe(path, [(key, value)])
        assert silent(str(error.value))
    assert silent(cosup.refused("train", path, f"--{key}", GIVEN))
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        json.dumps({"tasks": {"t": {"passages": "p", "questions": "q", "correctness": "contains_answer"}}})
    )
    record = {"output": "o", "recipe": str(path), "suite": str(suite), "set": {key: GIVEN}}
    (tmp_path / "experiment.yaml").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="is a secret") as error:
        load_experiment(tmp_path / "experiment.yaml")
    assert silent(str(error.value))


# -- a server ---------------------------------------------------------------------------------------------------------


def test_a_server_tells_no_key(toy: Path, toy_model: object, caplog: pytest.LogCaptureFixture) -> None:
    """Neither its own nor those that it is asked with: not in answers, errors, metrics, the document or the log."""
    caplog.set_level(logging.DEBUG)
    key, admin = SECRETS["COSUP_API_KEYS"], SECRETS["COSUP_ADMIN_KEYS"]
    keys = {"api_keys": frozenset({key}), "admin_keys": frozenset({admin})}
    with running(toy_model, toy / "index", **keys) as server:  # type: ignore[arg-type]
        replies = [asked(server, given, way) for given in (key, admin, GIVEN) for way in WAYS]
        assert {status for status, _ in replies} >= {200, 400, 401, 403, 404}
        assert all(silent(text) for _, text in replies)
    assert silent(caplog.text)


WAYS = (
    ("GET", "/v1/models", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/v1/passages/none", None),
    ("GET", "/nowhere", None),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "toy", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2},
    ),
    ("POST", "/v1/chat/completions", {"model": "toy", "messages": 3}),
    ("POST", "/v1/search", {"query": "x", "api_key": "x"}),
    ("POST", "/v1/passages", {"passages": []}),
    ("DELETE", "/v1/passages/none", None),
)


def asked(server: Running, key: str, way: tuple[str, str, object]) -> tuple[int, str]:
    reply = server.ask(*way, Authorization=f"Bearer {key}")
    return reply.status, f"{reply.headers} {reply.body.decode()}"


@pytest.mark.slow
def test_a_server_that_was_started_says_no_key(tiny_world: TinyWorld) -> None:
    """On its terminal, from its start to its end, with keys from the environment and requests with other keys."""
    words = ["serve", "--model", tiny_world.model, "--index", tiny_world.index, "--port", "0", "--debug"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cosup", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **SECRETS},
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    statuses = [status_of(f"{first.strip()}/v1/models", key) for key in (SECRETS["COSUP_API_KEYS"], GIVEN)]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert statuses == [200, 401]
    assert silent(first, out, err)


def status_of(url: str, key: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=30
        ) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
