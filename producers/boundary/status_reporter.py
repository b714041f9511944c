"""Tell what a router decides by: every few seconds, and as soon as it holds other rules. Beside the decisions."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from producers.delivery.recorder import RecordNumbers, random_id, random_incarnation
from producers.wire.events import EventRecord, RouterStatus, RouterStatusData, schema_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.flags import FlagEvaluator
    from producers.delivery.kafka_emitter import Emitter

LOG: Final = logging.getLogger(__name__)

TELLS_EVERY_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.2


class StatusReporter:
    """Tells it from a thread of its own, between `start` and `close`; a forked process tells nothing for itself.

    What is told goes to the emitter as it is: it has numbers of its own, apart from those of what is recorded.
    """

    def __init__(
        self,
        flags: FlagEvaluator,
        emitter: Emitter,
        *,
        source: str,  # as in the events that the router records
        environment: str | None,  # of the actions that name none; None where it decides in every environment
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flags, self._emitter = flags, emitter
        self._source, self._environment = source, environment
        self._now, self._clock = now, clock
        self._numbers = RecordNumbers(random_incarnation)
        self._sha256: str | None = None
        self._since: datetime | None = None  # when these rules were first seen
        self._was_ready = False
        self._told_s = -TELLS_EVERY_S
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stagekeeper-status", daemon=True)

    def start(self) -> Self:
        """Begin to tell."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Tell nothing more."""
        self._end.set()
        self._thread.join(1.0)  # one that waits for a mount that hangs ends with the process

    def _run(self) -> None:
        while not self._end.wait(_LOOK_EVERY_S):
            try:
                self.tell_if_due()
            except (
                Exception
            ):  # a provider's or an emitter's: a thread that ended would leave the router silent for good
                LOG.exception("what %s decides by cannot be told; it decides all the same", self._source)
                self._told_s = self._clock()

    def tell_if_due(self) -> None:
        """Tell where the rules are other ones than those that were told, or that was a while ago."""
        ready = self._flags.ready  # looks, where nobody has for a second
        sha256 = self._flags.rules().sha256 if ready else None
        at, clock_s = self._now(), self._clock()
        if sha256 != self._sha256 or self._since is None:
            self._sha256, self._since = sha256, at
        elif ready is self._was_ready and clock_s - self._told_s < TELLS_EVERY_S:
            return
        self._was_ready = ready
        age_s = self._flags.confirmed_age_s
        status = RouterStatus(
            id=random_id(),
            recordnumber=self._numbers.next().decode(),
            source=self._source,
            time=at,
            subject=self._source,
            dataschema=schema_id(RouterStatus),
            data=RouterStatusData(
                environment=self._environment,
                provider=self._flags.provider_name,
                ready=ready,
                flags_sha256=sha256,
                since=None if sha256 is None else self._since,
                confirmed_at=None if age_s is None else at - timedelta(seconds=age_s),
                tells_every_s=TELLS_EVERY_S,
            ),
        )
        self._emitter.emit(EventRecord.from_event(status))
        self._told_s = clock_s
