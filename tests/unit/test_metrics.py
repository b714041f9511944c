from __future__ import annotations

from datetime import timedelta

import polars as pl
from fakes import NOON

from streams.data.freshness import Freshness, FreshnessGauge
from streams.data.progress import Totals
from streams.metrics import exposition


def _events(ages_s: list[float | None]) -> pl.DataFrame:
    moment = pl.Datetime("us", "UTC")
    at = [None if age is None else NOON - timedelta(seconds=age) for age in ages_s]
    return pl.DataFrame({"broker_at": at, "time": [NOON] * len(at)}, schema={"broker_at": moment, "time": moment})


def test_freshness_is_measured_from_the_records_timestamp() -> None:
    gauge = FreshnessGauge()
    assert gauge.seen == Freshness()
    gauge.note(_events([]), NOON)
    assert gauge.seen == Freshness()
    gauge.note(_events([None]), NOON)
    assert gauge.seen == Freshness(last_event_at=NOON)
    gauge.note(_events([0.5] * 99 + [4.5]), NOON)
    seen = gauge.seen
    assert seen.p50_s == 0.5
    assert seen.p99_s is not None
    assert 0.5 < seen.p99_s < 4.5


def test_what_is_unknown_is_left_out_and_what_is_known_is_exact() -> None:
    def told(totals: Totals, freshness: Freshness) -> dict[str, str]:
        text = exposition(totals, freshness, up_s=7.0, judging=True, judge_fault=False, now=NOON)
        assert text.endswith("\n")
        lines = text.splitlines()
        assert len({line for line in lines if line.startswith("# TYPE")}) == sum(line[0] == "#" for line in lines) / 2
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    fresh = told(Totals(), Freshness())
    assert "stagekeeper_lag_records" not in fresh
    assert "stagekeeper_evidence_age_seconds" not in fresh
    assert fresh["stagekeeper_commit_seconds_count"] == "0"
    busy = told(
        Totals(read=123_456_789, stored=123_000_000, lag=5, commit_s=1.25, batches=4),
        Freshness(0.25, 1.5, NOON - timedelta(seconds=30)),
    )
    assert busy["stagekeeper_events_read_total"] == "123456789"
    assert busy["stagekeeper_lag_records"] == "5"
    assert busy["stagekeeper_commit_seconds_sum"] == "1.25"
    assert busy['stagekeeper_freshness_seconds{quantile="0.99"}'] == "1.5"
    assert busy["stagekeeper_evidence_age_seconds"] == "30.0"
    assert busy["stagekeeper_judging"] == "1"
