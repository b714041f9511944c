"""When outcomes become known decides nothing: both error levels hold, and healthy actions are still promoted.

Every row goes through the engine that production runs, a look every five minutes, at a limit of 2 % and eight actions
a minute. The rates of wrong rollbacks and promotions are those of streams exactly at the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import margin
from timed_streams import NEVER_REPORTED, Streams, after, crossings, exponential, lognormal

from analytics.gates.gate_file import GateFile

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet
    from timed_streams import Crossings, Delays

pytestmark = pytest.mark.slow

LIMIT = 0.02
ALPHA = 0.05
STREAMS = 150
AT_ONCE = after(0.05)

KINDS: dict[str, tuple[Delays, Delays, str]] = {
    "successes after 30 min": (AT_ONCE, after(30), "2h"),
    "failures after 10 min": (after(10), AT_ONCE, "30m"),
    "failures long overdue": (after(10), AT_ONCE, "2m"),
    "successes exponential, 30 min": (AT_ONCE, exponential(30), "4h"),
    "failures exponential, 60 min": (exponential(60), AT_ONCE, "4h"),
    "failures log-normal, 10 min": (lognormal(10, 2), AT_ONCE, "1h"),
    "successes log-normal, 2 min": (AT_ONCE, lognormal(2, 2), "1h"),
    "failures never reported": (after(NEVER_REPORTED), AT_ONCE, "30m"),
}


def kinds(*daily: str) -> list[ParameterSet | str]:
    """Every kind of delay; all but a few only where there is time for all."""
    return [kind if kind in daily else pytest.param(kind, marks=pytest.mark.exhaustive) for kind in KINDS]


def gates(deadline: str, signal: str = "execution_error") -> GateFile:
    return GateFile.parse(
        f"""\
version: 1
outcome_deadline: {deadline}
freshness: 30d
gates:
  - name: g
    unit: action
    ladder: [draft_write, approval_gated]
    signals: [{{signal: {signal}, role: guardrail, limit: {LIMIT}}}]
""".encode()
    )


def crossed(kind: str, rate: float, minutes: int, seed: int = 7) -> Crossings:
    failed_after, succeeded_after, deadline = KINDS[kind]
    streams = Streams(STREAMS, minutes, 8, rate, failed_after, succeeded_after)
    return crossings(streams.history(np.random.default_rng(seed)), gates(deadline), STREAMS)


@pytest.mark.parametrize("kind", kinds("successes after 30 min", "failures after 10 min", "failures never reported"))
def test_at_the_limit_both_levels_hold_whatever_is_known_when(kind: str) -> None:
    at_limit = crossed(kind, LIMIT, minutes=600)
    assert at_limit.rollbacks <= ALPHA + margin(ALPHA, STREAMS)
    assert at_limit.promotions <= ALPHA + margin(ALPHA, STREAMS)


@pytest.mark.parametrize("kind", kinds("successes after 30 min", "failures after 10 min"))
def test_healthy_actions_are_promoted_and_never_rolled_back(kind: str) -> None:
    if kind == "successes log-normal, 2 min":
        pytest.skip("of these 4 % are overdue, which is over the limit")
    healthy = crossed(kind, LIMIT / 4, minutes=420)
    assert (healthy.promotions, healthy.rollbacks) == (1.0, 0.0)


@pytest.mark.parametrize("kind", kinds("successes after 30 min", "failures after 10 min"))
def test_harm_is_found_as_its_failures_are_reported(kind: str) -> None:
    if kind == "failures never reported":
        pytest.skip("nobody ever hears of them")
    harmful = crossed(kind, 5 * LIMIT, minutes=180)
    assert (harmful.promotions, harmful.rollbacks) == (0.0, 1.0)


def test_failures_that_nobody_reports_promote_nothing() -> None:
    assert crossed("failures never reported", 0.03, minutes=600).promotions <= ALPHA


def test_timeouts_that_come_long_after_the_successes_are_not_overlooked() -> None:
    streams = Streams(100, 60, 50, 0.10, after(10), after(2 / 60), failure="timed_out")
    found = crossings(streams.history(np.random.default_rng(1)), gates("15m", "timeout"), 100)
    assert (found.promotions, found.rollbacks) == (0.0, 1.0)
