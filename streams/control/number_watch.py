"""Watches the numbers of events while a worker runs: a router whose events do not come is named within a minute."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from analytics.audit.numbering import COLUMNS, EventNumbers, numbers_of, numbers_outside
from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import EVENTS
from analytics.lake.tables import Lake
from streams.metrics import labels, metric

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from analytics.audit.numbering import NumberGap
    from analytics.lake.commits import Fence

LOG: Final = logging.getLogger(__name__)
GRACE: Final = timedelta(minutes=2)  # between two partitions, or an outbox, a number may come so much later
MOST_SOURCES: Final = 20  # that have a metric of their own


class NumberWatch:
    """Which routers' events are missing, as of the last look. One thread at a time may look."""

    def __init__(self, lake_root: str) -> None:
        self._root = lake_root
        self._lake: Lake | None = None
        self._numbers: EventNumbers | None = None
        self._version = -1
        self._told: dict[str, int] = {}  # missing events by incarnation, as they were last logged
        self._gaps: list[NumberGap] | None = None

    def run_once(self, fence: Fence | None, now: datetime) -> None:
        """Look, while this worker is the one that judges; raises as `look`."""
        if fence is None:
            self._gaps = None  # another worker says it
        else:
            self.look(now)

    def look(self, now: datetime) -> None:
        """Take in what the lake has got since the last look, and log who has lost more. Raises `LakeError`."""
        self._lake = lake = self._lake or Lake.open(self._root)
        version = lake.version(EVENTS)
        try:
            if self._numbers is None:
                self._numbers = numbers_of(lake, version)
            else:
                self._numbers.take(lake.increments(EVENTS, after=self._version, through=version, columns=COLUMNS))
        except ForgottenError:
            self._numbers = numbers_of(lake, version)
        self._version = version
        gaps = self._numbers.gaps(now - GRACE)
        if gaps:
            for rows in numbers_outside(lake):  # only now: mostly nothing is missing
                self._numbers.take(rows)
            gaps = self._numbers.gaps(now - GRACE)
        for gap in gaps:
            if gap.missing > self._told.get(gap.incarnation, 0):
                first, last = gap.ranges[0]
                LOG.error(
                    "router %s: %d of its events never came (incarnation %s, the first are %d to %d)",
                    *(gap.source, gap.missing, gap.incarnation, first, last),
                )
            self._told[gap.incarnation] = gap.missing
        self._gaps = gaps

    def lines(self) -> list[str]:
        """What is missing as metrics; nothing before a look."""
        return [] if self._gaps is None else missing_lines(self._gaps)


def missing_lines(gaps: Iterable[NumberGap]) -> list[str]:
    """What is missing as metrics, and by source of those of which most is."""
    by_source: Counter[str] = Counter()
    for gap in gaps:
        by_source[gap.source] += gap.missing
    numbers = {labels(source=source): missing for source, missing in by_source.most_common(MOST_SOURCES)}
    purposes = ("Events that a source numbered, and that never came.", "The same by source, where most is missing.")
    return [
        *metric("events_missing", "gauge", purposes[0], by_source.total()),
        *metric("events_missing_by_source", "gauge", purposes[1], numbers),
    ]
