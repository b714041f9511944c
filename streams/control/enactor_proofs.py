"""Proofs of the enactor: looks for the effect of what it applied in the decisions that follow."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from analytics.enactment.effect import WINDOW, Holding, decisions_around, effect_of, next_step
from analytics.enactment.enactments import EnactmentPhase
from producers.boundary.stage_store import StageStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    import polars as pl

    from analytics.enactment.enactments import Enactment, EnactmentStep
    from analytics.lake.tables import Lake
    from producers.boundary.stage_store import ActionName, StageSetting, StageStore
    from streams.control.pauses import Pauses
    from streams.control.router_statuses import RouterStatuses

LOG: Final = logging.getLogger(__name__)

_WATCHED_FOR: Final = timedelta(days=1)  # after a change; one that is known to be late is watched until it is settled
_FRESH: Final = timedelta(minutes=2)
_LISTENED_FOR: Final = timedelta(seconds=10)  # before a change counts as in force: until each router has told once
_PAUSES: Final = ((_FRESH, 1.0), (_WATCHED_FOR, 15.0), (timedelta.max, WINDOW.total_seconds()))
_UNPROVEN: Final = frozenset({EnactmentPhase.APPLIED, EnactmentPhase.NOT_IN_FORCE})


class Proofs:
    """What can be said of applied changes."""

    def __init__(
        self,
        lake: Lake,
        store: StageStore,
        pauses: Pauses,
        routers: RouterStatuses | None,
        *,
        now: Callable[[], datetime],
        deadline: timedelta,
    ) -> None:
        self._lake, self._store, self._pauses, self._routers = lake, store, pauses, routers
        self._now, self._deadline = now, deadline
        self._counts_from: dict[ActionName, datetime | None] = {}  # since its last emergency; None while there is one

    def steps(self, past: Iterable[Enactment]) -> list[EnactmentStep]:
        """The next steps: of all changes of the last minutes, else of the one that was not looked at for longest.

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
        fresh = [waiting for waiting in due if now - waiting[2].at < _FRESH]
        watched = []
        for _, one, applied in fresh or sorted(due, key=lambda waiting: waiting[0])[:1]:
            pause_s = next(pause_s for until, pause_s in _PAUSES if now - applied.at < until)
            self._pauses.wait(applied.action, "effect", pause_s)
            if (setting := self._setting(applied, now)) is not None:
                since = max(applied.at, self._counts_from.get(applied.action) or applied.at)
                if now - applied.at > _WATCHED_FOR:
                    since = max(since, now - WINDOW)  # not all that was decided in days
                watched.append((one, applied, setting, since))
        if not watched:
            return []
        decisions = decisions_around(
            self._lake,
            [
                applied.followed_by(one.phase, at=since) if now - applied.at > _WATCHED_FOR else applied
                for one, applied, _, since in watched
            ],
        )
        steps = [self._step(one, applied, setting, since, decisions) for one, applied, setting, since in watched]
        return [step for step in steps if step is not None]

    def _setting(self, applied: EnactmentStep, now: datetime) -> StageSetting | None:
        """What the store says of the action; None while nothing can be proven."""
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
        return setting

    def _step(
        self, one: Enactment, applied: EnactmentStep, setting: StageSetting, since: datetime, decisions: pl.DataFrame
    ) -> EnactmentStep | None:
        now, moved = self._now(), setting.mode is not applied.mode_after
        change = applied.followed_by(one.phase, at=since)
        holdings = [] if moved else self._holdings(applied, setting, now)
        effect = effect_of(decisions, change, now=now, deadline=self._deadline, holdings=holdings)
        if not effect.is_in_force and moved:
            note = "somebody else has changed the stage since"
            return applied.followed_by(EnactmentPhase.SUPERSEDED, at=now, note=note)
        if effect.is_in_force and self._routers is not None and now - self._routers.listens_since < _LISTENED_FOR:
            return None  # an idle router that still holds the old rules may not have told yet
        step = next_step(one, effect, now)
        if step is not None and step.phase is EnactmentPhase.NOT_IN_FORCE:
            message = "%s is at %s, and after %.0f s still decided by the old stage, by %s"
            LOG.error(message, step.action, step.to_stage, self._deadline.total_seconds(), ", ".join(step.sources))
        elif step is not None and step.in_force_at is not None:
            took_s = max((step.in_force_at - applied.at).total_seconds(), 0.0)
            LOG.warning("%s at %s is in force after %.1f s at %s", step.action, step.to_stage, took_s, step.routers)
        return step

    def _holdings(self, applied: EnactmentStep, setting: StageSetting, now: datetime) -> list[Holding]:
        """What the routers of its environment hold, told by the versions of the store and not by their names alone."""
        routers = [] if self._routers is None else self._routers.heard(applied.environment)
        obeys: dict[str | None, bool | None] = {None: None}
        obeys |= {applied.version_before: False, applied.version_after: True, setting.version: True}
        holdings = []
        for one in routers:
            version = one.data.flags_sha256
            if version is not None and version not in obeys:
                is_newer = self._store.had(version, after=applied.replaced_before)
                obeys[version] = True if is_newer else False if self._store.had(version) else None
            since = min(one.data.since or one.told_at, one.told_at)
            holdings.append(Holding(one.source, obeys[version], since, one.told_at, one.heard_at, one.is_silent(now)))
        return holdings
