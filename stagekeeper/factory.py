"""Routers and recorders from the settings: through an outbox on disk, and to Kafka where one is configured."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.decision_rules import ruleset_of
from producers.boundary.flags import DEADLINE_S, FlagEvaluator
from producers.boundary.review_database import PostgresReviews
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.boundary.status_reporter import StatusReporter
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter, OutboxOnlyEmitter
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.events import EarlierApproval
from producers.wire.receipt import Receipt
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.boundary.approvals import Review
    from producers.boundary.authorization import Authorizer

LOG = logging.getLogger(__name__)

_LEAVE_S = 3.0  # how long the end of a router's block may wait for the broker


def open_emitter(settings: Settings, *, client_id: str = "stagekeeper") -> OutboxOnlyEmitter | OutboxEmitter:
    """An emitter with the configured outbox; it delivers where a broker is configured, else another process does."""
    outbox = Outbox(settings.outbox)
    servers = settings.kafka_bootstrap_servers
    if servers is None:
        return OutboxOnlyEmitter(outbox)
    return OutboxEmitter.to_kafka(servers, outbox, client_id=client_id, settings=settings.kafka_security)


def open_review_store(settings: Settings) -> ReviewStore:
    """The configured desk of actions that wait for a person; `ReviewError` where it cannot be used."""
    url = settings.review_database
    place = settings.review_store if url is None else PostgresReviews(url.get_secret_value())
    return ReviewStore(place, key=settings.signing_key)


@contextmanager
def open_router(
    *,
    source: str,
    environment: str,
    agent: str = "unknown",
    authorization: Path | str | None = None,
    policy: Authorizer | None = None,
    flags: Path | str | FlagEvaluator | None = None,
    flag_deadline_s: float = DEADLINE_S,
    settings: Settings | None = None,
) -> Iterator[Router]:
    """A router from files, ready to use within the block; files and settings that are left out are the configured ones.

    `source` says who records, as a URI reference such as `/routers/crm-eu-1`; `environment` and `agent` are for
    actions that name none. `policy` is an authorizer of your own in place of the file. A decision waits at most
    `flag_deadline_s` seconds for a flag file that cannot be looked at. The block is left within 5 s, with a line in the
    log where records wait on disk for a broker that is away. Raises `SettingsError` where a file does not exist,
    `ConfigurationFileError`, and `UsageError` where both `policy` and `authorization` are given.
    """
    settings = settings or Settings.load()
    if policy is not None and authorization is not None:
        raise UsageError("open_router takes `policy=`, an authorizer, or `authorization=`, a file: not both")
    authorizer = policy or FileAuthorizer.load(Path(authorization or settings.authorization))
    if isinstance(flags, FlagEvaluator):
        evaluator = flags
    else:
        evaluator = FlagEvaluator.from_file(Path(flags or settings.flags), deadline_s=flag_deadline_s)
    store = open_review_store(settings)
    try:
        emitter = open_emitter(settings, client_id=agent)
        try:
            recorder = Recorder(emitter, source=source, key=settings.signing_key)
            with telling(evaluator, emitter, source=source, environment=environment):
                yield Router(
                    authorizer=authorizer,
                    flags=evaluator,
                    recorder=recorder,
                    environment=environment,
                    agent=agent,
                    reviews=store,
                )
        finally:
            _close(emitter, settings)
    finally:
        store.close()
        if evaluator is not flags:
            evaluator.close()


@contextmanager
def telling(
    flags: FlagEvaluator, emitter: OutboxOnlyEmitter | OutboxEmitter, *, source: str, environment: str | None
) -> Iterator[None]:
    """Have a router tell what it decides by, where a broker is configured: on disk that would only pile up."""
    if isinstance(emitter, OutboxOnlyEmitter):
        yield
        return
    reporter = StatusReporter(flags, emitter, source=source, environment=environment).start()
    try:
        yield
    finally:
        reporter.close()


def _close(emitter: OutboxOnlyEmitter | OutboxEmitter, settings: Settings) -> None:
    if isinstance(emitter, OutboxOnlyEmitter):
        emitter.close()
    elif left := emitter.close(_LEAVE_S):
        LOG.warning(
            "%d record(s) are safe on disk, in %s; whoever reaches the broker %s next from there delivers them",
            left,
            settings.outbox,
            settings.kafka_bootstrap_servers,
        )


@contextmanager
def recording(settings: Settings, source: str) -> Iterator[Recorder]:
    """A recorder for a command; after the block, a line on stderr says how many records still wait for the broker."""
    with open_emitter(settings, client_id="stagekeeper-command") as emitter:
        yield Recorder(emitter, source=source, key=settings.signing_key)
        waiting = emitter.flush(5.0)  # seconds; what is left then stays on disk for the next one
    if waiting:
        click.echo(f"{waiting} record(s) wait in {settings.outbox} until the broker can be reached.", err=True)


def record_resolution(recorder: Recorder, review: Review) -> None:
    """Put the word that settles a review on this machine's disk as an event."""
    resolution = review.resolution
    if resolution is None:
        raise AssertionError("a resolved review has a resolution")
    earlier = tuple(
        EarlierApproval(reviewer=word.reviewer, rationale=word.rationale, at=word.at)
        for word in review.approvals
        if word is not resolution
    )
    recorder.review_resolved(
        Receipt.from_token(review.queued.receipt, recorder.key),
        resolution.resolution,
        reviewer=resolution.reviewer,
        rationale=resolution.rationale,
        # Of another clock than the store's, which may be behind it by now.
        wait_ms=max(0.0, (resolution.at - review.queued.queued_at).total_seconds() * 1000),
        authenticated=resolution.authenticated,
        earlier_approvals=earlier or None,
        at=resolution.at,
        durable=True,
    )


def ruleset_sha256(settings: Settings, flags_sha256: str) -> str:
    """The ruleset that decisions carry under a flag file; the flags alone where no authorization file is known here."""
    if not settings.authorization.is_file():
        return flags_sha256
    return ruleset_of(FileAuthorizer.load(settings.authorization).sha256, flags_sha256)
