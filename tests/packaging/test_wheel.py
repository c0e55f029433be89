"""The distributions: what they hold; the wheel alone, without any extra, runs the demo and names what is missing.

Builds, and installs into a new environment: it needs a package index, and torch by its pin in `constraints.txt`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).parents[2]
PIN = re.search(r"^torch==.*$", (HOUSE / "constraints.txt").read_text(), re.MULTILINE)
DEMO = """
from pathlib import Path
from cosup.demo import DemoSettings, run_demo

sizes = DemoSettings(train_entities=400, test_entities=20, width=32, generator_layers=2, embedder_layers=1, steps=2)
run_demo(Path("demo"), settings=sizes)
"""
IMPORTS = """
import importlib, pkgutil, cosup

for name in cosup.__all__:
    getattr(cosup, name)
for module in pkgutil.walk_packages(cosup.__path__, "cosup."):
    if not module.name.startswith("cosup.serving.") and module.name != "cosup.__main__":
        importlib.import_module(module.name)
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this environment; it must end with `code`."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def tracked() -> set[str]:
    """Return the files of the project, new ones included."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=HOUSE).stdout.splitlines()
    return {name for name in listed if (HOUSE / name).is_file()}


@dataclass(frozen=True)
class Built:
    """A source distribution and the wheel that was made from it."""

    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both from a copy, so that nothing that lies about here gets into them."""
    folder = tmp_path_factory.mktemp("built")
    for name in tracked():
        (folder / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOUSE / name, folder / "house" / name)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", ".", cwd=folder / "house")
    (source,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return Built(source, wheel)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    """Its pages, `py.typed` and licence among them."""
    names = set(zipfile.ZipFile(built.wheel).namelist())
    described = {name for name in names if ".dist-info/" in name}
    assert names - described == {name for name in tracked() if name.startswith("cosup/")}
    assert {"cosup/py.typed", "cosup/serving/web/index.html", "cosup/evaluation/pages/report.html"} <= names
    about = {name.split("/", 1)[1] for name in described}
    assert about == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def test_the_source_distribution_holds_the_project(built: Built) -> None:
    """With tests, recipes, documents and benchmarks; without what only a clone needs."""
    with tarfile.open(built.source) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("cosup.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == {name for name in tracked() if not name.startswith(".")}


@dataclass(frozen=True)
class Alone:
    """An environment with the wheel and what it asks for, and a folder with a demo's results."""

    python: Path
    folder: Path

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `cosup` there."""
        return run(self.python.parent / "cosup", *words, cwd=self.folder, code=code)


@pytest.fixture(scope="module")
def alone(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Install the wheel into an empty environment and run a short demo there.

    torch goes first, by its exact pin: a build of that version that is at hand locally then serves.
    """
    folder = tmp_path_factory.mktemp("alone")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", HOUSE / "constraints.txt")
    assert PIN is not None
    run(*install, PIN[0], cwd=folder)
    run(*install, built.wheel, cwd=folder)
    shown = run(python, "-c", DEMO, cwd=folder)
    assert "Kept in demo: model, index, passages, questions, predictions, report." in shown.stdout
    return Alone(python, folder)


def test_the_demo_runs_to_its_end(alone: Alone) -> None:
    """Of toy size; the environment has no package of an extra."""
    report = json.loads((alone.folder / "demo" / "report.json").read_text())
    assert report["count"] > 20
    assert alone("info", "demo/model").stdout
    listed = run(alone.python, "-m", "pip", "list", "--format=freeze", cwd=alone.folder).stdout.lower()
    installed = {line.split("==")[0] for line in listed.splitlines()}
    assert not installed & {"fastapi", "bm25s", "sentence-transformers", "pymilvus", "matplotlib", "rouge", "pytest"}


def test_every_public_name_and_every_module_but_the_servers_imports(alone: Alone) -> None:
    run(alone.python, "-W", "error::DeprecationWarning:cosup", "-c", IMPORTS, cwd=alone.folder)


MODEL = ("--model", "demo/model")
BOTH = (*MODEL, "--index", "demo/index")
ASK = ("ask", *BOTH, "Who?")
KILT = ("evaluate", "--format", "kilt", "--gold", "k.jsonl", "--predictions", "k.jsonl", "--output", "k.json")
ALCE = ("evaluate", "--format", "alce", "--predictions", "alce.json", "--output", "a.json")
LACKING = {
    "serve": (("serve", *BOTH), "serve"),
    "demo --serve": (("demo", "--output", "demo", "--serve"), "serve"),
    "bm25": ((*ASK, "--retriever", "bm25"), "retrievers"),
    "a model of sentence-transformers": ((*ASK, "--retriever", "sentence-transformers/x"), "retrievers"),
    "an index file of Milvus": (("index", *MODEL, "--passages", "demo/passages.jsonl", "--output", "c.db"), "milvus"),
    "a server of Milvus": (("info", "milvus://localhost:1/x"), "milvus"),
    "kilt": (KILT, "eval"),
    "alce": (ALCE, "eval"),
    "alce's citations": ((*ALCE, "--no-rouge", "--citations", "--judge", "builtins:len"), "eval"),
    "mauve": ((*ALCE, "--no-rouge", "--mauve", "gpt2"), "eval"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_needs_an_extra_says_so_in_one_line_with_the_command(alone: Alone, name: str) -> None:
    words, extra = LACKING[name]
    (alone.folder / "k.jsonl").write_text('{"id": "1", "output": [{"answer": "x", "provenance": []}]}\n')
    answer = {"question": "q", "output": "A b. C d [1].", "docs": [{"title": "t", "text": "x"}], "answer": "A"}
    answer["qa_pairs"] = [{"question": "q", "short_answers": ["x"]}]
    (alone.folder / "alce.json").write_text(json.dumps({"data": [answer]}))
    before = sorted(path.name for path in alone.folder.iterdir())
    done = alone(*words, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f" needs the extra '{extra}'" in line
    assert line.endswith(f": pip install 'cosup[{extra}]'")
    assert done.stdout == ""
    assert sorted(path.name for path in alone.folder.iterdir()) == before


def test_without_matplotlib_a_run_has_no_curves_and_says_how_to_get_them(alone: Alone) -> None:
    """Figures are an addition: the run itself is whole."""
    recipe = {"generator": "demo/model/generator", "embedder": "demo/model/embedder"}
    data = {"passages": "demo/passages.jsonl", "questions": "demo/questions.jsonl"}
    data |= {"max_length": 128, "max_passage_length": 64}
    training = {"output_dir": "run", "max_steps": 1, "logging_steps": 1, "use_cpu": True}
    (alone.folder / "recipe.yaml").write_text(json.dumps({**recipe, "data": data, "training": training}))
    done = alone("train", "recipe.yaml")
    lacking = "no training curves: drawing needs the extra 'plots' (matplotlib is not installed)"
    assert f"{lacking}: pip install 'cosup[plots]'" in done.stderr
    assert (alone.folder / "run" / "model" / "cosup.json").is_file()
    assert not (alone.folder / "run" / "curves.png").exists()
