"""Ids with their times in a log-structured merge tree: sorted runs on disk, and two bytes an id in memory.

A run is immutable. Its Bloom filter in memory answers "surely not here" or "perhaps", so nearly all look-ups of new ids
end in memory. Four runs of about one size are merged into one of the next size, without what the horizon has passed,
until it has a quarter to a whole of a million ids. That bounds the memory of a merge (about 60 MB), and each id is
written a handful of times.

The files have no name: the system deletes them when the process ends, however that ends. They lie in `TMPDIR`, which
should be a disk.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.ingest.errors import DataPlaneError

Words: TypeAlias = npt.NDArray[np.uint64]
Times: TypeAlias = npt.NDArray[np.int64]

NEVER: Final = -(2**63)  # stands for the time of an id that is not held

RECORD_BYTES: Final = 24
_BLOCK: Final = 128  # records between two entries of a run's index in memory
_BITS: Final = 16  # bits of a filter for each id
_FEW: Final = 4
_U: Final = np.uint64

_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DASH: Final = 16
_NEITHER: Final = 255
_VALUE_OF: Final = np.full(256, _NEITHER, dtype=np.uint8)
_VALUE_OF[[ord(digit) for digit in "0123456789abcdef-"]] = range(17)
_DIGITS: Final = [place for place in range(_LENGTH) if place not in _DASHES]
_KEY: Final = os.urandom(32)  # of this process: numbers never leave it
_ODD: Final = np.frombuffer(os.urandom(8), dtype=np.uint64)[0] | np.uint64(1)


@dataclass(frozen=True)
class Sizes:
    """Sizes of runs, in ids."""

    least: int = 1_024  # smaller runs count as of one size
    on_disk: int = 16_384  # runs of at least this size lie on disk
    most: int = 1 << 20  # about the largest: runs of a quarter of it are not merged any more


SIZES: Final = Sizes()


class IdRun:
    """Ids in the order of their first words, each once: first word, second word, time; shape (ids, 3), never empty."""

    def __init__(self, records: Words, *, on_disk: bool) -> None:
        self.latest_us = int(records[:, 2].view(np.int64).max())
        first = np.ascontiguousarray(records[:, 0])
        self._index = first[::_BLOCK].copy()
        self._filter = _filter_of(first)
        self._map: mmap.mmap | None = None
        if on_disk:
            self._map = _mapped(records)
            records = np.frombuffer(self._map, dtype=np.uint64).reshape(-1, 3)
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, other than those that the system may drop."""
        return self._index.nbytes + self._filter.nbytes + (0 if self._map else self.records.nbytes)

    def candidates(self, first: Words, masks: Words) -> npt.NDArray[np.intp]:
        """Positions of ids that may be held here, by their first words and `masks_of` these; no other is."""
        return np.flatnonzero((self._filter.take(_slots(first, len(self._filter))) & masks) == masks)

    def raise_times(self, words: Words, masks: Words, times: Times) -> None:
        """Raise `times` to those of the ids that are held here."""
        positions = self.candidates(words[:, 0], masks)
        if not len(positions):
            return
        wanted = words[positions]
        begins = np.maximum(np.searchsorted(self._index, wanted[:, 0], "left") - 1, 0)
        ends = np.searchsorted(self._index, wanted[:, 0], "right")
        for further in range(int((ends - begins).max())):  # one block, unless first words are equal
            blocks = np.minimum(begins + further, len(self._index) - 1)
            rows = np.minimum(blocks[:, None] * _BLOCK + np.arange(_BLOCK), len(self.records) - 1)
            same = self.records[rows, 0] == wanted[:, :1]
            same &= self.records[rows, 1] == wanted[:, 1:]
            which, column = np.nonzero(same)
            np.maximum.at(times, positions[which], self.records[rows[which, column], 2].view(np.int64))
        self.release_pages()

    def release_pages(self) -> None:
        """Unmap the pages that were touched: around each one, the system maps all that it has."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class IdStore:
    """Remembers ids with their times until the horizon has passed them."""

    def __init__(self, sizes: Sizes = SIZES) -> None:
        self._sizes = sizes
        self.runs: list[IdRun] = []

    def __len__(self) -> int:
        """Number of ids; one that is held twice counts twice."""
        return sum(map(len, self.runs))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(run.nbytes for run in self.runs)

    def times_of(self, words: Words) -> Times:
        """The latest time of each id (`words_of`), or `NEVER`."""
        times = np.full(len(words), NEVER, dtype=np.int64)
        masks = masks_of(words[:, 0])
        for run in self.runs:
            run.raise_times(words, masks, times)
        return times

    def add(self, words: Words, times_us: Times, oldest_us: int) -> None:
        """Add ids; all whose time is before `oldest_us` may be forgotten."""
        self.runs = [run for run in self.runs if run.latest_us >= oldest_us]
        if len(words):
            self._append(_sorted(np.column_stack([words, times_us.view(np.uint64)])))
        while mergeable := self._mergeable():
            merged = self.runs[-mergeable:]
            records = np.concatenate([run.records for run in merged])
            for run in merged:
                run.release_pages()
            self.runs = self.runs[:-mergeable]
            records = records[records[:, 2].view(np.int64) >= oldest_us]
            if len(records):
                self._append(_sorted(records))

    def _append(self, records: Words) -> None:
        self.runs.append(IdRun(records, on_disk=len(records) >= self._sizes.on_disk))

    def _mergeable(self) -> int:
        """How many of the last runs to merge: all that are no larger than the last, if they are four."""
        count = 0
        for run in reversed(self.runs):
            if self._size(run) > self._size(self.runs[-1]) or len(run) >= self._sizes.most // _FEW:
                break
            count += 1
        return count if count >= _FEW else 0

    def _size(self, run: IdRun) -> int:
        """Logarithm of its size to the base of four, from the smallest size on."""
        return max(0, (len(run) // self._sizes.least).bit_length() + 1) // 2


def _sorted(records: Words) -> Words:
    """Sort records by first word; of two about the same id, keep the later one."""
    records = records[np.argsort(records[:, 0])]
    if (records[1:, 0] == records[:-1, 0]).any():
        records = records[np.lexsort((records[:, 2].view(np.int64), records[:, 1], records[:, 0]))]
        last = np.append((records[1:, :2] != records[:-1, :2]).any(axis=1), [True])
        records = records[last]
    return records


def _slots(first: Words, length: int) -> Words:
    """The word of a filter for each id; it rises with the id's first word."""
    return (first >> _U(32)) * _U(length) >> _U(32)


