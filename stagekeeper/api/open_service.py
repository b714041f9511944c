"""The service from the settings: its parts opened in order, and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.delivery.outbox import OutboxError
from producers.delivery.outbox_emitter import OutboxEmitter, OutboxOnlyEmitter
from producers.delivery.recorder import Recorder, system_clock
from stagekeeper.api.access import AccessControl
from stagekeeper.api.access_tokens import TokenChecker
from stagekeeper.api.decision_log import DecisionLog, LoggedEmitter
from stagekeeper.api.decision_service import DecisionService
from stagekeeper.api.event_sources import EventSources
from stagekeeper.api.readiness import Readiness
from stagekeeper.api.service_app import service_app
from stagekeeper.factory import open_review_store, telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fastapi import FastAPI

    from stagekeeper.settings import Settings

LOG = logging.getLogger(__name__)

APPROVAL_HOLDS: Final = timedelta(hours=24)
KEEP: Final = timedelta(days=30)  # how long a decision can be reported on by its id
_FORGET_EVERY_S: Final = 60.0
_NEXT_S: Final = 0.2  # between two steps, so that others write meanwhile
_LEAVE_S: Final = 3.0  # how long the end of the service may wait for the broker


@contextlib.contextmanager
def open_service(settings: Settings, *, source: str, now: Callable[[], datetime] = system_clock) -> Iterator[FastAPI]:
    """The application, ready to serve within the block. Raises `StagekeeperError` where a part cannot be opened."""
    with contextlib.ExitStack() as at_end:
        checker = TokenChecker(settings.tokens, now=now)
        authorizer = FileAuthorizer.load(settings.authorization)
        flags = FlagEvaluator.from_file(settings.flags)
        at_end.callback(flags.close)
        reviews = at_end.enter_context(open_review_store(settings))
        log = DecisionLog(settings.service_log)
        delivery = _open_delivery(settings, log)
        at_end.callback(_close_delivery, delivery)
        at_end.callback(log.close)  # before its outbox, which the delivery closes
        emitter = LoggedEmitter(log, delivery)
        recorder = Recorder(emitter, source=source, key=settings.signing_key, now=now)
        at_end.enter_context(telling(flags, delivery, source=source, environment=None))
        router = Router(
            authorizer=authorizer,
            flags=flags,
            recorder=recorder,
            environment="unknown",  # every contract names its own
            reviews=reviews,
            approval_holds=APPROVAL_HOLDS,
        )
        decisions = DecisionService(
            router,
            recorder,
            emitter,
            log,
            reviews,
            permit_s=settings.permit_s,
            approval_holds=APPROVAL_HOLDS,
            now=now,
        )
        app = service_app(
            access=AccessControl(checker),
            decisions=decisions,
            settings=settings,
            ready=Readiness(checker, flags, reviews, log, delivery),
            lifespan=lambda _app: _housekeeping(log),
        )
        app.state.log, app.state.reviews, app.state.recorder = log, reviews, recorder
        app.state.sources = EventSources(log, emitter, own=source)
        yield app


def _open_delivery(settings: Settings, log: DecisionLog) -> OutboxEmitter | OutboxOnlyEmitter:
    servers = settings.kafka_bootstrap_servers
    if servers is None:
        return OutboxOnlyEmitter(log.outbox)
    return OutboxEmitter.to_kafka(
        servers, log.outbox, client_id="stagekeeper-service", settings=settings.kafka_security
    )


def _close_delivery(delivery: OutboxEmitter | OutboxOnlyEmitter) -> None:
    if isinstance(delivery, OutboxOnlyEmitter):
        delivery.close()
    elif left := delivery.close(_LEAVE_S):
        LOG.warning("%d record(s) wait on disk for the broker; the next service delivers them", left)


@contextlib.asynccontextmanager
async def _housekeeping(log: DecisionLog) -> AsyncIterator[None]:
    async def forget() -> None:
        while True:
            try:
                forgotten = await asyncio.to_thread(log.forget_before, datetime.now(UTC) - KEEP)
            except OutboxError:
                LOG.exception("old decisions cannot be forgotten")
                forgotten = 0
            await asyncio.sleep(_NEXT_S if forgotten else _FORGET_EVERY_S)

    task = asyncio.create_task(forget())
    try:
        yield
    finally:
        task.cancel()
