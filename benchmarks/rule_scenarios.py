"""Traffic whose truth is known, for the comparison of promotion rules.

Every action has a true chance of failing, so that it is known of every decision whether it was right. A promotion is
wrong from the moment on from which the traffic to come fails as often as the limit or more. A rollback is wrong as
long as no harm has begun and the true chances of what was seen so far do not exceed the limit on average.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

# Streams go through the engine as in the tests of calibration, which are no package.
sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / part) for part in ("calibration", "")]

from promotion_rules import ALPHA, THRESHOLD  # noqa: E402
from timed_streams import Actions  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulated import FloatArray, IntArray

    Chance = Callable[[np.random.Generator, IntArray, FloatArray], FloatArray]
    Delay = Callable[[np.random.Generator, FloatArray], FloatArray]

HOUR: Final = 60
DAY: Final = 24 * HOUR
NEVER_MINUTE: Final = float("inf")
OURS: Final = "Stagekeeper"


@dataclass(frozen=True)
class Played:
    """The actions of many streams, and each one's true chance of failing."""

    actions: Actions
    chance: FloatArray


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic.

    Attributes:
        name: A few words.
        says: What happens, and what is right.
        play: Draws so many streams.
        gates: Gate files for our engine, by the name of the row; `gates` writes one.
        streams: How many are drawn in the usual size.
        minutes: How long each is.
        a_minute: Actions a minute, on average.
        look_every_min: Minutes between two looks of our engine.
        rate: The rate that the oracle is told; None where there is none to tell.
        promotion_wrong_from: Minute from which on a promotion is wrong; never unless given.
        harm_from: Minute from which on a rollback is right; never unless given.
        stage: Where the actions stand.
        attempts: Into how many attempts of equal length a stream is cut; every rule begins anew at each.
        promised: The level that the last of the gate files promises of both errors; None where it promises none.
        is_constant: Whether it is one of the steady rates of the picture.
    """

    name: str
    says: str
    play: Callable[[np.random.Generator, Scenario, int], Played]
    gates: Mapping[str, str]
    streams: int
    minutes: int
    a_minute: float
    look_every_min: int
    rate: float | None
    promotion_wrong_from: float = NEVER_MINUTE
    harm_from: float = NEVER_MINUTE
    stage: str = "draft_write"
    attempts: int = 1
    promised: float | None = ALPHA
    is_constant: bool = False


def gates(
    more: str = "unit: action", *, deadline: str = "5m", to: str = "approval_gated", stage: str = "draft_write"
) -> str:
    """A gate file with one signal, as a user would write it."""
    return f"""\
version: 1
freshness: 60d
outcome_deadline: {deadline}
gates:
  - name: g
    ladder: [{stage}, {to}]
    {more}
    signals: [{{signal: execution_error, role: guardrail, limit: {THRESHOLD}}}]
