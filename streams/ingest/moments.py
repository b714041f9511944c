"""Moments as our own writers spell them, `2026-03-14T12:00:00.000001Z`, many at a time.

Other spellings of RFC 3339 are as good, and for others to read: `micros_of_letters` says which it read, and what it
read is what `datetime` would have made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from streams.ingest.event_columns import Flags, Longs

LETTERS: Final = 27

_DIGITS: Final = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22, 23, 24, 25])
_MARKS: Final = np.array([4, 7, 10, 13, 16, 19, 26])
_SPELLED: Final = np.frombuffer(b"--T::.Z", dtype=np.uint8)
_WIDTHS: Final = (4, 2, 2, 2, 2, 2, 6)
"""Digits of the year, month, day, hour, minute, second and microsecond."""
_WEIGHTS: Final = np.zeros((len(_DIGITS), len(_WIDTHS)))
for _place, _width in enumerate(_WIDTHS):
    _start = sum(_WIDTHS[:_place])
    _WEIGHTS[_start : _start + _width, _place] = 10.0 ** np.arange(_width)[::-1]
_LEAST: Final = np.array([1, 1, 1, 0, 0, 0, 0])
_MOST: Final = np.array([9_999, 12, 31, 23, 59, 59, 999_999])
_MONTH, _DAY, _MICRO = np.dtype("M8[M]"), np.dtype("M8[D]"), np.dtype("M8[us]")


def micros_of_letters(letters: npt.NDArray[np.uint8]) -> tuple[Longs, Flags]:
    """Microseconds since 1970 UTC.

    Args:
        letters: ASCII codes, shape (moments, `LETTERS`).

    Returns:
        The microseconds, and which of them are a moment in that spelling; the others mean nothing.
    """
    digits = letters[:, _DIGITS] - np.uint8(ord("0"))  # below "0" it wraps to more than 9
    read = (digits <= np.uint8(9)).all(axis=1) & (letters[:, _MARKS] == _SPELLED).all(axis=1)
    fields = (digits.astype(np.float64) @ _WEIGHTS).astype(np.int64)  # exact: no number has more than six digits
    read &= ((fields >= _LEAST) & (fields <= _MOST)).all(axis=1)
    fields[~read] = _LEAST
    year, month, day, hour, minute, second, micro = fields.T
    months = ((year - 1970) * 12 + month - 1).astype(_MONTH)
    days = months.astype(_DAY) + (day - 1)
    read &= days.astype(_MONTH) == months  # or the month has no such day
    since_midnight = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micro
    return days.astype(_MICRO).astype(np.int64) + since_midnight, read
