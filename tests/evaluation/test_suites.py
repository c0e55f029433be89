"""Suites: every task indexed, answered and measured, and refused before anything runs where a file is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cosup.data.reading import read_answers, read_passages, read_questions
from cosup.errors import InputError, UsageError
from cosup.evaluation import evaluate
from cosup.evaluation.suite_table import average_intervals, suite_markdown, task_row
from cosup.evaluation.suites import Task, load_suite
from cosup.index.filters import Filter
from cosup.index.open import open_index
from tests.commands import Cosup
from tests.evaluation.measured import files, lines
from tests.pairs import TinyWorld

__all__ = ["files"]
SUITES = Path(__file__).parents[2] / "recipes" / "suites"


def suite(world: TinyWorld, folder: Path, **changes: Any) -> Path:
    own = {"passages": str(world.passages), "questions": str(world.questions), "limit": 3}
    shown = {"retrieval": "recall@1", "correctness": "contains_answer"}
    record: dict[str, Any] = {
        "model": str(world.model),
        "output": str(folder / "results"),
        "generation": {"max_new_tokens": 12, "batch_size": 2},
        "tasks": {"one": {**own, **shown, "group": "all of it"}, "two": {**own, "generation": {"ret_first": True}}},
    }
    path = folder / "suite.yaml"
    path.write_text(json.dumps(record | changes), encoding="utf-8")  # JSON is YAML
    return path


def test_a_suite_indexes_answers_and_measures_every_task(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path, results = suite(tiny_world, tmp_path), tmp_path / "results"
    done = cosup("evaluate", "--suite", path)
    assert done.code == 0, done.err
    record = json.loads((results / "suite.json").read_text(encoding="utf-8"))
    report = json.loads((results / "one" / "report" / "report.json").read_text(encoding="utf-8"))
    assert record["tasks"]["one"]["count"] == report["count"] == 3
    assert record["tasks"]["one"]["retrieval"]["value"] == report["metrics"]["recall@1"]
    assert record["averages"]["all of it"] == record["averages"]["average"]
    assert "| task | retrieval | correctness | citation | questions |" in done.out
    assert len((results / "two" / "predictions.jsonl").read_text().splitlines()) == 3
    assert [path.parent.name for path in results.glob("*/index")] == ["one"]  # one corpus is embedded once
    assert "<html" in (results / "two" / "report" / "report.html").read_text(encoding="utf-8")
    assert json.loads(cosup("evaluate", "--suite", path, "--json").out) == record
    shown = cosup("info", results).out
    assert re.search(r"tasks +one \(3\), two \(3\)\n", shown)
    assert re.search(r"all of it +retrieval \d+\.\d, correctness \d+\.\d", shown)
    before = (results / "one" / "predictions.jsonl").stat().st_mtime_ns
    again = cosup("evaluate", "--suite", path)  # nothing is answered twice
    assert (again.code, again.out) == (0, done.out)
    assert (results / "one" / "predictions.jsonl").stat().st_mtime_ns == before
    assert "answering" not in again.err


def test_a_pool_holds_the_evidence_of_the_questions_asked_and_others(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    own = {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions), "limit": 3}
    pools = {"small": 20, "least": 1, "whole": 10**6}
    path = suite(tiny_world, tmp_path, tasks={name: {**own, "pool": pool} for name, pool in pools.items()})
    done = cosup("evaluate", "--suite", path)
    assert done.code == 0, done.err
    lines = (tmp_path / "results" / "small" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    evidence = {e["passage_id"] for line in lines for e in json.loads(line)["evidence"]}
    corpus = [p.id for p in read_passages(tiny_world.passages)]
    found = {name: [p.id for p in open_index(tmp_path / "results" / name / "index", None)] for name in pools}
    assert len(found["small"]) == 20
    assert set(found["least"]) == evidence
    assert evidence < set(found["small"])
    assert found["small"] == [name for name in corpus if name in set(found["small"])]
    others = [corpus.index(name) for name in found["small"] if name not in evidence]
    assert max(others) - min(others) > len(corpus) / 2, "they are spread over the corpus"
    assert found["whole"] == corpus
    report = json.loads((tmp_path / "results" / "small" / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["pool"] == 20


def test_another_retrieves_in_the_models_place(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """As `generate --retriever` does: the same predictions; those of another retriever are never taken for its own."""
    path, results = suite(tiny_world, tmp_path, retriever="bm25"), tmp_path / "results"
    assert cosup("evaluate", "--suite", path).code == 0
    found = (results / "two" / "predictions.jsonl").read_text(encoding="utf-8")
    options = [
        "--retriever",
        "bm25",
        "--max-new-tokens",
        12,
        "--ret-first",
        "--questions",
        results / "two/questions.jsonl",
    ]
    places = ["--model", tiny_world.model, "--index", tiny_world.index, "--output", tmp_path / "p.jsonl"]
    assert cosup("generate", *places, *options).code == 0
    assert not (results / "one" / "index").exists()  # nothing is embedded for who reads words
    assert (tmp_path / "p.jsonl").read_text(encoding="utf-8") == found
    assert json.loads((results / "suite.json").read_text(encoding="utf-8"))["settings"]["retriever"] == "bm25"
    separate = suite(tiny_world, tmp_path, retriever={"name": f"separate:{tiny_world.model}"})
    assert cosup("evaluate", "--suite", separate).code == 0
    assert (results / "two" / "predictions.jsonl").read_text(encoding="utf-8") != found


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"correctness": "accuracy"}, "accuracy judges none of its questions; choose another"),
        ({"correctness": "claim_recall"}, "claim_recall judges none of its questions; give --judge"),
        ({"correctness": "kilt_claim_recall"}, "kilt_claim_recall judges none of its questions; give --judge"),
        ({"citation": "nli_citation_precision"}, "nli_citation_precision judges none of its questions; give --judge"),
        ({"retrieval": "recall@5", "generation": {"top_k": 3}}, "its searches keep fewer than 5 hits"),
    ],
)
def test_a_measure_that_judges_nothing_stops_the_suite_before_anything_is_answered(
    task: dict[str, Any], message: str, cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    own = {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions)}
    path = suite(tiny_world, tmp_path, tasks={"one": own, "two": own | task}, model="no/such/model")
    found = cosup.refused("evaluate", "--suite", path)
    assert "suite.yaml: task two: " in found
    assert message in found


def test_a_suite_of_two_corpora_tells_what_was_left_out(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    files["predictions"].write_text(files["predictions"].read_text().splitlines()[0] + "\n")
    other = lines(tmp_path / "more.jsonl", {"id": "air", "text": "It is thin."})
    own = {name: str(files[name]) for name in ("passages", "questions", "predictions")}
    both = own | {"passages": [str(files["passages"]), str(other)], "predictions": str(files["against"])}
    tasks = {"b": own | {"correctness": "f1"}, "a": both | {"retrieval": "recall@1"}, "c": own | {"retrieval": "mrr"}}
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"tasks": tasks}))
    done = cosup("evaluate", "--suite", path, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    assert list(record["tasks"]) == ["b", "a", "c"]
    assert record["tasks"]["b"]["notes"] == ["1 without a prediction, scored 0: 'b'"]
    assert record["tasks"]["a"]["notes"] == []
    assert "- c: 1 without a prediction, scored 0: 'b'" in done.out
    assert "c: 1 without a prediction" in done.err
    lost = lines(tmp_path / "lost.jsonl", {"id": "other", "text": "x"})
    path.write_text(json.dumps({"tasks": {"a": own | {"predictions": str(lost)}}}))
    found = cosup.refused("evaluate", "--suite", path, "--output", tmp_path / "out")
    assert "lost.jsonl: task a: no prediction for any of its 2 questions" in found


def test_predictions_beyond_a_limit_are_not_extra(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    own = {name: str(files[name]) for name in ("passages", "questions", "predictions")}
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"tasks": {"sea": own | {"limit": 1}}}))
    assert cosup("evaluate", "--suite", path, "--output", tmp_path / "out").code == 0
    record = json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    assert (record["tasks"]["sea"]["count"], record["tasks"]["sea"]["notes"]) == (1, [])


def test_a_measure_that_the_answers_leave_nothing_to_judge_of_is_told(files: dict[str, Path]) -> None:
    task = Task("sea", (), "", retrieval="recall@5", correctness="exact_match")  # no search keeps five hits
    given = (read_answers(files["predictions"]), read_questions(files["questions"]), read_passages(files["passages"]))
    row = task_row(task, evaluate(*given))
    assert row.notes == ("recall@5 judges none of its questions",)
    assert "| sea | - | 100.0 [100.0, 100.0] | - | 2 |" in suite_markdown([row])
    assert average_intervals([row]) == {"average": {"correctness": (100, 100)}}


def test_what_made_the_answers_never_stands_beside_others(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosup.generation import predict

    folder = tmp_path / "results" / "one"
    assert cosup("evaluate", "--suite", suite(tiny_world, tmp_path)).code == 0
    real, seen = predict.predict, []

    def watched(*given: Any) -> Any:
        seen.append((folder / "predictions.json").exists())
        return real(*given)

    monkeypatch.setattr(predict, "predict", watched)
    changed = suite(tiny_world, tmp_path, generation={"max_new_tokens": 5})
    assert cosup("evaluate", "--suite", changed).code == 0
    assert seen[0] is False  # an interruption from here on leaves no word of what made the old answers
    (folder / "predictions.json").write_text('{"damaged')
    assert cosup("evaluate", "--suite", changed).code == 0
    assert len(seen) == 3
    assert json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


def test_a_suite_scores_predictions_without_a_model(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    own = {name: str(files[name]) for name in ("passages", "questions", "predictions")}
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"tasks": {"sea": {**own, "correctness": "exact_match"}}}))
    assert "names no 'output'" in cosup.refused("evaluate", "--suite", path)
    done = cosup("evaluate", "--suite", path, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "| sea | - | 100.0 [100.0, 100.0] | - | 2 |" in done.out
    own["predictions"] = str(files["against"])
    path.write_text(json.dumps({"tasks": {"sea": {**own, "citation": "nli_citation_recall"}}}))
    message = cosup.refused("evaluate", "--suite", path, "--output", tmp_path / "other")
    assert "nli_citation_recall judges none of its questions; give --judge" in message


def test_an_average_over_tasks_is_surer_than_each(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    own = {name: str(files[name]) for name in ("passages", "questions")} | {"correctness": "exact_match"}
    half, whole = own | {"predictions": str(files["against"])}, own | {"predictions": str(files["predictions"])}
    tasks = {"whole": whole, **{f"half-{i}": half | {"group": "halves"} for i in range(16)}}
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"tasks": tasks}))
    done = cosup("evaluate", "--suite", path, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    assert record["tasks"]["half-0"]["correctness"]["low"] == 0  # of two questions one is right: 0, 50 or 100
    assert record["averages"]["halves"]["correctness"] == 50
    low, high = record["intervals"]["halves"]["correctness"]
    assert 28 < low < 38  # of 32 drawn anew 16 are right, give or take 2.8: 17.3 points to each side
    assert 62 < high < 72
    assert list(record["intervals"]["average"]) == ["correctness"]
    assert f"| halves | - | 50.0 [{low:.1f}, {high:.1f}] | - |  |" in done.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "'tasks' has no task"),
        ({"task": {}}, "no key 'task' (did you mean 'tasks'?)"),
        ({"tasks": {"../x": {}}}, "a task's name is a folder's too"),
        ({"tasks": {"x": {"passages": "p", "question": "q"}}}, "no key 'question' (did you mean 'questions'?)"),
        ({"tasks": {"x": {"questions": "q"}}}, "'passages' is None"),
        ({"tasks": {"x": {"passages": "p", "questions": "q", "limit": 0}}}, "limit is 0; expected"),
        ({"tasks": {"x": {"passages": "p", "questions": "q", "pool": "all"}}}, "pool is 'all'; expected"),
        ({"tasks": {"x": {"passages": "p", "questions": "q", "pool": 9, "predictions": "r"}}}, "leave out 'pool'"),
        ({"tasks": {"x": {"passages": "p", "questions": "q", "retrieval": "recal@1"}}}, "did you mean 'recall@1'"),
        ({"generation": {"max_new_tokens": "many"}}, "generation.max_new_tokens is 'many'; expected a number"),
        ({"generation": {"max_new_tokens": 1.5}}, "generation.max_new_tokens is 1.5; expected a number"),
        ({"generation": {"ret_first": 1}}, "generation.ret_first is 1; expected true or false"),
        ({"generation": {"top_p": 2}}, "top_p is 2"),
        ({"generation": {"batch_size": 0}}, "batch_size is 0"),
        ({"generation": {"batch_size": True}}, "batch_size is True"),
        ({"model": None}, "no 'model' to answer 'one' with; give --model"),
        ({"retriever": ["bm25"]}, "'retriever' is ['bm25']; expected a name, or name, query_text"),
        ({"retriever": {"query_text": "question"}}, "'retriever' has no 'name'"),
        ({"retriever": {"name": "bm25", "query": "text"}}, "no key 'query'"),
        ({"retriever": {"name": "bm25", "query_text": "all"}}, "all"),
    ],
)
def test_a_wrong_suite_is_refused_before_anything_runs(
    changes: dict[str, Any], message: str, cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    found = cosup.refused("evaluate", "--suite", suite(tiny_world, tmp_path, **changes))
    assert message in found
    assert "suite.yaml" in found
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n  x: {passages: p, questions: q, limit: 2024-13-45}\n", "not valid YAML (month must be in 1..12)"),
        (
            "tasks:\n  x: {passages: p, questions: q}\n  x: {passages: p, questions: r}\n",
            "suite.yaml:3: the key 'x' comes twice; expected it once",
        ),
        ("output: a\noutput: b\n", "'output' comes twice"),
        ("tasks: " + "[" * 3000, "not valid YAML (nested too deeply)"),
        ("tasks: [", "not valid YAML"),
    ],
)
def test_what_is_not_yaml_is_refused(text: str, message: str, cosup: Cosup, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    found = cosup.refused("evaluate", "--suite", tmp_path / "suite.yaml", "--output", tmp_path / "out")
    assert "suite.yaml:" in found
    assert message in found


def test_keys_that_are_merged_in_do_not_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "tasks:\n"
        "  a: &a {passages: p, questions: q, predictions: r}\n"
        "  b: &b {<<: *a, questions: s}\n"
        "  c: {<<: *b, questions: t}\n"
    )
    assert [task.questions for task in load_suite(path).tasks] == ["q", "s", "t"]


def test_a_suite_may_say_which_passages_are_read(tmp_path: Path) -> None:
    """By a filter, as on a command line and over HTTP; one that is none is refused with its place."""
    path = tmp_path / "suite.yaml"
    least = "model: m\noutput: o\ntasks: {a: {passages: p, questions: q}}\n"
    path.write_text(least + "generation: {filter: {lang: en, year: {gte: 2000}}}\n")
    assert load_suite(path).settings["a"].filter == Filter.parse({"lang": "en", "year": {"gte": 2000}})
    path.write_text(least + "generation: {filter: [en]}\n")
    with pytest.raises(UsageError, match=r"filter is \['en'\]; expected a mapping"):
        load_suite(path)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_of_the_recipes_can_be_read(path: Path) -> None:
    tasks = load_suite(path, "some/model").tasks
    assert len(tasks) == {"paper": 10, "twelve-sets": 12, "analyses": 4}[path.stem]
    assert all("correctness" in task.measures for task in tasks)
    with pytest.raises(InputError, match="give --model"):
        load_suite(path)


def test_the_recipe_of_the_paper_says_how_each_of_its_files_is_made() -> None:
    path = SUITES / "paper.yaml"
    made = re.findall(r"^#   cosup convert \S+ \S+ (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    tasks = load_suite(path, "some/model").tasks
    named = {Path(file).parent.as_posix() for task in tasks for file in (task.questions, *task.passages)}
    assert named == set(made)


def test_a_task_whose_files_are_wrong_stops_the_suite_before_anything_is_answered(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    shutil.copy(tiny_world.questions, tmp_path / "q.jsonl")
    with (tmp_path / "q.jsonl").open("a") as stream:
        stream.write('{"id": "new", "question": "?", "evidence": [{"passage_id": "nowhere"}]}\n')
    own = {"passages": str(tiny_world.passages)}
    tasks = {
        "one": {**own, "questions": str(tiny_world.questions)},
        "two": {**own, "questions": str(tmp_path / "q.jsonl")},
    }
    found = cosup.refused("evaluate", "--suite", suite(tiny_world, tmp_path, tasks=tasks))
    assert "q.jsonl:13" in found
    assert not (tmp_path / "results").exists()


def test_questions_that_are_too_long_stop_the_suite_before_anything_is_answered(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    own = {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions)}
    long = lines(tmp_path / "long.jsonl", *({"id": name, "question": "why " * 5000} for name in "abc"))
    tasks = {"one": own, "two": own | {"questions": str(long)}}
    found = cosup.refused("evaluate", "--suite", suite(tiny_world, tmp_path, tasks=tasks))
    assert "long.jsonl:1: question 'a' has" in found
    assert "shorten it; 2 more are too long" in found
    assert not (tmp_path / "results").exists()
