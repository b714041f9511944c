"""Epochs of one cell that decide at the same time: each is judged, and the worst of them speaks for the cell."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from lakes_of_events import EventLake
from verdict_cases import (
    CELL,
    NOON,
    a_row,
    codes,
    document_of,
    executions,
    gate_file,
    increments,
    latest_documents,
    verdict_on,
    verdicts_on,
)

from analytics.audit.replay import replay
from analytics.backtest.history import History, run
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, EVENTS, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.gate_check import gate_check
from dashboard.data.outlook import forecasts

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.verdicts.verdict import Verdict

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

TEN = timedelta(minutes=10)
BY_USER = """\
version: 1
user_window: 5m
freshness: 2h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""
LADDER = "[draft_write, approval_gated]"
GATES = gate_file(
    "signal: execution_error, role: guardrail, limit: 0.1, unit: action",
    "signal: severe_incident, role: trip",
    ladder=LADDER,
)


def minute(at: float) -> datetime:
    return NOON + timedelta(minutes=at)


def busy(
    epoch: str, first: int, last: int, each: int = 10, *, failed_of: int = 0, cell: Any = CELL
) -> list[dict[str, Any]]:
    """So many actions a minute; of each `failed_of` of them one fails."""
    rows, done = [], 0
    for at in range(first, last):
        before, done = done, done + each
        failed = done // failed_of - before // failed_of if failed_of else 0
        rows.append(a_row(cell, epoch=epoch, minute=at, **executions(each, failed)))
    return rows


def said(verdict: Verdict) -> tuple[str, str]:
    return verdict.result.verdict.value, verdict.inputs.epoch


def on(*rows: dict[str, Any], at: float | None = None) -> Verdict:
    return verdict_on(GATES, *rows, watermark=None if at is None else minute(at))


SHARES = [(50, 50), (99, 1), (90, 10), (10, 90)]


class TestHarm:
    @pytest.mark.parametrize(("old", "new"), SHARES)
    def test_the_older_epoch_rolls_the_cell_back(self, old: int, new: int) -> None:
        verdict = on(*busy("old", 0, 20, old), *busy("old", 20, 200, old, failed_of=2), *busy("new", 20, 200, new))
        assert said(verdict) == ("ROLL_BACK", "old")
        assert codes(verdict) == ["harm", "epoch_beside"]

    @pytest.mark.parametrize(("old", "new"), [*SHARES, (1, 99)])
    def test_the_newer_epoch_rolls_the_cell_back(self, old: int, new: int) -> None:
        verdict = on(*busy("old", 0, 200, old), *busy("new", 20, 200, new, failed_of=1))
        assert said(verdict) == ("ROLL_BACK", "new")

    def test_harm_of_next_to_nothing_counts_all_the_same(self) -> None:
        old = [a_row(epoch="old", minute=at, **executions(1, 1)) for at in range(0, 200, 4)]
        verdict = on(*old, *busy("new", 1, 200, 1_000))
        assert said(verdict) == ("ROLL_BACK", "old")
        assert "15 of 60,015" in verdict.result.reasons[1].message

    @pytest.mark.parametrize("worst", ["a", "b", "c"])
    def test_of_three_the_worst_speaks(self, worst: str) -> None:
        rows = [
            row
            for place, epoch in enumerate("abc")
            for row in busy(epoch, 10 * place, 100, failed_of=2 if epoch == worst else 0)
        ]
        assert said(on(*rows)) == ("ROLL_BACK", worst)

    def test_what_a_dry_run_would_do_goes_by_the_worst_too(self) -> None:
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", ladder=LADDER, dry_run="true")
        verdict = verdict_on(gates, *busy("old", 0, 100, failed_of=2), *busy("new", 20, 100))
        assert said(verdict) == ("HOLD", "old")
        assert verdict.result.would is not None
        assert verdict.result.would.verdict.value == "ROLL_BACK"

    def test_at_the_foot_of_the_ladder_too(self) -> None:
        foot = CELL._replace(stage="observe_only")
        rows = [*busy("old", 0, 100, failed_of=2, cell=foot), *busy("new", 20, 100, cell=foot)]
        assert said(on(*rows)) == ("ROLL_BACK", "old")

    def test_of_several_that_are_bad_the_one_that_began_last_speaks(self) -> None:
        stale, bad = busy("stale", 0, 100, failed_of=2), busy("bad", 20, 100, failed_of=2)
        assert said(on(*stale, *bad, *busy("healthy", 40, 100))) == ("ROLL_BACK", "bad")

    def test_severe_incidents_of_an_epoch_of_few_decisions_trip(self) -> None:
        severe = {**executions(3, 3), "incidents": 3, "severe_incidents": 3}
        canary = [a_row(epoch="canary", minute=at, **severe) for at in (100, 130, 150)]
        old = busy("old", 0, 160)
        assert said(on(*old)) == ("PROMOTE", "old")
        assert said(on(*old, *canary)) == ("ROLL_BACK", "canary")
        assert said(on(*old, *busy("old", 160, 240), *canary)) == ("PROMOTE", "old"), "an hour after its last decision"


