from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from enactor_cases import Place, at
from fakes import a_contract, a_decision

from analytics.lake.tables import Lake
from analytics.verdicts.document import UnknownShapeError
from producers.wire.decision import QueueForReview
from producers.wire.events import Resolution
from producers.wire.stage import Stage
from streams.control.cell_metrics import CellGauges
from streams.metrics import labels

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

CELL = 'environment="production",workflow="refunds",tool="issue_refund",stage="draft_write",cohort="all"'


def shown(gauges: CellGauges, now: datetime) -> dict[str, float]:
    lines = gauges.read(now).lines(now)
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def gauges_of(place: Place, most: int = 500) -> CellGauges:
    return CellGauges(Lake.open(place.lake.root), most=most)


def test_a_cell_says_its_verdict_its_evidence_and_how_old_that_is(place: Place) -> None:
    place.judged(failed=True)
    said = shown(gauges_of(place), at(20))
    assert said[f'stagekeeper_cell_verdict{{{CELL},verdict="ROLL_BACK",gate="g"}}'] == 1
    assert said[f"stagekeeper_cell_attempt{{{CELL}}}"] == 1
    assert 600 <= said[f"stagekeeper_cell_evidence_age_seconds{{{CELL}}}"] < 700
    signal = f'{{{CELL},signal="execution_error",role="guardrail",unit="ratio"}}'
    assert (said[f"stagekeeper_signal_value{signal}"], said[f"stagekeeper_signal_limit{signal}"]) == (1.0, 0.1)
    assert said[f"stagekeeper_signal_harm_ratio{signal}"] >= 1
    assert said[f"stagekeeper_signal_safety_ratio{signal}"] < 1
    assert said['stagekeeper_cells{verdict="ROLL_BACK"}'] == 1
    assert said['stagekeeper_cells{verdict="HOLD"}'] == said["stagekeeper_cells_left_out"] == 0


def test_what_is_new_in_the_lake_is_followed_and_says_the_same_as_reading_it_whole(place: Place) -> None:
    gauges = gauges_of(place)
    assert shown(gauges, at(5))["stagekeeper_reviews_waiting"] == 0
    for minute, failed in ((10.0, False), (20.0, True), (30.0, True)):
        place.judged(minute, failed=failed)
        assert shown(gauges, at(minute)) == shown(gauges_of(place), at(minute))


def test_no_more_cells_have_series_than_are_allowed_and_harm_comes_first(place: Place) -> None:
    place.judged(failed=False, count=5, stage=Stage.APPROVAL_GATED)
    place.judged(failed=True)
    said = shown(gauges_of(place, most=1), at(10))
    assert [name for name in said if name.startswith("stagekeeper_cell_verdict")] == [
        f'stagekeeper_cell_verdict{{{CELL},verdict="ROLL_BACK",gate="g"}}'
    ]
    assert said["stagekeeper_cells_left_out"] == 1
    assert sum(value for name, value in said.items() if name.startswith("stagekeeper_cells{")) == 2


def test_a_stage_that_an_action_has_left_has_no_series_after_a_week(place: Place) -> None:
    place.judged(failed=True)
    gauges = gauges_of(place)
    assert any(name.startswith("stagekeeper_cell_verdict") for name in shown(gauges, at(10) + timedelta(days=6)))
    said = shown(gauges, at(11) + timedelta(days=7))
    assert not [name for name in said if "draft_write" in name]
    assert sum(value for name, value in said.items() if name.startswith("stagekeeper_cells{")) == 0


def test_reviews_wait_until_somebody_speaks_or_a_day_has_passed(place: Place) -> None:
    recorder, gauges = place.history.recorder, gauges_of(place)
    queued = a_decision(QueueForReview(reason="mode_approved_external"))
    receipts = [
        recorder.decided(a_contract(), queued, stage=Stage.APPROVAL_GATED, decided_at=at(minute))
        for minute in (1, 5, 5.5)
    ]
    place.history.store()
    said = shown(gauges, at(11))
    assert (said["stagekeeper_reviews_waiting"], said["stagekeeper_reviews_oldest_seconds"]) == (3, 600)
    recorder.review_resolved(receipts[0], Resolution.APPROVED, reviewer="maria", rationale="fine", at=at(12))
    place.history.store()
    said = shown(gauges, at(15))
    assert (said["stagekeeper_reviews_waiting"], said["stagekeeper_reviews_oldest_seconds"]) == (2, 600)
    assert shown(gauges, at(15)) == shown(gauges_of(place), at(15))
    said = shown(gauges, at(6) + timedelta(days=1))
    assert said["stagekeeper_reviews_waiting"] == 0
    assert "stagekeeper_reviews_oldest_seconds" not in said


def test_a_verdict_of_a_later_release_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.judged()
    gauges = gauges_of(place)
    rows = place.lake.scan("verdicts").collect()
    broken = rows.with_columns(payload=rows["payload"].str.replace('"verdict":"ROLL_BACK"', '"verdict":"LATER"'))
    monkeypatch.setattr(Lake, "scan", lambda _, table: broken.lazy() if table == "verdicts" else None)
    with pytest.raises(UnknownShapeError, match="Run the worker of the release"):
        gauges.read(at(11))


def test_names_of_any_kind_are_told_apart() -> None:
    assert labels(tool='a"b\\c\nd') == '{tool="a\\"b\\\\c\\nd"}'
