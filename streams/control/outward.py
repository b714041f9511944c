"""What the worker that judges tells beside its verdicts: metrics of cells, which events are missing, and webhooks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from producers.errors import StagekeeperError
from streams.control.cell_metrics import CellGauges
from streams.control.number_watch import NumberWatch
from streams.webhooks.webhook_runner import SEND_EVERY_S, WebhookRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics.lake.tables import Fence
    from streams.worker_config import WorkerConfig

CELLS_EVERY_S: Final = 5.0
NUMBERS_EVERY_S: Final = 15.0

LOG: Final = logging.getLogger(__name__)


class Outward:
    """Reads for the metrics, and sends webhooks: each method on one thread at a time, and not on the other's."""

    def __init__(self, config: WorkerConfig) -> None:
        self._gauges = CellGauges(Lake.open_only(config.lake_root, VERDICTS, SIGNALS), most=config.metrics_cells)
        # Lines, written out aside and not where they are asked for: there may be tens of thousands. None of them where
        # another worker judges, or what the cells are is not known.
        self._cells: list[str] = []
        self._numbers = NumberWatch(config.lake_root)
        self._now = config.now
        self._webhooks = (
            None
            if config.webhooks is None
            else WebhookRunner(config.lake_root, config.webhooks, now=config.now, link=config.link)
        )

    @property
    def timers(self) -> list[tuple[str, float, Callable[[Callable[[], Fence | None]], None]]]:
        """Name of the thread, seconds between two times, and what is then done with what gives the judge's fence."""
        return [
            ("metrics", CELLS_EVERY_S, self.read_cells),
            ("metrics", NUMBERS_EVERY_S, self.look_at_numbers),
            ("webhooks", SEND_EVERY_S, self.send),
        ]

    def read_cells(self, judge: Callable[[], Fence | None]) -> None:
        """Read what the metrics of cells say; nothing without the lease. Raises `LakeError`."""
        cells: list[str] = []
        try:
            if judge() is not None:
                now = self._now()
                cells = self._gauges.read(now).lines(now)
        finally:
            self._cells = cells  # what is not known any more is shown no longer

    def look_at_numbers(self, judge: Callable[[], Fence | None]) -> None:
        """Look which events never came; nothing without the lease. Raises `LakeError`."""
        self._numbers.run_once(judge(), self._now())

    def send(self, judge: Callable[[], Fence | None]) -> None:
        """Send webhooks; nothing without the lease. Raises `LakeError`; whatever else happens ends no worker."""
        if self._webhooks is None:
            return
        if (fence := judge()) is None:
            self._webhooks.lines = []
            return
        try:
            self._webhooks.run_once(fence)
        except StagekeeperError:
            raise
        except Exception:  # a worker that rolls back must not end because it cannot tell of it
            LOG.exception("webhooks were not sent, and are tried again")

    @property
    def lines(self) -> list[str]:
        """Their metrics in Prometheus's text format, each as of its last time."""
        return [*self._cells, *self._numbers.lines(), *([] if self._webhooks is None else self._webhooks.lines)]
