from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from told_lakes import NOON, Told

from analytics.cells import EPOCH, Folded
from analytics.evidence.clusters import UserWindows
from analytics.verdicts.judge import Judge
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.replay import replay
from analytics.verdicts.users import Users, closed_through, fold_users

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
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}, {signal: undo, role: guardrail, limit: 0.1}]
"""


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told.at(tmp_path)


def folded(told: Told, minute: float) -> Users:
    told.store()
    epochs = Folded.of(told.lake.scan("signals").collect()).totals
    return fold_users(told.lake, as_of=NOON + timedelta(minutes=minute), window_s=600.0, epochs=epochs.select(EPOCH))


def table(users: Users, signal: str = "execution_error", maturity_s: float = 0.0) -> list[tuple[int, int, int]]:
    (found,) = users.observed(signal, maturity_s=maturity_s).values()
    return list(zip(found.trials, found.failures, found.count, strict=True))


def judged(told: Told, minute: float, path: Path, text: str = GATES) -> dict[str, Any]:
    path.write_text(text)
    told.act(minute - 0.5, "the next")
    told.store()
    Judge(told.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_verdicts(told.lake)
    return found


def test_what_one_user_does_in_a_window_is_one_observation(told: Told) -> None:
    for minute, user, failed in [(0, "ann", True), (9, "ann", False), (10, "ann", False), (3, "bob", True)]:
        told.act(minute, user, failed=failed)
    users = folded(told, 20)
    assert table(users) == [(1, 0, 1), (1, 1, 1), (2, 1, 1)]
    (people,) = users.people.values()
    assert people == 2


def test_an_open_window_is_no_observation_yet(told: Told) -> None:
    told.act(0, "ann")
    told.act(12, "ann", failed=True)
    assert table(folded(told, 10)) == [(1, 0, 1)]


def test_an_outcome_belongs_to_the_window_of_its_decision(told: Told) -> None:
    receipt = told.act(1, "ann")
    told.store()
    told.undo(receipt, 55)
    assert table(folded(told, 60), "undo") == [(1, 1, 1)]


def test_only_mature_windows_count_for_a_promotion(told: Told) -> None:
    told.act(0, "ann")
    told.act(15, "bob")
    users = folded(told, 30)
    assert table(users, "undo") == [(1, 0, 2)]
    assert table(users, "undo", maturity_s=1_200.0) == [(1, 0, 1)]


def test_a_decision_without_a_user_stands_for_itself(told: Told) -> None:
    for _ in range(3):
        told.act(0, None)
    told.act(0, "ann")
    users = folded(told, 10)
    assert table(users) == [(1, 0, 4)]
    assert list(users.unnamed.values()) == [3]


def test_windows_begin_on_the_whole_hour_whatever_the_time() -> None:
    assert closed_through(NOON + timedelta(minutes=59, seconds=59), 3_600.0) == NOON
    assert closed_through(NOON + timedelta(minutes=60), 3_600.0) == NOON + timedelta(hours=1)


def test_a_few_clustered_users_do_not_roll_back_what_many_actions_would(told: Told, tmp_path: Path) -> None:
    for number in range(120):
        told.act(number / 30, f"unlucky-{number % 2}" if number < 40 else f"user-{number}", failed=number < 40)
    by_user = judged(told, 11, tmp_path / "gates.yaml")
    assert by_user["verdict"] == "HOLD"
    (part, _) = by_user["signals"]
    assert (part["by"], part["windows"], part["assumes"]) == ("user", 82, "assumes independent users")
    assert (part["failures"], part["trials"]) == (40, 121)
    alone = UserWindows.of(1, cell=0, actions=[20, 1], failures=[20, 0], count=[2, 80])
    assert part["log_e_harm"] == float(alone.log_e_value(np.array([0.1]), direction="above")[0])
    assert "counted by user" in by_user["unit"]
    assert by_user["exposure"]["users"] == 82
    by_action = judged(told, 11, tmp_path / "gates.yaml", GATES.replace("limit: 0.1}", "limit: 0.1, unit: action}"))
    assert by_action["verdict"] == "ROLL_BACK"


def test_users_are_promoted_and_the_verdict_is_reached_again(told: Told, tmp_path: Path) -> None:
    for number in range(60):
        told.act(number / 10, f"user-{number}")
    found = judged(told, 11, tmp_path / "gates.yaml")
    assert found["verdict"] == "PROMOTE"
    told.act(7, "late")
    told.store()
    again = replay(told.lake, found["verdict_id"])
    assert again.document["exposure"]["users"] == 60, "what came later has no part in it"


def test_too_few_users_hold_up_a_promotion(told: Told, tmp_path: Path) -> None:
    for number in range(400):
        told.act(number / 50, f"user-{number % 19}")
    found = judged(told, 11, tmp_path / "gates.yaml")
    assert "below_minimum_exposure" in [reason["code"] for reason in found["reasons"]]
    assert "19 different users in closed windows, at least 20" in found["summary"]


def test_where_no_action_names_a_user_actions_are_counted_and_it_says_so(told: Told, tmp_path: Path) -> None:
    for number in range(60):
        told.act(number / 10, None)
    found = judged_nameless(told, 11, tmp_path / "gates.yaml", GATES.replace("{users: 20}", "{}"))
    assert found["verdict"] == "PROMOTE"
    assert found["unit"] == "counted by action: the lake names no user of these actions; assumes independent actions"
    assert {part["by"] for part in found["signals"]} == {"action"}


def judged_nameless(told: Told, minute: float, path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    told.store()
    Judge(told.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_verdicts(told.lake)
    return found


def test_a_restart_alone_reaches_no_new_verdict(told: Told, tmp_path: Path) -> None:
    for number in range(60):
        told.act(number / 10, f"user-{number}")
    first = judged(told, 11, tmp_path / "gates.yaml")
    assert judged_again(told, tmp_path) == first["verdict_id"]


def judged_again(told: Told, tmp_path: Path) -> str:
    before = told.lake.version("verdicts")
    Judge(told.lake, tmp_path / "gates.yaml", settle_s=0).tick(NOON + timedelta(minutes=12))
    assert told.lake.version("verdicts") == before
    (found,) = latest_verdicts(told.lake)
    return str(found["verdict_id"])


def test_a_window_counts_once_it_has_closed(told: Told, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    for number in range(60):
        told.act(number / 10, f"user-{number}")
    told.store()
    judge = Judge(told.lake, tmp_path / "gates.yaml", settle_s=0)
    judge.tick(NOON + timedelta(minutes=7))
    assert latest_verdicts(told.lake)[0]["verdict"] == "HOLD"
    told.act(10.5, "the next")
    told.store()
    (event,) = judge.tick(NOON + timedelta(minutes=11))
    assert event.data.verdict.value == "PROMOTE"
