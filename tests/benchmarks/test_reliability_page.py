"""docs/reliability.md says what its records say, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reliability_page
from reliability import KINDS, RECORDS, Trial

AT_LAST = ("1234567+: a lost file", "0123456: a torn file")
TRIED = Trial("fault", "kill-train", "kill -9 while | it trains", 1200, ["a torn file"], "as if nothing had been", 61.2)


def test_the_page_is_what_the_script_makes_of_the_records() -> None:
    """Run `python benchmarks/reliability_page.py` where this fails."""
    page = reliability_page.page(reliability_page.read_records(RECORDS))
    assert RECORDS.with_suffix(".md").read_text(encoding="utf-8") == page


def test_a_record_becomes_a_row_with_its_command_and_where_it_ran(tmp_path: Path) -> None:
    TRIED.write(["benchmarks/faults.py", "kill-train"], tmp_path)
    (record,) = reliability_page.read_records(tmp_path)
    text = reliability_page.page([record])
    assert "| kill -9 while \\| it trains | 1,200 | a torn file | as if nothing had been |" in text
    assert "python benchmarks/faults.py kill-train  # 61 s" in text
    assert f"Commit {record['environment']['commit']}; {record['environment']['hardware']}; torch " in text
    assert text.count("\n## ") == 1


def test_what_was_found_before_stays_with_its_commit(tmp_path: Path) -> None:
    """Also when what came after has found nothing, twice."""
    words = ["benchmarks/faults.py", "kill-train"]
    path = TRIED.write(words, tmp_path)
    for commit in ("0123456", "1234567+", "2345678"):
        record = json.loads(path.read_text())
        record["environment"]["commit"] = commit
        path.write_text(json.dumps(record))
        found = ["a lost file"] if commit == "0123456" else []
        replace(TRIED, found=found).write(words, tmp_path)
    assert json.loads(path.read_text())["found"] == ["at " + line for line in AT_LAST]


def test_pieces_of_a_trial_are_one_record(tmp_path: Path) -> None:
    words = ["benchmarks/faults.py", "kill-train", "--seed"]
    TRIED.write([*words, "0"], tmp_path, adds=True)
    more = replace(TRIED, times=34, found=["a torn file", "a lost file"], seconds=8.8)
    record = json.loads(more.write([*words, "1"], tmp_path, adds=True).read_text())
    assert (record["times"], record["seconds"], record["found"]) == (1234, 70.0, ["a torn file", "a lost file"])
    command = "python benchmarks/faults.py kill-train --seed"
    assert record["command"] == f"{command} 0; {command} 1"


def test_a_row_shows_a_few_of_what_was_found(tmp_path: Path) -> None:
    record = replace(TRIED, found=list("abcde")).record(["x.py"])
    assert "| a; b; c; and 2 more in the record |" in reliability_page.page([record])


def test_every_kind_has_its_part_in_the_order_of_kinds(tmp_path: Path) -> None:
    for kind in reversed(KINDS):
        Trial(kind, f"one-{kind}", f"a {kind}", 1, [], "it", 1.0).write(["x.py"], tmp_path)
    text = reliability_page.page(reliability_page.read_records(tmp_path))
    places = [text.index(f"| a {kind} | 1 | nothing | it |") for kind in KINDS]
    assert places == sorted(places)
    assert set(reliability_page.TITLES) == set(KINDS)


@pytest.mark.parametrize(
    ("change", "told"), [({"kind": "luck"}, "is of kind 'luck'"), ({"times": None}, "lacks times")]
)
def test_a_record_that_is_none_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    record = {**TRIED.record(["x.py"]), **change}
    (tmp_path / "odd.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    with pytest.raises(SystemExit, match=rf"odd\.json {told}"):
        reliability_page.read_records(tmp_path)


def test_a_record_keeps_details_beside_the_rest(tmp_path: Path) -> None:
    path = Trial("soak", "hours", "load", 2, [], "it", 1.0, {"samples": [1, 2]}).write(["x.py"], tmp_path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["samples"] == [1, 2]
    assert "details" not in record
