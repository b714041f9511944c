from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.audit.replay import replay
from analytics.evidence.clustered_rate import UserWindows
from analytics.judging.event_source import LakeEvents
from analytics.judging.judge import Judge
from analytics.judging.user_window_fold import UserWindowFold
from analytics.judging.user_windows import ClosedWindows, WindowCount, closed_through
from analytics.signals.state import CellState

if TYPE_CHECKING:
    from pathlib import Path

GATES = """\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    minimum_exposure: {users: 20}
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}, {signal: timeout, role: guardrail, limit: 0.1}]
"""
LATE_UNDOS = GATES.replace("signal: timeout", "maturity: 10m, signal: undo")


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def folded(history: EventLake, minute: float) -> ClosedWindows:
    history.store()
    state = CellState.from_increments(history.lake.scan("signals").collect())
    epochs, as_of = state.names(np.arange(state.epochs)), NOON + timedelta(minutes=minute)
    return UserWindowFold(LakeEvents(history.lake)).fold(as_of=as_of, window_s=600.0, kept_s=86_400.0, epochs=epochs)


def table(users: ClosedWindows, signal: str = "execution_error", maturity_s: float = 0.0) -> list[tuple[int, int, int]]:
    return users.tabled(signal, WindowCount(maturity_s)).select("m", "y", "count").rows()


def judged(history: EventLake, minute: float, path: Path, text: str = GATES) -> dict[str, Any]:
    path.write_text(text)
    history.act(minute - 0.5, "the next")
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_documents(history.lake)
    return found


def test_what_one_user_does_in_a_window_is_one_observation(history: EventLake) -> None:
    for minute, user, failed in [(0, "ann", True), (9, "ann", False), (10, "ann", False), (3, "bob", True)]:
        history.act(minute, user, failed=failed)
    users = folded(history, 20)
    assert table(users) == [(1, 0, 1), (1, 1, 1), (2, 1, 1)]
    (people,) = users.people.values()
    assert people == 2


def test_an_open_window_is_no_observation_yet(history: EventLake) -> None:
    history.act(0, "ann")
    history.act(12, "ann", failed=True)
    assert table(folded(history, 10)) == [(1, 0, 1)]


def test_an_outcome_belongs_to_the_window_of_its_decision(history: EventLake) -> None:
    receipt = history.act(1, "ann")
    history.store()
    history.undo(receipt, 55)
    assert table(folded(history, 60), "undo") == [(1, 1, 1)]


def test_only_mature_windows_count_for_a_promotion(history: EventLake) -> None:
    history.act(0, "ann")
    history.act(15, "bob")
    users = folded(history, 30)
    assert table(users, "undo") == [(1, 0, 2)]
    assert table(users, "undo", maturity_s=1_200.0) == [(1, 0, 1)]


@pytest.mark.slow
def test_a_decision_without_a_user_stands_for_itself(history: EventLake) -> None:
    for _ in range(3):
        history.act(0, None)
    history.act(0, "ann")
    users = folded(history, 10)
    assert table(users) == [(1, 0, 4)]
    assert list(users.unnamed.values()) == [3]


def test_windows_begin_on_the_whole_hour_whatever_the_time() -> None:
    assert closed_through(NOON + timedelta(minutes=59, seconds=59), 3_600.0) == NOON
    assert closed_through(NOON + timedelta(minutes=60), 3_600.0) == NOON + timedelta(hours=1)


def test_an_outage_rolls_back_in_an_open_window_and_is_reached_again(history: EventLake, tmp_path: Path) -> None:
    history.act(1, "early")
    for number in range(6):
        history.act(11 + number / 10, f"user-{number}", failed=True)
        history.act(11.5 + number / 10, f"user-{number}", failed=True)
    found = judged(history, 13, tmp_path / "gates.yaml")
    (errors, _) = found["signals"]
    assert (found["verdict"], errors["windows"], errors["failures"]) == ("ROLL_BACK", 1, 12)
    assert (errors["first_actions"]["failures"], errors["first_actions"]["trials"]) == (6, 8)
    assert errors["first_actions"]["log_e_harm"] >= errors["first_actions"]["harm_threshold"] > errors["harm_threshold"]
    assert "6 of 8 users' first actions failed" in found["summary"]
    history.act(12, "later", failed=True)
    history.store()
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["signals"] == found["signals"]


