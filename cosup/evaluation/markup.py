"""HTML made from text that is always escaped: the one place that turns text into markup."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import TypeAlias

_PLACE = re.compile(r"\{\{(\w+)\}\}")


class Markup(str):
    """Text that is HTML already; made by `element` and `join` alone."""

    __slots__ = ()


Content: TypeAlias = str | Markup
_VOID = frozenset({"line", "rect"})


def element(name: str, *children: Content, **attributes: str) -> Markup:
    """Return an element; children and attributes are escaped unless they are `Markup`.

    An underscore at an attribute's end is taken away (`class_`), others become hyphens (`aria_label`).

    >>> element("b", "1 < 2", class_="x")
    '<b class="x">1 &lt; 2</b>'
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    opening = "".join([f"<{name}", *(f' {key}="{escape(value)}"' for key, value in named.items())])
    return Markup(f"{opening}/>" if name in _VOID else f"{opening}>{join(*children)}</{name}>")


def join(*children: Content) -> Markup:
    """Return the children one after the other, escaped unless they are `Markup`."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def escape(text: str) -> str:
    """Return text that can stand in an element or between double quotes; characters that HTML has not become U+FFFD."""
    return html.escape(_storable(text).replace("\0", "\ufffd"))


def escape_json(text: str) -> str:
    """Return JSON that can stand in a `<script>`: nothing in it ends the script or begins a tag or a comment."""
    escapes: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return _storable(text).translate(str.maketrans(escapes))


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Put each part in the place of its `{{name}}`, all in one pass: a part that holds `{{..}}` keeps it.

    Raises:
        KeyError: the template names a part that is not given.
    """
    return _PLACE.sub(lambda match: parts[match[1]], template)


def _storable(text: str) -> str:
    """Return text that UTF-8 can hold: half a surrogate pair becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
