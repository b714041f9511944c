"""What a gate file may ask for beyond limits: maturity, exposure, units, dry runs, expiry, the detector."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from verdict_cases import CELL, NOON, a_row, codes, document_of, executions, gate_file, refused, verdict_on, verdicts_on

from analytics.gates.gate_file import GateFile
from producers.strict_yaml import ConfigurationFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.verdicts.verdict import Verdict

UNDO = "signal: undo, role: guardrail, limit: 0.1, maturity: 1h"


TWO_PERCENT = "signal: execution_error, role: guardrail, limit: 0.02"


class TestUnreported:
    """What was due and is not reported is no harm for a rollback, and no safety for a promotion."""

    def test_failures_that_come_first_do_not_roll_back(self) -> None:
        found = verdict_on(
            gate_file(TWO_PERCENT), a_row(decisions=197, allowed=197, expected=197, executed=2, failed=2)
        )
        (errors,) = found.inputs.signals
        assert (found.result.verdict, errors.unreported) == ("HOLD", 195)
        assert errors.log_e_harm == pytest.approx(-2.092721501)
        assert "100 % (2 of 2; 195 unreported)" in found.result.reasons[0].message

    def test_successes_that_come_first_do_not_promote(self) -> None:
        found = verdict_on(gate_file(TWO_PERCENT), a_row(decisions=440, allowed=440, expected=440, executed=400))
        assert found.result.verdict == "HOLD"
        (errors,) = found.inputs.signals
        assert (errors.mature_failures, errors.mature_trials) == (40, 440)

    def test_what_is_overdue_counts_against_a_promotion(self) -> None:
        rows = [a_row(minute=minute, decisions=100, allowed=100, expected=100, executed=90) for minute in range(6)]
        found = verdict_on(gate_file(TWO_PERCENT), *rows, watermark=NOON + timedelta(minutes=30))
        assert (found.inputs.signals[0].mature_failures, found.inputs.signals[0].mature_trials) == (60, 600)

    def test_what_is_in_flight_waits_for_the_deadline(self) -> None:
        old = [a_row(minute=minute, **executions(100)) for minute in range(3)]
        young = a_row(minute=9, decisions=50, allowed=50, expected=50)
        found = verdict_on(gate_file(TWO_PERCENT), *old, young, watermark=NOON + timedelta(minutes=10))
        (errors,) = found.inputs.signals
        assert (errors.unreported, errors.mature_failures, errors.mature_trials) == (50, 0, 300)
        assert found.result.verdict == "PROMOTE"

    def test_an_open_review_is_no_approval(self) -> None:
        gates = gate_file("signal: review_rejection, role: promote, limit: 0.05", TWO_PERCENT)
        row = a_row(**executions(400), queued=300, reviews_approved=200)
        row["decisions"] += 300
        found = verdict_on(gates, row)
        assert (found.inputs.signals[0].unreported, found.inputs.signals[0].mature_failures) == (100, 100)
        assert found.result.verdict == "HOLD"

    def test_a_latency_that_is_not_known_counts_against_a_promotion(self) -> None:
        gates = gate_file("signal: latency_p95, role: guardrail, limit_ms: 1500")
        found = verdict_on(gates, a_row(**executions(400), latencies_ms=[200.0] * 370))
        assert (found.result.verdict, found.inputs.signals[0].unreported) == ("HOLD", 30)
        assert "30 unreported" in found.result.reasons[0].message

    @pytest.mark.parametrize("signal", ["undo", "incident", "support", "quality_failure"])
    def test_consequences_promote_nothing_without_a_maturity(self, signal: str) -> None:
        gates = gate_file(f"signal: {signal}, role: guardrail, limit: 0.1", TWO_PERCENT)
        found = verdict_on(gates, a_row(**executions(400), quality_checks=400))
        assert (found.result.verdict, codes(found)) == ("HOLD", ["no_maturity"])
        assert "such as `maturity: 24h`" in found.result.reasons[0].message

    def test_quality_checks_roll_back_once_they_are_mature(self) -> None:
        row = a_row(**executions(400), quality_checks=20, quality_failures=20)
        mature = "signal: quality_failure, role: guardrail, limit: 0.1, maturity: 10m"
        soon, later = (
            verdict_on(gate_file(mature), row, watermark=NOON + timedelta(minutes=minutes)) for minutes in (5, 12)
        )
        assert (soon.result.verdict, later.result.verdict) == ("HOLD", "ROLL_BACK")


class TestMaturity:
    def test_a_promotion_counts_only_what_is_old_enough(self) -> None:
        rows = [a_row(minute=minute, **executions(60)) for minute in range(2)]
        soon = verdict_on(gate_file(UNDO), *rows, watermark=NOON + timedelta(minutes=61) - timedelta(microseconds=1))
        assert (soon.result.verdict, codes(soon)) == ("INVALID", ["stale_evidence"])
        fresh = a_row(CELL._replace(tool="other"), minute=60, **executions(1))
        kept = gate_file(UNDO).model_copy(update={"freshness": 7_200.0})
        just_before, at_last = (
            verdicts_on(kept, *rows, fresh, watermark=NOON + timedelta(minutes=61) + timedelta(microseconds=late))[0]
            for late in (-1, 0)
        )
        assert (just_before.result.verdict, codes(just_before)) == ("HOLD", ["immature"])
        assert just_before.inputs.signals[0].mature_trials == 0
        assert at_last.inputs.signals[0].mature_trials == 60
        assert at_last.result.verdict == "PROMOTE"

    def test_a_rollback_counts_everything(self) -> None:
        found = verdict_on(gate_file(UNDO), a_row(**executions(60, undone=40)))
        assert (found.inputs.signals[0].mature_trials, found.result.verdict) == (0, "ROLL_BACK")

    def test_an_undo_that_came_late_counts_with_its_execution(self) -> None:
        late = a_row(minute=0, last_event_at=NOON + timedelta(minutes=59), undone=30)
        kept = gate_file(UNDO).model_copy(update={"freshness": 7_200.0})
        found = verdict_on(kept, a_row(**executions(60)), late, watermark=NOON + timedelta(minutes=61))
        assert (found.inputs.signals[0].mature_failures, found.result.verdict) == (30, "ROLL_BACK")

    @pytest.mark.parametrize("signal", ["latency_p95", "severe_incident", "missing_outcome"])
    def test_what_is_known_at_once_takes_none(self, signal: str) -> None:
        assert "takes no `maturity`" in refused(f"signal: {signal}, role: watch, maturity: 1h")


class TestExposure:
    LIMIT = "signal: execution_error, role: guardrail, limit: 0.1"
    DAY = 1_440

    def after(self, least: str, *minutes: int) -> Verdict:
        """The verdict on 200 executions in each of some minutes, counted from a Saturday's noon."""
        gates = gate_file(self.LIMIT, minimum_exposure=least)
        return verdict_on(gates, *(a_row(minute=minute, **executions(200)) for minute in minutes))

    @pytest.mark.parametrize(
        ("least", "early", "more", "told"),
        [
            ("{days: 7}", (0, 7 * DAY), range(0, 7 * DAY, DAY), "decisions on 2 days, at least 7 are asked for"),
            ("{days: 0.3}", (), (0,), ""),
            ("{days: 1.5}", (0, 60), (0, DAY), "decisions on 1 day, at least 2 are asked for"),
            ("{days: 2}", (0, 11 * 60 + 59), (0, 12 * 60), "decisions on 1 day, at least 2"),
            ("{days: 2, timezone: Europe/Berlin}", (0, 10 * 60), (0, 11 * 60), "decisions on 1 day (Europe/Berlin)"),
            (
                "{weekdays: true}",
                range(2 * DAY, 7 * DAY, DAY),
                range(0, 7 * DAY, DAY),
                "decisions on 5 of the 7 days of the week",
            ),
            ("{hours: 3}", (0, 59, 60, DAY), (0, 60, DAY + 120), "decisions in 2 hours of the day, at least 3 are"),
        ],
    )
    def test_distinct_days_weekdays_and_hours_hold_up_a_promotion(
        self, least: str, early: Sequence[int], more: Sequence[int], told: str
    ) -> None:
        if early:
            held = self.after(least, *early)
            assert codes(held) == ["below_minimum_exposure"]
            assert told in held.result.reasons[0].message
        assert self.after(least, *more).result.verdict == "PROMOTE"

    def test_a_day_counts_only_where_something_was_decided(self) -> None:
        gates = gate_file(self.LIMIT, minimum_exposure="{days: 2}")
        decided = a_row(**{**executions(200), "executed": 191})
        assert codes(verdict_on(gates, decided, a_row(minute=self.DAY, executed=9))) == ["below_minimum_exposure"]

    def test_the_clock_that_goes_back_shows_one_hour_once(self) -> None:
        # On 25 October 2026 the hours of 0:00 and 1:00 UTC are both 2:00 in Berlin; noon is that of 14 March.
        first = round((datetime(2026, 10, 25, tzinfo=UTC) - NOON).total_seconds() / 60)
        assert self.after("{hours: 2}", first, first + 60).result.verdict == "PROMOTE"
        assert codes(self.after("{hours: 2, timezone: Europe/Berlin}", first, first + 60)) == ["below_minimum_exposure"]

    def test_the_document_shows_what_was_covered(self) -> None:
        least = "{days: 2, weekdays: true, hours: 24, timezone: Asia/Tokyo}"
        shown = document_of(self.after(least, 0, 60, 3 * self.DAY))["exposure"]
        assert {name: shown[name] for name in ("days", "minimum_days", "weekdays", "minimum_weekdays")} == {
            "days": 2,
            "minimum_days": 2,
            "weekdays": 2,
            "minimum_weekdays": 7,
        }
        assert (shown["hours"], shown["minimum_hours"], shown["timezone"]) == (2, 24, "Asia/Tokyo")

    @pytest.mark.parametrize(
        ("least", "fault"),
        [
            ("{days: 1, timezone: Europe/Berlim}", "unknown time zone `Europe/Berlim`: did you mean `Europe/Berlin`?"),
            ("{days: 1, timezone: ../etc/passwd}", "unknown time zone"),
            ("{hours: 25}", "minimum_exposure.hours"),
        ],
    )
    def test_what_no_day_or_clock_has_is_refused(self, least: str, fault: str) -> None:
        with pytest.raises(ConfigurationFileError, match=re.escape(fault)):
            gate_file(self.LIMIT, minimum_exposure=least)

    def test_users_that_nobody_counted_hold_up_a_promotion(self) -> None:
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", minimum_exposure="{users: 3}")
        assert codes(verdict_on(gates, a_row(**executions(200)))) == ["below_minimum_exposure"]
        assert verdict_on(gates, a_row(**executions(104, 42))).result.verdict == "ROLL_BACK"