def test_only_a_user_s_first_due_action_of_a_window_is_its_first(history: EventLake) -> None:
    history.act(3, "ann", failed=True)
    history.act(2, "ann")
    history.act(11, "ann", failed=True)
    history.act(25, "bob", failed=True)
    users = folded(history, 20)
    assert users.first_actions().select("first_due", "first_failed").rows() == [(2, 1)]


def test_a_heavy_user_that_fails_holds_a_promotion_up(history: EventLake, tmp_path: Path) -> None:
    for number in range(70):
        history.act(number / 10, f"user-{number}")
    for number in range(60):
        history.act(number / 10, "bot", failed=number % 2 == 0)
    found = judged(history, 13, tmp_path / "gates.yaml")
    (errors, _) = found["signals"]
    assert (found["verdict"], found["reasons"][0]["code"]) == ("HOLD", "rates_disagree")
    assert (errors["pooled"]["failures"], errors["pooled"]["trials"]) == (30, 130)
    assert errors["pooled"]["heaviest"] == pytest.approx(60 / 130)
    assert errors["log_e_safe"] >= errors["safe_threshold"] > errors["pooled"]["log_e_safe"]
    assert (
        "23.1 % of all actions failed or unreported (30 of 130; the heaviest user-window made 46.2 %"
        in found["summary"]
    )


@pytest.mark.slow
def test_a_few_clustered_users_do_not_roll_back_what_many_actions_would(history: EventLake, tmp_path: Path) -> None:
    for number in range(120):
        history.act(number / 30, f"unlucky-{number % 2}" if number < 40 else f"user-{number}", failed=number < 40)
    by_user = judged(history, 11, tmp_path / "gates.yaml")
    assert by_user["verdict"] == "HOLD"
    (part, _) = by_user["signals"]
    assert (part["by"], part["windows"], part["assumes"]) == ("user", 82, "assumes independent users")
    assert (part["failures"], part["trials"]) == (40, 121)
    alone = UserWindows.of(1, cell=0, actions=[20, 1], failures=[20, 0], count=[2, 80])
    assert part["log_e_harm"] == float(alone.log_e_value(np.array([0.1]), direction="above")[0])
    assert "counted by user" in by_user["unit"]
    assert by_user["exposure"]["users"] == 82
    by_action = judged(history, 11, tmp_path / "gates.yaml", GATES.replace("limit: 0.1", "unit: action, limit: 0.1"))
    assert by_action["verdict"] == "ROLL_BACK"


def test_users_are_promoted_and_the_verdict_is_reached_again(history: EventLake, tmp_path: Path) -> None:
    for number in range(60):
        history.act(number / 10, f"user-{number}")
    found = judged(history, 11, tmp_path / "gates.yaml")
    assert found["verdict"] == "PROMOTE"
    history.act(7, "late")
    history.store()
    again = replay(history.lake, found["verdict_id"])
    assert again.document.to_dict()["exposure"]["users"] == 60, "what came later has no part in it"


@pytest.mark.slow
def test_too_few_users_hold_up_a_promotion(history: EventLake, tmp_path: Path) -> None:
    for number in range(400):
        history.act(number / 50, f"user-{number % 19}")
    found = judged(history, 11, tmp_path / "gates.yaml")
    assert "below_minimum_exposure" in [reason["code"] for reason in found["reasons"]]
    assert "19 different users in closed windows, at least 20" in found["summary"]


def test_where_no_action_names_a_user_actions_are_counted_and_it_says_so(history: EventLake, tmp_path: Path) -> None:
    for number in range(60):
        history.act(number / 10, None)
    found = judged_nameless(history, 11, tmp_path / "gates.yaml", GATES.replace("{users: 20}", "{}"))
    assert found["verdict"] == "PROMOTE"
    assert found["unit"] == "counted by action: the lake names no user of these actions; assumes independent actions"
    assert {part["by"] for part in found["signals"]} == {"action"}


