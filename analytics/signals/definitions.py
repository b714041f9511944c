"""The signals: what is read off a cell's counters, each as failures among trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from analytics.evidence import histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

MICRO_PER_MS: Final = 1_000
MICRO_PER_USD: Final = 1_000_000

QuantileUnit = Literal["ms", "usd"]

MICRO_PER: Final[dict[QuantileUnit, int]] = {"ms": MICRO_PER_MS, "usd": MICRO_PER_USD}
"""Micro-units of a histogram in one unit of a limit."""


Awaited = Literal["nothing", "execution", "review", "consequence", "evaluation", "everything"]
"""What decides a trial after it was opened.

`execution`: a due action is a trial, and undecided until its execution is reported. `review`: so is a queued action
until it is resolved. `consequence`: a trial may fail long after it was counted, so only its age tells that it did not.
`evaluation`: the same, and which actions are trials becomes known as late. `everything`: a due action is a trial, fails
if its execution is overdue, and may fail long after it was reported.
"""

UNREPORTED: Final[Mapping[Awaited, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "execution": (("expected",), ("executed",)),
    "review": (("queued",), ("reviews_approved", "reviews_rejected")),
    "everything": (("expected",), ("executed",)),
}
"""The counters of what is due, and of what was reported of it; the difference is not known yet."""


@dataclass(frozen=True)
class RateSignal:
    """A share of trials that failed."""

    name: str
    failures: tuple[str, ...]  # columns whose sum is the number of failures
    trials: tuple[str, ...]  # columns whose sum is the number of trials
    trial: str  # what one trial is called, in the plural
    awaits: Awaited = "nothing"  # what decides a trial after it was opened

    def value(self, row: Mapping[str, int]) -> float | None:
        """Failures over trials; None where there were no trials."""
        trials = sum(row[name] for name in self.trials)
        return sum(row[name] for name in self.failures) / trials if trials else None


@dataclass(frozen=True)
class QuantileSignal:
    """A quantile of latency or cost: within its limit if and only if at most a share 1 - q lies above the limit."""

    name: str
    source: Literal["latency", "cost"]  # the histogram it is read from, `latency` or `cost`
    q: float  # the quantile's ratio
    tail: float  # the share that may lie above the limit, 1 - q, written out: the subtraction would not be exact
    unit: QuantileUnit  # unit of its limit
    trial: str  # what one trial is called, in the plural

    def value(self, bins: npt.NDArray[np.int16], counts: npt.NDArray[np.int64]) -> float | None:
        """The quantile in the signal's unit, within 1 %; None where nothing is known."""
        micro = histogram.quantile(bins, counts, self.q)
        return None if micro is None else micro / MICRO_PER[self.unit]


@dataclass(frozen=True)
class CountSignal:
    """A plain count that can only trip or be watched."""

    name: str
    counted: str  # the counter
    trials: str  # the counter it is shown beside
    trial: str  # what one of `trials` is called, in the plural


Signal = RateSignal | QuantileSignal | CountSignal

TAKEN_BACK: Final = ("undone", "undo_failed", "not_undoable")

RATES: Final[dict[str, RateSignal]] = {
    signal.name: signal
    for signal in (
        RateSignal("denial", ("denied",), ("decisions",), "decisions"),
        RateSignal("constrain", ("constrained",), ("decisions",), "decisions"),
        RateSignal("review", ("queued",), ("decisions",), "decisions"),
        RateSignal(
            "review_rejection",
            ("reviews_rejected",),
            ("reviews_approved", "reviews_rejected"),
            "reviews",
            awaits="review",
        ),
        RateSignal("execution_error", ("failed",), ("executed",), "executions", awaits="execution"),
        RateSignal("timeout", ("timed_out",), ("executed",), "executions", awaits="execution"),
        RateSignal("undo", TAKEN_BACK, ("executed",), "executions", awaits="consequence"),
        RateSignal("undo_failed", ("undo_failed", "not_undoable"), TAKEN_BACK, "undos"),
        RateSignal("missing_outcome", ("mature_missing",), ("mature_expected",), "expected executions"),
        RateSignal("incident", ("incidents",), ("executed",), "executions", awaits="consequence"),
        RateSignal("support", ("support",), ("executed",), "executions", awaits="consequence"),
        RateSignal(
            "quality_failure", ("quality_failures",), ("quality_checks",), "quality checks", awaits="evaluation"
        ),
        RateSignal("bad_outcome", ("bad_outcomes",), ("executed",), "executions", awaits="everything"),
    )
}
"""Every rate, in the order in which tables show them."""

QUANTILES: Final[dict[str, QuantileSignal]] = {
    signal.name: signal
    for signal in (
        QuantileSignal("latency_p50", "latency", 0.50, 0.50, "ms", "known latencies"),
        QuantileSignal("latency_p95", "latency", 0.95, 0.05, "ms", "known latencies"),
        QuantileSignal("latency_p99", "latency", 0.99, 0.01, "ms", "known latencies"),
        QuantileSignal("cost_p95", "cost", 0.95, 0.05, "usd", "known costs"),
    )
}
"""Every quantile that a gate can limit."""