"""


def _at_once(_rng: np.random.Generator, failed: FloatArray) -> FloatArray:
    return np.full(failed.size, 0.05)


def evenly(chance: Chance, delay: Delay = _at_once) -> Callable[[np.random.Generator, Scenario, int], Played]:
    """Actions of nobody in particular at random moments of a stream, each with a chance of its own."""

    def play(rng: np.random.Generator, of: Scenario, streams: int) -> Played:
        each = round(of.minutes * of.a_minute)
        stream = np.repeat(np.arange(streams), each)
        minute = np.sort(rng.random((streams, each)) * of.minutes, axis=1).ravel()
        chances = chance(rng, stream, minute)
        failed = rng.random(stream.size) < chances
        return Played(Actions(stream, minute, failed, delay(rng, failed), of.minutes), chances)

    return play


def _steady(rate: float) -> Chance:
    return lambda _rng, _stream, minute: np.full(minute.size, rate)


def _bursts(rng: np.random.Generator, stream: IntArray, minute: FloatArray) -> FloatArray:
    """0.3 % and, for one half hour in twenty at random, 18 %: 1.2 % on average."""
    half_hours = int(minute.max() // 30) + 1
    bad = rng.random((int(stream.max()) + 1, half_hours)) < 0.051
    return np.where(bad[stream, (minute // 30).astype(np.int64)], 0.18, 0.003)


def _with_a_bot(rng: np.random.Generator, of: Scenario, streams: int) -> Played:
    """One bot makes half of the actions and fails three in ten; a hundred people fail two in a thousand."""
    played = evenly(_steady(0.002))(rng, of, streams)
    acts = played.actions
    by_bot = rng.random(acts.stream.size) < 0.5
    chance = np.where(by_bot, 0.3, 0.002)
    failed = rng.random(chance.size) < chance
    user = np.where(by_bot, 0, rng.integers(1, 101, chance.size))
    return Played(Actions(acts.stream, acts.minute, failed, acts.delay, of.minutes, user), chance)


def _returning(rng: np.random.Generator, of: Scenario, streams: int) -> Played:
    """Fifty users who come every day with three actions; each has a rate of its own, at the limit on average."""
    alike, users, days = 0.3, 50, of.minutes // DAY
    spread = 1 / alike - 1
    own = rng.beta(THRESHOLD * spread, (1 - THRESHOLD) * spread, streams * users)
    visits = streams * users * days
    start = np.tile(np.arange(days) * DAY, streams * users) + rng.random(visits) * (DAY - 10)
    user = np.repeat(np.repeat(np.arange(streams * users), days), 3)
    minute = np.repeat(start, 3) + rng.random(visits * 3) * 5
    chance = own[user]
    failed = rng.random(user.size) < chance
    return Played(Actions(user // users, minute, failed, np.full(user.size, 0.05), of.minutes, user), chance)


def constant(rate: float) -> Scenario:
    """Independent actions at one rate."""
    return Scenario(
        f"constant {100 * rate:g} %",
        f"independent actions, each fails with {100 * rate:g} %",
        evenly(_steady(rate)),
        {OURS: gates()},
        streams=300,
        minutes=250,
        a_minute=20,
        look_every_min=2,
        rate=rate,
        promotion_wrong_from=0 if rate >= THRESHOLD else NEVER_MINUTE,
        harm_from=0 if rate > THRESHOLD else NEVER_MINUTE,
        is_constant=True,
    )


RATES: Final = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.1)

SCENARIOS: Final = (
    *(constant(rate) for rate in RATES),
    Scenario(
        "late failures",
        "10 % fail, which is reported after 10 minutes; successes at once. A promotion is wrong",
        evenly(_steady(0.1), lambda _rng, failed: np.where(failed, 10.0, 0.05)),
        {OURS: gates(deadline="15m")},
        streams=200,
        minutes=4 * HOUR,
        a_minute=8,
        look_every_min=2,
        rate=0.1,
        promotion_wrong_from=0,
        harm_from=0,
    ),
    Scenario(
        "late successes",
        "0.5 % fail, which is reported at once; successes after 30 minutes. A rollback is wrong",
        evenly(_steady(0.005), lambda _rng, failed: np.where(failed, 0.05, 30.0)),
        {OURS: gates(deadline="2h")},
        streams=200,
        minutes=6 * HOUR,
        a_minute=8,
        look_every_min=5,
        rate=0.005,
    ),
    Scenario(
        "one heavy user",
        "a bot makes half of the actions and fails 30 % of them, a hundred people fail 0.2 %: 15 % of all."
        " A promotion is wrong",
        _with_a_bot,
        {OURS: gates("unit: user")},
        streams=60,
        minutes=6 * HOUR,
        a_minute=10,
        look_every_min=5,
        rate=0.15,
        promotion_wrong_from=0,
        harm_from=0,
    ),
    Scenario(
        "users who return",
        "fifty users come every day, their rates differ (correlation 0.3) and are at the limit on average. A promotion"
        " to a larger audience is wrong, and a rollback as long as those fifty keep the limit",
        _returning,
        {OURS: gates("unit: user", stage="narrow_autonomy", to="progressive_expansion")},
        streams=100,
        minutes=7 * DAY,
        a_minute=150 / DAY,
        look_every_min=6 * HOUR,
        rate=0.02,
        promotion_wrong_from=0,
        stage="narrow_autonomy",
    ),
    Scenario(
        "ramp",
        "from 0.5 % to 8 % over a day, over the limit from 4.8 hours on. A promotion is wrong from then on",
        evenly(lambda _rng, _stream, minute: 0.005 + 0.075 * minute / DAY),
        {OURS: gates()},
        streams=200,
        minutes=DAY,
        a_minute=2,
        look_every_min=15,
        rate=None,
        promotion_wrong_from=0.2 * DAY,
        harm_from=0.2 * DAY,
        promised=None,  # what is promised is that the average so far keeps the limit, as it does for twice as long
    ),
    Scenario(
        "bursts",
        "0.3 %, and 18 % in one half hour of twenty: 1.2 % on average. A rollback is wrong as long as the average so"
        " far is within the limit",
        evenly(_bursts),
        {OURS: gates()},
        streams=200,
        minutes=3 * DAY,
        a_minute=1,
        look_every_min=30,
        rate=0.012,
    ),
    Scenario(
        "day and night",
        "0.5 % for twelve hours, then 5.5 % for twelve, for five days: 3 % on average. A promotion is wrong",
        evenly(lambda _rng, _stream, minute: np.where(minute % DAY < DAY / 2, 0.005, 0.055)),
        {
            OURS: gates(),
            f"{OURS}, `minimum_exposure: {{hours: 24}}`": gates("unit: action\n    minimum_exposure: {hours: 24}"),
        },
        streams=100,
        minutes=5 * DAY,
        a_minute=1,
        look_every_min=30,
        rate=0.03,
        promotion_wrong_from=0,
        harm_from=0,
    ),
    Scenario(
        "outage",
        "0.5 %, and after four hours 60 %. A promotion is wrong from then on, a rollback before",
        evenly(lambda _rng, _stream, minute: np.where(minute < 4 * HOUR, 0.005, 0.6)),
        {OURS: gates()},
        streams=200,
        minutes=5 * HOUR,
        a_minute=10,
        look_every_min=1,
        rate=None,
        promotion_wrong_from=4 * HOUR,
        harm_from=4 * HOUR,
    ),
    Scenario(
        "tried again",
        "fourteen attempts of 600 actions each, all exactly at the limit. A promotion is wrong, at whichever attempt",
        evenly(_steady(THRESHOLD)),
        {OURS: gates(), f"{OURS}, `attempts: {{budget: 0.1}}`": gates("unit: action\n    attempts: {budget: 0.1}")},
        streams=100,
        minutes=14 * HOUR,
        a_minute=10,
        look_every_min=5,
        rate=0.02,
        promotion_wrong_from=0,
        attempts=14,
        promised=0.1,
    ),
)
