"""Which minutes are mature, and which decision may use which counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from analytics.evidence.errors import EvidenceError
from analytics.evidence.maturity import MatureCounts, mature, split_by_maturity

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
MINUTES = np.array(["2024-06-01T10:58", "2024-06-01T10:59", "2024-06-01T11:00", "2024-06-01T11:59"], "datetime64[us]")
HOUR = timedelta(hours=1)


def test_a_minute_is_mature_when_its_last_action_has_had_the_whole_window() -> None:
    assert mature(MINUTES, watermark=NOON, window=HOUR).tolist() == [True, True, False, False]
    just_before = NOON - timedelta(microseconds=1)
    assert mature(MINUTES, watermark=just_before, window=HOUR).tolist() == [True, False, False, False]


def test_without_a_window_a_minute_is_mature_when_it_is_over() -> None:
    assert mature(MINUTES, watermark=NOON, window=timedelta(0)).tolist() == [True, True, True, True]


def test_the_watermark_may_be_told_in_any_timezone() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=-7)))
    assert mature(MINUTES, watermark=local, window=HOUR).tolist() == [True, True, False, False]


def test_coarser_times_are_read_too() -> None:
    assert mature(MINUTES.astype("datetime64[m]"), watermark=NOON, window=HOUR).tolist() == [True, True, False, False]
    assert mature(MINUTES[:0], watermark=NOON, window=HOUR).tolist() == []


def test_a_promotion_sees_mature_counts_and_a_rollback_all() -> None:
    counts = split_by_maturity([1, 2, 4, 8], [10, 20, 40, 80], MINUTES, watermark=NOON, window=HOUR)
    assert counts == MatureCounts(promote_failures=3, promote_trials=30, rollback_failures=15, rollback_trials=150)
    assert counts.immature_trials == 120


def test_nothing_counted_is_nothing_mature() -> None:
    nothing = np.zeros(0, int)
    counts = split_by_maturity(nothing, nothing, MINUTES[:0], watermark=NOON, window=HOUR)
    assert counts == MatureCounts(0, 0, 0, 0)


def test_misuse_is_refused() -> None:
    with pytest.raises(EvidenceError, match="timezone"):
        mature(MINUTES, watermark=NOON.replace(tzinfo=None), window=HOUR)
    with pytest.raises(EvidenceError, match="negative"):
        mature(MINUTES, watermark=NOON, window=-HOUR)
    with pytest.raises(EvidenceError, match="datetime64"):
        mature(np.array([0, 1]), watermark=NOON, window=HOUR)
    with pytest.raises(EvidenceError, match="none of them missing"):
        mature(np.array(["NaT"], "datetime64[us]"), watermark=NOON, window=HOUR)
    with pytest.raises(EvidenceError, match="9 of 1"):
        split_by_maturity([9], [1], MINUTES[:1], watermark=NOON, window=HOUR)
