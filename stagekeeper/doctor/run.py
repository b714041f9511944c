"""All checks, in the order in which one fault explains the next."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from stagekeeper.doctor.config_checks import gates_found, lake_found
from stagekeeper.doctor.flow_checks import broker_found, commits_found, freshness_found, lag_found, worker_found
from stagekeeper.doctor.lake_checks import (
    clock_found,
    commit_age,
    evidence_found,
    rejects_found,
    verdicts_found,
)
from stagekeeper.doctor.probes import Course, Looker, announced
from streams.lag import Backlog, reader_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from stagekeeper.doctor.finding import Finding
    from stagekeeper.settings import Settings


def examine(
    settings: Settings,
    *,
    workers: Sequence[str],
    watch_s: float,
    now: Callable[[], datetime],
    wait: Callable[[float], None],
) -> list[Finding]:
    """Look at everything, twice where only two looks tell.

    Nothing is changed: no topic is created, no offset committed, and no table written.

    Args:
        settings: Where broker, lake and gate file are.
        workers: Addresses of workers' web servers; none takes the one that `stagekeeper up` announced.
        watch_s: Seconds between the two looks.
        now: The clock.
        wait: Lets so many seconds pass.

    Raises:
        UsageError: What was named as a worker's address is none.
    """
    found_at_home = announced(settings.home)
    addresses = list(workers) or ([] if found_at_home is None else [found_at_home])
    about_gates, gates = gates_found(settings.gates)
    about_lake, lake = lake_found(settings.lake)
    about_broker, inspected = broker_found(settings.kafka_bootstrap_servers, settings.kafka_security)
    with ExitStack() as open_clients:
        backlog, readers = None, None
        servers = settings.kafka_bootstrap_servers
        if inspected is not None and servers is not None:
            readers = reader_count(servers, inspected.cluster_id, settings.kafka_security)
            if not inspected.missing:
                backlog = open_clients.enter_context(Backlog(servers, inspected.cluster_id, settings.kafka_security))
        looker = Looker(lake, backlog, addresses)
        before = looker.look()
        wait(watch_s)
        course = Course(before, looker.look(), readers)
    at, said = now(), course.after.workers
    return [
        *about_broker,
        worker_found(course),
        lag_found(course),
        about_lake,
        commits_found(course, commit_age(lake, at)),
        freshness_found(course),
        clock_found(lake, said, at),
        about_gates,
        verdicts_found(lake, gates, said, at),
        evidence_found(lake, _limit(settings, gates), at),
        rejects_found(lake, at),
    ]


def _limit(settings: Settings, gates: GateFile | None) -> timedelta:
    """How old evidence may be: as stated, else what the gate file says."""
    stated = "freshness_s" in settings.model_fields_set or gates is None
    return timedelta(seconds=settings.freshness_s if stated or gates is None else gates.freshness_s)