class TestData:
    RARE = "signal: undo_failed, role: promote, limit: 0.1"

    def test_a_signal_may_do_without_data(self) -> None:
        sure = "signal: execution_error, role: guardrail, limit: 0.1"
        assert codes(verdict_on(gate_file(sure, self.RARE), a_row(**executions(200)))) == ["missing_data"]
        optional = f"{self.RARE}, must_have_data: false"
        assert verdict_on(gate_file(sure, optional), a_row(**executions(200))).result.verdict == "PROMOTE"

    def test_nothing_shown_never_promotes(self) -> None:
        found = verdict_on(gate_file(f"{self.RARE}, must_have_data: false"), a_row(**executions(200)))
        assert codes(found) == ["missing_data"]

    def test_a_watched_signal_may_have_to_have_data(self) -> None:
        sure = "signal: execution_error, role: guardrail, limit: 0.1"
        watched = "signal: quality_failure, role: watch, must_have_data: true"
        assert codes(verdict_on(gate_file(sure, watched), a_row(**executions(200)))) == ["missing_data"]
        checked = a_row(**executions(200), quality_checks=1)
        assert verdict_on(gate_file(sure, watched), checked).result.verdict == "PROMOTE"


class TestDryRun:
    def test_a_signal_is_shown_and_does_nothing(self) -> None:
        gates = gate_file(
            "signal: execution_error, role: guardrail, limit: 0.1",
            "signal: undo, role: guardrail, limit: 0.05, dry_run: true",
        )
        found = verdict_on(gates, a_row(**executions(300, undone=90)))
        assert found.result.verdict == "PROMOTE"
        would = document_of(found)["dry_run"]
        assert (would["verdict"], [reason["code"] for reason in would["reasons"]]) == ("ROLL_BACK", ["harm"])
        assert found.inputs.signals[0].weight == 1.0, "a dry run takes nothing from alpha"

    @pytest.mark.parametrize("failed", [0, 90])
    def test_a_gate_does_nothing_and_says_what_it_would(self, failed: int) -> None:
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", dry_run="true")
        found = verdict_on(gates, a_row(**executions(300, failed)))
        assert (found.result.verdict, codes(found)) == ("HOLD", ["dry_run"])
        assert document_of(found)["dry_run"]["verdict"] == ("ROLL_BACK" if failed else "PROMOTE")

    def test_a_gate_of_dry_runs_alone_never_promotes(self) -> None:
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1, dry_run: true")
        assert codes(verdict_on(gates, a_row(**executions(300)))) == ["dry_run"]

    def test_without_dry_runs_there_is_no_summary(self) -> None:
        gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1")
        assert document_of(verdict_on(gates, a_row(**executions(300))))["dry_run"] is None


