"""The command line, end to end on a tiny pair."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cosup.cli import main
from cosup.commands.overrides import split_overrides
from cosup.console import safe_text
from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.evaluating import task_names
from cosup.index import build
from cosup.index.faiss_index import FaissIndex
from cosup.records import Passage
from tests.command_files import recipe, tree
from tests.commands import Cosup
from tests.pairs import TinyWorld

# -- the whole way -------------------------------------------------------------------------------------------------


def test_the_whole_way(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Convert, train, index, ask, generate, evaluate, info: each takes what the one before it made."""
    text = json.loads(tiny_world.passages.read_text(encoding="utf-8").splitlines()[0])["text"]
    answer = text.split()[0]
    squad = {"id": "s1", "question": "Who was it?", "answers": [{"text": answer, "answer_start": 0}]}
    document = {"data": [{"title": "T", "paragraphs": [{"context": text, "qas": [squad]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(document), encoding="utf-8")
    done = cosup("convert", "squad", tmp_path / "squad.json", tmp_path / "data")
    assert done.code == 0, done.err
    assert "passages.jsonl  1" in done.out
    corpus, asked = tmp_path / "data" / "passages.jsonl", tmp_path / "data" / "questions.jsonl"

    done = cosup("train", recipe(tiny_world, tmp_path), "--data.eval_questions", tiny_world.questions)
    assert done.code == 0, done.err
    model = tmp_path / "run" / "model"
    assert done.out == f"{model}\n"
    assert "training: 2/2 steps" in done.err
    assert "eval_recall@1" in done.err

    index = tmp_path / "index"
    corpora = ["--passages", corpus, "--passages", tiny_world.passages]
    done = cosup("index", "--model", model, *corpora, "--output", index)
    assert (done.code, done.out) == (0, f"{index}  41 passages\n")

    pair = ["--model", model, "--index", index, "--ret-first", "--max-new-tokens", "8"]
    done = cosup("ask", *pair, "--json", "Who was it?")
    prediction = json.loads(done.out)
    assert prediction["question"] == "Who was it?"
    assert len(prediction["retrievals"]) >= 1

    predictions = tmp_path / "predictions.jsonl"
    done = cosup("generate", *pair, "--questions", asked, "--output", predictions)
    assert (done.code, done.out) == (0, f"{predictions}  1 predictions\n")
    written = json.loads(predictions.read_text(encoding="utf-8"))
    assert (written["id"], written["text"]) == ("s1", prediction["text"])

    report = tmp_path / "report"
    given = ["--predictions", predictions, "--questions", asked, *corpora]
    done = cosup("evaluate", *given, "--output", report)
    assert done.code == 0, done.err
    assert "| retrieved | 100.0 | 100.0 to 100.0 | 0 |" in done.out
    assert json.loads((report / "report.json").read_text(encoding="utf-8"))["count"] == 1

    for path in (model, index, tmp_path / "run", corpus, asked, predictions, report, tmp_path / "recipe.yaml"):
        done = cosup("info", path)
        assert (done.code, done.err) == (0, ""), path
        assert done.out


def test_an_index_is_changed_and_verified(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    index, ids = tmp_path / "index", tmp_path / "ids.txt"
    lines = tiny_world.passages.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "first.jsonl").write_text("".join(lines[:30]), encoding="utf-8")
    (tmp_path / "more.jsonl").write_text("".join(lines[30:]), encoding="utf-8")
    make = ["index", "--model", tiny_world.model, "--output", index, "--passages"]
    done = cosup(*make, tmp_path / "first.jsonl", "--index-type", "ivf-sq", "--vector-dtype", "float16")
    assert done.out == f"{index}  30 passages\n"
    assert "type: ivf-sq (asked for)" in done.err
    assert cosup(*make, tmp_path / "more.jsonl", "--add").out == f"{index}  40 passages\n"
    assert "already; replace it" in cosup.refused(*make, tmp_path / "more.jsonl", "--add")
    assert cosup(*make, tmp_path / "more.jsonl", "--replace").out == f"{index}  40 passages\n"
    ids.write_text(f"{json.loads(lines[0])['id']}\n\n{json.loads(lines[35])['id']}\n", encoding="utf-8")
    assert cosup("index", "--output", index, "--delete", ids).out == f"{index}  38 passages\n"
    assert "no passage" in cosup.refused("index", "--output", index, "--delete", ids)
    assert cosup("index", "--output", index, "--compact").out == f"{index}  38 passages\n"
    told = cosup("info", index, "--verify").out
    assert "verified" in told
    assert "1, 0 deleted" in told
    assert "float16" in told
    asked = ["ask", "why?", "--model", tiny_world.model, "--index", index, "--ret-first", "--max-new-tokens", "4"]
    assert cosup(*asked, "--json").code == 0


def test_an_addition_is_embedded_as_asked_and_leaves_a_stopped_build_alone(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, asked = tmp_path / "index", []
    shutil.copytree(tiny_world.index, index)
    stopped = index / ".partial" / "vectors-0123456789abcdef" / "0000000000-0.npy"
    stopped.parent.mkdir(parents=True)
    stopped.write_bytes(b"a shard")
    write_jsonl(tmp_path / "more.jsonl", [Passage("new", "", "Something new.")])
    embed = build.embed_corpus

    def noted(embedder: Any, passages: Any, folder: Path, options: Any, progress: Any) -> Any:
        asked.append((options.tokens_per_batch, options.computed_in))
        return embed(embedder, passages, folder, options, progress)

    monkeypatch.setattr(build, "embed_corpus", noted)
    make = ["index", "--model", tiny_world.model, "--output", index, "--passages", tmp_path / "more.jsonl"]
    make += ["--dtype", "float32"]
    count = len(FaissIndex.load(index, None))
    done = cosup(*make, "--add", "--batch-tokens", "77")
    assert (done.out, "--compact" in done.err) == (f"{index}  {count + 1} passages\n", False)
    monkeypatch.setattr("cosup.index.structures.FLAT_UP_TO", 10)
    done = cosup(*make, "--replace")
    assert f"{count + 1} passages, more than 10, are all looked at for each query; 'cosup index" in done.err
    assert asked == [(77, "torch.float32"), (1024, "torch.float32")]
    assert stopped.read_bytes() == b"a shard"
    assert not [p for p in index.glob(".partial-add-*") if p.is_dir()]


def test_changes_that_do_not_go_together(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = ["index", "--output", tiny_world.index]
    assert "--add and --compact do not go together" in cosup.refused(*words, "--add", "--compact")
    assert "--model is missing" in cosup.refused(*words, "--add")
    assert "--passages is missing" in cosup.refused(*words, "--model", tiny_world.model)
    (tmp_path / "ids.txt").write_text("\n")
    assert "found no ids" in cosup.refused(*words, "--delete", tmp_path / "ids.txt")
    assert "no such index folder" in cosup.refused("index", "--output", tmp_path / "none", "--compact")
    assert "index-type" in cosup.refused(*words, "--index-type", "pq")


def test_a_folder_of_markdown_can_be_indexed(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Lanterns\n\nA lantern was lost in the hills.\n", encoding="utf-8")
    done = cosup("index", "--model", tiny_world.model, "--passages", tmp_path / "notes", "--output", tmp_path / "index")
    assert done.out == f"{tmp_path / 'index'}  1 passages\n"
    assert done.err.startswith("indexing: 1/1 passages")


@pytest.mark.milvus
def test_an_index_in_a_milvus_file(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    from cosup.index.milvus_index import MilvusIndex

    given = ["--model", tiny_world.model, "--passages", tiny_world.passages, "--output"]
    for place in (tmp_path / "corpus.db", f"{tmp_path}/corpus.db:second"):
        done = cosup("index", *given, place)
        assert (done.code, done.out) == (0, f"{place}  {len(FaissIndex.load(tiny_world.index, None))} passages\n")
        assert list(MilvusIndex.load(place, None)) == list(FaissIndex.load(tiny_world.index, None))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.db"]
    assert "named 'two words'" in cosup.refused("index", *given, f"{tmp_path}/corpus.db:two words")
    assert "no Milvus answers there" in cosup.refused("index", *given, "milvus://127.0.0.1:1/x", code=1)


def test_ask_streams_the_text_and_draws_what_it_cites(cosup: Cosup, tiny_world: TinyWorld) -> None:
    pair = ["ask", "--model", tiny_world.model, "--index", tiny_world.index, "--ret-first", "--max-new-tokens", "8"]
    answer = json.loads(cosup(*pair, "--json", "Where?").out)
    done = cosup(*pair, "Where?")
    text, blank, heading, *_ = done.out.splitlines()
    assert (done.code, done.err, blank) == (0, "", "")
    assert text == safe_text(answer["text"])
    assert heading.split()[0] == "[1]"
    assert answer["citations"][0]["passage_id"] in heading


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_ask_tells_in_a_terminal_what_it_reads(tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text and the searches between it, as they come; then the citations."""
    import pty

    words = ["ask", "--model", tiny_world.model, "--index", tiny_world.index, "--ret-first", "--max-new-tokens", "8"]
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # what a terminal says at its end on Linux
            while piece := os.read(ours, 4096):
                shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        patched.setattr(sys, "stderr", terminal)
        code = main([*map(str, words), "Where?"])
    reader.join(60)
    os.close(ours)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in b"".join(shown).decode().splitlines()]
    assert code == 0, lines
    told = next(place for place, line in enumerate(lines) if "reads " in line and " | " in line)
    title = re.sub(r" -?\d.*", "", lines[told].partition("reads ")[2])
    assert title
    assert any(title in line for line in lines[told + 1 :])  # among the citations


def test_sampling_follows_its_seed(cosup: Cosup, tiny_world: TinyWorld) -> None:
    pair = ["ask", "--model", tiny_world.model, "--index", tiny_world.index, "--json", "--max-new-tokens", "8", "Why?"]
    texts = [cosup(*pair, *more).out for more in ([], ["--do-sample"], ["--do-sample", "--seed", 1], ["--do-sample"])]
    assert texts[1] == texts[3]
    assert len(set(texts)) == 3


def test_a_finished_training_is_not_done_again(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = recipe(tiny_world, tmp_path)
    told = json.loads(cosup("train", "--max_steps=1", path, "--json").out)
    assert told["model"] == str(tmp_path / "run" / "model")
    assert "train_loss" in told["figures"]
    before = (tmp_path / "run" / "model" / "cosup.json").stat().st_mtime_ns
    done = cosup("train", path, "--max-steps", 1)
    assert "warning: " in done.err
    assert "finished already" in done.err
    assert (tmp_path / "run" / "model" / "cosup.json").stat().st_mtime_ns == before
    refused = cosup.refused("train", path, "--max_steps", 2, "--temperature", 0.5)
    assert "another recipe" in refused
    assert "differs in objective.temperature, training.max_steps" in refused


def without_scores(path: Path) -> list[dict[str, Any]]:
    """Read predictions; scores are rounded: their last digits depend on what shared the generator's steps."""
    return json.loads(
        f"[{','.join(path.read_text(encoding='utf-8').splitlines())}]", parse_float=lambda text: round(float(text), 4)
    )  # type: ignore[no-any-return]


def test_generating_goes_on_after_an_interruption(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosup.generation import predict

    words = ["generate", "--model", tiny_world.model, "--index", tiny_world.index, "--questions", tiny_world.questions]
    words += ["--max-new-tokens", "6", "--batch-size", "5", "--ret-first"]
    whole, halved = tmp_path / "whole.jsonl", tmp_path / "halved.jsonl"
    assert cosup(*words, "--output", whole).code == 0

    append = predict._append

    def append_and_stop(*arguments: Any) -> None:
        append(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "_append", append_and_stop)
    done = cosup(*words, "--output", halved)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "error: interrupted; the same command goes on from the answers that are there"
    monkeypatch.setattr(predict, "_append", append)
    assert tree(tmp_path) == {"whole.jsonl", ".halved.jsonl.partial"}
    assert "differs in settings.read" in cosup.refused(*words, "--output", halved, "--read", "2")
    done = cosup(*words, "--output", halved)
    assert done.out == f"{halved}  12 predictions\n"
    assert without_scores(halved) == without_scores(whole)
    assert tree(tmp_path) == {"whole.jsonl", "halved.jsonl"}


def test_several_question_files_are_several_tasks(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    lines = tiny_world.questions.read_text(encoding="utf-8").splitlines(keepends=True)
    answers = [{"id": json.loads(line)["id"], "text": "x"} for line in lines]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
    for name, part in (("one", lines[:5]), ("two", lines[5:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "questions.test.jsonl").write_text("".join(part), encoding="utf-8")
    words = ["evaluate", "--predictions", tmp_path / "p.jsonl", "--passages", tiny_world.passages]
    for name in ("one", "two"):
        words += ["--questions", tmp_path / name / "questions.test.jsonl"]
    assert cosup(*words, "--output", tmp_path / "report").code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    counts = {task: scores["count"] for task, scores in report["per_task"].items()}
    assert counts == {"one/questions.test": 5, "two/questions.test": 7}


def test_quiet_leaves_only_results(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    done = cosup(
        "index", "--model", tiny_world.model, "--passages", tiny_world.passages, "--output", tmp_path / "i", "--quiet"
    )
    assert (done.code, done.err) == (0, "")


def test_piped_output_is_clean(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """In a process of its own, no library writes to either stream, and the exit code is the process's."""
    words = [sys.executable, "-m", "cosup", "train", str(recipe(tiny_world, tmp_path)), "--logging_steps", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model'}\n"
    first, second, *figures = done.stderr.splitlines()
    assert first.startswith("training: 2/2 steps")
    assert second.startswith("trained: ")
    assert all(line.startswith("  ") for line in figures)
    missing = subprocess.run([*words[:3], "info", "/no/such"], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr) == (2, "error: /no/such: no such file or folder\n")


# -- pieces --------------------------------------------------------------------------------------------------------


def test_overrides_are_parted_from_the_recipe() -> None:
    assert split_overrides(["r.yaml", "--a", "-1", "--b=x=y"]) == ("r.yaml", [("a", "-1"), ("b", "x=y")])
    assert split_overrides(["--a", "1", "r.yaml"]) == ("r.yaml", [("a", "1")])
    for words in (["r.yaml", "s.yaml"], ["--a", "1"], ["r.yaml", "--a", "--b", "1"], ["r.yaml", "--a"]):
        with pytest.raises(UsageError):
            split_overrides(words)


def test_tasks_are_named_by_as_much_of_their_path_as_is_needed() -> None:
    one, two, other = Path("/d/a/q.jsonl"), Path("/d/b/q.jsonl"), Path("/d/b/r.jsonl")
    assert task_names([one, other]) == {one: "q", other: "r"}
    assert task_names([one, two]) == {one: "a/q", two: "b/q"}


def test_an_answer_can_be_told_how_to_read(cosup: Cosup, tiny_world: TinyWorld) -> None:
    """Filter, threshold and passages a search, through the command line."""
    words = ["ask", "Who?", "--model", tiny_world.model, "--index", tiny_world.index, "--json", "--ret-first"]
    words += ["--max-new-tokens", "4", "--max-retrievals", "1"]
    both = json.loads(cosup(*words, "--read", "2", "--top-k", "3").out)["retrievals"][0]
    assert (both["read"], len(both["hits"])) == (2, 3)
    none = json.loads(cosup(*words, "--min-score", "2").out)
    assert (none["retrievals"][0]["read"], none["citations"]) == (0, [])
    done = cosup(*words, "--filter", '{"lang": "en"}')
    filtered = json.loads(done.out)["retrievals"][0]
    assert (filtered["read"], filtered["hits"]) == (0, [])
    told = f"warning: no passage of {tiny_world.index} meets --filter, so none will be read; its passages have "
    assert told in done.err
    assert "expected JSON such as" in cosup.refused(*words, "--filter", "lang=en")
    assert "leave out do_sample" in cosup.refused(*words, "--beam", "2", "--do-sample")
