"""The documentation without building it: pages are reachable, links lead somewhere, what is generated is up to date."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet
from transformers import TrainingArguments

import cosup
from cosup.adapters import LoraSettings
from cosup.console import Console
from cosup.data.convert import FORMATS
from cosup.data.reading import check_references, read_passages
from cosup.demo import run_demo
from cosup.training.recipe import TOP_KEYS, known_keys
from tests.blocks import end_server, marked_blocks, run_block
from tests.commands import TOY_DEMO, Cosup
from tests.test_layers import ROOMS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # where the scripts are that write pages

import docs_figures
import docs_tables

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


def leaves_of(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for item in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves_of(item)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)["nav"]
    assert sorted(leaves_of(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_pictures_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_api_pages_have_every_public_name_once() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: cosup\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted(shown) == sorted(name for name in cosup.__all__ if name != "__version__")


@pytest.mark.parametrize("name", docs_figures.FIGURES)
def test_a_figure_is_as_its_script_draws_it(name: str) -> None:
    assert (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8") == str(docs_figures.FIGURES[name]())


def shown_files(page: Path) -> dict[str, str]:
    """Return the files that a page shows after `<!-- file: NAME -->`, by name."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL))


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the files that the page of data formats shows."""
    for name, text in shown_files(DOCS / "formats.md").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_records_of_the_page_of_formats_are_read_and_belong_together(shown: Path) -> None:
    """Each line is as the writers write it, but for what may be left out; spans hold the claims that they are of."""
    passages = cosup.read_passages("mine")
    questions, examples = cosup.read_questions("mine/questions.jsonl"), cosup.read_examples("mine/examples.jsonl")
    check_references([*questions, *examples], {p.id: p for p in passages}, "formats.md")
    answers = cosup.read_answers("mine/predictions.jsonl")
    assert [len(records) for records in (passages, questions, examples, answers)] == [3, 2, 1, 2]
    assert answers[0].citations
    for citation in answers[0].citations:
        assert answers[0].text[citation.start : citation.end] + "." == citation.claim
    for name, records in (("passages", passages), ("examples", examples), ("predictions", answers[:1])):
        lines = (shown / "mine" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines[: len(records)]] == [
            json.loads(line) | record.to_dict() for line, record in zip(lines, records, strict=False)
        ]
    concept = re.search(r"```json\n(.*?)```", (DOCS / "concepts/citations.md").read_text(encoding="utf-8"), re.DOTALL)
    assert concept is not None
    assert cosup.Answer.from_dict(json.loads(concept[1])).text == answers[0].text


def test_the_conversions_of_the_page_of_formats_run_and_are_all(shown: Path, cosup: Cosup) -> None:
    """Every command, in the page's order, on the files that the page shows; each gives something."""
    rows = [p.to_dict() for p in read_passages("mine")]
    columns = {name: [row[name] for row in rows] for name in ("id", "title", "text")}
    parquet.write_table(pyarrow.table(columns), shown / "in/passages.parquet")
    commands = re.findall(r"^cosup (convert .+)$", (DOCS / "formats.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {command.split()[1] for command in commands} == set(FORMATS)
    for command in commands:
        done = cosup(*command.split())
        assert done.code == 0, f"{command}: {done.err}"
        assert (shown / command.split()[3]).exists(), command


def test_the_tables_of_the_page_of_recipes_are_as_the_code_says() -> None:
    page = ROOT / "docs/recipes.md"
    text = page.read_text(encoding="utf-8")
    assert text == docs_tables.filled(text, docs_tables.TABLES["docs/recipes.md"])


def test_the_drawing_of_the_house_has_its_rooms_in_their_order() -> None:
    """As `tests/test_layers.py` holds them against the imports; a room with a slash is a folder."""
    assert [name for name, _ in docs_tables.rooms()] == list(ROOMS)
    for name, is_folder in docs_tables.rooms():
        assert ((ROOT / "cosup" / name) if is_folder else (ROOT / f"cosup/{name}.py")).exists(), name


def test_the_architecture_names_every_module_once() -> None:
    """Single files in the drawing, the others in the lists; `python benchmarks/docs_tables.py` writes those anew."""
    page = ROOT / "docs/architecture.md"
    text = page.read_text(encoding="utf-8")
    assert text == docs_tables.filled(text, docs_tables.TABLES["docs/architecture.md"])
    listed, place = [f"{name}.py" for name, is_folder in docs_tables.rooms() if not is_folder], ""
    for room, module in re.findall(r"^(?:\*\*(\w+)/\*\*|- `([\w/]+)`: .+)$", text, flags=re.MULTILINE):
        place = room or place
        listed += [f"{place}/{module}.py"] if module else []
    files = {file.relative_to(ROOT / "cosup").as_posix() for file in (ROOT / "cosup").rglob("*.py")}
    house = {file for file in files if not file.endswith("__init__.py") and file != "__main__.py"}
    assert sorted(listed) == sorted(house)
    for front in ("__init__", "__main__"):
        assert text.count(f"`cosup/{front}.py`") == 1


def test_the_page_of_recipes_has_every_key() -> None:
    """Of the training's keys, all of our own; those of transformers are so many that common ones stand for them."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([\w.]+)`", text, flags=re.MULTILINE))
    known = known_keys()
    theirs = {f.name for f in dataclasses.fields(TrainingArguments)}
    assert set(TOP_KEYS) <= shown
    assert {f"data.{name}" for name in known["data"]} | {f"objective.{name}" for name in known["objective"]} <= shown
    assert {f"adapters.{f.name}" for f in dataclasses.fields(LoraSettings)} <= shown
    assert {f"training.{name}" for name in known["training"] if name not in theirs} <= shown
    assert {name.removeprefix("training.") for name in shown if name.startswith("training.")} <= set(known["training"])


@pytest.mark.slow
def test_the_tables_of_memory_are_what_cosup_info_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert text == docs_tables.filled(text, docs_tables.TABLES["docs/scaling.md"])


@pytest.mark.slow
def test_the_blocks_of_the_pages_run(tmp_path: Path) -> None:
    """Every marked block, page by page in one folder, after a demo of toy size in place of `make demo`."""
    run_demo(tmp_path / "runs" / "demo", settings=TOY_DEMO, console=Console(quiet=True))
    pages = [DOCS / "quickstart.md", *sorted(page for page in PAGES if page.name != "quickstart.md")]
    try:
        printed = {page.name: [run_block(*block, tmp_path) for block in marked_blocks(page)] for page in pages}
    finally:
        end_server(tmp_path)
    assert (tmp_path / "runs/tea/report/report.html").is_file()
    assert (tmp_path / "runs/tea-python/model/cosup.json").is_file()
    assert printed["tokens.md"] == ["False\n"]
    assert printed["citations.md"][0].split()[-1] == "Finished"


# Pages whose blocks of commands are no step for the reader, and single blocks that no test runs, by their first words.
MEASURED = ("performance.md", "squad.md", "demo.md", "reliability.md", "scaling.md")  # what made the figures above them
NOT_RUN = {
    "README.md": ["make demo"],  # minutes; `.ci/run` does
    "index.md": ["make demo"],
    "quickstart.md": ["git clone"],
    "CONTRIBUTING.md": ["git clone", ".venv/bin/pytest tests/data", "python benchmarks/training.py"],
    "supervisions.md": ["cosup ask --model runs/squad-ntp"],  # a training of SQuAD
    "evaluation.md": ["cosup evaluate --format kilt", "cosup convert kilt-knowledge"],  # the published files
    "experiments.md": ["kept="],  # hours
    "recipes.md": ["cosup train recipes/squad-smollm2.yaml"],
    "serving.md": ["cosup serve --model runs/mine", "from openai import", "admin="],  # a server; tests/serving asks it
}


def test_a_block_that_no_test_runs_is_known_as_such() -> None:
    """Of the pages' blocks of shell and Python, each is marked, converts a file (tested above), or is listed here."""
    found: dict[str, list[str]] = {}
    for page in (page for page in LINKED if page.name not in MEASURED):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"(<!-- test -->\n)?^ *```(sh|python|)\n *(.*)\n", text, flags=re.MULTILINE)
        for marked, language, first in blocks:
            is_code = language or re.match(r"(\.venv/bin/\w+|make|python|git|pip|cosup) ", first)
            if is_code and not marked and not (page.name == "formats.md" and first.startswith("cosup convert ")):
                found.setdefault(page.name, []).append(first)
    assert {page: len(firsts) for page, firsts in found.items()} == {page: len(own) for page, own in NOT_RUN.items()}
    for page, firsts in found.items():
        for first, own in zip(firsts, NOT_RUN[page], strict=True):
            assert first.startswith(own), f"{page}: {first}"


def strings_of_the_code() -> list[str]:
    """Return every text that stands in the package's code, what is put into it replaced by a line end."""
    found = []
    for file in (ROOT / "cosup").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\n" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sd]|%\.\df", "\n", node.value))
    return found


