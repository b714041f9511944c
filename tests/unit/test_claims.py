"""Of whom a verdict speaks: of the traffic seen, of the users seen, or of users to come."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.evidence.clustered_rate import UserWindows, design_effect
from analytics.gates.gate_file import GateFile
from analytics.gates.lint import lint_gates
from analytics.judging.judge import Judge
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

GATES = """\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: g
    ladder: [draft_write, approval_gated, narrow_autonomy, progressive_expansion]
    signals: [{signal: execution_error, role: guardrail, limit: 0.2}]
"""


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def judged(history: EventLake, tmp_path: Path, minute: float, text: str = GATES) -> dict[str, Any]:
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_documents(history.lake)
    return found


def come_back(history: EventLake, users: int, windows: int, stage: Stage) -> float:
    """So many users act once in each of so many windows; the minute at which the last has closed."""
    for window in range(windows):
        for user in range(users):
            history.act(10 * window + user / 10, f"user-{user}", stage=stage)
    minute = 10.0 * windows + 0.5
    history.act(minute, "the next", stage=stage)
    return minute + 0.2


def test_each_promotion_has_its_claim_unless_the_gate_states_one() -> None:
    stages = ["draft_write", "approval_gated", "narrow_autonomy", "progressive_expansion"]
    by_default = ["users_seen", "users_seen", "users_to_come", None]
    (gate,) = GateFile.parse(GATES.encode()).gates
    assert [gate.claim_at(stage) for stage in stages] == by_default
    for claim in ("users_seen", "users_to_come"):
        stated = GATES.replace("    signals", f"    claim: {claim}\n    signals")
        (gate,) = GateFile.parse(stated.encode()).gates
        assert [gate.claim_at(stage) for stage in stages] == [claim, claim, claim, None]


@pytest.mark.slow
def test_twelve_users_who_come_back_speak_of_themselves_alone(history: EventLake, tmp_path: Path) -> None:
    minute = come_back(history, users=12, windows=4, stage=Stage.NARROW_AUTONOMY)
    found = judged(history, tmp_path, minute)
    assert (found["verdict"], found["claim"]) == ("HOLD", "users_to_come")
    (reason,) = found["reasons"]
    assert reason["code"] == "too_few_users"
    assert "12 different users came, and it takes at least 18 without a failure" in reason["message"]
    assert "claim: users_seen" in reason["message"]
    assert found["signals"][0]["users_to_come"]["users"] == 12
    assert found["signals"][0]["more_needed"] == 6
    seen = judged(history, tmp_path, minute, GATES.replace("    signals", "    claim: users_seen\n    signals"))
    assert (seen["verdict"], seen["claim"]) == ("PROMOTE", "users_seen")
    assert "nothing is said of others" in seen["claim_text"]


def test_many_users_speak_of_those_to_come(history: EventLake, tmp_path: Path) -> None:
    found = judged(history, tmp_path, come_back(history, users=30, windows=2, stage=Stage.NARROW_AUTONOMY))
    assert (found["verdict"], found["claim"]) == ("PROMOTE", "users_to_come")
    assert "for users to come, by the first windows of 30 different users" in found["summary"]
    assert "on average by a user to come" in found["claim_text"]


def test_more_authority_for_the_same_audience_speaks_of_the_users_seen(history: EventLake, tmp_path: Path) -> None:
    found = judged(history, tmp_path, come_back(history, users=12, windows=4, stage=Stage.DRAFT_WRITE))
    assert (found["verdict"], found["claim"]) == ("PROMOTE", "users_seen")


def test_a_rollback_speaks_of_the_traffic_seen(history: EventLake, tmp_path: Path) -> None:
    for user in range(40):
        history.act(user / 10, f"user-{user}", failed=True, stage=Stage.NARROW_AUTONOMY)
    history.act(10.5, "the next", stage=Stage.NARROW_AUTONOMY)
    found = judged(history, tmp_path, 10.7)
    assert (found["verdict"], found["claim"]) == ("ROLL_BACK", "traffic_seen")


def test_a_decision_that_comes_late_takes_the_place_of_its_users_first_window(
    history: EventLake, tmp_path: Path
) -> None:
    minute = come_back(history, users=30, windows=2, stage=Stage.NARROW_AUTONOMY)
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    history.store()
    judge = Judge(history.lake, path, settle_s=0)
    judge.tick(NOON + timedelta(minutes=minute))
    # Every user had come before, and failed then: known only now.
    for user in range(30):
        history.act(-9 + user / 10, f"user-{user}", failed=True, stage=Stage.NARROW_AUTONOMY)
    history.act(minute + 10, "the next", stage=Stage.NARROW_AUTONOMY)
    history.store()
    judge.tick(NOON + timedelta(minutes=minute + 10.2))
    (found,) = latest_documents(history.lake)
    first = found["signals"][0]["users_to_come"]
    assert first["users"] == 31
    assert first["value"] == pytest.approx(30 / 31)


def test_golden_numbers_of_user_windows() -> None:
    """Of the design (evidence-design.md, section 2 and 3), limit 2 %."""

    def windows(*table: tuple[int, int, int]) -> UserWindows:
        m, y, count = zip(*table, strict=True)
        return UserWindows.of(1, cell=[0] * len(table), actions=m, failures=y, count=count)

    seen = windows((5, 0, 30), (5, 1, 4), (10, 3, 2))
    assert float(seen.log_e_value(0.02, direction="above")[0]) == pytest.approx(0.640129980, abs=1e-9)
    assert float(seen.log_e_value(0.02, direction="below")[0]) == pytest.approx(-0.523756299, abs=1e-9)
    assert float(windows((1, 0, 189)).log_e_value(0.02, direction="below")[0]) == pytest.approx(3.006366366, abs=1e-9)
    assert float(windows((300, 90, 1)).log_e_value(0.02, direction="above")[0]) == pytest.approx(0.758295832, abs=1e-9)
    blocks = windows(*((20, y, 1) for y in (6, 7, 5, 6, 6)))
    assert float(blocks.log_e_value(0.02 / 0.5, direction="above")[0]) == pytest.approx(4.824717069, abs=1e-9)
    assert float(windows((20, 20, 3)).log_e_value(0.08, direction="above")[0]) == pytest.approx(4.650625308, abs=1e-9)
    assert float(windows((20, 1, 10)).log_e_value(0.04, direction="above")[0]) == pytest.approx(0.394503428, abs=1e-9)
    for x, n, squares, alike, effect, log_e in (
        (2, 1000, 7000, 0.1, 1.6, 7.329594316),
        (0, 600, 91200, 0.05, 8.55, 1.021678926),
        (3, 2000, 2000, 0.1, 1.0, 27.818690962),
    ):
        found = design_effect(np.array([n]), np.array([squares]), alike)
        assert float(found[0]) == pytest.approx(effect)
        pooled = windows((n, x, 1)).pooled_log_e_value(0.02, found, direction="below")
        assert float(pooled[0]) == pytest.approx(log_e, abs=1e-9)


def test_a_claim_about_users_is_none_where_actions_are_counted(history: EventLake, tmp_path: Path) -> None:
    minute = come_back(history, users=30, windows=2, stage=Stage.NARROW_AUTONOMY)
    text = GATES.replace("    signals", "    unit: action\n    claim: users_to_come\n    signals")
    found = judged(history, tmp_path, minute, text)
    assert found["verdict"] == "PROMOTE"
    assert "every one of them taken for another user's" in found["claim_text"]
    (issue,) = [issue for issue in lint_gates(GateFile.parse(text.encode())) if issue.code == "contradictory"]
    assert "execution_error is counted by action" in issue.message
