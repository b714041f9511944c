"""All checks of the doctor, in the order in which one fault explains the next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from analytics.lake.table_schemas import SIGNALS
from stagekeeper.doctor.config_checks import check_gate_file, check_lake, check_receipt_key, check_reviews
from stagekeeper.doctor.flag_checks import check_flag_providers
from stagekeeper.doctor.flow_checks import check_broker, check_commits, check_freshness, check_lag, check_worker
from stagekeeper.doctor.lake_checks import check_clocks, check_evidence, check_rejects, check_verdicts
from stagekeeper.doctor.probes import SnapshotPair, announced_worker, take_snapshot
from streams.ingest.cadence import COMMIT_EVERY_S, IDLE_S
from streams.ingest.pipeline import ALONE
from streams.lag import Backlog, reader_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from stagekeeper.doctor.check_result import CheckResult
    from stagekeeper.settings import Settings

_LONGEST_WAIT_S: Final = ALONE.total_seconds() + IDLE_S + COMMIT_EVERY_S
"""Seconds for which a record may wait until a commit covers it."""
_AGAIN_S: Final = 0.5


def run_checks(
    settings: Settings,
    *,
    workers: Sequence[str],
    watch_s: float,
    now: Callable[[], datetime],
    wait: Callable[[float], None],
) -> list[CheckResult]:
    """Check everything, twice (`watch_s` seconds apart) where only two snapshots tell; nothing is changed.

    Without `workers`, the one that `stagekeeper up` announced is asked. Raises `UsageError` for a bad address.
    """
    announced = announced_worker(settings.home)
    addresses = list(workers) or ([] if announced is None else [announced])
    gate_file_result, gates = check_gate_file(settings.gates)
    lake_result, lake = check_lake(settings.lake)
    broker_results, inspected = check_broker(settings.kafka_bootstrap_servers, settings.kafka_security)
    with ExitStack() as open_clients:
        backlog, readers = None, None
        servers = settings.kafka_bootstrap_servers
        if inspected is not None and servers is not None:
            readers = reader_count(servers, inspected.cluster_id, settings.kafka_security)
            if not inspected.missing:
                backlog = open_clients.enter_context(Backlog(servers, inspected.cluster_id, settings.kafka_security))
        before = take_snapshot(lake, backlog, addresses)
        wait(watch_s)
        pair = SnapshotPair(before, take_snapshot(lake, backlog, addresses), readers)
        # Sooner nobody can tell whether a record is stuck, or waits for a commit as it may.
        while pair.is_under_way and pair.seconds < _LONGEST_WAIT_S:
            wait(_AGAIN_S)
            pair = SnapshotPair(before, take_snapshot(lake, backlog, addresses), readers)
    moment, reports = now(), pair.after.workers
    return [
        *broker_results,
        check_worker(pair),
        check_lag(pair),
        lake_result,
        check_commits(pair, None if lake is None else moment - lake.committed_at(SIGNALS)),
        check_freshness(pair),
        check_clocks(lake, reports, moment),
        gate_file_result,
        check_verdicts(lake, gates, reports, moment),
        check_evidence(lake, settings.freshness_limit(None if gates is None else gates.freshness_s), moment),
        check_rejects(lake, moment),
        check_flag_providers(lake, moment),
        check_receipt_key(settings.signing_key),
        check_reviews(settings.review_store, settings.signing_key),
    ]