class TestSlowCells:
    @pytest.mark.parametrize(("old", "new"), [(7, 5), (7, 2), (10, 10), (20, 10)])
    def test_an_older_epoch_that_decides_seldom_is_seen_at_every_look(self, old: int, new: int) -> None:
        rows = [a_row(epoch="old", minute=at, **executions(1, 1)) for at in range(0, 900, old)]
        rows += [a_row(epoch="new", minute=at, **executions(1)) for at in range(203, 900, new)]
        for until in range(420, 900, 37):
            verdict = on(*[row for row in rows if row["bucket"] <= minute(until)])
            assert said(verdict) == ("ROLL_BACK", "old"), until

    def test_one_that_ended_is_over_after_three_of_its_gaps(self) -> None:
        old = [a_row(epoch="old", minute=at, **executions(1, 1)) for at in range(0, 300, 10)]
        new = [a_row(epoch="new", minute=at, **executions(1)) for at in range(203, 400, 5)]
        seen = [said(on(*old, *[row for row in new if row["bucket"] <= minute(until)]))[1] for until in (310, 345)]
        assert seen == ["old", "new"]


class TestPromotion:
    def test_it_waits_for_every_epoch_that_matters(self) -> None:
        old, new = busy("old", 0, 80, 4, failed_of=12), busy("new", 20, 80, 16)
        assert said(on(*new)) == ("PROMOTE", "new")
        verdict = on(*old, *new)
        assert said(verdict) == ("HOLD", "old")
        assert codes(verdict) == ["epoch_beside", "more_evidence_needed"]
        message = verdict.result.reasons[0].message
        assert "20 % of the decisions" in message
        assert "232 of 1,160" in message
        assert "`new`" in message
        assert document_of(verdict)["summary"].startswith("Hold: this epoch")
        assert forecasts(VerdictDocument.from_verdict(verdict))[0].text.startswith("The end of this epoch")

    def test_it_comes_once_all_are_shown_safe(self) -> None:
        assert said(on(*busy("old", 0, 80), *busy("new", 20, 80))) == ("PROMOTE", "new")

    def test_an_epoch_that_ended_holds_nothing_up(self) -> None:
        rows = [*busy("old", 0, 40, 4, failed_of=12), *busy("new", 20, 80, 16)]
        assert said(on(*[row for row in rows if row["bucket"] < minute(44)])) == ("HOLD", "old")
        assert said(on(*[row for row in rows if row["bucket"] <= minute(45)])) == ("PROMOTE", "new")

    def test_one_that_decides_next_to_nothing_holds_nothing_up(self) -> None:
        old = busy("old", 0, 200, 1, failed_of=12)
        assert said(on(*old, *busy("new", 20, 200, 98))) == ("HOLD", "old")
        assert said(on(*old, *busy("new", 20, 200, 100))) == ("PROMOTE", "new")

    def test_a_small_newer_epoch_is_waited_for_as_ever(self) -> None:
        assert said(on(*busy("old", 0, 200, 1_000), *busy("new", 190, 200, 2))) == ("HOLD", "new")

    def test_where_nobody_decides_any_more_the_share_is_not_known(self) -> None:
        rows = [*busy("old", 0, 80, 1, failed_of=12), *busy("new", 20, 80, 1_000)]
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", ladder=LADDER)
        gates = gates.model_copy(update={"freshness": 86_400.0})
        assert said(verdict_on(gates, *rows)) == ("PROMOTE", "new")
        assert said(verdict_on(gates, *rows, watermark=minute(400))) == ("PROMOTE", "new")
        later = verdict_on(gates, *rows, watermark=minute(600))
        assert said(later) == ("HOLD", "old")
        assert "not known any more" in later.result.reasons[0].message


