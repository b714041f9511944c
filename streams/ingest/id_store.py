"""Ids with their times in sorted runs: large runs on disk, and two bytes an id in memory.

A run is written once and never changed. Its filter in memory says of an id "surely not here" or "perhaps";
whatever it says, only the run itself tells that an id is in it. So nearly all look-ups for new ids end in memory.

Four runs of about one size are merged into one of the next size, without what the horizon has passed, until it has a
quarter to a whole of a million ids; then it is left alone until the horizon has passed all of it. That bounds what a
merge needs for a moment (about 60 MB), and each id is written a handful of times in its life.

The files have no name: the system deletes them when the process ends, however that ends. They lie where `tempfile`
puts files (`TMPDIR`), which should be a disk.
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

Times: TypeAlias = npt.NDArray[np.int64]

NEVER: Final = -(2**63)
"""Stands for the time of an id that is not held."""

RECORD_BYTES: Final = 24
_BLOCK: Final = 128
"""Records between two entries of a run's index in memory."""
_BITS: Final = 16
"""Bits of a filter for each id."""
_FEW: Final = 4
_U: Final = np.uint64


@dataclass(frozen=True)
class Sizes:
    """At which sizes what happens.

    Attributes:
        least: Runs below this many ids are of one size.
        on_disk: From so many ids on, a run lies on disk.
        most: A run of a quarter of this many ids is not merged any more, so that about as many is the most of a run.
    """

    least: int = 1_024
    on_disk: int = 16_384
    most: int = 1 << 20


SIZES: Final = Sizes()


class Run:
    """Ids in the order of their first words, each once.

    Args:
        records: First word, second word and time of each id, shape (ids, 3), sorted and never empty.
        on_disk: Whether to keep them in a file.
    """

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

    def perhaps(self, first: Words, masks: Words) -> npt.NDArray[np.intp]:
        """Which ids may be held here, by their first words and `masks_of` these; all others surely are not."""
        return np.flatnonzero((self._filter.take(_slots(first, len(self._filter))) & masks) == masks)

    def look(self, words: Words, masks: Words, times: Times) -> None:
        """Raise `times` to those of the ids that are held here."""
        places = self.perhaps(words[:, 0], masks)
        if not len(places):
            return
        wanted = words[places]
        begins = np.maximum(np.searchsorted(self._index, wanted[:, 0], "left") - 1, 0)
        ends = np.searchsorted(self._index, wanted[:, 0], "right")
        for further in range(int((ends - begins).max())):  # one block, unless first words are equal
            blocks = np.minimum(begins + further, len(self._index) - 1)
            rows = np.minimum(blocks[:, None] * _BLOCK + np.arange(_BLOCK), len(self.records) - 1)
            same = self.records[rows, 0] == wanted[:, :1]
            same &= self.records[rows, 1] == wanted[:, 1:]
            which, column = np.nonzero(same)
            found = self.records[rows[which, column], 2].view(np.int64)
            np.maximum.at(times, places[which], found)
        self.give_back()

    def give_back(self) -> None:
        """Let go of the pages that were touched: for each one, the system maps all that it has of those around it."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Runs:
    """Ids with their times.

    Args:
        sizes: At which sizes what happens.
    """

    def __init__(self, sizes: Sizes = SIZES) -> None:
        self._sizes = sizes
        self._runs: list[Run] = []

    def __len__(self) -> int:
        """How many ids are held, at most; some may be held twice."""
        return sum(map(len, self._runs))

    @property
    def count(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(run.nbytes for run in self._runs)

    def times_of(self, words: Words) -> Times:
        """The latest time of each id, or `NEVER`.

        Args:
            words: The ids (`numbers_of`).
        """
        times = np.full(len(words), NEVER, dtype=np.int64)
        masks = masks_of(words[:, 0])
        for run in self._runs:
            run.look(words, masks, times)
        return times

    def add(self, words: Words, times_us: Times, oldest_us: int) -> None:
        """Add ids; all whose time is before `oldest_us` may be forgotten."""
        self._runs = [run for run in self._runs if run.latest_us >= oldest_us]
        if len(words):
            self._append(_sorted(np.column_stack([words, times_us.view(np.uint64)])))
        while mergeable := self._mergeable():
            merged = self._runs[-mergeable:]
            together = np.concatenate([run.records for run in merged])
            for run in merged:
                run.give_back()
            self._runs = self._runs[:-mergeable]
            together = together[together[:, 2].view(np.int64) >= oldest_us]
            if len(together):
                self._append(_sorted(together))

    def _append(self, records: Words) -> None:
        self._runs.append(Run(records, on_disk=len(records) >= self._sizes.on_disk))

    def _mergeable(self) -> int:
        """How many of the last runs are worth a merge: as many as are no larger than the last, if they are four."""
        count = 0
        for run in reversed(self._runs):
            if self._size(run) > self._size(self._runs[-1]) or len(run) >= self._sizes.most // _FEW:
                break
            count += 1
        return count if count >= _FEW else 0

    def _size(self, run: Run) -> int:
        """0 for the smallest, and 1 more for each time that it is four times as large."""
        return max(0, (len(run) // self._sizes.least).bit_length() + 1) // 2


def _sorted(records: Words) -> Words:
    """Records in the order of their first words; of two about the same id the later one."""
    records = records[np.argsort(records[:, 0])]
    if (records[1:, 0] == records[:-1, 0]).any():
        records = records[np.lexsort((records[:, 2].view(np.int64), records[:, 1], records[:, 0]))]
        last = np.append((records[1:, :2] != records[:-1, :2]).any(axis=1), [True])
        records = records[last]
    return records


def _slots(first: Words, length: int) -> Words:
    """Which word of a filter stands for each id; rising with the first word."""
    return (first >> _U(32)) * _U(length) >> _U(32)


def masks_of(first: Words) -> Words:
    """Four bits of a word for each id, by letters of the first word that `_slots` does not look at."""
    one, low = _U(1), _U(63)
    masks = one << (first & low)
    for shift in (6, 12, 18):
        masks |= one << (first >> _U(shift) & low)
    return masks


def _filter_of(first: Words) -> Words:
    """A blocked Bloom filter: all four bits of an id are in one word, which costs one look at memory.

    See F. Putze, P. Sanders, J. Singler: Cache-, Hash- and Space-Efficient Bloom Filters (2007). With 16 bits an id it
    says "perhaps" of about one in two hundred that are not there (`tests/unit/test_runs.py`).
    """
    length = max(1, len(first) * _BITS // 64)
    words = np.zeros(length, dtype=np.uint64)
    slots = _slots(first, length)
    begins = np.flatnonzero(np.append([True], slots[1:] != slots[:-1]))
    words[slots[begins]] = np.bitwise_or.reduceat(masks_of(first), begins)
    return words


def _mapped(records: Words) -> mmap.mmap:
    """Records in a file without a name."""
    try:
        with tempfile.TemporaryFile(prefix="stagekeeper-ids-", buffering=0) as file:
            left = records.data.cast("B")
            while left:
                left = left[file.write(left) :]
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataPlaneError(
            f"the ids of the last hour cannot be kept in {tempfile.gettempdir()}: {error}. Set TMPDIR to a folder on a "
            f"disk with {RECORD_BYTES} bytes for each id within the horizon."
        ) from error


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
