"""The short way to write plain arguments gives what the long way gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.boundary.canonical_json import ArgumentError, canonical

PLAIN = st.none() | st.booleans() | st.integers() | st.text()
ANY = PLAIN | st.floats(allow_nan=False, allow_infinity=False) | st.lists(PLAIN, max_size=2)


@given(st.dictionaries(st.text(), PLAIN, max_size=5) | st.dictionaries(st.text(), ANY, max_size=5))
def test_arguments_are_written_as_json_with_sorted_keys(arguments: dict[str, Any]) -> None:
    try:
        expected = json.dumps(arguments, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        with pytest.raises(ArgumentError):
            canonical(arguments)
        return
    assert canonical(arguments) == expected


@pytest.mark.parametrize("arguments", [{1: "a"}, {"a": 1, 2: "b"}, {None: 1}, {True: 1}])
def test_names_that_are_not_text_are_refused_by_the_short_way_too(arguments: dict[Any, Any]) -> None:
    with pytest.raises(ArgumentError, match="key of type"):
        canonical(arguments)


def test_a_subclass_is_written_by_the_long_way() -> None:
    class Shouting(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self.upper()

    assert canonical({"a": Shouting("x")}) == b'{"a":"x"}'