class TestWhoIsBeside:
    """What ended as another began is not beside it, whatever the order of the last few decisions."""

    def test_a_retry_starts_afresh_at_once(self) -> None:
        first = busy("first", 0, 30, failed_of=2)
        assert said(on(*first)) == ("ROLL_BACK", "first")
        for last in (29, 30, 31):  # the last decision of a slow router
            slow = a_row(epoch="first", minute=last, **executions(1, 1))
            verdict = on(*first, slow, *busy("second", 30, 34))
            assert said(verdict) == ("PROMOTE", "second")

    def test_what_goes_on_for_longer_is_beside_it(self) -> None:
        rows = [*busy("first", 0, 33, failed_of=2), *busy("second", 30, 34)]
        assert said(on(*rows)) == ("ROLL_BACK", "first")

    def test_a_late_arrival_does_not_bring_an_epoch_back(self) -> None:
        rows = [*busy("old", 0, 20), *busy("new", 20, 60)]
        late = a_row(epoch="old", minute=19, last_event_at=minute(60), **executions(500, 500))
        assert said(on(*rows, late)) == ("PROMOTE", "new")

    def test_single_odd_decisions_make_no_epoch(self) -> None:
        odd = [a_row(epoch="odd", minute=at, **executions(1, 1)) for at in range(20, 29)]
        assert said(on(*busy("main", 0, 30), *odd)) == ("PROMOTE", "main")
        one_more = a_row(epoch="odd", minute=29, **executions(1, 1))
        assert said(on(*busy("main", 0, 30), *odd, one_more)) == ("ROLL_BACK", "odd")

    def test_one_that_comes_back_counts_again(self) -> None:
        rows = [*busy("old", 0, 20, failed_of=2), *busy("new", 20, 60)]
        assert said(on(*rows)) == ("PROMOTE", "new")
        # Nine are odd decisions of a router that nobody missed; ten are an epoch.
        assert said(on(*rows, a_row(epoch="old", minute=60, **executions(9)))) == ("PROMOTE", "new")
        assert said(on(*rows, a_row(epoch="old", minute=60, **executions(10)))) == ("ROLL_BACK", "old")

    def test_another_cohort_is_another_cell(self) -> None:
        rows = [*busy("old", 0, 100, failed_of=2), *busy("new", 20, 100, cell=CELL._replace(cohort="eu"))]
        assert {(v.inputs.cell.cohort, *said(v)) for v in verdicts_on(GATES, *rows)} == {
            ("all", "ROLL_BACK", "old"),
            ("eu", "PROMOTE", "new"),
        }

    def test_of_two_that_began_together_always_the_same_is_the_newest(self) -> None:
        rows = [row for at in range(12) for epoch in "ab" for row in busy(epoch, at, at + 1)]
        whole = {said(on(*rows[:cut])) for cut in range(3, 24)}
        assert whole <= {("HOLD", "b"), ("HOLD", "a"), ("PROMOTE", "b")}
        assert {epoch for verdict, epoch in (said(on(*rows[:cut])) for cut in (20, 21, 22, 23, 24))} == {"b"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.mark.slow
class TestThroughTheJudge:
    def run(self, lake: Lake, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
        judge, heard, until = Judge(lake, GATES, settle_s=0), [], NOON
        while now := [row for row in rows if until <= row["bucket"] < until + TEN]:
            until += TEN
            lake.append("signals", increments(*now))
            heard += [(one.data.verdict.value, one.data.epoch) for one in judge.tick(until)]
        return heard

    def test_every_row_is_reached_again(self, lake: Lake) -> None:
        old = [*busy("old", 0, 60), *busy("old", 60, 100, failed_of=1)]
        heard = self.run(lake, [*old, *busy("new", 40, 110, 2)])
        assert ("ROLL_BACK", "old") in heard
        assert heard[-1] == ("PROMOTE", "new"), "the old one ended"
        rows = lake.scan(VERDICTS).sort("judged_at", "verdict_id").collect().to_dicts()
        assert {row["epoch"] for row in rows} == {"old", "new"}
        for row in rows:
            assert replay(lake, row["verdict_id"]).document.verdict == row["verdict"]

    def test_the_gate_shuts_on_what_another_epoch_does(self, lake: Lake) -> None:
        self.run(lake, [*busy("old", 0, 60), *busy("old", 60, 110, failed_of=2), *busy("new", 40, 110)])
        asked = dict(zip(("environment", "workflow", "tool"), CELL, strict=False))
        answer = gate_check(lake, GATES, **asked, to_stage="approval_gated", now=minute(111), freshness_s=900.0)
        assert answer.answer.value == "ROLL_BACK"
        assert [reason.code for reason in answer.reasons] == ["harm", "regraded", "epoch_beside"]

    def test_a_backtest_says_the_same(self, lake: Lake) -> None:
        rows = [*busy("old", 0, 60), *busy("old", 60, 100, failed_of=1), *busy("new", 40, 110, 2)]
        heard = self.run(lake, rows)
        history = History.from_rows(increments(*rows), pl.LazyFrame(schema=COLUMNS[EVENTS]))
        turns = [said(turn.verdict) for turn in run(history, GATES, since=minute(9), every=TEN)]
        assert turns == heard
        assert ("ROLL_BACK", "old") in turns

    def test_a_rollback_stands_while_its_epoch_is_alive(self, lake: Lake) -> None:
        old = [*busy("old", 0, 30), *busy("old", 30, 50, failed_of=2), *busy("old", 50, 120, 200)]
        heard = self.run(lake, [*old, *busy("new", 20, 120, 2)])
        assert heard[-1] == ("ROLL_BACK", "old")
        (last,) = lake.scan(VERDICTS).sort("judged_at").tail(1).collect().to_dicts()
        assert "latched" in last["payload"]

    def test_a_promotion_rests_on_what_had_crossed_on_every_epoch(self, lake: Lake) -> None:
        old = [*busy("old", 0, 20), *busy("old", 20, 50, failed_of=7)]
        assert said(on(*old, *busy("new", 20, 50, 20))) == ("HOLD", "old"), "by its evidence alone"
        self.run(lake, [*old, *busy("new", 20, 50, 20)])
        rows = lake.scan(VERDICTS).sort("judged_at").collect().to_dicts()
        assert (rows[-1]["verdict"], rows[-1]["epoch"]) == ("PROMOTE", "new"), "the older one's promotion stands"
        for row in rows:
            assert replay(lake, row["verdict_id"]).document.epoch == row["epoch"]

    def test_what_is_alive_is_not_graded_as_if_it_were_over(self, lake: Lake) -> None:
        self.run(lake, [*busy("old", 0, 60), *busy("old", 60, 100, failed_of=1), *busy("new", 40, 110, 2)])
        ids = lake.scan(VERDICTS).select("verdict_id").collect()["verdict_id"]
        assert not ids.str.starts_with("r").any()


@pytest.mark.slow
def test_users_of_every_epoch_are_counted(tmp_path: Path) -> None:
    """A canary beside a model that fails, counted by user: look by look, and reached again."""
    history, path = EventLake.at(tmp_path), tmp_path / "gates.yaml"
    path.write_text(BY_USER)
    judge = Judge(history.lake, path, settle_s=0)
    for look in range(4):
        for user in range(20):
            at = 20 * look + user / 2
            history.act(at, f"old-{look}-{user}", model="old", failed=look == 3)
            if look:
                history.act(at, f"new-{look}-{user}", model="new")
        history.store()
        judge.tick(minute(20 * look + 19))
    *_, last = lake_rows = history.lake.scan(VERDICTS).sort("judged_at").collect().to_dicts()
    epochs = {row["epoch"] for row in lake_rows}
    assert (last["verdict"], len(epochs)) == ("ROLL_BACK", 2)
    (document,) = latest_documents(history.lake)
    assert {"harm", "epoch_beside"} <= {reason["code"] for reason in document["reasons"]}
    (part,) = document["signals"]
    assert (part["by"], part["failures"], part["trials"]) == ("user", 20, 80)
    for row in lake_rows:
        assert replay(history.lake, row["verdict_id"]).document.verdict == row["verdict"]