TEXTS = strings_of_the_code()
MESSAGES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_messages_come_once() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(MESSAGES) >= 90
    assert len(MESSAGES) == len(set(MESSAGES)) == page.count("\n### ")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_the_beginning_of_one_of_the_code(message: str) -> None:
    """Its pieces between `..` stand in one text of the code in their order, the first at its beginning."""
    assert any(begins(text, message) for text in TEXTS)


def begins(text: str, message: str) -> bool:
    """Whether a text of the code begins with a message; a `..` at its front stands for something that is put in.

    A quotation mark around what is put in counts as part of it: the code may add it by `repr`.
    """
    first, *rest = (piece.strip().strip("'") for piece in message.removeprefix("PATH: ").split(".."))
    text = text.lstrip("'")
    if not first and not text.startswith("\n"):
        return False
    place = 0
    for number, piece in enumerate([first, *rest]):
        found = text.find(piece, place)
        is_next = number > 0 or found == 0
        if found < 0 or not is_next:
            return False
        place = found + len(piece)
    return True


@pytest.mark.parametrize(
    "text", ["and so: the loss is \n", "the loss \n", "\n: the loss is \n", "the los"], ids=range(4)
)
def test_the_middle_of_a_message_is_not_its_beginning(text: str) -> None:
    assert begins("the loss is \n; lower it", "the loss is ..")
    assert not begins(text, "the loss is ..")


