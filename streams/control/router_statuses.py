"""What the routers told last of what they decide by, by source. In memory: they tell it again every few seconds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from analytics.text import iso
from producers.wire.events import EventError, RouterStatus, RouterStatusData, event_from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LOG: Final = logging.getLogger(__name__)

SILENT_AFTER: Final = 3
"""A router is silent once it has not told for so many of its own intervals."""

_FORGOTTEN_AFTER: Final = timedelta(hours=1)
_MOST: Final = 10_000  # sources


@dataclass(frozen=True, slots=True)
class HeardRouter:
    """What a router told last."""

    source: str
    told_at: datetime  # by its clock
    heard_at: datetime  # by ours
    data: RouterStatusData

    def is_silent(self, now: datetime) -> bool:
        """Whether it should have told again by now."""
        return now - self.heard_at > SILENT_AFTER * timedelta(seconds=self.data.tells_every_s)


class RouterStatuses:
    """The latest status of each source. Taken by one thread, and read by any."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.listens_since = now()
        self._latest: dict[str, HeardRouter] = {}

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
        before = latest.get(event.source)
        if before is not None and before.told_at > event.time:
            return  # it has waited in an outbox
        if before is None and len(latest) >= _MOST:
            for name in [name for name, one in latest.items() if one.is_silent(now)]:
                del latest[name]
            if len(latest) >= _MOST:
                LOG.warning("the status of %s is left out: there are %d routers already", event.source, len(latest))
                return
        latest[event.source] = HeardRouter(event.source, event.time, now, event.data)

    def heard(self, environment: str | None = None) -> list[HeardRouter]:
        """Those that were heard within the last hour (of one environment), by source."""
        now = self._now()
        return [
            one
            for _, one in sorted(dict(self._latest).items())
            if now - one.heard_at < _FORGOTTEN_AFTER
            and (environment is None or one.data.environment in {None, environment})
        ]

    def as_list(self) -> list[dict[str, Any]]:
        """One JSON object a source, by name."""
        now = self._now()
        return [
            {
                "source": one.source,
                "silent": one.is_silent(now),
                "heard_at": iso(one.heard_at),
                **one.data.model_dump(mode="json"),
            }
            for one in self.heard()
        ]
