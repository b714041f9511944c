"""Merkle trees of RFC 9162: building, proving and verifying, as pure functions over SHA-256 digests of 32 bytes.

A tree over n entries is the tree over its left `split(n)` entries and the tree over the rest. What proves and what
verifies follow the same recursion, line by line.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    RangeHash = Callable[[int, int], bytes]  # root over the entries from an index (inclusive) to another (exclusive)

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes in a full tile of `c2sp.org/tlog-tiles`."""


class ProofError(StagekeeperError):
    """A proof does not show what it is said to show."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """How many of `size` (at least 2) entries are in the left subtree: the largest power of two below."""
    return 1 << (size - 1).bit_length() - 1


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a tree has to remember so that it can grow: its size, and the roots of its full subtrees, smallest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ProofError` where the roots are not as many as the size has bits."""
        if self.size < 0 or len(self.peaks) != self.size.bit_count():
            raise ProofError(f"a tree of {self.size:,} entries does not have {len(self.peaks)} full subtrees.")

    def extended(self, leaves: Sequence[bytes]) -> tuple[Frontier, list[bytes]]:
        """The frontier with more leaves, and the roots of the tiles of 256 leaves that they completed, in order."""
        peaks, height, kept = [], 0, list(self.peaks)
        tiles: list[bytes] = []
        row = list(leaves)
        while row or self.size >> height:
            if height == TILE_HEIGHT:
                tiles = list(row)
            if self.size >> height & 1:
                row.insert(0, kept.pop(0))
            if len(row) & 1:
                peaks.append(row.pop())
            sha256 = hashlib.sha256
            row = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
            height += 1
        return Frontier(self.size + len(leaves), tuple(peaks)), tiles

    @property
    def root(self) -> bytes:
        """The root of the whole tree."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[0]
        for peak in self.peaks[1:]:
            root = node_hash(peak, root)
        return root


class TreeHashes:
    """Roots of subtrees, from the leaves and from the roots of the tiles that are full."""

    def __init__(self, leaves: Callable[[int, int], Sequence[bytes]], tiles: Sequence[bytes]) -> None:
        self._leaves, self._tiles = leaves, tiles

    def root(self, first: int, end: int) -> bytes:
        """Root over the leaves `first` (inclusive) to `end` (exclusive), of which there is at least one.

        Only leaves of tiles that the range cuts are read.
        """
        size = end - first
        if size > TILE_WIDTH:
            middle = first + split(size)
            return node_hash(self.root(first, middle), self.root(middle, end))
        number, rest = divmod(first, TILE_WIDTH)
        if size == TILE_WIDTH and not rest and number < len(self._tiles):
            return self._tiles[number]
        return Frontier().extended(self._leaves(first, end))[0].root


def prove_inclusion(index: int, first: int, end: int, root: RangeHash) -> list[bytes]:
    """The proof that an entry is in the tree over `first` to `end`, from the leaf up."""
    if end - first == 1:
        return []
    middle = first + split(end - first)
    if index < middle:
        return [*prove_inclusion(index, first, middle, root), root(middle, end)]
    return [*prove_inclusion(index, middle, end, root), root(first, middle)]


def root_by_inclusion(leaf: bytes, index: int, first: int, end: int, proof: Sequence[bytes]) -> bytes:
    """The root that a proof of inclusion leads to. Raises `ProofError` where it has too many hashes or too few."""
    if not first <= index < end:
        raise ProofError(f"there is no entry {index:,} in a tree of {end - first:,}.")
    if end - first == 1:
        if proof:
            raise ProofError("the proof has more hashes than the tree has levels.")
        return leaf
    if not proof:
        raise ProofError("the proof has fewer hashes than the tree has levels.")
    middle = first + split(end - first)
    if index < middle:
        return node_hash(root_by_inclusion(leaf, index, first, middle, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_by_inclusion(leaf, index, middle, end, proof[:-1]))


def prove_consistency(old: int, first: int, end: int, root: RangeHash) -> list[bytes]:
    """The proof that the tree over `first` to `end` begins with the one over its first `old` (at least 1) entries."""
    if old == end:
        return [] if first == 0 else [root(first, end)]
    middle = first + split(end - first)
    if old <= middle:
        return [*prove_consistency(old, first, middle, root), root(middle, end)]
    return [*prove_consistency(old, middle, end, root), root(first, middle)]


def roots_by_consistency(
    old: int, first: int, end: int, proof: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes]:
    """The roots of the older and the newer tree that a proof of consistency leads to; raises `ProofError`."""
    if old == end:
        if first == 0:
            if proof:
                raise ProofError("the proof has more hashes than the tree has levels.")
            return old_root, old_root
        if len(proof) != 1:
            raise ProofError("the proof does not have as many hashes as the tree has levels.")
        return proof[0], proof[0]
    if not proof:
        raise ProofError("the proof has fewer hashes than the tree has levels.")
    middle = first + split(end - first)
    if old <= middle:
        before, now = roots_by_consistency(old, first, middle, proof[:-1], old_root)
        return before, node_hash(now, proof[-1])
    before, now = roots_by_consistency(old, middle, end, proof[:-1], old_root)
    return node_hash(proof[-1], before), node_hash(proof[-1], now)


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Raise `ProofError` unless the proof shows the leaf at its index in the tree of that size and root."""
    if root_by_inclusion(leaf, index, 0, size, proof) != root:
        raise ProofError(
            f"the entry is not number {index:,} of the {size:,} under this root, or the proof was changed."
        )


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Raise `ProofError` unless the proof shows that a tree begins with an older one; every tree does with no entry."""
    if not 0 <= old <= size:
        raise ProofError(f"a tree of {size:,} entries cannot begin with one of {old:,}.")
    found = (EMPTY_ROOT, root) if old == 0 else roots_by_consistency(old, 0, size, proof, old_root)
    if found != (old_root, root):
        raise ProofError(f"the tree of {size:,} entries does not begin with that of {old:,}: history was changed.")
