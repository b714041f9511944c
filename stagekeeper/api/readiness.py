"""Whether decisions can be made and kept, in words for anybody; what they rest on is for the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from producers.boundary.approvals import ReviewError
from producers.delivery.outbox import OutboxError
from producers.delivery.outbox_emitter import OutboxEmitter, OutboxOnlyEmitter

if TYPE_CHECKING:
    from producers.boundary.flags import FlagEvaluator
    from producers.boundary.review_store import ReviewStore
    from stagekeeper.api.access_tokens import TokenChecker
    from stagekeeper.api.decision_log import DecisionLog

LOG = logging.getLogger(__name__)

_PROBE_S: Final = 1.0  # how long the broker is waited for


@dataclass
class Readiness:
    """The state of a service; asked without a token, so it names no path and quotes no file."""

    checker: TokenChecker
    flags: FlagEvaluator
    reviews: ReviewStore
    log: DecisionLog
    delivery: OutboxEmitter | OutboxOnlyEmitter
    _told: dict[str, str] = field(default_factory=dict)  # what the log has last been told, by part

    def __call__(self) -> dict[str, Any]:
        """`faults` stop decisions that permit anything; what is `degraded` does not."""
        faults, degraded = [], []
        if self._tell("tokens", self.checker.fault):
            faults.append("tokens: the tokens file cannot be used, so no token is accepted; the log says why")
        if not self.flags.ready:
            faults.append("flags: the safe values are in force")
        if self._tell("reviews", self._fault_of_reviews()):
            degraded.append("reviews: what needs one is denied; the log says why")
        waiting: int | None = None
        away: OutboxError | None = None
        try:
            waiting = len(self.log.outbox)
        except OutboxError as error:
            away = error
        if self._tell("outbox", away):
            faults.append("outbox: it cannot be read; the log says why")
        if isinstance(self.delivery, OutboxOnlyEmitter):
            degraded.append("delivery: no broker is configured; records wait on disk")
        elif not self.delivery.reaches_broker(_PROBE_S):
            degraded.append("delivery: the broker does not answer; records wait on disk")
        return {"ready": not faults, "faults": faults, "degraded": degraded, "records_waiting": waiting}

    def _fault_of_reviews(self) -> ReviewError | None:
        try:
            self.reviews.moment()
        except ReviewError as error:
            return error
        return None

    def _tell(self, part: str, fault: Exception | None) -> bool:
        """Log a fault once, however often anybody asks; whether there is one."""
        text = "" if fault is None else str(fault)
        if fault is not None and self._told.get(part) != text:
            LOG.error("%s: %s", part, text)
        self._told[part] = text
        return fault is not None
