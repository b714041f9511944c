"""Proofs of the enactor: looks for the effect of what it applied in the decisions that follow."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from analytics.enactment.effect import WINDOW, decisions_around, effect_of, next_step
from analytics.enactment.enactments import EnactmentPhase
from producers.boundary.stage_store import StageStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from analytics.enactment.enactments import Enactment, EnactmentStep
    from analytics.lake.tables import Lake
    from producers.boundary.stage_store import ActionName, StageStore
    from streams.control.pauses import Pauses

LOG: Final = logging.getLogger(__name__)

_WATCHED_FOR: Final = timedelta(days=1)  # after a change; one that is known to be late is watched until it is settled
_PAUSES: Final = ((timedelta(minutes=2), 1.0), (_WATCHED_FOR, 15.0), (timedelta.max, WINDOW.total_seconds()))
_UNPROVEN: Final = frozenset({EnactmentPhase.APPLIED, EnactmentPhase.NOT_IN_FORCE})


class Proofs:
    """What can be said of applied changes, one at a time."""

    def __init__(
        self, lake: Lake, store: StageStore, pauses: Pauses, *, now: Callable[[], datetime], deadline: timedelta
    ) -> None:
        self._lake, self._store, self._pauses = lake, store, pauses
        self._now, self._deadline = now, deadline
        self._counts_from: dict[ActionName, datetime | None] = {}  # since its last emergency; None while there is one

    def step(self, past: Iterable[Enactment]) -> EnactmentStep | None:
        """The next step of the change that was not looked at for longest; None where there is nothing new to say.

        Raises `LakeError`.
        """
        now = self._now()
        due = [
            (self._pauses.until_s(applied.action, "effect"), one, applied)
            for one in past
            if one.phase in _UNPROVEN
            and (applied := one.applied) is not None
            and (now - applied.at <= _WATCHED_FOR or one.phase is EnactmentPhase.NOT_IN_FORCE)
            and self._pauses.over(applied.action, "effect")
        ]
        if not due:
            return None
        _, one, applied = min(due, key=lambda waiting: waiting[0])
        pause_s = next(pause_s for until, pause_s in _PAUSES if now - applied.at < until)
        self._pauses.wait(applied.action, "effect", pause_s)
        step = self._step(one, applied, now)
        if step is not None and step.phase is EnactmentPhase.NOT_IN_FORCE:
            message = "%s is at %s, and after %.0f s still decided by the old stage, by %s"
            LOG.error(message, step.action, step.to_stage, self._deadline.total_seconds(), ", ".join(step.sources))
        return step

    def _step(self, one: Enactment, applied: EnactmentStep, now: datetime) -> EnactmentStep | None:
        try:
            setting = self._store.read(applied.action)
        except StageStoreError as error:
            LOG.warning("what the store says of %s is not known, so nothing is proven: %s", applied.action, error)
            return None
        if setting.emergency:
            self._counts_from[applied.action] = None  # what is decided meanwhile shows nothing of the stage below
            return None
        if self._counts_from.get(applied.action, now) is None:
            self._counts_from[applied.action] = now
        since = max(applied.at, self._counts_from.get(applied.action) or applied.at)
        read_from = applied
        if now - applied.at > _WATCHED_FOR:
            since = max(since, now - WINDOW)
            read_from = applied.followed_by(one.phase, at=since)  # not all that was decided in days
        decisions = decisions_around(self._lake, read_from)
        effect = effect_of(decisions, applied.followed_by(one.phase, at=since), now=now, deadline=self._deadline)
        if not effect.is_in_force and setting.mode is not applied.mode_after:
            note = "somebody else has changed the stage since"
            return applied.followed_by(EnactmentPhase.SUPERSEDED, at=now, note=note)
        return next_step(one, effect, now)