COUNTS: Final[dict[str, CountSignal]] = {
    signal.name: signal
    for signal in (
        CountSignal("severe_incident", "severe_incidents", "executed", "executions"),
        CountSignal("unpermitted_execution", "unpermitted", "executed", "executions"),
    )
}
"""Counts that can only trip."""

SIGNALS: Final[dict[str, Signal]] = {**RATES, **QUANTILES, **COUNTS}  # every signal by name

_PARTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (("allowed", "constrained", "queued", "denied", "fell_back"), ("decisions",)),
    (("failed", "timed_out"), ("executed",)),
    (("severe_incidents",), ("incidents",)),
    (("quality_failures",), ("quality_checks",)),
)
"""Counters that can only be a part of others, in whatever order the events arrive: each pair comes from one event, or
from events that travel in order."""


_SETTLED_PARTS: Final = (
    (("mature_expected",), ("decisions",)),
    # What is undone may have run although nobody has reported it.
    (TAKEN_BACK, ("executed", "mature_missing", "pending", "in_flight")),
)
"""The same where `analytics.signals.cells.MATURE` is known too: what is on its way does not count yet."""

_MAY_BE_NEGATIVE: Final = "expected"


def contradictions(row: Mapping[str, int]) -> list[str]:
    """Say which counts, by name, contradict each other; nothing where they are possible.

    All counters are given, and those of mature minutes where they are known.
    """
    faults = [f"{name} is {count}" for name, count in row.items() if count < 0 and name != _MAY_BE_NEGATIVE]
    for parts, whole in _rules(row):
        part, total = sum(row[name] for name in parts), sum(row[name] for name in whole)
        if part > total:
            faults.append(f"{' + '.join(parts)} is {part:,}, more than the {total:,} {' + '.join(whole)}")
    if unpermitted := row.get("unpermitted", 0):
        faults.append(
            f"{unpermitted:,} of the {row['executed']:,} executions are of actions that no decision or approval let run"
        )
    return faults


def wrong_counts(counts: Mapping[str, npt.NDArray[np.int64]]) -> list[tuple[tuple[str, ...], npt.NDArray[np.bool_]]]:
    """Which counts cannot be as large, or small, as they are, and in which rows: `contradictions` over arrays.

    Executions that nobody permitted make no other count wrong, so they are not among them.
    """
    wrong: list[tuple[tuple[str, ...], npt.NDArray[np.bool_]]] = [
        ((name,), np.asarray(values < 0)) for name, values in counts.items() if name != _MAY_BE_NEGATIVE
    ]
    for parts, whole in _rules(counts):
        excess = sum(counts[name] for name in parts) > sum(counts[name] for name in whole)
        wrong.append((parts, np.asarray(excess)))
    return wrong


def _rules(counts: Mapping[str, object]) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    settled = [rule for rule in _SETTLED_PARTS if rule[0][0] in counts]
    return (*_PARTS, *((parts, tuple(name for name in whole if name in counts)) for parts, whole in settled))


def rates_of(row: Mapping[str, int]) -> dict[str, float | None]:
    """Every rate by name; None where it has no trials."""
    return {name: signal.value(row) for name, signal in RATES.items()}


COUNTERS: Final[tuple[str, ...]] = (
    "decisions",
    "allowed",
    "constrained",
    "queued",
    "denied",
    "fell_back",
    # Executions that must follow: enforced allow or constrain, approved reviews; less what was called off or refused
    # by the tool. Below zero only while such an outcome is here before its decision.
    "expected",
    "executed",
    "failed",
    "timed_out",
    "undone",  # decisions whose undo worked, and none failed
    "undo_failed",  # of which one failed, whatever a later one did
    "not_undoable",  # of which one could not be done, likewise
    "incidents",
    "severe_incidents",  # severity 1
    "support",
    "quality_checks",  # decisions that were evaluated
    "quality_failures",  # that any evaluation failed
    "reviews_approved",
    "reviews_rejected",
    "cost_microusd",  # sum over the executions whose cost is known
    "bad_outcomes",  # decisions of which any event of `BAD` is known, each once
)
"""Names of the integer counters, in the order in which tables show them."""

COUNTED_ONCE: Final = (
    *TAKEN_BACK,
    "incidents",
    "severe_incidents",
    "support",
    "quality_checks",
    "quality_failures",
    "bad_outcomes",
)
"""The counters of what came of decisions, each once however often it is told (`analytics.signals.aftermath`)."""
RAN_BADLY: Final = ("failed", "timed_out")
"""What makes an execution a bad one by itself."""
BAD: Final = (*RAN_BADLY, *TAKEN_BACK, "incidents")
"""What makes a decision's outcome a bad one."""
ADDED: Final = ("bad_outcomes",)
"""Counters that came with a later layout of the lake: what was counted before them has none, and reads as 0."""

HISTOGRAMS: Final[tuple[str, ...]] = ("latency", "cost")
"""Sparse histograms kept beside the counters: microseconds of latency, micro-dollars of cost. The number of known
values is the sum of a histogram's counts."""
