"""The state of the pipeline: what is in the lake, what is judged, and what is still outstanding."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import polars as pl
from confluent_kafka import KafkaException

from analytics.backtest.recommendation_outcomes import recommendations
from analytics.enactment.effect import time_to_safe_s
from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Lake
from analytics.report import Report, build_report
from analytics.verdicts.ledger import latest_verdicts, newest_lake_version, newest_watermark
from producers.wire.events import VerdictName
from streams.broker import BrokerError
from streams.lag import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WATERMARK_BEHIND_S: Final = 90.0  # how far (event time) a quiet cell's verdict may rightly trail the newest event


class PipelineStatus:
    """Reads lake and broker, with handles of its own; one thread at a time may use it.

    `log_id` is the broker's cluster id, `settings` is for librdkafka; verdicts are expected where it is `judged`.
    """

    def __init__(
        self,
        lake_root: str,
        bootstrap_servers: str,
        log_id: str,
        *,
        judged: bool,
        settings: Mapping[str, str | int | float | bool] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._lake = Lake.open(lake_root)
        self._backlog = Backlog(bootstrap_servers, log_id, settings)
        self._judged = judged

    def line(self) -> str:
        """The state of things on one line."""
        events, rejects = (row_count(self._lake, table) for table in (EVENTS, REJECTS))
        counts = Counter(document.verdict.value for document in latest_verdicts(self._lake))
        verdicts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none yet"
        return f"{events:,} events in the lake, {rejects:,} rejected; verdicts: {verdicts}"

    def outstanding(self) -> str | None:
        """What the lake or the ledger does not have yet; None once everything emitted is stored and judged."""
        try:
            left = self._backlog.records_left(self._lake)
        except (BrokerError, KafkaException) as error:  # busy, or starting: whoever waits looks again
            return f"the broker does not say what it holds ({error})"
        if left:
            return f"{left:,} records are not in the lake yet"
        if self._judged and (unjudged := self._unjudged()):
            return f"{unjudged:,} increments are not judged yet"
        if self._judged and (behind_s := self._behind_s()) > _WATERMARK_BEHIND_S:
            return f"the verdicts know of outcomes up to {behind_s:,.0f} s before the newest event"
        return None

    def has_events(self) -> bool:
        """Whether any event is stored."""
        return row_count(self._lake, EVENTS) > 0

    def report(self) -> Report:
        """The document of signals, verdicts and rejects."""
        return build_report(self._lake)

    def loop(self) -> dict[str, Any]:
        """What was done about recommendations; the time to safe is of the newest rollback that a decision followed."""
        followed = recommendations(self._lake, now=self._now())
        made = [one.enactment.applied for one in followed if one.enactment is not None and one.enactment.applied]
        rollbacks = sorted((step for step in made if step.verdict is VerdictName.ROLL_BACK), key=lambda step: step.at)
        to_safe_s = (time_to_safe_s(self._lake, step) for step in reversed(rollbacks))
        return {
            "enactments": [one.to_dict() for one in followed if one.enactment is not None],
            "time_to_safe_s": next((seconds for seconds in to_safe_s if seconds is not None), None),
        }

    def _unjudged(self) -> int:
        judged = newest_lake_version(self._lake)
        newest = self._lake.version(SIGNALS)
        return self._lake.increments(SIGNALS, after=-1 if judged is None else judged, through=newest).height

    def _behind_s(self) -> float:
        """Seconds of event time by which the verdicts' watermark trails the newest event."""
        newest = self._lake.scan(SIGNALS).select(pl.col("last_event_at").max()).collect().item()
        watermark = newest_watermark(self._lake)
        if newest is None or watermark is None:
            return 0.0
        return float((min(newest, self._now()) - watermark).total_seconds())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._backlog.close()


def row_count(lake: Lake, table: str) -> int:
    """Rows of a table; its version does not tell whether there are any, since a judge begins with an empty commit."""
    return int(lake.scan(table).select(pl.len()).collect().item())
