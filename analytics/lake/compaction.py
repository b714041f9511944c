"""Folding many small files into few, so that no row is rewritten each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analytics.lake.rewriting import Rewriter, StoredFile

SIZES_BYTES: Final = (4 * 1024 * 1024, 64 * 1024 * 1024, 512 * 1024 * 1024)
"""File sizes (bytes) that are worked towards, one after the other. A row is rewritten a few times on its way up, and a
table has at most `at_least` files below each size, besides those of the largest."""


def fold(rewriter: Rewriter, *, at_least: int) -> bool:
    """Rewrite small files into few; one commit for each new file.

    Args:
        rewriter: The table, at its newest version.
        at_least: For each size, do nothing while fewer files than this are below it.

    Returns:
        Whether anything was rewritten.

    Raises:
        FencedError: Somebody else has the right now.
        LakeError: A rewrite failed; the table is as it was.
    """
    folded = False
    for size in SIZES_BYTES:
        small = [file for file in rewriter.files() if file.size < size]
        if len(small) < at_least:
            continue
        for group in groups(small, size):
            if not rewriter.rewrite(group):
                return folded  # somebody else is at it
            folded = True
            rewriter = rewriter.refreshed()
    return folded


def groups(files: Sequence[StoredFile], size: int) -> Iterator[list[StoredFile]]:
    """Neighbours that together make a file of about a size; a file without a neighbour is left alone."""
    group: list[StoredFile] = []
    for file in files:
        if group and sum(each.size for each in group) + file.size > size:
            if len(group) > 1:
                yield group
            group = []
        group.append(file)
    if len(group) > 1:
        yield group
