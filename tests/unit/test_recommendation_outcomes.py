"""What people said to recommendations, as the scorecard counts it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lakes_of_events import NOON, EventLake

from analytics.backtest.recommendation_outcomes import of_history
from analytics.judging.judge import Judge
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import SignOffKind, record
from producers.wire.events import PolicyChangedData

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GATES = (
    "version: 1\nfreshness: 30d\ngates: [{name: g, unit: action, ladder: [draft_write, approval_gated], "
    "signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
)
MOVE = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}
SAYS = {"actor": "maria", "reason": "because"}


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


class Place:
    """A lake in which an action was promoted at ten past twelve."""

    def __init__(self, folder: Path, *, failed: bool = False) -> None:
        self.history = EventLake.at(folder)
        (folder / "gates.yaml").write_text(GATES)
        self.judge = Judge(self.history.lake, folder / "gates.yaml", settle_s=0)
        for number in range(60):
            self.history.act(number / 10, f"u{number}", failed=failed)
        self.looked(10)

    def looked(self, minute: float) -> None:
        self.history.store()
        self.judge.tick(at(minute))

    def moved(self, minute: float, after: str, *, tool: str = "issue_refund", environment: str | None = None) -> None:
        change = PolicyChangedData(
            flag_key="agent-action-mode",
            changed_by="maria",
            reason="as recommended",
            after=after,
            environment=environment,
            workflow="refunds",
            tool=tool,
        )
        self.history.recorder.policy_changed(change, at=at(minute))
        self.looked(minute)

    def signed_off(self, kind: SignOffKind, minute: float) -> None:
        gates = self.judge.gates
        assert gates is not None
        sign_off(self.history.lake, gates, kind, **MOVE, **SAYS, now=at(minute), expires_at=at(minute + 60))

    def agreement(self, word: str) -> dict[str, Any]:
        found: dict[str, Any] = of_history(self.history.lake)["agreement"][word]
        share = found.pop("share")
        assert (share["count"], share["among"]) == (found["accepted"], found["accepted"] + found["dismissed"])
        return {life: count for life, count in found.items() if count}


def test_nobody_has_answered_yet(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.agreement("PROMOTE") == {"open": 1}
    assert place.agreement("ROLL_BACK") == {}


@pytest.mark.parametrize(
    ("minute", "after", "tool", "life"),
    [
        (20, "approved_external", "issue_refund", "accepted"),
        (20, "autonomous", "issue_refund", "superseded"),
        (20, "approved_external", "another", "open"),
        (60 * 24 * 8, "approved_external", "issue_refund", "open"),
    ],
)
def test_a_promotion_is_accepted_by_moving_the_action_as_it_says(
    tmp_path: Path, minute: float, after: str, tool: str, life: str
) -> None:
    place = Place(tmp_path)
    place.moved(minute, after, tool=tool)
    assert place.agreement("PROMOTE") == {life: 1}


def test_an_approval_accepts_and_a_dismissal_dismisses(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.signed_off(SignOffKind.DISMISSAL, 20)
    assert place.agreement("PROMOTE") == {"dismissed": 1}
    place.moved(30, "approved_external")
    assert place.agreement("PROMOTE") == {"dismissed": 1}, "the first word counts"


def test_an_approval_accepts(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.signed_off(SignOffKind.APPROVAL, 20)
    assert place.agreement("PROMOTE") == {"accepted": 1}


@pytest.mark.parametrize("after", ["search_only", "observe", "off"])
def test_a_rollback_is_accepted_by_going_back_at_least_as_far(tmp_path: Path, after: str) -> None:
    place = Place(tmp_path, failed=True)
    place.moved(20, after)
    assert place.agreement("ROLL_BACK") == {"accepted": 1}


def test_a_rollback_is_not_accepted_by_staying(tmp_path: Path) -> None:
    place = Place(tmp_path, failed=True)
    place.moved(20, "draft_write")
    assert place.agreement("ROLL_BACK") == {"open": 1}


def test_an_override_dismisses_a_rollback(tmp_path: Path) -> None:
    place = Place(tmp_path, failed=True)
    rollbacks = latest_verdicts(place.history.lake)
    expiry = {"now": at(20), "expires_at": at(80)}
    to_stage = MOVE["to_stage"]
    record(place.history.lake, SignOffKind.OVERRIDE, rollbacks, to_stage=to_stage, cohort=None, **SAYS, **expiry)
    assert place.agreement("ROLL_BACK") == {"dismissed": 1}


def test_what_the_judge_took_back_itself_is_nobodys_word(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number in range(60):
        place.history.act(11 + number / 10, f"v{number}", failed=True)
    place.looked(20)
    place.moved(30, "approved_external")
    assert place.agreement("PROMOTE") == {"superseded": 1}
    assert place.agreement("ROLL_BACK") == {"superseded": 1}, "it is about a stage that the action has left"


def test_a_move_in_another_environment_answers_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.moved(12, "approved_external", environment="staging")
    assert place.agreement("PROMOTE") == {"open": 1}
    place.moved(13, "approved_external", environment="production")
    assert place.agreement("PROMOTE") == {"accepted": 1}


@pytest.mark.parametrize(("failed", "word"), [(False, "PROMOTE"), (True, "ROLL_BACK")])
def test_what_is_called_for_again_is_open_again(tmp_path: Path, failed: bool, word: str) -> None:
    place = Place(tmp_path, failed=failed)
    for number in range(20):
        place.history.act(20 + number / 10, f"b{number}", model="another")
    place.looked(30)
    assert place.agreement(word) == {"superseded": 1}
    place.moved(35, "observe")
    assert place.agreement(word) == {"superseded": 1}, "nothing was called for at that time"
    for number in range(60):
        place.history.act(40 + number / 10, f"c{number}", failed=failed)
    place.looked(50)
    assert place.agreement(word) == {"open": 1}
    kind = SignOffKind.OVERRIDE if failed else SignOffKind.DISMISSAL
    said = {"to_stage": MOVE["to_stage"], "cohort": None, **SAYS, "now": at(60), "expires_at": at(80)}
    record(place.history.lake, kind, latest_verdicts(place.history.lake), **said)
    assert place.agreement(word) == {"dismissed": 1}
