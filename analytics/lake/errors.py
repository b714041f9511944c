"""Named failures of the lake."""

from __future__ import annotations

from producers.errors import StagekeeperError


class LakeError(StagekeeperError):
    """The lake cannot do what was asked; the message says which table and how to mend it."""


class SchemaMismatchError(LakeError):
    """A stored table, or rows meant for it, do not have the columns that this version of Stagekeeper writes."""


class UnreadableLakeError(LakeError):
    """A table is damaged, missing among others that hold data, or not accessible."""


class FencedError(LakeError):
    """Another writer has moved an offset: these rows are stored already, or belong to somebody else now.

    The only right answer is to drop the rows, read the stored offsets, and go on from there.
    """