def test_every_code_of_the_api_is_explained() -> None:
    """In the table of statuses: the codes that the code gives, and no other."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "cosup/serving").glob("*.py"))
    given = set(re.findall(r'code="(\w+)"', source)) | set(re.findall(r'ApiError\(4\d\d, [^\n]+, "(\w+)"\)', source))
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| [\d, ]+ \| ([^|]+) \|", page, flags=re.MULTILINE)
    explained = {code for cell in cells for code in re.findall(r"`(\w+)`", cell)}
    assert len(explained) > 12
    assert given - {"messages", "cosup", "query", "dimensions", "input", "passages", "passage_id"} <= explained
    assert all(f'"{code}"' in source for code in explained)


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    """Versions, in each the kinds of changes, and under each a plain list in which nothing comes twice."""
    _, *versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[0].startswith("Unreleased\n")
    for version in versions:
        _, *parts = re.split(r"^### ", version, flags=re.MULTILINE)
        kinds = [part.splitlines()[0] for part in parts]
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert set(kinds) <= set(known)
        assert len(kinds) == len(set(kinds))
        lines = [line for part in parts for line in part.splitlines()[1:] if line]
        assert [line for line in lines if not re.match(r"- \S|  \S", line)] == []
        assert [line for line in lines if len(line) > 130] == []
        sentences = re.split(r"(?<=[.;])\s+|^- ", "\n".join(lines), flags=re.MULTILINE)
        told = [" ".join(sentence.split()) for sentence in sentences if len(sentence) > 30]
        assert len(told) == len(set(told))


def test_the_site_asks_no_other_host_for_anything() -> None:
    """Neither pages, styles and scripts of our own nor the configuration fetch from elsewhere; links may lead there."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert config["theme"]["font"] == "false"
    assert not any("://" in script for script in config["extra"]["polyfills"])
    for page in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(\w+:|<(img|script|link|iframe)\b", prose(page)), page
    for asset in (DOCS / "assets").iterdir():
        assert "://" not in asset.read_text(encoding="utf-8"), asset
