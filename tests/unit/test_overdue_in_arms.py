"""`bad_outcome` against a baseline: what is overdue is bad in both arms, and what is in flight only blocks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.judging.judge import Judge

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

BOUNDS = ("ratio: 1.5", "delta: 0.02")


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def arms(history: EventLake, *, silent: int, silent_base: int, failed: int = 0) -> None:
    """Ten actions a minute in each arm, over twenty minutes, of which so many are never reported."""
    for n in range(200):
        at, turn = n / 10, n % 10
        history.act(at, f"new-{n}", reported=turn >= silent, failed=9 - turn < failed)
        history.act(at, f"base-{n}", reported=turn >= silent_base, failed=9 - turn < failed, cohort="held-back")


def verdict_of(
    history: EventLake, folder: Path, bound: str, unit: str, *, minute: float = 60, maturity: str = ", maturity: 15m"
) -> tuple[str, dict[str, Any]]:
    (folder / "gates.yaml").write_text(
        "version: 1\nuser_window: 1m\nfreshness: 2h\noutcome_deadline: 10m\ngates:\n  - name: g\n"
        f"    unit: {unit}\n    ladder: [draft_write, approval_gated]\n"
        "    baseline: {kind: concurrent, cohort: held-back}\n"
        f"    signals: [{{signal: bad_outcome, role: guardrail, {bound}{maturity}}}]\n"
    )
    history.act(minute - 0.5, "the last", cohort="third")
    history.store()
    Judge(history.lake, folder / "gates.yaml", settle_s=0).tick(NOON + timedelta(minutes=minute))
    (document,) = [document for document in latest_documents(history.lake) if document["cohort"] == "all"]
    return document["verdict"], document["signals"][0]


@pytest.mark.parametrize("unit", ["action", "user"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_an_arm_whose_executor_dies_silently_is_rolled_back(
    history: EventLake, tmp_path: Path, bound: str, unit: str
) -> None:
    arms(history, silent=6, silent_base=0, failed=1)
    assert verdict_of(history, tmp_path, bound, unit)[0] == "ROLL_BACK"


@pytest.mark.parametrize("unit", ["action", "user"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_what_both_arms_owe_alike_is_no_difference(history: EventLake, tmp_path: Path, bound: str, unit: str) -> None:
    arms(history, silent=2, silent_base=2)
    verdict, part = verdict_of(history, tmp_path, bound, unit)
    assert verdict != "ROLL_BACK"
    assert part["value"] == pytest.approx(1.0 if "ratio" in bound else 0.0)
    better = EventLake.at(tmp_path / "better")
    arms(better, silent=0, silent_base=6)
    assert verdict_of(better, tmp_path, bound, unit)[0] == "PROMOTE", "the baseline's overdue actions are bad too"


@pytest.mark.parametrize("unit", ["action", "user"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_what_is_in_flight_rolls_nothing_back_and_promotes_nothing(
    history: EventLake, tmp_path: Path, bound: str, unit: str
) -> None:
    arms(history, silent=6, silent_base=0, failed=1)
    assert verdict_of(history, tmp_path, bound, unit, minute=10, maturity="")[0] == "HOLD"


@pytest.mark.parametrize("unit", ["action", "user"])
def test_alone_it_is_bad_by_user_as_by_action(history: EventLake, tmp_path: Path, unit: str) -> None:
    arms(history, silent=5, silent_base=0)
    verdict, part = verdict_of(history, tmp_path, "limit: 0.1", unit)
    assert (verdict, part["value"]) == ("ROLL_BACK", pytest.approx(0.5))
