"""`unit: user` holds for latency, missing outcomes and comparisons as for failures: users are counted, not actions."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.audit.replay import replay
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import VERDICTS
from analytics.text import percent

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

GATES = """\
version: 1
user_window: 10m
freshness: 2h
outcome_deadline: 2m
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    baseline: {kind: concurrent, cohort: held-back}
    signals: [SIGNALS]
"""
LATENCY = "{signal: latency_p50, role: guardrail, limit_ms: 1000}"


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def judged(history: EventLake, tmp_path: Path, minute: float, signals: str) -> dict[str, Any]:
    """The verdict on everybody outside the baseline, reached again from the lake."""
    path = tmp_path / "gates.yaml"
    path.write_text(GATES.replace("SIGNALS", signals))
    history.act(minute - 0.1, "the next", latency_ms=1.0)
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = [document for document in latest_documents(history.lake) if document["cohort"] == "all"]
    again = replay(history.lake, found["verdict_id"])
    assert again.document.to_dict()["evidence_sha256"] == found["evidence_sha256"]
    return found


def test_one_slow_user_of_many_is_one_observation(history: EventLake, tmp_path: Path) -> None:
    for user in range(30):
        history.act(user / 10, f"user-{user}", latency_ms=100.0)
    for number in range(90):
        history.act(number / 20, "slow", latency_ms=5_000.0)
    by_user = judged(history, tmp_path, 10.5, LATENCY)
    by_action = judged(history, tmp_path, 10.5, LATENCY.replace("role", "unit: action, role"))
    (part,) = by_action["signals"]
    assert (part["by"], part["state"]) == ("action", "fail")
    (part,) = by_user["signals"]
    assert (part["by"], part["windows"], part["assumes"]) == ("user", 31, "assumes independent users")
    assert (part["lower"], part["upper"]) == (None, None)
    assert part["above_limit"]["value"] == pytest.approx(1 / 31)
    assert part["state"] != "fail"
    assert "3.23 % in the average of 31 closed user-windows, 50 % allowed" in by_user["reasons"][0]["message"]


def test_slow_users_roll_back(history: EventLake, tmp_path: Path) -> None:
    for user in range(40):
        history.act(user / 10, f"user-{user}", latency_ms=5_000.0)
    found = judged(history, tmp_path, 10.5, LATENCY)
    assert found["verdict"] == "ROLL_BACK"
    lower = found["signals"][0]["above_limit"]["lower"]
    assert lower > 0.5
    assert f", lower bound {percent(lower)} above it: roll back" in found["reasons"][0]["message"]


def test_a_latency_that_is_not_known_stands_against_a_promotion_and_for_no_rollback(
    history: EventLake, tmp_path: Path
) -> None:
    for user in range(60):
        history.act(user / 10, f"user-{user}", latency_ms=100.0 if user < 20 else None)
    found = judged(history, tmp_path, 10.5, LATENCY)
    (part,) = found["signals"]
    assert part["state"] == "undecided"
    assert part["log_e_harm"] < 0
    assert part["log_e_safe"] < 0


MISSING = "{signal: missing_outcome, role: guardrail, limit: 0.2}"


@pytest.mark.slow
def test_missing_outcomes_of_one_user_are_one_observation(history: EventLake, tmp_path: Path) -> None:
    for user in range(30):
        history.act(user / 10, f"user-{user}")
    for number in range(90):
        history.act(number / 20, "lost", reported=False)
    found = judged(history, tmp_path, 10.9, MISSING)
    (part,) = found["signals"]
    assert (part["by"], part["windows"], part["value"]) == ("user", 31, pytest.approx(1 / 31))
    assert part["state"] != "fail"
    by_action = judged(history, tmp_path, 12.5, MISSING.replace("role", "unit: action, role"))
    assert by_action["signals"][0]["state"] == "fail"


@pytest.mark.slow
def test_outcomes_are_missing_only_once_the_deadline_is_over(history: EventLake, tmp_path: Path) -> None:
    for user in range(40):
        history.act(8.1 + user / 100, f"user-{user}", reported=False)
    young = judged(history, tmp_path, 10.5, MISSING)
    assert (young["verdict"], young["signals"][0]["failures"], young["signals"][0]["value"]) == ("HOLD", 0, 0.0)
    old = judged(history, tmp_path, 20.5, MISSING)
    assert (old["verdict"], old["signals"][0]["windows"]) == ("ROLL_BACK", 41)


def two_arms(history: EventLake, *, new_failed: int, windows: int = 4, base_failed: int = 0) -> float:
    """Twelve users an arm and window; so many of them fail, each in all of five actions."""
    for window in range(windows):
        for cohort, failed in (("all", new_failed), ("held-back", base_failed)):
            for user in range(12):
                for action in range(5):
                    at = 10 * window + user / 10 + action / 1000
                    history.act(at, f"{cohort}-{window}-{user}", failed=user < failed, cohort=cohort)
    return 10.0 * windows + 2.5


@pytest.mark.parametrize(
    ("signal", "unit"),
    [
        ("{signal: execution_error, role: guardrail, ratio: 2.0}", "times"),
        ("{signal: execution_error, role: guardrail, delta: 0.1}", "points"),
    ],
)
@pytest.mark.slow
def test_comparisons_count_users(history: EventLake, tmp_path: Path, signal: str, unit: str) -> None:
    minute = two_arms(history, new_failed=9, base_failed=1)
    (part,) = judged(history, tmp_path, minute, signal)["signals"]
    assert (part["by"], part["unit"], part["state"]) == ("user", unit, "fail")
    assert part["windows"] == 48
    assert part["assumes"].startswith("assumes independent users; concurrent hold-back")
    assert part["value"] == pytest.approx(9.0 if unit == "times" else 8 / 12)
    assert part["lower"] > part["limit"]
    kept = two_arms(history, new_failed=0, base_failed=4, windows=12)
    (part,) = judged(history, tmp_path, kept, signal.replace("execution_error", "timeout"))["signals"]
    assert part["state"] in {"undecided", "pass"}


@pytest.mark.slow
def test_two_users_who_fail_throughout_are_no_ratio_by_user(history: EventLake, tmp_path: Path) -> None:
    minute = two_arms(history, new_failed=2, base_failed=1, windows=1)
    signal = "{signal: execution_error, role: guardrail, ratio: 1.0}"
    by_user, by_action = (
        judged(history, tmp_path, minute, signal.replace("role", f"unit: {unit}, role"))["signals"][0]["log_e_harm"]
        for unit in ("user", "action")
    )
    assert by_user < by_action


@pytest.mark.slow
@pytest.mark.parametrize("is_bad", [True, False])
def test_one_bot_cannot_hide_behind_the_average_user_where_arms_are_compared(
    history: EventLake, tmp_path: Path, *, is_bad: bool
) -> None:
    """A bot makes half of the new arm's traffic, and fails half of it; other users fail less than the baseline's."""
    for user in range(1_200):
        at = (user // 60) * 10 + user % 60 / 10
        for cohort, good in (("all", 40), ("held-back", 10)):
            history.act(at, f"{cohort} {user}", cohort=cohort, failed=user % good == 0)
        history.act(at, "bot", failed=is_bad and user % 2 == 0)
    bounds = "{signal: execution_error, role: promote, ratio: 1.5, delta: 0.05, maturity: 2m}"
    found = judged(history, tmp_path, 200.5, bounds)
    assert found["verdict"] == ("HOLD" if is_bad else "PROMOTE")
    assert len(found["signals"]) == 2
    for part in found["signals"]:
        assert (part["by"], part["unit"]) in {("user", "times"), ("user", "points")}
        assert part["log_e_safe"] >= part["safe_threshold"], "the average user is within it"
        assert (part["pooled"]["log_e_safe"] >= part["safe_threshold"]) is not is_bad
        assert part["pooled"]["heaviest"] == pytest.approx(60 / 2_280)
    if is_bad:
        assert {reason["code"] for reason in found["reasons"]} == {"rates_disagree"}
        assert "the traffic is not shown to be, with 26.3 % of all actions failed" in found["reasons"][0]["message"]


WINDOWS = """\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: quick
    match: {cohort: quick}
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.4}]
  - name: slow
    match: {cohort: slow}
    user_window: 1h
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.4}]
"""


@pytest.mark.slow
def test_a_gate_may_have_windows_of_its_own_length(history: EventLake, tmp_path: Path) -> None:
    """Ten users come back every ten minutes: sixty observations for the one gate, and ten for the other."""
    path = tmp_path / "gates.yaml"
    path.write_text(WINDOWS)
    judge = Judge(history.lake, path, settle_s=0)
    for until in (30, 61):
        for minute in range(until - 30 if until == 30 else 30, min(until, 60)):
            for cohort in ("quick", "slow"):
                history.act(minute, f"user {minute % 10}", cohort=cohort)
        history.act(until - 0.1, "the next", cohort="quick")
        history.act(until - 0.1, "the next", cohort="slow")
        history.store()
        judge.tick(NOON + timedelta(minutes=until))
    found = {document["cohort"]: document for document in latest_documents(history.lake)}
    windows = {cohort: document["signals"][0]["windows"] for cohort, document in found.items()}
    assert windows == {"quick": 61, "slow": 11}, "and who came last in the half hour"
    assert {document["exposure"]["users_as_of"] for document in found.values()} == {"2026-03-14T13:00:00Z"}
    rows = history.lake.scan(VERDICTS).select("verdict_id").collect()["verdict_id"]
    for verdict_id in rows:
        replay(history.lake, verdict_id)
    fresh = Judge(history.lake, path, settle_s=0)
    fresh.tick(NOON + timedelta(minutes=62))
    again = {document["cohort"]: document["signals"][0]["windows"] for document in latest_documents(history.lake)}
    assert again == windows
