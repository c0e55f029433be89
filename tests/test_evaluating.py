"""`cosup evaluate`: comparisons, official formats, and what goes with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Cosup
from tests.evaluation.measured import files, lines, options

__all__ = ["files"]


def supports(premise: str, hypothesis: str) -> bool:
    """Be a judge: entail what stands in the premise."""
    return hypothesis.rstrip(".") in premise


# -- our own predictions ---------------------------------------------------------------------------------------------


def test_two_systems_under_a_judge(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    judge = ["--judge", "tests.test_evaluating:supports", "--judge-cache", tmp_path / "cache"]
    done = cosup("evaluate", *options(files), *judge, "--output", tmp_path / "report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["exact_match"] == 100
    assert report["metrics"]["nli_citation_recall"] == 50  # of two sentences the second, "Ada Moor", cites nothing
    found = {own["name"]: own for own in report["comparison"]}
    assert (found["exact_match"]["ours"], found["exact_match"]["theirs"]) == (100, 50)
    assert "## Against the other predictions" in done.out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Ada Moor wrote The Sea" in page
    assert list((tmp_path / "cache").iterdir())


def test_what_evaluate_needs_is_named(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    given, out = options(files), ["--output", tmp_path / "r"]
    assert "--output is missing" in cosup.refused("evaluate", *given)
    assert "--questions is missing" in cosup.refused("evaluate", "--predictions", files["predictions"], *out)
    assert "--gold does not go with" in cosup.refused("evaluate", *given, *out, "--gold", files["questions"])
    assert "--model does not go with" in cosup.refused("evaluate", *given, *out, "--model", tmp_path)
    assert "go with --judge" in cosup.refused("evaluate", *given, *out, "--judge-timeout", "3")
    assert "nosuch" in cosup.refused("evaluate", *given, *out, "--judge", "nosuch:function")
    assert not (tmp_path / "r").exists()


def test_a_judge_is_not_asked_before_the_files_are_read(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    files["predictions"].write_text('{"id": "other", "text": "x"}\n')
    judge = ["--judge", "http://127.0.0.1:9/v1#none"]
    message = cosup.refused("evaluate", *options(files), *judge, "--output", tmp_path / "r")
    assert "none for the 2 questions" in message


# -- official formats ------------------------------------------------------------------------------------------------


def kilt(answer: str, page: str) -> dict[str, Any]:
    return {"id": "1", "input": "Who?", "output": [{"answer": answer, "provenance": [{"wikipedia_id": page}]}]}


def test_kilts_names_and_scales(cosup: Cosup, tmp_path: Path) -> None:
    gold = lines(tmp_path / "gold.jsonl", kilt("Ada Moor", "7"))
    guess = lines(tmp_path / "guess.jsonl", kilt("the Ada  moor!", "8"))
    words = ["evaluate", "--format", "kilt", "--gold", gold, "--predictions", guess, "--output"]
    done = cosup(*words, tmp_path / "made" / "report.json")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "made" / "report.json").read_text(encoding="utf-8"))
    assert {name: report["downstream"][name] for name in ("accuracy", "em", "f1")} == {"accuracy": 0, "em": 1, "f1": 1}
    assert report["kilt"]["KILT-em"] == 0
    assert report["retrieval"]["Rprec"] == 0
    assert report["metrics"]["downstream.em"] == 1
    assert report["metrics"]["retrieval.recall@5"] == 0
    assert report["intervals"]["downstream.em"] == [1, 1]  # fractions, as the figures
    assert "downstream.em              1.0000  [1.0000, 1.0000]" in done.out
    assert json.loads(cosup(*words, tmp_path / "made" / "report.json", "--json").out) == report
    (single,) = (tmp_path / "made" / "report.per_question.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(single)["id"] == "1"
    assert json.loads(single)["scores"]["kilt.KILT-em"] == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    assert cosup(*words, folder).code == 0
    assert (folder / "report.json").is_file()
    assert "give --gold" in cosup.refused("evaluate", "--format", "kilt", "--predictions", guess, "--output", folder)
    assert "--questions does not go with --format kilt" in cosup.refused(*words, folder, "--questions", gold)
    assert "writes a .json file" in cosup.refused(*words, tmp_path / "report.jsonl")
    guess.write_text("{}\n")
    assert "guess.jsonl:1" in cosup.refused(*words, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_alces_names_and_scales(cosup: Cosup, tmp_path: Path) -> None:
    record = {
        "question": "Who?",
        "output": "Ada Moor wrote The Sea [1]. It rains [1].",
        "docs": [{"title": "The Sea", "text": "Ada Moor wrote The Sea."}],
        "qa_pairs": [{"short_answers": ["Ada Moor"]}, {"short_answers": ["Oslo"]}],
        "answer": "Ada Moor wrote it.",
    }
    source = tmp_path / "output.json"
    source.write_text(json.dumps({"data": [record]}), encoding="utf-8")
    words = ["evaluate", "--format", "alce", "--predictions", source, "--output", tmp_path / "report.json"]
    judge = ["--judge", "tests.test_evaluating:supports", "--judge-cache", tmp_path / "cache"]
    done = cosup(*words, "--citations", *judge)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["length"], report["str_em"], report["str_hit"]) == (7, 50, 0)
    assert (report["citation_rec"], report["citation_prec"]) == (50, 50)
    assert report["metrics"]["citation_rec"] == 50
    assert (report["intervals"]["length"], report["intervals"]["str_em"]) == ([7, 7], [50, 50])  # words, percent
    (single,) = (tmp_path / "report.per_question.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(single)
    assert [own["supported"] for own in found["sentences"]] == [True, False]
    assert all(own["reason"] for own in found["sentences"])
    assert found["scores"]["citation_rec"] == 50
    assert "give --judge" in cosup.refused(*words, "--citations")
    assert "found 2 --predictions" in cosup.refused(*words, "--predictions", source)


KILT_ONLY, ALCE_ONLY = ("--format", "kilt"), ("--format", "alce")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*KILT_ONLY, "--judge", "x:y"), "--judge does not go with --format kilt"),
        ((*KILT_ONLY, "--citations"), "--citations does not go with --format kilt"),
        ((*KILT_ONLY, "--claims"), "--claims does not go with --format kilt"),
        ((*KILT_ONLY, "--mauve", "gpt2"), "--mauve does not go with --format kilt"),
        ((*KILT_ONLY, "--no-qampari"), "--no-qampari does not go with --format kilt"),
        ((*KILT_ONLY, "--at-most-citations", "3"), "--at-most-citations does not go with --format kilt"),
        ((*KILT_ONLY, "--dtype", "float32"), "--dtype does not go with --format kilt"),
        ((*ALCE_ONLY, "--gold", "gold.jsonl"), "--gold does not go with --format alce"),
        ((*ALCE_ONLY, "--judge", "x:y"), "--judge goes with --citations or --claims"),
        ((*ALCE_ONLY, "--claims", "--at-most-citations", "3"), "--at-most-citations goes with --citations"),
        ((*ALCE_ONLY, "--mauve", "gpt2"), "--mauve does not go with lists"),
        (("--no-rouge",), "--no-rouge does not go with predictions of our own form"),
        (("--dtype", "auto"), "--dtype does not go with predictions of our own form"),
        (("--suite", "suite.yaml", "--no-rouge"), "--no-rouge does not go with --suite"),
        (("--suite", "suite.yaml", *KILT_ONLY), "--format does not go with --suite"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    words: tuple[str, ...], message: str, cosup: Cosup, tmp_path: Path
) -> None:
    given = [] if "--suite" in words else ["--predictions", "qampari-output.json"]
    assert message in cosup.refused("evaluate", *given, "--output", tmp_path / "r", *words)


def test_a_folder_is_not_named_like_a_file(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    message = cosup.refused("evaluate", *options(files), "--output", tmp_path / "report.json")
    assert "report.json is named like a file; expected a folder" in message
    path = tmp_path / "suite.yaml"
    own = {name: str(files[name]) for name in ("passages", "questions", "predictions")}
    path.write_text(json.dumps({"output": str(tmp_path / "suite.json"), "tasks": {"sea": own}}))
    assert "suite.json is named like a file" in cosup.refused("evaluate", "--suite", path)


# -- suites ----------------------------------------------------------------------------------------------------------


def test_what_is_read_is_never_overwritten(cosup: Cosup, files: dict[str, Path], tmp_path: Path) -> None:
    gold = lines(tmp_path / "gold.json", kilt("Ada Moor", "7"))
    guess = lines(tmp_path / "guess.json", kilt("Ada Moor", "7"))
    before = {path: path.read_bytes() for path in (gold, guess, files["predictions"])}
    words = ["evaluate", "--format", "kilt", "--gold", gold, "--predictions", guess, "--output"]
    for target in (gold, guess):
        assert "is read and would be overwritten" in cosup.refused(*words, target)
    (tmp_path / "r").mkdir()
    own = files["predictions"].rename(tmp_path / "r" / "per_question.jsonl")
    message = cosup.refused("evaluate", *options(files | {"predictions": own}), "--output", tmp_path / "r")
    assert "is read and would be overwritten" in message
    own.rename(files["predictions"])
    assert "would be overwritten" in cosup.refused("convert", "trec", files["predictions"], files["predictions"])
    assert {path: path.read_bytes() for path in before} == before
