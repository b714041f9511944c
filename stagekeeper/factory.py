"""Routers and recorders from the settings: through an outbox on disk, and to Kafka where one is configured."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.flags import FlagEvaluator
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter, OutboxOnlyEmitter
from producers.delivery.recorder import Recorder
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def open_emitter(settings: Settings, *, client_id: str = "stagekeeper") -> OutboxOnlyEmitter | OutboxEmitter:
    """An emitter with the configured outbox; it delivers where a broker is configured, else another process does."""
    outbox = Outbox(settings.outbox)
    servers = settings.kafka_bootstrap_servers
    if servers is None:
        return OutboxOnlyEmitter(outbox)
    return OutboxEmitter.to_kafka(servers, outbox, client_id=client_id, settings=settings.kafka_security)


@contextmanager
def open_router(
    *,
    source: str,
    environment: str,
    agent: str = "unknown",
    authorization: Path | None = None,
    flags: Path | None = None,
    settings: Settings | None = None,
) -> Iterator[Router]:
    """A router from files, ready to use within the block; files and settings that are left out are the configured ones.

    `source` says who records, as a URI reference such as `/routers/crm-eu-1`; `environment` and `agent` are for
    actions that name none. Raises `SettingsError` where a file does not exist, and `ConfigurationFileError`.
    """
    settings = settings or Settings.load()
    authorizer = FileAuthorizer.load(authorization or settings.authorization)
    evaluator = FlagEvaluator.from_file(flags or settings.flags)
    store = ReviewStore(settings.review_store, key=settings.signing_key)
    try:
        with open_emitter(settings, client_id=agent) as emitter:
            yield Router(
                authorizer=authorizer,
                flags=evaluator,
                recorder=Recorder(emitter, source=source, key=settings.signing_key),
                environment=environment,
                agent=agent,
                reviews=store,
            )
    finally:
        store.close()
        evaluator.close()


@contextmanager
def recording(settings: Settings, source: str) -> Iterator[Recorder]:
    """A recorder for a command; after the block, a line on stderr says how many records still wait for the broker."""
    with open_emitter(settings, client_id="stagekeeper-command") as emitter:
        yield Recorder(emitter, source=source, key=settings.signing_key)
        waiting = emitter.flush(5.0)  # seconds; what is left then stays on disk for the next one
    if waiting:
        click.echo(f"{waiting} record(s) wait in {settings.outbox} until the broker can be reached.", err=True)
