"""Damaged input, as hypothesis draws it.

Records have fields dropped, doubled, exchanged or of another type; bytes are cut off, changed or put in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    *(None, True, 0, -1, 2.5, 10**30, 1e300, "", " ", "x", "\t\n", "7", "-", "\ud800", "a\u2028b\x00", "x" * 300),
    *([], [None], [[]], ["x"], {}, {"id": "x"}, {"text": "x"}, [["Ada", 1]], {"x": {"y": [{}]}}),
    *("[Relevant]", "<paragraph>", "[Rele[Relevant]vant]", "Section::::", "[1]", "[Ret]", "../../x", "/etc/passwd"),
]
PIECES = (
    b"",
    b"\n",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"{",
    b"}",
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 3000,
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"9" * 5000,
    b"-",
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
    b"2024-13-45",
    b"? ",
    b"# ",
    b"```\n",
    b"---\n",
    b"\t",
    b"\r\n",
    b"\xed\xa0\x80",
    b"[1]",
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container within `value` with a key or index in it."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


@st.composite
def damaged_value(draw: st.DrawFn, record: Any) -> Any:
    """Draw a record with one to four things wrong: something dropped, doubled, exchanged, cut or retyped."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        places = list(_places(record))
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(("drop", "double", "exchange", "cut", "odd", "odd", "odd", "rename")))
        if kind == "drop":
            del container[key]
        elif kind == "double" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from((f"{key}s", str(key)[:-1], str(key).upper(), "id")))] = container.pop(key)
        elif kind == "exchange":
            other, at = places[draw(st.integers(0, len(places) - 1))]
            there = at in other if isinstance(other, dict) else at < len(other)
            container[key] = copy.deepcopy(other[at]) if there else None
        elif kind == "cut" and isinstance(container[key], str):
            container[key] = container[key][: draw(st.integers(0, len(container[key])))]
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return record


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw one of the seeds with one to three places wrong: cut off, a byte changed, or something put in."""
    data = draw(st.sampled_from(list(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("cut", "flip", "flip", "piece", "piece", "out")))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif kind == "out":
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        else:
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[at:]
    return data


def as_json(value: Any) -> bytes:
    """Return a value as one line of JSON; a lone surrogate becomes an escape."""
    return json.dumps(value).encode()


def cases(
    seeds: Sequence[bytes],
    record: Any = None,
    dump: Callable[[Any], bytes] = as_json,
    around: tuple[bytes, bytes] = (b"", b""),
) -> st.SearchStrategy[bytes]:
    """Return what is tried on a reader.

    Args:
        seeds: whole inputs, whose bytes are damaged.
        record: a value whose parts are damaged, if there is one.
        dump: makes an input of it.
        around: is put around that.
    """
    from_bytes = damaged_bytes(seeds)
    if record is None:
        return st.one_of(from_bytes, from_bytes, from_bytes, st.binary(max_size=200))
    from_record = damaged_value(record).map(lambda value: around[0] + dump(value) + around[1])
    return st.one_of(from_record, from_record, from_record, from_bytes)
