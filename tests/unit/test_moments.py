"""Moments that are read many at a time are those that msgspec reads one by one."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ingest.decode import micros_of
from streams.ingest.moments import LETTERS, micros_of_letters

MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.microsecond > 0)


def read(*texts: str) -> list[int | None]:
    """Microseconds of each, or None."""
    letters = np.frombuffer("".join(texts).encode(), dtype=np.uint8).reshape(-1, LETTERS)
    micros, good = micros_of_letters(letters)
    return [each if known else None for each, known in zip(micros.tolist(), good.tolist(), strict=True)]


def spelled(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@given(st.lists(MOMENTS, min_size=1, max_size=5))
def test_every_moment_is_read(moments: list[datetime]) -> None:
    assert read(*map(spelled, moments)) == list(map(micros_of, moments))


@given(MOMENTS, st.integers(0, LETTERS - 1), st.sampled_from('0123456789-T:.Zz t/"\x7f'))
def test_another_letter_is_read_as_msgspec_does_or_not_at_all(moment: datetime, place: int, letter: str) -> None:
    text = spelled(moment)
    text = text[:place] + letter + text[place + 1 :]
    (micros,) = read(text)
    if micros is not None:
        assert micros == micros_of(msgspec.convert(text, datetime))


@pytest.mark.parametrize(
    "text",
    [
        "0000-01-01T00:00:00.000001Z",
        "2026-00-14T12:00:00.000001Z",
        "2026-13-14T12:00:00.000001Z",
        "2026-03-00T12:00:00.000001Z",
        "2026-04-31T12:00:00.000001Z",
        "2025-02-29T12:00:00.000001Z",
        "1900-02-29T12:00:00.000001Z",
        "2026-03-14T24:00:00.000000Z",
        "2026-03-14T12:60:00.000001Z",
        "2026-03-14T12:00:60.000001Z",
        "2026-03-14T12:00:00.000+01Z",
        "2026-03-14T12:00:00.00001+1",
        "2026-03-14 12:00:00.000001Z",
        "2026-03-14T12:00:00.000001z",
    ],
)
def test_what_is_no_moment_in_this_spelling_is_not_read(text: str) -> None:
    good = "2024-02-29T23:59:59.999999Z"
    micros = micros_of(datetime.fromisoformat(good))
    assert read(good, text, good) == [micros, None, micros]
