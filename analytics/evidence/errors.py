"""The error of asking the evidence something that has no answer."""

from __future__ import annotations

from producers.errors import StagekeeperError


class EvidenceError(StagekeeperError):
    """Counts, a threshold, an error level or a limit that no experiment could have produced or no table can resolve.

    Too little data is never this error: it is a value (an e-value of one, the bounds zero and one).
    """