class TestExpiry:
    def gates(self) -> GateFile:
        return gate_file("signal: timeout, role: guardrail, limit: 0.1", owner="risk-team", hold_expires="2h")

    def at(self, minutes: int, **counts: int) -> Verdict:
        rows = [a_row(minute=0, **executions(2)), a_row(minute=minutes - 1, **executions(2, **counts))]
        return verdict_on(self.gates(), *rows, watermark=NOON + timedelta(minutes=minutes))

    def test_a_hold_past_its_expiry_calls_the_owner(self) -> None:
        assert codes(self.at(120)) == ["more_evidence_needed"]
        late = self.at(121)
        assert (late.result.verdict, codes(late)) == ("HOLD", ["hold_expired", "more_evidence_needed"])
        assert late.result.reasons[0].message == "held for 2 h, at most 2 h were meant: risk-team must decide"
        assert codes(late) != codes(self.at(120)), "which is news, and published"

    def test_a_stale_hold_expires_too(self) -> None:
        found = verdict_on(self.gates(), a_row(**executions(2)), watermark=NOON + timedelta(hours=3))
        assert codes(found) == ["hold_expired", "stale_evidence"]

    def test_the_top_of_the_ladder_expires_never(self) -> None:
        top = CELL._replace(stage="progressive_expansion")
        found = verdict_on(self.gates(), a_row(top, minute=0), a_row(top, minute=200, **executions(9)))
        assert codes(found) == ["top_of_ladder"]

    def test_somebody_must_be_there_to_be_called(self) -> None:
        assert "needs an `owner`" in refused("signal: undo, role: watch", hold_expires="2h")


