"""Settings from YAML files: read strictly, their keys checked by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cosup.errors import InputError, UsageError, did_you_mean


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return what a YAML file holds.

    Args:
        path: the file.
        what: it is, for a message that it is missing.

    Raises:
        InputError: it cannot be read, is no YAML, or a mapping has a key twice; names the line.
    """
    if path.is_dir():
        raise InputError("is a folder; expected a YAML file", path)
    if not path.exists():
        raise InputError(f"no such {what}; expected a YAML file", path)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", path) from None
    except _Twice as error:
        raise InputError(f"{error.problem}; expected it once", path, error.line) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as the date 2024-13-45
        mark = getattr(error, "problem_mark", None)
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "problem", None) or error
        raise InputError(
            f"not valid YAML ({' '.join(str(reason).split())})", path, None if mark is None else mark.line + 1
        ) from None


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


class _Twice(yaml.MarkedYAMLError):
    """A mapping has a key twice."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(problem=f"the key {key!r} comes twice")
        self.line = line


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; YAML's own reader keeps the last and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping and look at its keys as they are written: those that `<<` merges in may come again."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Twice(key.value, key.start_mark.line + 1)
                seen.add(key.value)
        return node