def judged_nameless(history: EventLake, minute: float, path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_documents(history.lake)
    return found


@pytest.mark.slow
def test_a_restart_alone_reaches_no_new_verdict(history: EventLake, tmp_path: Path) -> None:
    for number in range(60):
        history.act(number / 10, f"user-{number}")
    first = judged(history, 11, tmp_path / "gates.yaml")
    assert judged_again(history, tmp_path) == first["verdict_id"]


def judged_again(history: EventLake, tmp_path: Path) -> str:
    before = history.lake.version("verdicts")
    Judge(history.lake, tmp_path / "gates.yaml", settle_s=0).tick(NOON + timedelta(minutes=12))
    assert history.lake.version("verdicts") == before
    (found,) = latest_documents(history.lake)
    return str(found["verdict_id"])


@pytest.mark.slow
def test_a_window_counts_once_it_has_closed(history: EventLake, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    for number in range(60):
        history.act(number / 10, f"user-{number}")
    history.store()
    judge = Judge(history.lake, tmp_path / "gates.yaml", settle_s=0)
    judge.tick(NOON + timedelta(minutes=7))
    assert latest_documents(history.lake)[0]["verdict"] == "HOLD"
    history.act(10.5, "the next")
    history.store()
    (event,) = judge.tick(NOON + timedelta(minutes=11))
    assert event.data.verdict.value == "PROMOTE"


ABOVE = GATES.replace("[draft_write, approval_gated]", "[search_only, draft_write]").replace("{users: 20}", "{}")


def watched(history: EventLake, path: Path, minute: float, text: str) -> dict[str, Any]:
    path.write_text(text)
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_documents(history.lake)
    part: dict[str, Any] = found["signals"][0]["regression"]
    return {**part, "verdict": found["verdict"], "reasons": found["reasons"], "verdict_id": found["verdict_id"]}


@pytest.mark.slow
def test_the_detector_counts_users_where_the_gate_does(history: EventLake, tmp_path: Path) -> None:
    # Many users are fine for an hour; then a single one fails a hundred times.
    for number in range(180):
        history.act(number / 3, f"user-{number}")
    for number in range(100):
        history.act(60 + number / 50, "unlucky", failed=True)
    history.act(70.5, "the next")
    by_user = watched(history, tmp_path / "gates.yaml", 71, ABOVE)
    assert (by_user["by"], by_user["windows"], by_user["assumes"]) == ("user", 181, "assumes independent users")
    assert (by_user["failures"], by_user["trials"]) == (100, 280)
    assert by_user["value"] == pytest.approx(1 / 181)
    assert by_user["since"] is None
    assert by_user["verdict"] == "HOLD", "at the top of the ladder"
    text = ABOVE.replace("limit: 0.1}", "limit: 0.1, unit: action}")
    by_action = watched(history, tmp_path / "gates.yaml", 71, text)
    assert (by_action["by"], by_action["assumes"]) == ("action", "assumes independent actions")
    assert by_action["since"] is not None
    assert by_action["verdict"] == "ROLL_BACK"


@pytest.mark.slow
def test_users_who_go_bad_after_a_promotion_raise_the_alarm(history: EventLake, tmp_path: Path) -> None:
    for number in range(900):
        history.act(number / 15, f"user-{number % 450}")
    for number in range(40):
        history.act(60 + number / 10, f"user-{number}", failed=number % 2 == 0)
    history.act(70.5, "the next")
    found = watched(history, tmp_path / "gates.yaml", 71, ABOVE)
    assert found["since"] == "2026-03-14T13:00:00Z", "the beginning of the window that raised it"
    (reason,) = found["reasons"]
    assert reason["code"] == "regression"
    assert "closed user-windows; 20 of 940 executions) within 28 h, counted by user" in reason["message"]
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["verdict"] == "ROLL_BACK"


@pytest.mark.slow
def test_an_outage_after_a_promotion_raises_the_alarm_before_its_window_closes(
    history: EventLake, tmp_path: Path
) -> None:
    for number in range(900):
        history.act(number / 15, f"user-{number % 450}")
    for number in range(12):
        history.act(60 + number / 10, f"user-{number}", failed=True)
    found = watched(history, tmp_path / "gates.yaml", 62, ABOVE)
    assert (found["part"], found["since"]) == ("first_actions", "2026-03-14T13:00:00Z")
    (reason,) = [reason for reason in found["reasons"] if reason["code"] == "regression"]
    assert "of users' first actions" in reason["message"]
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["verdict"] == "ROLL_BACK"


@pytest.mark.slow
def test_a_heavy_user_who_goes_bad_after_a_promotion_raises_the_alarm(history: EventLake, tmp_path: Path) -> None:
    for number in range(1_200):
        history.act(number / 30, "bot")
        if number % 10 == 0:
            history.act(number / 30, f"user-{number}")
    for number in range(240):
        history.act(40 + number / 30, "bot", failed=True)
    found = watched(history, tmp_path / "gates.yaml", 49, ABOVE)
    assert (found["part"], found["since"]) == ("heavy_users", "2026-03-14T12:40:00Z")
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["verdict"] == "ROLL_BACK"


@pytest.mark.slow
def test_where_nobody_is_named_the_detector_says_that_it_counts_actions(history: EventLake, tmp_path: Path) -> None:
    for number in range(60):
        history.act(number / 10, None)
    found = watched(history, tmp_path / "gates.yaml", 11, ABOVE)
    assert (found["by"], found["assumes"]) == ("action", "assumes independent actions")


def late_outcomes(history: EventLake, tmp_path: Path, text: str, users: int) -> list[dict[str, Any]]:
    """Forty late undos of an epoch that is over, of so many users; the verdicts on it."""
    (tmp_path / "gates.yaml").write_text(text)
    receipts = [history.act(number / 30, f"user-{number % users}") for number in range(40)]
    receipts += [history.act(2 + number / 60, f"other-{number}") for number in range(100)]
    history.act(11, "the next")
    history.store()
    judge = Judge(history.lake, tmp_path / "gates.yaml", settle_s=0)
    judge.tick(NOON + timedelta(minutes=12))
    for number in range(60):
        history.act(20 + number / 30, f"user-{number}", model="m-2")
    history.act(31, "the next", model="m-2")
    history.store()
    judge.tick(NOON + timedelta(minutes=32))
    for receipt in receipts[:40]:
        history.undo(receipt, 33)
    history.store()
    judge.tick(NOON + timedelta(minutes=34))
    rows = history.lake.scan("verdicts").collect()["verdict_id"].to_list()
    return [replay(history.lake, each).document.to_dict() for each in rows if each.startswith("r")]


@pytest.mark.slow
def test_an_epoch_that_is_over_is_graded_anew_by_users(history: EventLake, tmp_path: Path) -> None:
    (regrade,) = late_outcomes(history, tmp_path, LATE_UNDOS, users=40)
    (errors, undo) = regrade["signals"]
    assert (errors["by"], undo["by"], undo["windows"], undo["state"]) == ("user", "user", 141, "fail")
    assert "counted by user" in regrade["unit"]
    assert regrade["exposure"]["users"] == 141


@pytest.mark.slow
def test_a_few_users_do_not_turn_an_epoch_that_is_over_as_many_actions_would(
    history: EventLake, tmp_path: Path
) -> None:
    assert late_outcomes(history, tmp_path, LATE_UNDOS, users=2) == []


@pytest.mark.slow
def test_many_actions_of_a_few_users_turn_it_where_actions_are_counted(history: EventLake, tmp_path: Path) -> None:
    (regrade,) = late_outcomes(history, tmp_path, LATE_UNDOS.replace("limit: 0.1", "unit: action, limit: 0.1"), users=2)
    assert regrade["signals"][1]["by"] == "action"


@pytest.mark.slow
def test_the_last_window_of_an_epoch_counts_once_it_closes(history: EventLake, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    for number in range(60):
        history.act(number / 10, f"user-{number}")
    for number in range(30):
        history.act(10.1 + number / 60, f"user-{number}")
        for later in range(1, 10):
            history.act(10.1 + number / 60 + later / 100, f"user-{number}", failed=True)
    history.store()
    judge = Judge(history.lake, tmp_path / "gates.yaml", settle_s=0)
    judge.tick(NOON + timedelta(minutes=11.9))
    assert latest_documents(history.lake)[0]["verdict"] == "PROMOTE"
    for number in range(60):
        history.act(12 + number / 60, f"user-{number}", model="m-2")
    history.act(14, "the next", model="m-2")
    history.store()
    judge.tick(NOON + timedelta(minutes=15))
    assert not any(each.startswith("r") for each in history.lake.scan("verdicts").collect()["verdict_id"])
    history.act(21, "the next", model="m-2")
    history.store()
    judge.tick(NOON + timedelta(minutes=22))
    (regrade,) = (each for each in history.lake.scan("verdicts").collect()["verdict_id"] if each.startswith("r"))
    assert replay(history.lake, regrade).document.to_dict()["verdict"] == "ROLL_BACK"
