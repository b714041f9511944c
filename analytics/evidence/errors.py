"""The error of asking the evidence something that has no answer."""

from __future__ import annotations

from producers.errors import StagekeeperError


class EvidenceError(StagekeeperError):
    """Counts, a threshold, a level or a limit that no experiment has, or no table resolves; never too little data."""
