"""Send webhooks from a worker: on a thread of its own, so that a slow receiver delays nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from analytics.enactment.life_changes import LifeFeed
from analytics.lake.errors import FencedError
from analytics.lake.table_schemas import ENACTMENTS, EVENTS, SIGNOFFS, VERDICTS
from analytics.lake.tables import Lake
from streams.webhooks.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from analytics.lake.tables import Fence
    from producers.wire.receipt import Cell
    from streams.webhooks.endpoints import Webhooks

SEND_EVERY_S: Final = 2.0


class WebhookRunner:
    """What a worker tells receivers of. One thread at a time may use it; the metrics may be read from any."""

    def __init__(
        self,
        root: str,
        webhooks: Webhooks,
        *,
        now: Callable[[], datetime],
        link: Callable[[Cell], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._feed = LifeFeed(Lake.open_only(root, EVENTS, VERDICTS, SIGNOFFS, ENACTMENTS))
        self._dispatcher = Dispatcher(root, webhooks.endpoints, clock=clock, link=link)
        self.lines: list[str] = []  # metrics as of the last look

    def run_once(self, fence: Fence) -> None:
        """Send what waits and may be tried now.

        Raises:
            FencedError: Another worker sends now.
            LakeError: The lake cannot be read or written; what was sent meanwhile is sent again, by the same id.
        """
        now = self._now()
        try:
            self._dispatcher.begin(fence, now)
            changes = self._feed.read(now)
            self._dispatcher.send(changes, self._feed.documents(changes), now=now)
        except FencedError:
            self._dispatcher.forget()
            raise
        self.lines = self._dispatcher.lines(now)