def masks_of(first: Words) -> Words:
    """Four bits of a word for each id, by digits of the first word that `_slots` does not use."""
    one, low = _U(1), _U(63)
    masks = one << (first & low)
    for shift in (6, 12, 18):
        masks |= one << (first >> _U(shift) & low)
    return masks


def _filter_of(first: Words) -> Words:
    """A blocked Bloom filter: all four bits of an id are in one word, which costs one access to memory.

    See F. Putze, P. Sanders, J. Singler: Cache-, Hash- and Space-Efficient Bloom Filters (2007). With 16 bits an id it
    says "perhaps" of about one in two hundred that are not there (`tests/unit/test_id_store.py`).
    """
    length = max(1, len(first) * _BITS // 64)
    words = np.zeros(length, dtype=np.uint64)
    slots = _slots(first, length)
    begins = np.flatnonzero(np.append([True], slots[1:] != slots[:-1]))
    words[slots[begins]] = np.bitwise_or.reduceat(masks_of(first), begins)
    return words


def _mapped(records: Words) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(prefix="stagekeeper-ids-", buffering=0) as file:
            remaining = records.data.cast("B")
            while remaining:
                remaining = remaining[file.write(remaining) :]
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataPlaneError(
            f"the ids of the last hour cannot be kept in {tempfile.gettempdir()}: {error}. Set TMPDIR to a folder on a "
            f"disk with {RECORD_BYTES} bytes for each id within the horizon."
        ) from error


def words_of(ids: pa.Array) -> Words:
    """Hash ids to two words each, shape (ids, 2): rows are equal where the ids are, and only there.

    The first word is spread evenly, whatever the ids have in common. The ids are a string array without nulls.
    """
    ends, letters = _letters_of(ids)
    lengths = np.diff(ends)
    words = np.empty((len(ids), 2), dtype=np.uint64)
    if (lengths == _LENGTH).all():
        others = _parse_uuids(letters[ends[0] : ends[-1]].reshape(-1, _LENGTH), words, slice(None))
    else:
        fitting = np.flatnonzero(lengths == _LENGTH)
        no_uuids = _parse_uuids(letters[ends[fitting][:, None] + np.arange(_LENGTH)], words, fitting)
        others = np.concatenate([np.flatnonzero(lengths != _LENGTH), fitting[no_uuids]])
    for position in others.tolist():
        text = letters[ends[position] : ends[position + 1]].tobytes()
        words[position] = np.frombuffer(hashlib.blake2b(text, digest_size=16, key=_KEY).digest(), dtype=np.uint64)
    # A writer that could choose ids with equal first words could make every look-up slow; the factor is unknown to all.
    mixed = words[:, 1] * _ODD
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words[:, 0] = (words[:, 0] ^ mixed ^ (mixed >> np.uint64(31))) * _ODD
    words[:, 0] ^= words[:, 0] >> np.uint64(32)
    return words


def _letters_of(ids: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Where each id begins and the last ends, and the bytes of all."""
    if not len(ids):
        return np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.uint8)
    _, offsets, data = ids.cast(pa.string()).buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
    return ends, np.frombuffer(data or b"", dtype=np.uint8)


def _parse_uuids(
    letters: npt.NDArray[np.uint8], words: Words, positions: slice | npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Put the numbers of UUIDs into `words`; the rows that are no UUID are returned."""
    values = _VALUE_OF.take(letters)
    digits = values[:, _DIGITS]
    is_uuid = (values[:, _DASHES] == _DASH).all(axis=1) & (digits < _DASH).all(axis=1)
    words[positions] = np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2]).view(np.uint64)
    return np.flatnonzero(~is_uuid)
