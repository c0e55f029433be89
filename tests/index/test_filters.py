"""Filters: what holds of which metadata, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cosup.errors import UsageError
from cosup.index.filters import Filter

YEAR_2005 = {"year": 2005, "lang": "en", "draft": False}


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({"lang": "en"}, True),
        ({"lang": "de"}, False),
        ({"lang": ["de", "en"]}, True),
        ({"lang": []}, False),
        ({"year": {"gte": 2005, "lt": 2006}}, True),
        ({"year": {"gt": 2005}}, False),
        ({"year": {"lte": 2005.0}}, True),
        ({"year": "2005"}, False),  # text is not a number
        ({"draft": False}, True),
        ({"draft": 0}, False),  # nor is a truth value
        ({"lang": {"ne": "de"}}, True),
        ({"source": {"ne": "wiki"}}, True),  # not there, so not that
        ({"source": "wiki"}, False),
        ({"year": {"lt": "z"}}, False),
        ({"lang": "en", "year": 2006}, False),
    ],
)
def test_what_holds(wanted: dict[str, Any], holds: bool) -> None:
    assert Filter.parse(wanted).holds(YEAR_2005) is holds


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "expected a mapping such as"),
        ([], "expected a mapping such as"),
        ({"": 1}, "has the key ''"),
        ({"year": {"gte2": 1}}, "by 'gte2'.*gte"),
        ({"year": {}}, "no comparison for 'year'"),
        ({"year": None}, "compares 'year' with None"),
        ({"year": [[1]]}, r"compares 'year' with \[1\]"),
    ],
)
def test_what_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Filter.parse(wanted)


ASKED: list[dict[str, Any]] = [
    {"odd": 1},
    {"odd": True},
    {"odd": "1"},
    {"odd": {"ne": 1}},
    {"odd": {"ne": True}},
    {"odd": [1]},
    {"odd": [True]},
    {"odd": [0, True]},
    {"odd": [False, 1]},
    {"even": 1},
]


def test_filters_that_ask_different_things_are_different_keys() -> None:
    """To Python `1 == True`; what is known of one filter must never answer another."""
    assert len({Filter.parse(record) for record in ASKED}) == len(ASKED)
    assert all(Filter.parse(record) == Filter.parse(dict(record)) for record in ASKED)
    assert len({Filter.parse({"odd": 1}), Filter.parse({"odd": 1.0})}) == 1  # numbers both, that hold of the same
