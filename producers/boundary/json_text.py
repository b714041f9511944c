"""JSON text, edited in place: single values are replaced, added and taken out, and every other character stays.

Positions are those of valid JSON in a string. What is added to a text and taken out again leaves no trace.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Span(NamedTuple):
    """Where a value stands in a text."""

    start: int
    end: int


class Member(NamedTuple):
    """Where a member of an object stands."""

    start: int  # of its key
    value: Span


def top_of(text: str) -> int:
    """Where the value that is the whole text begins."""
    return _after_space(text, 0)


def members(text: str, at: int) -> dict[str, Member]:
    """The members of the object that begins at a position, in their order."""
    found: dict[str, Member] = {}
    start = _after_space(text, at + 1)
    while text[start] != "}":
        key, end = _DECODER.raw_decode(text, start)
        value_start = _after_space(text, _after_space(text, end) + 1)
        value = Span(value_start, _DECODER.raw_decode(text, value_start)[1])
        found[key] = Member(start, value)
        start = _after_comma(text, value.end)
    return found


def items(text: str, at: int) -> list[Span]:
    """The items of the array that begins at a position."""
    found: list[Span] = []
    start = _after_space(text, at + 1)
    while text[start] != "]":
        found.append(Span(start, _DECODER.raw_decode(text, start)[1]))
        start = _after_comma(text, found[-1].end)
    return found


def space_before(text: str, at: int) -> str:
    """The white space in front of a position, such as a line break and an indentation."""
    start = at
    while start and text[start - 1] in " \t\r\n":
        start -= 1
    return text[start:at]


def replaced(text: str, span: Span, value: str) -> str:
    """The text with another value in a place."""
    return text[: span.start] + value + text[span.end :]


def with_member(text: str, at: int, key: str, value: str) -> str:
    """The text with one more member, the last, in the object that begins at a position."""
    there, name = list(members(text, at).values()), json.dumps(key, ensure_ascii=False)
    if not there:
        return replaced(text, Span(at + 1, _after_space(text, at + 1)), f"{name}: {value}")
    last = there[-1]
    return _inserted(text, last.value.end, f",{space_before(text, last.start) or ' '}{name}: {value}")


def without_member(text: str, at: int, key: str) -> str:
    """The text without a member of the object that begins at a position."""
    there = list(members(text, at).items())
    place = [name for name, _ in there].index(key)
    gone = there[place][1]
    if place:
        return replaced(text, Span(there[place - 1][1].value.end, gone.value.end), "")
    return replaced(text, Span(gone.start, there[1][1].start if len(there) > 1 else gone.value.end), "")


def with_first(text: str, at: int, values: str) -> str:
    """The text with more items, separated as they are given, in front of those of an array that is not empty."""
    first = items(text, at)[0].start
    return _inserted(text, first, f"{values},{space_before(text, first) or ' '}")


def with_last(text: str, at: int, value: str) -> str:
    """The text with one more item behind those of an array that is not empty."""
    last = items(text, at)[-1]
    return _inserted(text, last.end, f",{space_before(text, last.start) or ' '}{value}")


def without_item(text: str, at: int, place: int) -> str:
    """The text without one of several items of the array that begins at a position."""
    there = items(text, at)
    if place:
        return replaced(text, Span(there[place - 1].end, there[place].end), "")
    return replaced(text, Span(there[0].start, there[1].start), "")


def _inserted(text: str, at: int, value: str) -> str:
    return text[:at] + value + text[at:]


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _after_comma(text: str, at: int) -> int:
    """Where the next member or item begins, or the bracket that ends them."""
    after = _after_space(text, at)
    return _after_space(text, after + 1) if text[after] == "," else after
