"""Rollbacks for overdue outcomes alone: they do not outlast the outcomes that come after all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from verdict_cases import CELL, NOON, a_row, increments, latest_documents

from analytics.audit.replay import replay
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts import ledger
from analytics.verdicts.gate_check import gate_check, sign_off
from analytics.verdicts.signoffs import SignOffKind

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TEXT = """\
version: 1
freshness: 30d
outcome_deadline: 2m
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals:
      - SIGNAL
      - {signal: execution_error, role: guardrail, limit: 0.1}
"""
MISSING = "{signal: missing_outcome, role: guardrail, limit: 0.05}"
BAD = "{signal: bad_outcome, role: guardrail, limit: 0.05, maturity: 1h}"
TRIP = "{signal: missing_outcome, role: trip, max_count: 20}"
MOVE = {"environment": CELL.environment, "workflow": CELL.workflow, "tool": CELL.tool, "to_stage": "approval_gated"}
CUT_OFF = 50
FINE = ("decisions", "allowed", "expected", "executed")


class Place:
    def __init__(self, folder: Path, signal: str = MISSING) -> None:
        self.path, self.minute = folder / "gates.yaml", 0
        self.lake = Lake.open(str(folder / "lake"))
        self.text = TEXT.replace("SIGNAL", signal)
        self.edit("", "")
        self.restart()

    def edit(self, old: str, new: str) -> None:
        self.path.write_text(self.text.replace(old, new))

    def restart(self) -> None:
        self.judge = Judge(self.lake, self.path, settle_s=0)

    def judged(self, minute: int, *rows: dict[str, Any]) -> dict[str, Any]:
        """The verdict once rows have come, at a minute that another cell brings."""
        self.minute = minute
        elsewhere = CELL._replace(tool="elsewhere")
        self.lake.append("signals", increments(a_row(elsewhere, minute=minute), *rows))
        self.judge.tick(NOON + timedelta(minutes=minute + 1))
        (found,) = [document for document in latest_documents(self.lake) if document["tool"] == CELL.tool]
        return found

    def cut_off(self, of: int = CUT_OFF) -> dict[str, Any]:
        """Actions of minute 1 of which none is reported, at minute 10."""
        found = self.judged(10, a_row(minute=1, decisions=of, allowed=of, expected=of))
        assert (found["verdict"], found["latched_by"]) == ("ROLL_BACK", None)
        return found

    def reported(self, minute: int, executed: int = CUT_OFF, **counts: int) -> dict[str, Any]:
        at = NOON + timedelta(minutes=minute)
        return self.judged(minute, a_row(minute=1, last_event_at=at, executed=executed, **counts))

    def replays(self) -> None:
        for verdict_id in self.lake.scan(VERDICTS).collect()["verdict_id"]:
            replay(self.lake, verdict_id)

    def standing(self) -> list[str | None]:
        """What the ledger says of rollbacks: what refuted each."""
        return [kinds["ROLL_BACK"].refuted_by for kinds in ledger.latches(self.lake).values() if "ROLL_BACK" in kinds]


def codes(document: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in document["reasons"]]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("signal", [MISSING, BAD, TRIP])
def test_outcomes_that_come_after_all_refute_it(tmp_path: Path, signal: str, *, restarted: bool) -> None:
    place = Place(tmp_path, signal)
    crossed = place.cut_off()
    if restarted:
        place.restart()
    refuting = place.reported(12)
    assert (refuting["verdict"], refuting["refuted"]) == (
        "PROMOTE" if signal == TRIP else "HOLD",
        crossed["verdict_id"],
    )
    assert "late_outcomes" in codes(refuting)
    (message,) = [reason["message"] for reason in refuting["reasons"] if reason["code"] == "late_outcomes"]
    assert "50 of 50" in message
    assert "all but 0 have been reported since" in message
    if restarted:
        place.restart()
    (by,) = place.standing()
    assert by is not None
    assert place.judged(20, a_row(minute=19, decisions=1, denied=1))["refuted"] == crossed["verdict_id"]
    place.replays()


def test_it_stands_while_more_are_left_than_the_limit_allows(tmp_path: Path) -> None:
    place = Place(tmp_path)
    crossed = place.cut_off()
    stands = place.reported(12, CUT_OFF - 3)
    assert (stands["verdict"], stands["latched_by"]) == ("ROLL_BACK", crossed["verdict_id"])
    # More actions that are fine make none of those come.
    fine = dict.fromkeys(FINE, 5_000)
    diluted = place.judged(20, a_row(minute=13, **fine))
    assert (diluted["verdict"], codes(diluted)) == ("ROLL_BACK", ["latched"])
    assert place.reported(21, 1)["verdict"] == "PROMOTE"
    place.replays()


def test_outcomes_that_failed_are_harm_of_their_own_and_that_stands(tmp_path: Path) -> None:
    place = Place(tmp_path)
    crossed = place.cut_off()
    failed = place.reported(12, failed=40)
    assert (failed["verdict"], failed["latched_by"]) == ("ROLL_BACK", crossed["verdict_id"])
    assert "harm" in codes(failed)
    fine = dict.fromkeys(FINE, 5_000)
    for _ in range(2):
        diluted = place.judged(place.minute + 8, a_row(minute=13, **fine))
        assert (diluted["verdict"], codes(diluted)) == ("ROLL_BACK", ["latched"])
        place.restart()
    place.replays()


def test_what_is_overdue_later_is_another_rollback(tmp_path: Path) -> None:
    place = Place(tmp_path)
    first = place.cut_off()
    place.reported(12)
    again = place.judged(30, a_row(minute=20, decisions=400, allowed=400, expected=400))
    assert (again["verdict"], again["latched_by"], again["refuted"]) == ("ROLL_BACK", None, None)
    place.restart()
    stands = place.judged(50, a_row(minute=40, **dict.fromkeys(FINE, 50_000)))
    assert stands["latched_by"] == again["verdict_id"] != first["verdict_id"]
    assert place.standing() == [None]
    place.replays()


@pytest.mark.parametrize("edit", [("deadline: 2m", "deadline: 2h"), ("limit: 0.05", "limit: 0.9"), (MISSING, BAD)])
def test_no_edit_refutes_it(tmp_path: Path, edit: tuple[str, str]) -> None:
    place = Place(tmp_path)
    crossed = place.cut_off()
    place.edit(*edit)
    for minute in (12, 20):
        stands = place.judged(minute, a_row(minute=minute, decisions=1, denied=1))
        assert (stands["verdict"], stands["refuted"]) == ("ROLL_BACK", None)
        place.restart()
    assert place.reported(21)["refuted"] == crossed["verdict_id"]
    place.replays()


def test_what_rested_on_more_than_overdue_outcomes_stands(tmp_path: Path) -> None:
    place = Place(tmp_path)
    failures = dict.fromkeys(("decisions", "allowed", "expected", "executed", "failed"), 30)
    place.judged(10, a_row(minute=1, **failures), a_row(minute=1, decisions=50, allowed=50, expected=50))
    fine = dict.fromkeys(FINE, 5_000)
    found = place.judged(12, a_row(minute=1, executed=50), a_row(minute=11, **fine))
    assert (found["verdict"], codes(found)) == ("ROLL_BACK", ["latched"])
    place.replays()


def test_an_epoch_that_does_not_speak_for_its_cell_is_refuted_too(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.cut_off()
    fine = dict.fromkeys(FINE, 400)
    place.judged(30, a_row(epoch="e2", minute=20, **fine), a_row(epoch="e2", minute=25, **fine))
    found = place.reported(31)
    assert (found["epoch"], found["verdict"], found["regraded"]) == ("e2", "PROMOTE", [])
    (by,) = place.standing()
    assert by is not None
    # What comes to be overdue later does not bring it back.
    place.judged(60, a_row(minute=26, decisions=4, allowed=4, expected=4))
    place.restart()
    place.judged(61, a_row(minute=60, decisions=40, denied=40))
    assert place.standing() == [by]
    place.replays()


def test_an_override_goes_on_until_it_expires(tmp_path: Path) -> None:
    place = Place(tmp_path)
    crossed = place.cut_off()
    fine = dict.fromkeys(FINE, 5_000)
    place.judged(11, a_row(minute=5, **fine))
    moment = NOON + timedelta(minutes=12)
    gates = GateFile.load(place.path)
    sign_off(
        place.lake,
        gates,
        SignOffKind.OVERRIDE,
        **MOVE,
        actor="maria",
        reason="the executor was cut off",
        now=moment,
        expires_at=moment + timedelta(hours=1),
    )
    place.judged(13, a_row(minute=12, decisions=1, denied=1))
    both = place.reported(14)
    assert (both["set_aside"], both["refuted"]) == (crossed["verdict_id"], crossed["verdict_id"])
    answer = gate_check(place.lake, gates, **MOVE, now=NOON + timedelta(minutes=15), freshness_s=1e9)
    assert answer.answer == "PROMOTE"
    after = place.judged(90, a_row(minute=80, **fine))
    assert (after["verdict"], after["set_aside"], after["refuted"]) == ("PROMOTE", None, crossed["verdict_id"])
    place.replays()
