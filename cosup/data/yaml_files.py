"""Settings from YAML files: read strictly, their keys checked by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cosup.data.paths import looked_up
from cosup.errors import InputError, UsageError, did_you_mean


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return what a YAML file holds.

    Args:
        path: the file.
        what: it is, for a message that it is missing.

    Raises:
        InputError: it cannot be read, is no YAML, or a mapping has a key twice; names the line.
    """
    if looked_up(path).is_dir():
        raise InputError("is a folder; expected a YAML file", path)
    if not path.exists():
        raise InputError(f"no such {what}; expected a YAML file", path)
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError("not valid YAML (not UTF-8 text)", path) from None
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", path) from None
    except YamlError as error:
        raise InputError(str(error), path, error.line) from None


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        YamlError: it is no YAML, a mapping has a key twice, or what it names again (`*name`) makes it endless.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise YamlError("not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the date 2024-13-45
        mark = getattr(error, "problem_mark", None)
        text = f"{error.problem}" if isinstance(error, _Refused) else f"not valid YAML ({_told(error)})"
        raise YamlError(text, None if mark is None else mark.line + 1) from None


def _told(error: Exception) -> str:
    """Say what is wrong, and where what is not closed begins: the parser stumbles over it lines later."""
    text = f"{getattr(error, 'problem', None) or error}"
    start, mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
    if start is not None and mark is not None and start.line != mark.line:
        text += f", {getattr(error, 'context', '')} that begins in line {start.line + 1}"
    return " ".join(text.split())


def parse_value(key: str, text: str) -> Any:
    """Return the value that a command line gives a key, `--key text`.

    Raises:
        UsageError: it is no YAML.
    """
    try:
        return parse_yaml(text)
    except YamlError:
        raise UsageError(f"--{key} {text}: the value is not valid YAML") from None


class YamlError(UsageError):
    """A text that is no YAML; `line` is where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def kind_of(record: Any) -> str:
    """Return what YAML calls a value of Python's: nothing, a list, text, .."""
    if record is None:
        return "nothing"
    kinds = {bool: "true or false", list: "a list", str: "text", dict: "a mapping", int: "a number", float: "a number"}
    return kinds.get(type(record), type(record).__name__)


def mapping_of(record: Any, where: str, expected: str) -> Mapping[Any, Any]:
    """Return a mapping, an empty one where nothing is given.

    Raises:
        UsageError: it is something else; says where and what was expected.
    """
    if record is None:
        return {}
    if not isinstance(record, Mapping):
        raise UsageError(f"{where} is {kind_of(record)}; expected {expected}")
    return record


def count_of(value: Any, name: str) -> int | None:
    """Return a count, None where nothing is given.

    Raises:
        UsageError: it is no whole number of at least 1; names it.
    """
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{name} is {value!r}; expected a number of at least 1")
    return value


def check_keys(record: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known; the message has the nearest one.

    Raises:
        UsageError: there is one.
    """
    names = list(known)
    unknown = next((key for key in record if key not in names), None)
    if unknown is not None:
        hint = did_you_mean(str(unknown), names)
        raise UsageError(f"{where} has no key {unknown!r}{hint}; known: {', '.join(names)}")


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is refused all the same."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


_MOST = 100_000  # values of a file, those that are named again counted again


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; YAML's own reader keeps the last and says nothing.

    It refuses as well what names again (`*name`) a part that it stands in, and what grows by such names beyond all
    measure: whoever walks through it would never come to its end.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # of the values that are read whole

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read a value, and count how many it holds."""
        again = self.check_event(yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if again and id(node) not in self._sizes:
            raise _Refused("a part names itself again; expected one that ends", node.start_mark)
        if not again:
            held = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for item in held for part in (item if isinstance(item, tuple) else [item])]
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
        if self._sizes[id(node)] > _MOST:
            raise _Refused(f"more than {_MOST:,} values; expected fewer", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping and look at its keys as they are written: those that `<<` merges in may come again."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"the key {key.value!r} comes twice; expected it once", key.start_mark)
                seen.add(key.value)
        return node
