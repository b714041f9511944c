"""Policy changes of the enactor that nobody has acknowledged yet."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from analytics.enactment.enactments import Enactment, EnactmentStep
    from analytics.lake.tables import Lake
    from producers.wire.events import PolicyChanged

_TOLD_FOR: Final = timedelta(days=7)  # how long after a change its event is published if it has not come back


class PolicyChangeNews:
    """What is to be published; a repetition counts once, by its id."""

    def __init__(self, publish: Callable[[list[PolicyChanged]], None]) -> None:
        self._publish = publish
        self.untold: list[EnactmentStep] = []

    def load(self, lake: Lake, past: Iterable[Enactment], *, now: datetime) -> None:
        """Take the changes that were applied and whose event has not come back through Kafka. Raises `LakeError`."""
        since = now - _TOLD_FOR
        made = [step for one in past if (step := one.applied) is not None and step.at >= since]
        ids = pl.Series("id", [step.event_id for step in made], dtype=pl.String).implode()
        came = set(lake.scan(EVENTS).filter(pl.col("id").is_in(ids)).select("id").collect()["id"]) if made else set()
        self.untold = [step for step in made if step.event_id not in came]

    def publish(self) -> None:
        """Publish all; what is raised meanwhile leaves them to be published again."""
        self._publish([step.to_event() for step in self.untold])
        self.untold = []
