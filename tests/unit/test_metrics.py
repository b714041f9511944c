from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta

import polars as pl
from fakes import NOON

from streams.ingest.fold import Tally
from streams.metrics import Enacting, Freshness, FreshnessGauge, Progress, Totals, exposition


def _events(ages_s: list[float | None], *, type_name: str = "stagekeeper.action.decided.v1") -> pl.DataFrame:
    moment = pl.Datetime("us", "UTC")
    at = [None if age is None else NOON - timedelta(seconds=age) for age in ages_s]
    columns = {"broker_at": at, "time": [NOON] * len(at), "type": [type_name] * len(at)}
    return pl.DataFrame(columns, schema={"broker_at": moment, "time": moment, "type": pl.String})


def test_freshness_is_measured_from_the_records_timestamp() -> None:
    gauge = FreshnessGauge()
    assert gauge.seen(NOON) == Freshness()
    gauge.note(_events([]), NOON)
    assert gauge.seen(NOON) == Freshness()
    gauge.note(_events([None]), NOON)
    assert gauge.seen(NOON) == Freshness(last_event_at=NOON)
    gauge.note(_events([0.5] * 98 + [4.5] * 2), NOON)
    assert gauge.seen(NOON) == Freshness(0.5, 4.5, NOON)


def test_every_event_counts_alike_whatever_the_size_of_its_batch() -> None:
    gauge = FreshnessGauge()
    gauge.note(_events([1.0] * 10_000), NOON)
    for _ in range(30):
        gauge.note(_events([3.0] * 3), NOON)
    assert gauge.seen(NOON) == Freshness(1.0, 1.0, NOON)
    gauge.note(_events([3.0] * 150), NOON)
    assert gauge.seen(NOON) == Freshness(1.0, 3.0, NOON)


def test_what_is_over_is_forgotten() -> None:
    gauge = FreshnessGauge()
    gauge.note(_events([400.0] * 50), NOON)
    later = NOON + timedelta(minutes=4)
    assert gauge.seen(later).p50_s == 400.0
    gauge.note(_events([1.0] * 10), later)
    assert gauge.seen(NOON + timedelta(minutes=6)).p99_s == 241.0
    assert gauge.seen(NOON + timedelta(minutes=10)) == Freshness(last_event_at=NOON)


def test_the_judges_own_words_keep_no_evidence_young() -> None:
    gauge = FreshnessGauge()
    gauge.note(_events([1.0], type_name="stagekeeper.stage.recommended.v1"), NOON)
    assert gauge.seen(NOON).last_event_at is None


def test_what_is_unknown_is_left_out_and_what_is_known_is_exact() -> None:
    def rendered(totals: Totals, freshness: Freshness) -> dict[str, str]:
        text = exposition(totals, freshness, up_s=7.0, judging=True, judge_fault=False, now=NOON)
        assert text.endswith("\n")
        lines = text.splitlines()
        assert len({line for line in lines if line.startswith("# TYPE")}) == sum(line[0] == "#" for line in lines) / 2
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    fresh = rendered(Totals(), Freshness())
    assert "stagekeeper_lag_records" not in fresh
    assert "stagekeeper_evidence_age_seconds" not in fresh
    assert fresh["stagekeeper_commit_seconds_count"] == "0"
    busy = rendered(
        Totals(read=123_456_789, stored=123_000_000, lag=5, commit_s=1.25, batches=4),
        Freshness(0.25, 1.5, NOON - timedelta(seconds=30)),
    )
    assert busy["stagekeeper_events_read_total"] == "123456789"
    assert busy["stagekeeper_lag_records"] == "5"
    assert busy["stagekeeper_commit_seconds_sum"] == "1.25"
    assert busy['stagekeeper_freshness_seconds{quantile="0.99"}'] == "1.5"
    assert busy["stagekeeper_evidence_age_seconds"] == "30.0"
    assert busy["stagekeeper_judging"] == "1"


def test_only_a_worker_that_enacts_says_what_it_carries_out() -> None:
    def rendered(enacting: Enacting | None) -> dict[str, str]:
        text = exposition(Totals(), Freshness(), up_s=7.0, judging=True, judge_fault=False, now=NOON, enacting=enacting)
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    assert not [name for name in rendered(None) if "recommendations" in name or "enact" in name]
    lives = {"open": 2, "not in force": 1}
    said = rendered(Enacting(is_holder=True, fault=True, lives=lives, seconds_to_apply=(1.5, 2.0)))
    assert said['stagekeeper_recommendations{life="open"}'] == "2"
    assert said["stagekeeper_changes_not_in_force"] == said["stagekeeper_enactor_fault"] == "1"
    assert said["stagekeeper_verdict_to_applied_seconds_sum"] == "3.5"


def test_totals_with_rejects_are_json_for_the_health_page() -> None:
    progress = Progress()
    progress.count(Tally(rejected=2), 0.5, ["not_json", "time_in_future"])
    progress.count(Tally(rejected=1), 0.5, ["not_json"])
    totals = json.loads(json.dumps(asdict(progress.totals)))
    assert (totals["rejects"], totals["reasons"]) == (3, {"not_json": 2, "time_in_future": 1})
