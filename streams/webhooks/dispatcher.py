"""Tell every receiver what it has not been told, again and again until it has taken it, in parallel.

The queue is the lake: the changes in the lives of recommendations follow from what is stored there, and the table
`deliveries` says which of them each receiver has taken. So nothing is lost with a machine, and nothing need be kept in
two places at once. A worker that dies between an answer and its row sends the message again, under the same
`webhook-id`. How often something was tried lives in memory: whoever takes over tries at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from analytics.lake.table_schemas import DELIVERIES
from analytics.lake.tables import Lake
from streams.metrics import labels, metric
from streams.webhooks.deliveries import Delivery, DeliveryOutcome, append, deliveries
from streams.webhooks.delivery import Attempt, deliver, session_for
from streams.webhooks.messages_out import body_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from analytics.enactment.life_changes import LifeChange
    from analytics.lake.tables import Fence
    from analytics.verdicts.document import VerdictDocument
    from producers.wire.receipt import Cell
    from streams.webhooks.endpoints import Endpoint

LOG: Final = logging.getLogger(__name__)

DELAYS_S: Final = (5.0, 30.0, 300.0, 900.0, 1_800.0)  # after each failure of a receiver in a row; then the last
GIVEN_UP_AFTER: Final = timedelta(days=3)
AT_ONCE: Final = 20  # messages to one receiver at one look: as many are repeated if the worker dies meanwhile
TURN_S: Final = (
    5.0  # after which a receiver gets no further one at this look, seconds: the others' next look waits for it
)

_JITTER: Final = 0.2  # so that receivers that failed together are not tried together


@dataclass
class ReceiverState:
    """What is known of one receiver while this process sends."""

    begun_at: datetime
    settled: set[str]
    attempts: Counter[str] = field(default_factory=Counter)
    failures: int = 0  # in a row
    next_at_s: float = 0.0  # by the clock that never goes back
    is_gone: bool = False
    waiting: int = 0
    oldest_at: datetime | None = None


class Dispatcher:
    """Delivers what receivers have not taken yet. One thread at a time may use it, on a lake's handle of its own."""

    def __init__(
        self,
        root: str,
        endpoints: Sequence[Endpoint],
        *,
        clock: Callable[[], float],
        link: Callable[[Cell], str] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._lake = Lake.open_only(root, DELIVERIES)
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._clock, self._link, self._jitter = clock, link, jitter
        self._fence: Fence | None = None
        self._receivers: dict[str, ReceiverState] = {}
        self._sent: Counter[tuple[str, str]] = Counter()

    def begin(self, fence: Fence, now: datetime) -> None:
        """Take over from whoever sent before, and note from when on new receivers are told.

        Raises `FencedError` where somebody else sends now, else `LakeError`.
        """
        if fence == self._fence:
            return
        append(self._lake, [], fence=fence)  # from here on nothing of an earlier holder can come
        known = deliveries(self._lake)
        begun = {one.endpoint: one.at for one in known if one.outcome is DeliveryOutcome.BEGUN}
        new = [name for name in self._endpoints if name not in begun]
        if new:
            append(self._lake, [Delivery(name, now, DeliveryOutcome.BEGUN) for name in new], fence=fence)
        self._receivers = {
            name: ReceiverState(
                begun.get(name, now), {one.message_id for one in known if one.endpoint == name and one.message_id}
            )
            for name in self._endpoints
        }
        self._fence = fence

    def forget(self) -> None:
        """Begin anew at the next look: somebody else has sent meanwhile."""
        self._fence = None

    def send(self, changes: Sequence[LifeChange], documents: Mapping[str, VerdictDocument], *, now: datetime) -> None:
        """Try what waits, each receiver on its own; raises `FencedError` and `LakeError`, and then it is sent again."""
        owners = {name: document.owner for name, document in documents.items()}
        due = {
            name: mine
            for name, receiver in self._receivers.items()
            if not receiver.is_gone
            and self._clock() >= receiver.next_at_s
            and (mine := self._of(name, changes, owners))
        }
        if due and self._fence is not None:
            rows = asyncio.run(self._send_all(due, documents, now))
            if rows:
                append(self._lake, rows, fence=self._fence)
            for row in rows:
                self._receivers[row.endpoint].settled.add(str(row.message_id))
        for name, receiver in self._receivers.items():
            left = self._of(name, changes, owners)
            receiver.waiting, receiver.oldest_at = len(left), min((change.at for change in left), default=None)

    def lines(self, now: datetime) -> list[str]:
        """The metrics in Prometheus's text format, as many as there are receivers."""
        return webhook_lines(self._receivers, self._sent, now)

    def _of(self, name: str, changes: Sequence[LifeChange], owners: Mapping[str, str | None]) -> list[LifeChange]:
        """What one receiver still has to take: what was tried least often first, then the oldest."""
        endpoint, receiver = self._endpoints[name], self._receivers[name]
        mine: dict[str, LifeChange] = {}
        for change in changes:
            is_theirs = not endpoint.owners or owners.get(change.recommendation.verdict_id) in endpoint.owners
            is_wanted = is_theirs and change.life in endpoint.lives and change.at >= receiver.begun_at
            if is_wanted and change.change_id not in receiver.settled:
                mine.setdefault(change.change_id, change)
        return sorted(mine.values(), key=lambda change: (receiver.attempts[change.change_id], change.at))

    async def _send_all(
        self, due: Mapping[str, Sequence[LifeChange]], documents: Mapping[str, VerdictDocument], now: datetime
    ) -> list[Delivery]:
        rows = await asyncio.gather(*(self._send_to(name, mine, documents, now) for name, mine in due.items()))
        return [row for some in rows for row in some]

    async def _send_to(
        self, name: str, mine: Sequence[LifeChange], documents: Mapping[str, VerdictDocument], now: datetime
    ) -> list[Delivery]:
        """Send to one receiver until it fails once, or others have waited long enough for it."""
        endpoint, receiver, rows = self._endpoints[name], self._receivers[name], []
        began_s = self._clock()
        async with session_for(endpoint) as session:
            for change in mine[:AT_ONCE]:
                if self._clock() - began_s > TURN_S:
                    break
                said = change.recommendation
                link = None if self._link is None else self._link(said.place)
                body = body_of(endpoint, change, documents.get(said.verdict_id), link)
                attempt = await deliver(session, endpoint, change.change_id, body)
                receiver.attempts[change.change_id] += 1
                tried = receiver.attempts[change.change_id]
                self._sent[name, "delivered" if attempt.delivered else "failed"] += 1
                if attempt.delivered:
                    if receiver.failures:
                        LOG.warning("webhook `%s` takes messages again after %d failure(s)", name, receiver.failures)
                    receiver.failures = 0
                    rows.append(Delivery(name, now, DeliveryOutcome.DELIVERED, change.change_id, tried, attempt.detail))
                    continue
                self._failed(name, receiver, attempt)
                if now - change.at > GIVEN_UP_AFTER:
                    self._sent[name, "given_up"] += 1
                    LOG.error("webhook `%s` was not told of %s: %s", name, change.change_id, attempt.detail)
                    rows.append(Delivery(name, now, DeliveryOutcome.GIVEN_UP, change.change_id, tried, attempt.detail))
                break
        return rows

    def _failed(self, name: str, receiver: ReceiverState, attempt: Attempt) -> None:
        delay_s = DELAYS_S[min(receiver.failures, len(DELAYS_S) - 1)] * (1.0 + _JITTER * (2 * self._jitter() - 1.0))
        receiver.failures += 1
        receiver.next_at_s = self._clock() + max(delay_s, attempt.wait_s or 0.0)
        receiver.is_gone = attempt.gone
        if receiver.failures == 1 or attempt.gone:
            again = (
                "it wants nothing any more, and is asked again after a restart" if attempt.gone else "it is tried again"
            )
            LOG.warning("webhook `%s` failed: %s; %s, and nothing is lost meanwhile", name, attempt.detail, again)


def webhook_lines(
    receivers: Mapping[str, ReceiverState], sent: Mapping[tuple[str, str], int], now: datetime
) -> list[str]:
    """What is known of receivers, by name, and of attempts, by name and outcome, in Prometheus's text format."""
    waiting = {labels(endpoint=name): one.waiting for name, one in receivers.items()}
    ages_s = {
        name: (now - one.oldest_at).total_seconds() for name, one in receivers.items() if one.oldest_at is not None
    }
    outcomes = {labels(endpoint=name, outcome=what): count for (name, what), count in sorted(sent.items())}
    return [
        *metric("webhooks_waiting", "gauge", "Messages that a receiver has not taken yet.", waiting),
        *metric(
            "webhooks_oldest_seconds",
            "gauge",
            "Since what the oldest of them tells of.",
            {labels(endpoint=name): age_s for name, age_s in ages_s.items()},
        ),
        *metric("webhook_attempts_total", "counter", "Attempts by what came of them.", outcomes),
    ]
