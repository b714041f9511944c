"""Epochs that are over before their outcomes come: what those show, and against which epochs it counts."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from lakes_of_events import EventLake
from verdict_cases import CELL, NOON, a_row, executions, gate_file, increments, latest_documents

from analytics.audit.replay import replay
from analytics.backtest.history import History, run
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, EVENTS, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.signoffs import SignOffKind
from producers.wire.events import Incident, Quality, Support

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.verdicts.verdict import Verdict

LADDER = "[draft_write, approval_gated]"
LIFE, DELAY, EPOCHS = 30, 40, 3
UNDO = "signal: undo, role: guardrail, limit: 0.03, maturity: 1h, unit: action"


def minute(at: float) -> Any:
    return NOON + timedelta(minutes=at)


def known(at: int, delay: int, **counts: int) -> dict[str, Any]:
    return a_row(epoch=f"e{at // LIFE}", minute=at, last_event_at=minute(at + delay), **counts)


def deploys(late: dict[str, int], *, epochs: int = EPOCHS, delay: int = DELAY, bad: int = 9) -> list[dict[str, Any]]:
    """A new epoch every half hour, two actions a minute; in the first few, something comes late of one of them."""
    rows = [a_row(epoch=f"e{at // LIFE}", minute=at, **executions(2)) for at in range(epochs * LIFE)]
    return rows + [known(at, delay, **late) for at in range(min(bad, epochs) * LIFE)]


def turns(gates: GateFile, rows: list[dict[str, Any]], every: int = 10) -> list[tuple[str, str, int]]:
    """Verdict, epoch and minute of every turn, through the judge."""
    history = History.from_rows(increments(*rows), pl.LazyFrame(schema=COLUMNS[EVENTS]))
    return [said(turn.verdict) for turn in run(history, gates, every=timedelta(minutes=every))]


def said(verdict: Verdict) -> tuple[str, str, int]:
    at = (verdict.judged_at - NOON) // timedelta(minutes=1)
    return verdict.result.verdict.value, verdict.inputs.epoch, at


def rolled_back(heard: list[tuple[str, str, int]]) -> list[str]:
    return [epoch for verdict, epoch, _ in heard if verdict == "ROLL_BACK"]


class TestWhatIsOverSpeaks:
    @pytest.mark.parametrize(
        ("signal", "late"),
        [
            ("signal: undo, role: guardrail, limit: 0.03, maturity: 1h", {"undone": 1}),
            ("signal: undo, role: guardrail, limit: 0.03", {"undo_failed": 1}),
            ("signal: incident, role: guardrail, limit: 0.03, maturity: 1h", {"incidents": 1}),
            ("signal: support, role: guardrail, limit: 0.03, maturity: 1h", {"support": 1}),
            ("signal: bad_outcome, role: guardrail, limit: 0.03, maturity: 1h", {"undone": 1, "bad_outcomes": 1}),
            ("signal: quality_failure, role: guardrail, limit: 0.03", {"quality_checks": 1, "quality_failures": 1}),
            ("signal: severe_incident, role: trip", {"incidents": 1, "severe_incidents": 1}),
        ],
    )
    def test_whatever_comes_late(self, signal: str, late: dict[str, int]) -> None:
        gates = gate_file(f"{signal}", "signal: denial, role: promote, limit: 0.1", ladder=LADDER, unit="action")
        heard = turns(gates, deploys(late))
        assert rolled_back(heard[:-1]) >= ["e1", "e2"], "each while it decides, for the one before it"
        assert min(at for verdict, _, at in heard if verdict == "ROLL_BACK") <= DELAY + 21

    def test_a_quality_check_that_counts_only_when_its_epoch_is_over(self) -> None:
        gates = gate_file("signal: quality_failure, role: guardrail, limit: 0.03, maturity: 45m", unit="action")
        heard = turns(gates, deploys({"quality_checks": 1, "quality_failures": 1}, delay=2))
        assert set(rolled_back(heard)) >= {"e1", "e2"}, "nothing comes any more: time alone makes it count"

    def test_executions_that_never_come(self) -> None:
        text = gate_file("signal: missing_outcome, role: guardrail, limit: 0.03", unit="action").text
        gates = GateFile.parse(text.replace(b"version: 1", b"version: 1\noutcome_deadline: 40m"))
        counts = {"decisions": 2, "allowed": 2, "expected": 2, "executed": 1}
        rows = [a_row(epoch=f"e{at // LIFE}", minute=at, **counts) for at in range(EPOCHS * LIFE)]
        assert set(rolled_back(turns(gates, rows))) >= {"e1", "e2"}

    def test_executions_that_are_reported_late(self) -> None:
        text = gate_file("signal: execution_error, role: guardrail, limit: 0.03", unit="action").text
        gates = GateFile.parse(text.replace(b"version: 1", b"version: 1\noutcome_deadline: 1h"))
        allowed = {"decisions": 2, "allowed": 2, "expected": 2}
        rows = [a_row(epoch=f"e{at // LIFE}", minute=at, **allowed) for at in range(EPOCHS * LIFE)]
        rows += [known(at, DELAY, executed=2, failed=1) for at in range(EPOCHS * LIFE)]
        assert set(rolled_back(turns(gates, rows))) >= {"e1", "e2"}


class TestAgainstWhom:
    def test_one_that_began_when_it_was_known_starts_afresh(self) -> None:
        rows = [a_row(epoch=f"e{at // LIFE}", minute=at, **executions(2)) for at in range(3 * LIFE)]
        rows += [known(at, DELAY, undone=1) for at in range(9)]
        heard = turns(gate_file(UNDO, ladder=LADDER), rows)
        assert [(verdict, epoch) for verdict, epoch, _ in heard] == [
            ("HOLD", "e0"),
            ("ROLL_BACK", "e1"),
            ("HOLD", "e2"),
        ]

    def test_one_that_is_old_enough_answers_for_itself(self) -> None:
        rows = [a_row(epoch="e0", minute=at, **executions(2)) for at in range(LIFE)]
        rows += [a_row(epoch="e1", minute=at, **executions(2)) for at in range(LIFE, 60 * 30, 30)]

        def straggling(delay: int) -> list[tuple[str, str, int]]:
            late = [known(at, delay, undone=1) for at in range(9)]
            return turns(gate_file(UNDO, ladder=LADDER), [*rows, *late], every=60)

        assert rolled_back(straggling(60 * 24)) == ["e1"]
        assert rolled_back(straggling(60 * 27)) == [], "a day after all of its outcomes were due"

    def test_one_that_is_shown_safe_itself_is_left_alone_unless_it_was_rolled_back_before(self) -> None:
        rows = [a_row(epoch="e0", minute=at, **executions(2)) for at in range(LIFE)]
        rows += [a_row(epoch="e1", minute=at, **executions(2)) for at in range(LIFE, 300)]
        late, early = ([known(at, delay, undone=1) for at in range(9)] for delay in (240, DELAY))
        assert turns(gate_file(UNDO, ladder=LADDER), [*rows, *late])[-1][:2] == ("PROMOTE", "e1")
        assert turns(gate_file(UNDO, ladder=LADDER), [*rows, *early])[-1][:2] == ("ROLL_BACK", "e1")

    def test_harm_of_its_own_is_graded_when_it_is_over(self) -> None:
        history = History.from_rows(increments(*deploys({"undone": 1})), pl.LazyFrame(schema=COLUMNS[EVENTS]))
        *_, last = run(history, gate_file(UNDO, ladder=LADDER), every=timedelta(minutes=5))
        regraded = [made.epoch for made in last.verdict.inputs.regraded]
        assert regraded == ["e0", "e1"], "although the second had been rolled back for the first"

    def test_what_keeps_its_limits_is_left_alone(self) -> None:
        rows = deploys({"undone": 0}, epochs=6)
        rows += [known(at, DELAY, undone=1) for at in range(0, 6 * LIFE, 50)]
        assert rolled_back(turns(gate_file(UNDO, ladder=LADDER), rows)) == []

    def test_late_reports_take_it_back(self) -> None:
        """The earlier epoch was rolled back for overdue outcomes alone, and they came: it counts against none."""
        text = gate_file("signal: missing_outcome, role: guardrail, limit: 0.03", unit="action").text
        gates = GateFile.parse(text.replace(b"version: 1", b"version: 1\noutcome_deadline: 40m"))
        lone = {"decisions": 1, "allowed": 1, "expected": 1}
        rows = [a_row(epoch=f"e{at // LIFE}", minute=at, **executions(2)) for at in range(5 * LIFE)]
        rows += [a_row(epoch="e0", minute=at, **lone) for at in range(LIFE)]
        rows += [known(at, 80, executed=1) for at in range(LIFE)]
        heard = turns(gates, [{**row, "epoch": min(row["epoch"], "e1")} for row in rows])
        assert [(verdict, epoch) for verdict, epoch, _ in heard] == [
            ("HOLD", "e0"),
            ("ROLL_BACK", "e1"),
            ("HOLD", "e1"),
            ("PROMOTE", "e1"),
        ]


USERS = """\
version: 1
user_window: 5m
outcome_deadline: 1h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{signal: SIGNAL, role: guardrail, limit: 0.03, maturity: 45m}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["undo", "incident", "support", "quality_failure", "bad_outcome"])
def test_by_user(tmp_path: Path, signal: str) -> None:
    """A user each minute, as events; of every second one something comes late."""
    told = EventLake.at(tmp_path)
    delay = 2 if signal == "quality_failure" else DELAY
    acts = defaultdict(list)
    for at in range(EPOCHS * LIFE):
        acts[at].append(("act", at))
        acts[at + delay].append(("late", at))
    receipts, folded = {}, []
    for now in sorted(acts):
        for what, at in acts[now]:
            if what == "act":
                receipts[at] = told.act(at, f"user {at}", model=f"m-{at // LIFE}")
            elif at % 2 == 0 and signal in {"undo", "bad_outcome"}:
                told.undo(receipts[at], now)
            elif at % 2 == 0:
                impacts = {"incident": Incident(severity=3), "support": Support()}
                told.impact(receipts[at], impacts.get(signal, Quality(passed=False)), now)
        folded.append(told.ingest.fold(told.emitter.events))
        told.emitter.events.clear()
    signals, events = (
        pl.concat([pl.DataFrame(getattr(fold, name)) for fold in folded]) for name in ("signals", "events")
    )
    history = History.from_rows(signals, events.lazy())
    gates = GateFile.parse(USERS.replace("SIGNAL", signal).encode())
    heard = [turn.verdict for turn in run(history, gates, every=timedelta(minutes=5))]
    back = [verdict for verdict in heard if verdict.result.verdict.value == "ROLL_BACK"]
    assert len({verdict.inputs.epoch for verdict in back}) >= 2
    assert all(part.by == "user" for verdict in back for part in verdict.inputs.signals)


