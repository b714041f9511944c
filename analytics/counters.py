"""The counters: everything that is counted about a cell in one minute, as commutative sums."""

from __future__ import annotations

from typing import Final

COUNTERS: Final[tuple[str, ...]] = (
    "decisions",
    "allowed",
    "constrained",
    "queued",
    "denied",
    "fell_back",
    "expected",  # executions that must follow: enforced allow or constrain, and approved reviews
    "executed",
    "failed",
    "timed_out",
    "undone",
    "undo_failed",
    "not_undoable",
    "incidents",
    "severe_incidents",  # severity 1
    "support",
    "quality_checks",
    "quality_failures",
    "reviews_approved",
    "reviews_rejected",
    "cost_microusd",  # sum over the executions whose cost is known
)
"""Names of the integer counters, in the order in which tables show them."""

HISTOGRAMS: Final[tuple[str, ...]] = ("latency", "cost")
"""Sparse histograms kept beside the counters: microseconds of latency, micro-dollars of cost. The number of known
values is the sum of a histogram's counts."""
