"""Ids as numbers of 128 bits, many at a time.

A UUID in lower case, as our own writers make them, is its own number, so nothing is lost. Any other is a BLAKE2b digest
under a key that no writer knows; two of n such ids share one with a probability below n² / 2^129, for the 360 million
of an hour at 100,000 a second about 2 in 10^22. That one of n digests is one of n UUIDs is as unlikely.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words: TypeAlias = npt.NDArray[np.uint64]

_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DASH: Final = 16
_NEITHER: Final = 255
_VALUE_OF: Final = np.full(256, _NEITHER, dtype=np.uint8)
_VALUE_OF[[ord(digit) for digit in "0123456789abcdef-"]] = range(17)
_DIGITS: Final = [place for place in range(_LENGTH) if place not in _DASHES]
_KEY: Final = os.urandom(32)  # of this process: numbers never leave it
_ODD: Final = np.frombuffer(os.urandom(8), dtype=np.uint64)[0] | np.uint64(1)


def numbers_of(ids: pa.Array) -> Words:
    """Two words for each id; the first is spread evenly, whatever the ids have in common.

    Args:
        ids: A string array of Arrow without nulls.

    Returns:
        Shape (ids, 2). Two rows are equal where the ids are, and only there.
    """
    ends, letters = _letters_of(ids)
    lengths = np.diff(ends)
    words = np.empty((len(ids), 2), dtype=np.uint64)
    if (lengths == _LENGTH).all():
        others = _read_uuids(letters[ends[0] : ends[-1]].reshape(-1, _LENGTH), words, slice(None))
    else:
        fitting = np.flatnonzero(lengths == _LENGTH)
        unread = _read_uuids(letters[ends[fitting][:, None] + np.arange(_LENGTH)], words, fitting)
        others = np.concatenate([np.flatnonzero(lengths != _LENGTH), fitting[unread]])
    for place in others.tolist():
        digest = hashlib.blake2b(letters[ends[place] : ends[place + 1]].tobytes(), digest_size=16, key=_KEY).digest()
        words[place] = np.frombuffer(digest, dtype=np.uint64)
    # A writer that could choose ids with equal first words could make every look-up slow; the factor is unknown to all.
    mixed = words[:, 1] * _ODD
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words[:, 0] = (words[:, 0] ^ mixed ^ (mixed >> np.uint64(31))) * _ODD
    words[:, 0] ^= words[:, 0] >> np.uint64(32)
    return words


def _letters_of(ids: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Where each id begins, and the last ends, within the bytes of all."""
    if not len(ids):
        return np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.uint8)
    _, offsets, data = ids.cast(pa.string()).buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
    return ends, np.frombuffer(data or b"", dtype=np.uint8)


def _read_uuids(
    letters: npt.NDArray[np.uint8], words: Words, places: slice | npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Put the numbers of UUIDs into their places; which of the rows are none."""
    values = _VALUE_OF.take(letters)
    digits = values[:, _DIGITS]
    right = (values[:, _DASHES] == _DASH).all(axis=1) & (digits < _DASH).all(axis=1)
    words[places] = np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2]).view(np.uint64)
    return np.flatnonzero(~right)
