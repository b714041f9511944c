"""What the routers told last of what they decide by, by instance. In memory: they tell it again every few seconds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from analytics.text import iso
from producers.wire.events import EventError, RouterStatus, RouterStatusData, event_from_bytes
from streams.ingest.decode import AHEAD_LIMIT, micros_of

if TYPE_CHECKING:
    from collections.abc import Callable

LOG: Final = logging.getLogger(__name__)

SILENT_AFTER: Final = 3
"""A router is silent once it has not told for so many of its own intervals."""

_FORGOTTEN_AFTER: Final = timedelta(hours=1)
_MOST: Final = 10_000  # instances


@dataclass(frozen=True, slots=True)
class HeardRouter:
    """What an instance of a router told last."""

    source: str
    instance: (
        str  # the incarnation that its statuses name, of which a source has one a process; "" where they name none
    )
    order: int  # of two statuses of an instance the higher is the later one
    told_at: datetime  # by its clock
    heard_at: datetime  # by ours
    data: RouterStatusData

    def is_silent(self, now: datetime) -> bool:
        """Whether it should have told again by now."""
        return now - self.heard_at > SILENT_AFTER * timedelta(seconds=self.data.tells_every_s)


class RouterStatuses:
    """The latest status of each instance. Taken by one thread, and read by any."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.listens_since = now()
        self._latest: dict[tuple[str, str], HeardRouter] = {}

    def take(self, value: bytes | None) -> None:
        """Take a record of the topic; one that is no status is left out, with a line in the log."""
        try:
            event = event_from_bytes(value or b"")
        except EventError as error:
            LOG.warning("not a router's status: %s", error)
            return
        if not isinstance(event, RouterStatus):
            LOG.warning("an event %s of %s is no router's status", event.type, event.source)
            return
        now, latest = self._now(), self._latest
        if event.time > now + AHEAD_LIMIT:
            message = (
                "the status of %s is left out: its time %s is more than 5 minutes ahead of this clock; set its clock"
            )
            LOG.warning(message, event.source, iso(event.time))
            return
        instance, _, number = (event.recordnumber or "").partition(".")
        order = int(number) if number else micros_of(event.time)
        before = latest.get((event.source, instance))
        if before is not None and before.order > order:
            return  # it has waited in an outbox
        if before is None and len(latest) >= _MOST:
            for name in [name for name, one in latest.items() if one.is_silent(now)]:
                del latest[name]
            if len(latest) >= _MOST:
                LOG.warning("the status of %s is left out: there are %d routers already", event.source, len(latest))
                return
        heard = HeardRouter(event.source, instance, order, event.time, now, event.data)
        latest[event.source, instance] = heard

    def heard(self, environment: str | None = None) -> list[HeardRouter]:
        """Those that were heard within the last hour (of one environment), by source and instance.

        Of a source these are the instances that still tell, since others have ended; where none does, the last heard.
        """
        now = self._now()
        by_source: dict[str, list[HeardRouter]] = {}
        for _, one in sorted(dict(self._latest).items()):
            is_meant = environment is None or one.data.environment in {None, environment}
            if is_meant and now - one.heard_at < _FORGOTTEN_AFTER:
                by_source.setdefault(one.source, []).append(one)
        alive = {source: [one for one in own if not one.is_silent(now)] for source, own in by_source.items()}
        last = {source: max(own, key=lambda one: one.heard_at) for source, own in by_source.items()}
        return [one for source, own in alive.items() for one in own or [last[source]]]

    def as_list(self) -> list[dict[str, Any]]:
        """One JSON object for each that was heard, by source and instance."""
        now = self._now()
        return [
            {
                "source": one.source,
                "instance": one.instance,
                "silent": one.is_silent(now),
                "heard_at": iso(one.heard_at),
                **one.data.model_dump(mode="json"),
            }
            for one in self.heard()
        ]
