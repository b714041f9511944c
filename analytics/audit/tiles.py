"""Write a sealed log as tiles (`c2sp.org/tlog-tiles`), the layout that foreign clients of transparency logs read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics.audit.merkle import TILE_WIDTH
from analytics.audit.proof import SealedTree

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.lake.tables import Lake

_TILES: Final = 256  # so many are read from the lake at a time


def tile_path(level: int, number: int, width: int) -> str:
    """The path of a tile with so many hashes, below the log's folder."""
    digits = f"{number % 1_000:03}"
    while number >= 1_000:
        number //= 1_000
        digits = f"x{number % 1_000:03}/{digits}"
    return f"tile/{level}/{digits}" + ("" if width == TILE_WIDTH else f".p/{width}")


def export_tiles(lake: Lake, log: str, folder: Path) -> int:
    """Write the tiles and the newest checkpoint of a log into a folder; gives the number of tiles that were written.

    Tiles that are there stay as they are, so that a folder can be brought up to date. Raises `OSError` and `LakeError`.
    """
    tree = SealedTree(lake, log)
    level, width, written = 0, tree.size, 0
    while width:
        for first in range(0, width, _TILES * TILE_WIDTH):
            written += _export(tree, level, first, min(first + _TILES * TILE_WIDTH, width), folder)
        level, width = level + 1, width // TILE_WIDTH
    if tree.size:
        (folder / "checkpoint").write_text(tree.checkpoint)
    return written


def _export(tree: SealedTree, level: int, first: int, end: int, folder: Path) -> int:
    """Write the tiles of a level that hold its hashes from `first`, a multiple of 256, to `end` (exclusive)."""
    missing = {}
    for start in range(first, end, TILE_WIDTH):
        path = folder / tile_path(level, start // TILE_WIDTH, min(TILE_WIDTH, end - start))
        if not path.exists():
            missing[start] = path
    if not missing:
        return 0
    span = TILE_WIDTH**level
    row = (
        [tree.hashes.root(at * span, (at + 1) * span) for at in range(first, end)] if level else tree.leaves(first, end)
    )
    for start, path in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(row[start - first : start - first + TILE_WIDTH]))
    return len(missing)
