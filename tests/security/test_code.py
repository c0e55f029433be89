"""No pickle, no code of others, no shell: read from the sources, not from what a test happens to run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
FOLDERS = ("cosup", "benchmarks", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (HOUSE / folder).rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
CODE = {"eval", "exec", "compile", "__import__"}
ARCHIVES = {"tarfile", "zipfile"}


def problems(source: str) -> Iterator[str]:
    """Yield what a source does that opens a file of a stranger's to code."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in UNPICKLERS | ARCHIVES:
                yield f"line {node.lineno} imports {name}"
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {problem}" for problem in problems_of(node))


def problems_of(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    last = name.rpartition(".")[2]
    if name in CODE:
        yield f"{name}()"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if given.get("shell", "False") != "False" or name in ("os.system", "os.popen", "subprocess.getoutput"):
        yield "a shell"
    if last in ("unpack_archive", "extractall", "unsafe_load", "full_load") or name in (
        "yaml.load_all",
        "pd.read_pickle",
    ):
        yield name
    if name == "yaml.load" and not (len(call.args) > 1 and ast.unparse(call.args[1]) in ("yaml.SafeLoader", "_Loader")):
        yield "yaml.load without a safe loader"


def test_no_file_is_read_as_code() -> None:
    found = {str(path.relative_to(HOUSE)): list(problems(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert len(found) > 200
    assert {name: own for name, own in found.items() if own} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import zipfile",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "eval(x)",
        "yaml.load(x, yaml.Loader)",
        "shutil.unpack_archive(x)",
    ],
)
def test_what_would_read_code_is_seen(source: str) -> None:
    assert list(problems(source))


@pytest.mark.parametrize(
    "source", ["torch.load(path, weights_only=True)", "np.load(p, allow_pickle=False)", "model.eval()", "json.load(f)"]
)
def test_what_reads_data_is_left_alone(source: str) -> None:
    assert not list(problems(source))


def test_the_yaml_loader_is_a_safe_one() -> None:
    import yaml

    from cosup.data.yaml_files import YamlError, _Loader, parse_yaml

    assert issubclass(_Loader, yaml.SafeLoader)
    with pytest.raises(YamlError):
        parse_yaml("!!python/object/apply:os.getcwd []")
