"""Named failures of the lake."""

from __future__ import annotations

from typing import Final

from deltalake.exceptions import DeltaError
from polars.exceptions import PanicException, PolarsError

from producers.errors import StagekeeperError

# What collecting a scan can raise when files vanish; a scan is lazy, and fails in the hands of whoever collects it.
READ_FAILURES: Final[tuple[type[BaseException], ...]] = (DeltaError, OSError, PolarsError, PanicException)


class LakeError(StagekeeperError):
    """The lake cannot do what was asked; the message says which table and how to mend it."""


class SchemaMismatchError(LakeError):
    """A stored table, or rows meant for it, do not have the columns that this version of Stagekeeper writes."""


class OutdatedLakeError(SchemaMismatchError):
    """The lake has the layout of an earlier version; a worker of this one migrates it."""


class LakeInUseError(LakeError):
    """A process that has to stop first still works on the lake."""


class UnreadableLakeError(LakeError):
    """A table is damaged, missing among others that hold data, or not accessible."""


class ForgottenError(LakeError):
    """What was appended since a version is no longer kept: whoever wants to know reads the table whole."""


class FencedError(LakeError):
    """Another writer has moved an offset or took the lease: drop the rows, read the stored offsets, go on from them."""


class OvertakenError(LakeError):
    """A commit was refused since the table was changed meanwhile; nothing was written."""
