"""Every figure, table and picture of the documents has its command and record; pages are what their records say."""

from __future__ import annotations

import json
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # they import one another as scripts do

import demo_page
import performance_page
import results_page
import squad_smollm2

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROVENANCE = (DOCS / "provenance.md").read_text(encoding="utf-8")
NOT_KEPT = {"docs/squad.json"}  # take a name out once its record is there


def rows() -> list[list[str]]:
    """Return the cells of the first table: figure or table, command, record."""
    table = PROVENANCE.split("|---|---|---|\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


LISTED = [name for figures, _, _ in rows() for name in quoted(figures)]


def is_listed(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LISTED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_has_its_row(page: Path) -> None:
    """Its pictures; itself, where a script writes it or a part of it, or where it has a table of numbers."""
    text = page.read_text(encoding="utf-8")
    shown = [(page.parent / link).resolve() for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)]
    if re.search(r"^<!-- /[\w-]+ -->$|^Written by `|^\|.*---:\|", text, flags=re.MULTILINE):
        shown.append(page)
    assert [name for path in shown if not is_listed(name := path.relative_to(ROOT).as_posix())] == []


def test_every_picture_of_the_repository_has_its_row() -> None:
    pictures = [p.relative_to(ROOT).as_posix() for p in DOCS.rglob("*") if p.suffix in (".png", ".svg")]
    assert len(pictures) > 10
    assert [name for name in pictures if not is_listed(name)] == []


def test_what_the_rows_name_is_there() -> None:
    """Figures, scripts and records; where no record was kept the row says so."""
    for figures, command, record in rows():
        for name in quoted(figures):
            assert list(ROOT.glob(name)) or name == "results", name
        for script in re.findall(r"python (\S+\.py)", command):
            assert (ROOT / script).is_file(), script
        for name in quoted(record):
            if not list(ROOT.glob(name)):
                assert name in NOT_KEPT | {"docs/performance/SECTION.json", "cosup info"}, name
                assert name == "cosup info" or "none was kept" in record
    for name in NOT_KEPT:
        assert not (ROOT / name).exists(), f"{name} is there: say so in docs/provenance.md"


def test_every_script_is_named() -> None:
    scripts = [p for p in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in p.read_text("utf-8")]
    assert len(scripts) > 20
    assert [p.name for p in scripts if f"benchmarks/{p.name}" not in PROVENANCE] == []


# -- pages and records -------------------------------------------------------------------------------------------------


def test_the_page_of_performance_is_what_its_script_makes() -> None:
    """Run `python benchmarks/performance_page.py` where this fails. Every section ends with commit and command."""
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    earlier = performance_page.sections(text)
    assert text == performance_page.page(performance_page.read_records(performance_page.RECORDS), earlier)
    for name, body in earlier.items():
        assert re.search(r"\nCommit [0-9a-f]{7,}\+?; .+\n\n```sh\npython benchmarks/.+\n```$", body), name
    heads = [performance_page.heading(body) for body in earlier.values()]
    assert len(heads) == len(set(heads))


@pytest.mark.slow
def test_the_page_of_results_is_made_from_the_repository_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data and models: the page, the README's table, and the averages are those of the records."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(DOCS / "results", tmp_path / "docs/results")
    for name in ("README.md", "docs/results.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs/results/main.json").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["results_page.py", "--scale", "cpu", "--as-noted"])
    results_page.main()
    for name in ("README.md", "docs/results.md", "docs/results/main.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8"), name


def test_the_seconds_that_the_readme_names_are_those_of_the_demo() -> None:
    page = (DOCS / "demo.md").read_text(encoding="utf-8")
    told = re.search(r"It took (\d+) seconds on two cores of an? ([\w ]+) \(", (ROOT / "README.md").read_text("utf-8"))
    assert told is not None
    assert re.search(rf"^\| total_seconds \| {told[1]} \|", page, flags=re.MULTILINE)
    assert f"{told[2]}, 2 cores." in page


def report(recall: float) -> dict[str, Any]:
    names = [group + measure for group in demo_page.GROUPS for measure in demo_page.MEASURES]
    settings = {"seed": 0, "passages": 640, "parameters": 997568, "steps": 900, "batch_size": 32, "width": 128}
    return {
        "count": 736,
        "metrics": dict.fromkeys(names, recall),
        "settings": settings | {"train_seconds": 201.4, "total_seconds": 211.2},
    }


def test_the_page_of_the_demo_is_made_from_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports become a record beside the page, and from it alone the same page is made again."""
    page = tmp_path / "demo.md"
    for folder, recall in ((tmp_path / "run", 99.0), (tmp_path / "run/compare", 98.0)):
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report(recall)), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["x", "--run", str(tmp_path / "run"), "--page", str(page)])
    demo_page.main()
    text = page.read_text(encoding="utf-8")
    assert "| recall@1 | 99.0 | 98.0 |" in text
    assert "| total_seconds | 211 | 211 |" in text
    assert "736 questions over 640 unseen passages; 997,568 parameters" in text
    assert "cosup demo --compare --output" in text
    page.unlink()
    monkeypatch.setattr(sys, "argv", ["x", "--page", str(page)])
    demo_page.main()
    assert page.read_text(encoding="utf-8") == text


def test_the_page_of_squad_is_made_from_its_record(tmp_path: Path) -> None:
    log = [{"step": 5, "ntp_loss": 1.0, "nsp_loss": 2.0, "nsp_accuracy": 0.25}, {"step": 300}]
    figures = dict.fromkeys(squad_smollm2.FIGURES["retrieved"], 50.0)
    bm25 = {"recall@1": 70.0, "recall@10": 90.0, "answer_in_passage": 60.0}
    record = {
        "commit": "abc1234",
        "hardware": "a machine",
        "commands": ["cosup train recipes/squad-smollm2.yaml", "cosup index"],
        "every": 5,
        "training": {"log": log},
        "reports": {name: {"count": 10, "metrics": figures} for name in squad_smollm2.FIGURES},
        "bm25": {"test": bm25, "dev": bm25},
        "passages": {"test": 20, "dev": 5},
    }
    notes = tmp_path / "notes.md"
    notes.write_text("## Notes\n\nby hand\n", encoding="utf-8")
    text = squad_smollm2.page(record, notes)
    assert "300 steps\n\nCommit abc1234; a machine.\n\n```sh\ncosup train recipes/squad-smollm2.yaml\n" in text
    assert "10 test questions (every 5th) over all 20 passages" in text
    assert "| mrr | 50.0 |  | 50.0 |" in text
    assert "| BM25 recall@1 | 70.0 | | 70.0 |" in text
    assert "| 5 | 1.000 | 2.000 | 25 |" in text
    assert text.endswith("\n\n## Notes\n\nby hand\n")
