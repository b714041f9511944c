"""Named failures of the data plane. Each stops the worker: going on would lose or repeat something."""

from __future__ import annotations

from producers.errors import StagekeeperError


class DataPlaneError(StagekeeperError):
    """The data plane cannot go on."""


class LogIdentityError(DataPlaneError):
    """The log has no identity, or it is no longer the log that was read before."""


class LogMismatchError(DataPlaneError):
    """The log does not hold what the stored offsets say, or does not read as a log must."""


class LakeOrderError(DataPlaneError):
    """The tables of the lake contradict each other."""
