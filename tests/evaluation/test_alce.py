"""ALCE's official measures that need no judge, on invented records; expected values are worked out by hand."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cosup.errors import InputError, UsageError
from cosup.evaluation.alce import AlceSettings, alce_report, score_alce
from cosup.evaluation.alce_records import read_alce, remove_citations
from cosup.evaluation.qampari import qampari_scores
from cosup.evaluation.rouge import bootstrap_median
from cosup.evaluation.sentence_splitter import split_sentences
from tests.bases import write as write_base

QUICK = AlceSettings(rouge=False)


def write(path: Path, *records: Any) -> Path:
    path.write_text(json.dumps({"args": {}, "data": list(records)}, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def pair(*aliases: str) -> dict[str, Any]:
    return {"question": "?", "short_answers": list(aliases)}


def asqa(output: str, *pairs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"question": "Q?", "output": output, "qa_pairs": list(pairs), "answer": "", "docs": [], **more}


def test_length_and_short_answers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "asqa.json",
        # "oslo is capital it is big": 7 words as written; one of two questions is answered.
        asqa(" Oslo is the capital [1][2]. It is big.\n\nBergen too.", pair("Oslo"), pair("Bergen", "large")),
        # Nothing is left of "The", and nothing stands in every text.
        asqa("<|im_end|>", pair("The")),
        # Within a word: "no" in "north"; without marks "3" is not found; the second by its second alias.
        asqa("Go north [3].", pair("no"), pair("3", "GO")),
    )
    # length (7 + 0 + 2) / 3; str_em (1/2 + 1 + 1) / 3; str_hit 2/3
    assert score_alce(path, QUICK) == pytest.approx({"length": 3, "str_em": 250 / 3, "str_hit": 200 / 3})
    report = alce_report(path, QUICK)
    assert report.counts == {"answers": 3, "empty_outputs": 1, "cut_at_line_break": 1}
    assert [r["str_em"] for r in report.records] == [50, 100, 100]


def test_without_short_answers_the_scores_are_zero_as_in_the_official_scorer(tmp_path: Path) -> None:
    for first in ({"output": "x"}, {"output": "x", "qa_pairs": None}):
        path = write(tmp_path / "eli5.json", first, asqa("y", pair("y")))
        assert score_alce(path, QUICK) == {"length": 1, "str_em": 0, "str_hit": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oslo [1][2]. Rome [3].", "Oslo. Rome."),
        ("Oslo.[1] Rome. [2]", "Oslo. Rome."),  # after the full stop
        ("See [[1]].", "See [."),  # nested: the outer bracket stays
        ("A [1, 2].", "A, 2."),
        ("A [1 | 2]", "A 2"),
        ("x[12]y [٣]", "xy"),  # digits of any script
        ("[a] []", "[a ["),
    ],
)
def test_citations_are_taken_out_as_the_official_scorer_does(text: str, expected: str) -> None:
    assert remove_citations(text) == expected


def test_rouge_takes_the_better_of_two_references(tmp_path: Path) -> None:
    references = [{"long_answer": "Nothing here."}, {"long_answer": "Oslo is a capital."}, {"long_answer": "cut"}]
    path = write(
        tmp_path / "asqa.json", asqa("Oslo is the capitals [1]. It is big.", pair("x"), annotations=references)
    )
    # Stemmed tokens: oslo is the capit | it is big against oslo is a capit: 3 in common of 7 and of 4, F = 6/11.
    assert score_alce(path)["rougeLsum"] == pytest.approx(100 * 6 / 11)


def test_rouge_compares_sentence_by_sentence(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.json", {"output": "Cats purr. Dogs bark.", "answer": "Dogs bark. Cats purr.", "docs": []}
    )
    assert score_alce(path)["rougeLsum"] == pytest.approx(100)  # in one sentence it would be 50


def test_rouge_is_the_median_of_a_bootstrap_with_a_fixed_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"output": "cats", "answer": "cats"}, {"output": "dogs", "answer": "cats"})
    report = alce_report(path)
    # Samples of two have the means 0, 50 and 100 with probabilities 1/4, 1/2, 1/4.
    assert report.metrics["rougeLsum"] == 50
    assert report.rouge_mean == report.to_dict()["rougeLsum_mean"] == 50
    assert [r["rougeLsum"] for r in report.records] == [100, 0]


def test_the_bootstrap_draws_as_numpy_does_after_seeding() -> None:
    import numpy as np

    scores = [0.1, 0.35, 0.8, 0.2, 0.9]
    before = np.random.get_state()
    np.random.seed(0)
    draws = [np.mean(np.asarray(scores)[np.random.choice(np.arange(5), size=5)]) for _ in range(1000)]
    np.random.set_state(before)
    assert bootstrap_median(scores) == pytest.approx(float(np.percentile(draws, 50)), abs=1e-12)


def test_a_list_of_answers() -> None:
    wanted = [["Oslo", "Christiania"], ["Bergen"], ["Trondheim"], ["Bodø"], ["Tromsø"], ["The"]]
    found = qampari_scores("Oslo, the Bergen, OSLO, , the, Atlantis.", wanted)
    # Items: oslo, bergen, oslo, atlantis (what is left of "the" is empty); three are right; two of six are found.
    assert found == pytest.approx(
        {
            "num_preds": 4,
            "qampari_prec": 3 / 4,
            "qampari_rec": 2 / 6,
            "qampari_rec_top5": 2 / 5,
            "qampari_f1": 2 * (3 / 4) * (1 / 3) / (3 / 4 + 1 / 3),
            "qampari_f1_top5": 2 * (3 / 4) * (2 / 5) / (3 / 4 + 2 / 5),
        }
    )


def test_no_item_scores_zero() -> None:
    assert set(qampari_scores(" , ., ", [["x"]]).values()) == {0.0}


def test_a_list_may_follow_reasoning() -> None:
    assert qampari_scores("Let me see: Oslo: big, Rome", [["Rome"]], cot=True)["qampari_prec"] == 1 / 2
    assert qampari_scores("Rome", [["Rome"]], cot=True)["num_preds"] == 0


def test_the_path_says_whether_answers_are_lists(tmp_path: Path) -> None:
    record = {"question": "Q?", "output": "Oslo [1], Rome", "answers": [["oslo"]]}
    names = {"length", "str_em", "str_hit", "num_preds", "qampari_prec", "qampari_rec", "qampari_rec_top5"}
    names |= {"qampari_f1", "qampari_f1_top5"}
    found = score_alce(write(tmp_path / "qampari-run.json", record))
    assert set(found) == names  # no ROUGE
    assert found["qampari_prec"] == 50
    named = write(tmp_path / "run.json", record)
    assert set(score_alce(named, AlceSettings(qampari=True))) == names
    assert set(score_alce(tmp_path / "qampari-run.json", AlceSettings(qampari=False, rouge=False))) == set(
        score_alce(named, QUICK)
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "x.json: the file is empty"),
        ("[]", r"x.json: found a bare list; expected \{\"data\""),
        (
            '{"data": [{"output": "x"}],\n"data": [{"output": ""},\n{"output": 1}]}',
            r"x.json:3: data\[1\]: there is no 'output'",
        ),
        ('{"data": []}', "x.json: found no list 'data' with records"),
        (
            '{"a": [{"data": 1}],\n"data": [\n{"output": "x"},\n {"question": "y"}]}',
            r"x.json:4: data\[1\]: there is no 'ou",
        ),
        (
            '{"data": [{"output": "x", "qa_pairs": []}]}',
            r"x.json:1: data\[0\]: field 'qa_pairs' is not a list of objects",
        ),
        ('{"data": [{"output": "x", "qa_pairs": [{}]}]}', r"data\[0\]: a 'short_answers' of 'qa_pairs' is not"),
        (
            '{"data": [{"output": "x", "qa_pairs": [{"short_answers": []}]},\n{"output": ""}]}',
            r"x.json:2: data\[1\]: there is no field 'qa_pairs'",
        ),
        ('{"data": [{"output": "x"}]}', r"data\[0\]: there is no field 'answer'"),
        ('{"data": [{"output": "x", "answer": ["y"]}]}', r"data\[0\]: field 'answer' is not a text"),
        ('{"data": [{"output": "x", "annotations": [{"long_answer": "y"}]}]}', r"data\[0\]: 'annotations' has not two"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        score_alce(path)


def test_a_list_without_wanted_answers_is_refused(tmp_path: Path) -> None:
    for answers in ([], ["x"], None):
        path = write(tmp_path / "qampari.json", {"output": "x", "answers": answers})
        with pytest.raises(InputError, match=r"data\[0\]: field 'answers' is not a list of lists of texts"):
            score_alce(path)


def test_damaged_files_give_a_message_or_a_score(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.json", *(asqa(f"Oslo {i} [1].", pair("Oslo"), pair("é")) for i in range(3)))
    text = whole.read_text(encoding="utf-8")
    rng, outcomes = random.Random(3), {"refused": 0, "scored": 0}
    damaged = tmp_path / "damaged.json"
    for _ in range(600):
        at = rng.randrange(len(text))
        damaged.write_text(text[:at] + rng.choice('{}[]":,0x \n') + text[at + rng.randrange(3) :], encoding="utf-8")
        try:
            found = score_alce(damaged, QUICK)
        except InputError as error:
            outcomes["refused"] += error.path == str(damaged)
        else:
            outcomes["scored"] += 0 <= found["str_em"] <= 100
    assert sum(outcomes.values()) == 600
    assert min(outcomes.values()) > 50


def test_sentences_are_those_of_nltk() -> None:
    dated = "Dr. Smith went to the U.S. in Jan. He left."
    assert split_sentences(dated) == ["Dr. Smith went to the U.S. in Jan.", "He left."]
    quoted = 'He said "no." (It was 3.5 then.) She left.'
    assert split_sentences(quoted) == ['He said "no."', "(It was 3.5 then.)", "She left."]
    # What the package with the parameters does otherwise on purpose.
    assert split_sentences("Wow!!!") == ["Wow!!", "!"]
    assert split_sentences("") == []


def test_mauve_is_called_as_the_official_scorer_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def compute_mauve(**given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(mauve=0.25)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    path = write(tmp_path / "x.json", {"question": "Who?", "answer": " w" * 200, "output": " He [1] did. \n so"})
    found = score_alce(path, AlceSettings(rouge=False, mauve=True, mauve_model="folder"))
    assert found["mauve"] == 25
    assert calls[0]["p_text"] == ["Who?" + " w" * 99]
    assert calls[0]["q_text"] == ["Who? He did"]
    assert (calls[0]["featurize_model_name"], calls[0]["max_text_length"], calls[0]["device_id"]) == ("folder", 512, -1)


def test_mauve_of_a_real_model_is_whole_for_the_same_texts_and_falls_for_others(tmp_path: Path) -> None:
    """Answers that are the references have a MAUVE of 100; the same words over and over are far from them."""
    model = write_base(tmp_path / "gpt2", "gpt2", max_position_embeddings=512)
    words = ("oak", "ash", "elm", "fir", "yew", "birch", "beech", "larch", "rowan", "alder")
    texts = [f"{words[i % 10]} {words[i * 7 % 10]} {words[i // 10]}" for i in range(40)]
    asked = [{"question": "Which?", "answer": text} for text in texts]
    settings = AlceSettings(rouge=False, mauve=True, mauve_model=model)
    same = score_alce(write(tmp_path / "same.json", *(r | {"output": r["answer"]} for r in asked)), settings)
    other = score_alce(write(tmp_path / "other.json", *(r | {"output": "99 " * 60} for r in asked)), settings)
    assert same["mauve"] == pytest.approx(100, abs=0.5)
    assert other["mauve"] < 25


def test_mauve_without_a_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"question": "Who?", "answer": "w", "output": "x"})
    with pytest.raises(UsageError, match="MAUVE needs a language model"):
        score_alce(path, AlceSettings(rouge=False, mauve=True))


def test_judging_without_a_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need a judge"):
        score_alce(write(tmp_path / "x.json", {"output": "x"}), AlceSettings(citations=True))


def test_citations_that_leave_none_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 0 citations"):
        AlceSettings(at_most_citations=0)


def test_the_report_has_the_official_names_at_top_level(tmp_path: Path) -> None:
    path = write(tmp_path / "asqa.json", asqa("x", pair("x")))
    assert alce_report(path, QUICK).to_dict() == {
        "length": 1,
        "str_em": 100,
        "str_hit": 100,
        "counts": {"answers": 1, "empty_outputs": 0, "cut_at_line_break": 0},
        "judge": None,
    }
    assert read_alce(path)[0].plain == "x"