class TestUnits:
    @pytest.mark.parametrize(
        ("signal", "gate"),
        [
            ("signal: severe_incident, role: watch", {}),
            ("signal: undo_failed, role: trip", {}),
            (
                "signal: latency_p95, role: guardrail, ratio: 1.2",
                {"baseline": "{kind: concurrent, cohort: held-back}"},
            ),
        ],
    )
    def test_some_signals_are_never_counted_by_user(self, signal: str, gate: dict[str, str]) -> None:
        assert "takes no `unit: user`" in refused(f"{signal}, unit: user", **gate)

    def test_where_nobody_is_named_actions_are_counted_and_it_says_so(self) -> None:
        found = verdict_on(gate_file("signal: undo, role: guardrail, limit: 0.1"), a_row(**executions(200)))
        assert found.inputs.signals[0].by == "action"
        assert found.inputs.signals[0].assumes == "assumes independent actions"
        assert document_of(found)["unit"] == "counted by action; assumes independent actions"


PROMOTED = CELL._replace(stage="narrow_autonomy")
ERRORS = "signal: execution_error, role: guardrail, limit: 0.05"


class TestAfterPromotion:
    def history(self, healthy: int, bad: int, failed: int = 4) -> list[dict[str, Any]]:
        rows = [a_row(PROMOTED, minute=minute, **executions(50, 1)) for minute in range(healthy)]
        return rows + [a_row(PROMOTED, minute=healthy + at, **executions(50, failed + 8)) for at in range(bad)]

    def judged(self, healthy: int, bad: int, **more: str) -> Verdict:
        mark = NOON + timedelta(minutes=healthy + bad)
        return verdict_on(gate_file(ERRORS, **more), *self.history(healthy, bad), watermark=mark)

    def test_a_long_healthy_past_does_not_hide_a_regression(self) -> None:
        found = self.judged(300, 4)
        (part,) = found.inputs.signals
        assert part.state != "fail", "the stage's own evidence is far from it"
        assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["regression"])
        assert part.regression is not None
        assert part.regression.since is not None
        assert NOON + timedelta(minutes=300) <= part.regression.since < NOON + timedelta(minutes=304)
        assert "has risen above its limit of 5 % since 2026-03-14T17:0" in found.result.reasons[0].message

    def test_health_raises_no_alarm(self) -> None:
        found = self.judged(350, 0)
        assert found.inputs.signals[0].regression is not None
        assert found.inputs.signals[0].regression.since is None
        assert found.result.verdict == "PROMOTE"

    def test_the_foot_of_the_ladder_has_been_promoted_from_nowhere(self) -> None:
        found = self.judged(300, 4, ladder="[narrow_autonomy, progressive_expansion]")
        assert found.inputs.signals[0].regression is None
        assert found.result.verdict != "ROLL_BACK"

    def test_a_smaller_alpha_waits_for_more(self) -> None:
        text = "version: 1\nafter_promotion: {{{rules}}}\ngates: [{{name: g, signals: [{{{errors}}}]}}]"
        small, large = (
            GateFile.parse(text.format(rules=rules, errors=ERRORS).encode()) for rules in ("", "alpha: 0.000001")
        )
        rows, mark = self.history(300, 2), NOON + timedelta(minutes=302)
        levels = [verdict_on(gates, *rows, watermark=mark).inputs.signals[0].regression for gates in (small, large)]
        assert [level is not None and level.since is not None for level in levels] == [True, False]

    def test_an_open_minute_is_not_stepped(self) -> None:
        mark = NOON + timedelta(minutes=304) - timedelta(microseconds=1)
        found = verdict_on(gate_file(ERRORS), *self.history(300, 4), watermark=mark)
        part = found.inputs.signals[0].regression
        assert part is not None
        assert part.trials == 303 * 50


def test_a_promotion_that_needs_approval_says_so() -> None:
    gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", on_promote="ask", owner="risk")
    found = verdict_on(gates, a_row(**executions(200)))
    assert (found.result.verdict, codes(found)) == ("PROMOTE", ["shown_safe", "approval_required"])