@pytest.mark.slow
class TestInTheLedger:
    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        """Two epochs; of the first one's actions some are undone when the second has taken over."""
        lake = Lake.open(str(tmp_path / "lake"))
        (tmp_path / "gates.yaml").write_bytes(gate_file(UNDO, ladder=LADDER).text)
        judge = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
        rows = [row for row in deploys({"undone": 1}, epochs=2) if row["last_event_at"] < minute(58)]
        for until in (29, 41, 58):
            now = [row for row in rows if row["last_event_at"] < minute(until)]
            rows = [row for row in rows if row["last_event_at"] >= minute(until)]
            lake.append("signals", increments(*now))
            judge.tick(minute(until))
        return lake

    def test_every_row_is_reached_again(self, lake: Lake) -> None:
        rows = lake.scan(VERDICTS).sort("judged_at", "verdict_id").collect().to_dicts()
        assert [(row["verdict"], row["epoch"]) for row in rows] == [
            ("HOLD", "e0"),
            ("HOLD", "e1"),
            ("ROLL_BACK", "e1"),
            ("ROLL_BACK", "e0"),
        ]
        for row in rows:
            assert replay(lake, row["verdict_id"]).document.verdict == row["verdict"]

    def test_the_verdict_says_whose_harm_it_is(self, lake: Lake) -> None:
        (document,) = latest_documents(lake)
        first, second = document["reasons"][:2]
        assert (first["code"], second["code"]) == ("late_harm", "earlier_epoch_regraded")
        assert "the earlier epoch `e0` turned out harmful" in first["message"]
        assert document["regraded"][0]["verdict_id"] in first["message"]

    def test_it_stands_for_a_judge_that_begins_anew(self, lake: Lake, tmp_path: Path) -> None:
        again = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
        lake.append("signals", increments(a_row(epoch="e1", minute=59, **executions(2))))
        again.tick(minute(60))
        assert latest_documents(lake)[0]["verdict"] == "ROLL_BACK"

    def test_a_person_can_set_it_aside(self, lake: Lake, tmp_path: Path) -> None:
        (rolled_back,) = latest_documents(lake)
        move = dict(zip(("environment", "workflow", "tool"), CELL, strict=False))
        sign_off(
            lake,
            GateFile.load(tmp_path / "gates.yaml"),
            SignOffKind.OVERRIDE,
            **move,
            to_stage="approval_gated",
            actor="maria",
            reason="the epoch before was the broken one",
            now=minute(58),
            expires_at=minute(300),
        )
        judge = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
        lake.append("signals", increments(a_row(epoch="e1", minute=59, **executions(2))))
        judge.tick(minute(60))
        (held,) = latest_documents(lake)
        assert (held["verdict"], held["set_aside"]) == ("HOLD", rolled_back["verdict_id"])
        assert replay(lake, held["verdict_id"]).document.verdict == "HOLD"
