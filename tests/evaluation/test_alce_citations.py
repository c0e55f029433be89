"""ALCE's citation recall and precision with a judge by rule; expected values are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cosup.errors import InputError
from cosup.evaluation.alce import AlceSettings, alce_report
from cosup.evaluation.alce_citations import CitationScores, score_citations, score_claims
from cosup.evaluation.alce_records import read_alce
from cosup.evaluation.judging.base import Decision

DOCS = [
    {"id": "a", "title": "Cats", "text": "cats purr"},
    {"id": "b", "title": "Dogs", "text": "dogs bark"},
    {"id": "c", "title": "Both", "text": "cats purr dogs bark"},
]


class WordJudge:
    """Entailed if all words of the hypothesis stand in the premise; undecided where it says "maybe"."""

    name = "words"

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def decide(self, pairs: Sequence[tuple[str, str]]) -> list[Decision]:
        self.asked.append(list(pairs))
        return [self._one(*pair) for pair in pairs]

    def _one(self, premise: str, hypothesis: str) -> Decision:
        words = [word.strip(".,[").lower() for word in hypothesis.split()]
        missing = [word for word in words if word and word not in premise.lower().split()]
        if "maybe" in missing:
            return Decision(None, "cannot say")
        return Decision(not missing, f"missing: {missing}")


def write(path: Path, *outputs: str, **more: Any) -> Path:
    data = [{"question": "Which?", "output": output, "docs": DOCS, **more} for output in outputs]
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


def scored(tmp_path: Path, *outputs: str, **more: Any) -> CitationScores:
    return score_citations(read_alce(write(tmp_path / "x.json", *outputs)), WordJudge(), **more)


@pytest.mark.parametrize(
    ("output", "recall", "precision"),
    [
        ("Cats purr [1].", 1, 1),
        ("Cats purr [2].", 0, 0),
        ("Cats purr.", 0, 0),  # cites nothing
        ("Cats purr [4].", 0, 0),  # out of range
        ("Cats purr [1][4].", 0, 0),  # one out of range spoils the sentence, and its citations do not count
        ("Cats purr [1]. Dogs bark [4].", 1 / 2, 1),
        ("Cats purr [1]. Dogs bark [1].", 1 / 2, 1 / 2),
        ("Cats purr dogs bark [1][2].", 1, 1),  # only together: both are needed
        ("Cats purr [1][2].", 1, 1 / 2),  # without the second the first does
        ("Cats purr [1][3].", 1, 1),  # each alone
        ("Cats purr dogs bark [1][2][3].", 1, 1 / 3),  # the third alone; the others without the first, or second, too
        ("Cats purr dogs bark [1][2][2].", 1, 1 / 3),  # a repeated one stays once it is left out
        ("Dogs bark [1][1][2].", 1, 1 / 3),
        ("Cats purr. [1] Dogs bark. [2]", 1 / 3, 1 / 2),  # after the full stop, see below: "" is entailed
        ("Cats purr [[1]].", 1, 1),
        ("Cats purr [1, 2].", 0, 0),  # cites the first alone, and claims "Cats purr, 2."
        ("Dogs bark [0].", 1, 1),  # 0 is the last passage
        ("Cats purr [99999999999999999999].", 0, 0),
        ("Cats purr (Both) [3].", 0, 0),
        ("Both cats purr [3].", 1, 1),  # the title is part of the passage
        ("", None, None),
    ],
)
def test_one_answer(tmp_path: Path, output: str, recall: float | None, precision: float | None) -> None:
    found = scored(tmp_path, output)
    assert found.recall == ({} if recall is None else pytest.approx({0: recall}))
    assert found.precision == ({} if precision is None else pytest.approx({0: precision}))


def test_a_citation_after_the_full_stop_belongs_to_what_follows(tmp_path: Path) -> None:
    verdicts = scored(tmp_path, "Cats purr. [1] Dogs bark. [2]").verdicts
    assert [(v.sentence, v.claim, v.citations, v.supported) for v in verdicts] == [
        ("Cats purr.", "Cats purr.", (), False),
        ("[1] Dogs bark.", "Dogs bark.", (1,), False),
        ("[2]", "", (2,), True),
    ]
    assert scored(tmp_path, "Cats purr.[1] Dogs bark.[2]").verdicts == verdicts


def test_averages_are_over_answers_and_empty_ones_take_no_part(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", "Cats purr [1]. Dogs bark.", "", "Dogs bark [1][2].", "Nothing.")
    report = alce_report(path, AlceSettings(citations=True, rouge=False), WordJudge())
    # Recall is the mean of 1/2, 1 and 0, precision that of 1, 1/2 and 0.
    assert report.metrics["citation_rec"] == pytest.approx(50)
    assert report.metrics["citation_prec"] == pytest.approx(50)
    assert report.judge == "words"
    assert report.records[2]["citation_prec"] == 50
    assert "citation_prec" not in report.records[1]
    assert (
        report.counts
        | {
            "answers": 4,
            "answers_without_sentence": 1,
            "sentences": 4,
            "sentences_supported": 2,
            "sentences_without_citation": 2,
            "sentences_with_several_citations": 1,
            "citations_not_needed": 1,
            "sentences_undecided": 0,
        }
        == report.counts
    )


def test_no_more_citations_count_than_are_allowed(tmp_path: Path) -> None:
    output = "Dogs bark [1][1][1][2]."
    assert scored(tmp_path, output).recall == {0: 0}  # the official scorer takes three
    assert scored(tmp_path, output, at_most=None).recall == {0: 1}
    assert scored(tmp_path, output, at_most=None).precision == {0: 1 / 4}
    assert scored(tmp_path, "Cats purr [1][1][1][9].").counts["sentences_citing_out_of_range"] == 1


def test_the_judge_reads_passages_and_claims_as_in_the_official_scorer(tmp_path: Path) -> None:
    judge = WordJudge()
    score_citations(read_alce(write(tmp_path / "x.json", "Cats purr  [1][2] .")), judge)
    assert judge.asked[0] == [("Title: Cats\ncats purr\nTitle: Dogs\ndogs bark", "Cats purr  .")]


def test_an_extracted_sentence_stands_for_the_text(tmp_path: Path) -> None:
    judge, docs = WordJudge(), [{"title": "T", "text": "long", "sent": "short"}]
    score_citations(read_alce(write(tmp_path / "x.json", "Short [1].", docs=docs)), judge)
    assert judge.asked == [[("Title: T\nshort", "Short.")]]


def test_a_file_is_judged_in_three_lots_of_distinct_pairs(tmp_path: Path) -> None:
    judge = WordJudge()
    outputs = ("Cats purr [1][2].", "Cats purr [1][2].", "Cats purr [1].", "Dogs bark.", "Dogs bark [1][2][3].")
    score_citations(read_alce(write(tmp_path / "x.json", *outputs)), judge)
    cats, dogs, both = (f"Title: {doc['title']}\n{doc['text']}" for doc in DOCS)
    first = [(f"{cats}\n{dogs}", "Cats purr."), (cats, "Cats purr."), (f"{cats}\n{dogs}\n{both}", "Dogs bark.")]
    alone = [(dogs, "Cats purr."), (cats, "Dogs bark."), (dogs, "Dogs bark."), (both, "Dogs bark.")]
    assert judge.asked == [first, alone, [(f"{dogs}\n{both}", "Dogs bark.")]]  # cats without dogs was asked before


def test_nothing_is_asked_where_nothing_is_cited(tmp_path: Path) -> None:
    judge = WordJudge()
    score_citations(read_alce(write(tmp_path / "x.json", "Cats purr.", "Dogs [7].")), judge)
    assert judge.asked == []


def test_the_items_of_a_list_follow_the_question(tmp_path: Path) -> None:
    path = write(tmp_path / "qampari.json", "cats [1], purr dogs [1], .", answers=[["x"]], question="Purr")
    judge = WordJudge()
    report = alce_report(path, AlceSettings(citations=True), judge)
    assert [v.sentence for v in report.sentences] == ["Purr cats [1]", "Purr purr dogs [1]", "Purr "]
    assert judge.asked[0][0][1] == "Purr cats"
    assert report.metrics["citation_rec"] == pytest.approx(100 / 3)
    assert report.metrics["citation_prec"] == pytest.approx(50)


def test_an_undecided_sentence_takes_no_part_and_is_counted(tmp_path: Path) -> None:
    found = scored(tmp_path, "Maybe cats purr [1]. Dogs bark [2]. Cats bark [1].", "Maybe [1].", "Maybe [1]. Dogs.")
    # The first: one of two decided sentences, one of their two citations. The second: nothing was decided. The
    # third: its sentence without a citation is not supported, and what its citation is worth is not known.
    assert found.recall == {0: 1 / 2, 2: 0}
    assert found.precision == {0: 1 / 2}
    assert (found.counts["sentences_undecided"], found.counts["answers_undecided"]) == (3, 1)
    assert found.verdicts[0].supported is None
    assert found.verdicts[0].reason == "cannot say"


class ScriptedJudge:
    """Answers by the first letters of the titles in the premise."""

    name = "script"

    def __init__(self, **said: bool | None) -> None:
        self.said = said

    def decide(self, pairs: Sequence[tuple[str, str]]) -> list[Decision]:
        return [Decision(self._one(premise), "as scripted") for premise, _ in pairs]

    def _one(self, premise: str) -> bool | None:
        titles = "".join(line[7] for line in premise.splitlines() if line.startswith("Title: "))
        return self.said[titles]


@pytest.mark.parametrize(
    ("said", "supported", "precision"),
    [
        ({"CDB": None}, None, None),
        # The first is needed whether or not it does alone, since the others do not.
        ({"CDB": True, "C": None, "D": False, "B": False, "DB": False, "CB": False, "CD": False}, True, 1),
        # Here the others do: whether the first does alone would decide.
        ({"CDB": True, "C": None, "D": True, "B": True, "DB": True}, None, None),
        # The first does not alone: what the others do would decide.
        ({"CDB": True, "C": False, "D": True, "B": True, "DB": None}, None, None),
        ({"CDB": True, "C": False, "D": True, "B": True, "DB": True}, True, 2 / 3),
    ],
)
def test_an_undecided_citation_makes_its_sentence_undecided(
    tmp_path: Path, said: dict[str, bool | None], supported: bool | None, precision: float | None
) -> None:
    records = read_alce(write(tmp_path / "x.json", "Cats purr [1][2][3]."))
    found = score_citations(records, ScriptedJudge(**said))
    assert found.verdicts[0].supported is supported
    assert found.precision == ({} if precision is None else {0: precision})


def test_every_verdict_has_its_reason(tmp_path: Path) -> None:
    verdicts = scored(tmp_path, "Cats. Cats purr [7]. Cats bark [1]. Cats purr [1][2].").verdicts
    assert [v.reason for v in verdicts[:3]] == [
        "cites nothing",
        "cites [7], but there are 3 passages",
        "missing: ['bark']",
    ]
    form = verdicts[3].to_dict()
    assert form["citations"] == [1, 2]
    assert [(v["number"], v["needed"]) for v in form["verdicts"]] == [(1, True), (2, False)]
    assert "the others do" in form["verdicts"][1]["reason"]
    json.dumps(form)


def test_claims_are_judged_against_the_answer_without_citations(tmp_path: Path) -> None:
    claims = ["Cats purr", "dogs bark", "birds sing", "maybe"]
    path = write(tmp_path / "x.json", "cats [1] purr [[2]3] dogs bark", "nothing", claims=claims)
    records = read_alce(path)
    judge = WordJudge()
    found = score_claims(records, judge)
    # Citations are taken out twice, as in the official scorer: "[3", what is left of "[[2]3]", goes the second time.
    assert judge.asked[0][0] == ("cats purr dogs bark", "Cats purr")
    assert found.recall == pytest.approx({0: 2 / 3, 1: 0})
    assert found.counts == {"claims": 8, "claims_undecided": 2}
    metrics = alce_report(path, AlceSettings(claims_nli=True, rouge=False), WordJudge()).metrics
    assert metrics["claims_nli"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"docs": None}, r"x.json:1: data\[0\]: field 'docs' is not a list of objects"),
        ({"docs": [{"text": "x"}]}, "an entry of 'docs' has no 'title' or no 'text'"),
    ],
)
def test_citing_without_passages_is_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        score_citations(read_alce(write(tmp_path / "x.json", "Cats [1].", **more)), WordJudge())


def test_no_passage_can_be_cited_where_there_are_none(tmp_path: Path) -> None:
    found = score_citations(read_alce(write(tmp_path / "x.json", "Cats [0].", "Cats [1].", docs=[])), WordJudge())
    assert found.counts["sentences_citing_out_of_range"] == 2
    assert [v.reason for v in found.verdicts] == [f"cites [{n}], but there are 0 passages" for n in (0, 1)]


def test_an_answer_without_claims_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\[0\]: field 'claims' is not a list of texts"):
        score_claims(read_alce(write(tmp_path / "x.json", "x", claims=[])), WordJudge())
