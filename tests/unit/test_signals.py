from __future__ import annotations

import numpy as np
import pytest

from analytics.evidence import histogram
from analytics.signals.definitions import COUNTERS, COUNTS, QUANTILES, RATES, SIGNALS, contradictions, rates_of

NOTHING = {**dict.fromkeys(COUNTERS, 0), "mature_expected": 0, "mature_missing": 0}


def test_every_rate_without_trials_is_unknown() -> None:
    assert rates_of(NOTHING) == dict.fromkeys(RATES)


@pytest.mark.parametrize(
    ("name", "counts", "value"),
    [
        ("denial", {"denied": 3, "decisions": 12}, 0.25),
        ("constrain", {"constrained": 3, "decisions": 12}, 0.25),
        ("review", {"queued": 6, "decisions": 12}, 0.5),
        ("review_rejection", {"reviews_rejected": 1, "reviews_approved": 3}, 0.25),
        ("execution_error", {"failed": 1, "timed_out": 2, "executed": 10}, 0.1),
        ("timeout", {"failed": 1, "timed_out": 2, "executed": 10}, 0.2),
        ("undo", {"undone": 2, "undo_failed": 1, "not_undoable": 1, "executed": 10}, 0.4),
        ("undo_failed", {"undone": 2, "undo_failed": 1, "not_undoable": 1, "executed": 10}, 0.5),
        ("missing_outcome", {"mature_missing": 1, "mature_expected": 8, "expected": 100}, 0.125),
        ("incident", {"incidents": 1, "executed": 10}, 0.1),
        ("support", {"support": 12, "executed": 10}, 1.2),
        ("quality_failure", {"quality_failures": 1, "quality_checks": 4, "executed": 10}, 0.25),
    ],
)
def test_a_rate_is_its_failures_over_its_trials(name: str, counts: dict[str, int], value: float) -> None:
    assert rates_of({**NOTHING, **counts})[name] == pytest.approx(value)


def test_the_names_are_the_published_ones() -> None:
    assert list(RATES) == [
        "denial",
        "constrain",
        "review",
        "review_rejection",
        "execution_error",
        "timeout",
        "undo",
        "undo_failed",
        "missing_outcome",
        "incident",
        "support",
        "quality_failure",
        "bad_outcome",
    ]
    quantiles, counts = (
        ("latency_p50", "latency_p95", "latency_p99", "cost_p95"),
        ("severe_incident", "unpermitted_execution"),
    )
    assert set(SIGNALS) == {*RATES, *quantiles, *counts}
    assert set(COUNTS) == set(counts)


@pytest.mark.parametrize("name", QUANTILES)
def test_the_tail_is_what_the_quantile_leaves(name: str) -> None:
    assert QUANTILES[name].q + QUANTILES[name].tail == pytest.approx(1.0)


def test_a_quantile_is_read_in_its_own_unit() -> None:
    micro = np.array([200_000] * 95 + [900_000] * 5)
    bins, counts = np.unique(histogram.bin_of(micro), return_counts=True)
    assert QUANTILES["latency_p50"].value(bins, counts) == pytest.approx(200.0, rel=0.01)
    assert QUANTILES["latency_p99"].value(bins, counts) == pytest.approx(900.0, rel=0.01)
    assert QUANTILES["cost_p95"].value(bins, counts) == pytest.approx(0.2, rel=0.01)
    assert QUANTILES["cost_p95"].value(bins[:0], counts[:0]) is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"failed": 3, "timed_out": 2, "executed": 4}, "failed + timed_out is 5, more than the 4 executed"),
        ({"undone": 2, "executed": 1}, "more than the 1 executed"),
        ({"allowed": 2, "denied": 2, "decisions": 3}, "is 4, more than the 3 decisions"),
        ({"severe_incidents": 1}, "severe_incidents is 1, more than the 0 incidents"),
        ({"quality_failures": 1}, "more than the 0 quality_checks"),
        ({"support": -1}, "support is -1"),
    ],
)
def test_impossible_counts_are_named(counts: dict[str, int], said: str) -> None:
    (found,) = contradictions({**NOTHING, **counts})
    assert said in found


def test_events_that_merely_arrive_in_another_order_contradict_nothing() -> None:
    early = {"executed": 3, "failed": 1, "incidents": 5, "support": 4, "reviews_approved": 2}
    assert contradictions({**NOTHING, **early}) == []
