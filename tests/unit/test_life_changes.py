"""Every change in the life of a recommendation, once, under a name that stays."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fakes import NOON

from analytics.backtest.recommendation_outcomes import FOLLOWED_FOR, Followed, Recommendation
from analytics.enactment.enactments import Enactment, EnactmentPhase, EnactmentStep, Life
from analytics.enactment.life_changes import life_changes
from producers.wire.events import VerdictName
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

CELL = ("production", "refunds", "issue_refund", "draft_write", "all")


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def recommended(*spans: tuple[float, float | None]) -> Recommendation:
    called_for = tuple((at(since), None if until is None else at(until)) for since, until in spans)
    return Recommendation(CELL, "e", "PROMOTE", "approval_gated", called_for[0][0], "v-1", called_for)


def enacted(*phases: EnactmentPhase) -> Enactment:
    intended = EnactmentStep(
        recommendation_id="v-1",
        phase=EnactmentPhase.INTENDED,
        at=at(5),
        **dict(zip(("environment", "workflow", "tool", "stage", "cohort"), CELL, strict=True)),
        epoch="e",
        verdict=VerdictName.PROMOTE,
        verdict_id="v-2",
        to_stage="approval_gated",
        attempt=1,
        mode_after=Mode.APPROVED_EXTERNAL,
        store="flags.json",
        version_before="1",
        version_after="2",
        reason="because",
        judged_at=at(0),
    )
    steps = [intended, *(intended.followed_by(phase, at=at(6 + n)) for n, phase in enumerate(phases))]
    return Enactment(tuple(steps))


def told(one: Followed) -> list[tuple[str, float]]:
    return [(change.life.value, (change.at - NOON) / timedelta(minutes=1)) for change in life_changes(one)]


APPLIED, LATE, FORCED = EnactmentPhase.APPLIED, EnactmentPhase.NOT_IN_FORCE, EnactmentPhase.IN_FORCE


@pytest.mark.parametrize(
    ("spans", "life", "answer", "answered", "phases", "expected"),
    [
        ([(0, None)], Life.OPEN, Life.OPEN, 0, None, [("open", 0)]),
        ([(0, None)], Life.ACCEPTED, Life.ACCEPTED, 3, None, [("open", 0), ("accepted", 3)]),
        ([(0, None)], Life.DISMISSED, Life.DISMISSED, 3, None, [("open", 0), ("dismissed", 3)]),
        ([(0, 4)], Life.SUPERSEDED, Life.SUPERSEDED, 4, None, [("open", 0), ("superseded", 4)]),
        # Called for again: superseded and open stand there twice, each with its own name.
        ([(0, 2), (3, None)], Life.OPEN, Life.OPEN, 3, None, [("open", 0), ("superseded", 2), ("open", 3)]),
        (
            [(0, None)],
            Life.EXPIRED,
            Life.OPEN,
            0,
            None,
            [("open", 0), ("expired", FOLLOWED_FOR / timedelta(minutes=1))],
        ),
        # Begun and not applied is no news.
        ([(0, None)], Life.OPEN, Life.OPEN, 0, (), [("open", 0)]),
        (
            [(0, None)],
            Life.IN_FORCE,
            Life.ACCEPTED,
            3,
            (APPLIED, LATE, FORCED),
            [("open", 0), ("accepted", 3), ("applied", 6), ("not in force", 7), ("in force", 8)],
        ),
        # Once the action is there, the verdict speaks of another stage: nobody has superseded anything.
        (
            [(0, 9)],
            Life.IN_FORCE,
            Life.SUPERSEDED,
            9,
            (APPLIED, FORCED),
            [("open", 0), ("applied", 6), ("in force", 7)],
        ),
        (
            [(0, None)],
            Life.SUPERSEDED,
            Life.OPEN,
            0,
            (APPLIED, EnactmentPhase.SUPERSEDED),
            [("open", 0), ("applied", 6), ("superseded", 7)],
        ),
    ],
)
def test_each_life_is_told_once(
    *,
    spans: Sequence[tuple[float, float | None]],
    life: Life,
    answer: Life,
    answered: float,
    phases: tuple[EnactmentPhase, ...] | None,
    expected: list[tuple[str, float]],
) -> None:
    enactment = None if phases is None else enacted(*phases)
    one = Followed(recommended(*spans), life, enactment, answer, at(answered))
    assert told(one) == expected
    names = [change.change_id for change in life_changes(one)]
    assert len(set(names)) == len(names)
    assert names == [change.change_id for change in life_changes(one)]


def test_a_name_does_not_change_when_the_life_goes_on() -> None:
    opened = Followed(recommended((0, None)), Life.OPEN, None, Life.OPEN, at(0))
    applied = Followed(recommended((0, 9)), Life.APPLIED, enacted(APPLIED), Life.ACCEPTED, at(3))
    assert next(life_changes(opened)).change_id == next(life_changes(applied)).change_id
    assert "." not in next(life_changes(opened)).change_id, "a dot would part it from the timestamp in what is signed"
