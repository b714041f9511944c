"""Ids and times as sorted arrays of numbers: 24 bytes an id, looked up many at a time.

An id stands as 128 bits. A UUID in lower case, as our own writers make them, is its own number, so nothing is lost.
Any other is a BLAKE2b digest under a key that no writer knows; two of n such ids share one with a probability below
n² / 2^129, for the 360 million of an hour at 100,000 a second about 2 in 10^22.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FACTOR: Final = 4
"""A run is merged with the one before it once it is at least this fraction of it."""

_Words = npt.NDArray[np.uint64]
_Times = npt.NDArray[np.int64]
_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DIGITS: Final = [place for place in range(_LENGTH) if place not in _DASHES]
_DIGIT_OF: Final = np.full(256, 255, dtype=np.uint8)
_DIGIT_OF[[ord(digit) for digit in "0123456789abcdef"]] = range(16)
_KEY: Final = os.urandom(32)  # of this process: runs never leave it


class Runs:
    """Ids with their times, in a few sorted runs."""

    def __init__(self) -> None:
        self._runs: list[tuple[_Words, _Words, _Times]] = []

    def __len__(self) -> int:
        return sum(len(times) for _, _, times in self._runs)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return sum(column.nbytes for run in self._runs for column in run)

    def add(self, times_us: Mapping[str, int], oldest_us: int) -> None:
        """Add ids; all whose time is before `oldest_us` may be forgotten."""
        first, second = _numbers(list(times_us))
        fresh = (first, second, np.fromiter(times_us.values(), dtype=np.int64, count=len(times_us)))
        while self._runs and len(self._runs[-1][2]) <= _FACTOR * len(fresh[2]):
            last = self._runs.pop()
            fresh = (
                np.concatenate([last[0], fresh[0]]),
                np.concatenate([last[1], fresh[1]]),
                np.concatenate([last[2], fresh[2]]),
            )
        kept = fresh[2] >= oldest_us
        first, second, times = fresh[0][kept], fresh[1][kept], fresh[2][kept]
        order = np.argsort(first, kind="stable")
        self._runs.append((first[order], second[order], times[order]))

    def times_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The latest time of each of `ids` that is held."""
        found: dict[str, int] = {}
        if not self._runs or not ids:
            return found
        first, second = _numbers(ids)
        for known_first, known_second, times in self._runs:
            begins = np.searchsorted(known_first, first, side="left")
            ends = np.searchsorted(known_first, first, side="right")
            for place in np.flatnonzero(ends > begins).tolist():
                event_id = ids[place]
                for index in range(begins[place], ends[place]):
                    if known_second[index] == second[place]:
                        found[event_id] = max(found.get(event_id, int(times[index])), int(times[index]))
        return found


def _numbers(ids: Sequence[str]) -> tuple[_Words, _Words]:
    """Each id as two words; the first is spread evenly, whatever the ids have in common."""
    pairs = _of_uuids(ids)
    if pairs is None:
        pairs = np.frombuffer(b"".join([_sixteen(event_id) for event_id in ids]), dtype=np.uint64).reshape(-1, 2)
    second = pairs[:, 1].copy()
    mixed = second + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return pairs[:, 0] ^ mixed ^ (mixed >> np.uint64(31)), second


def _of_uuids(ids: Sequence[str]) -> _Words | None:
    """The numbers of ids that are all UUIDs as our writers write them; None where one is not."""
    together = "".join(ids)
    if set(map(len, ids)) != {_LENGTH} or not together.isascii():
        return None
    letters = np.frombuffer(together.encode(), dtype=np.uint8).reshape(-1, _LENGTH)
    if not (letters[:, _DASHES] == ord("-")).all():
        return None
    digits = _DIGIT_OF[letters[:, _DIGITS]]
    if (digits > 15).any():
        return None
    return np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2]).view(np.uint64)


def _sixteen(event_id: str) -> bytes:
    if len(event_id) == _LENGTH and event_id.isascii():
        digits = event_id[:8] + event_id[9:13] + event_id[14:18] + event_id[19:23] + event_id[24:]
        try:
            number = bytes.fromhex(digits)
        except ValueError:
            number = b""
        if number.hex() == digits and all(event_id[place] == "-" for place in _DASHES):
            return number
    return hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=16, key=_KEY).digest()
