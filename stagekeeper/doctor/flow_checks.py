"""Checks of the flow of events: broker, topics, workers, lag, commits, freshness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics.text import duration
from stagekeeper.doctor.check_result import CheckResult, CheckState, failed, passed, unknown, warned
from streams.broker import BrokerError, Inspected, inspect_topics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from stagekeeper.doctor.probes import SnapshotPair, WorkerReport

MAX_FRESHNESS_S: Final = 2.0  # from a record's timestamp to its counts, as the 99th percentile
_STALLED_S: Final = 10.0
_SLOW_COMMIT_S: Final = 2.0


def check_broker(
    bootstrap_servers: str | None, settings: Mapping[str, str | int | float | bool]
) -> tuple[list[CheckResult], Inspected | None]:
    """Whether the broker answers, and whether its topics can be used."""
    start = "Start the embedded one with `stagekeeper up`, or set STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=host:port."
    if bootstrap_servers is None:
        return [failed("broker", "no Kafka broker is known", start)], None
    try:
        inspected = inspect_topics(bootstrap_servers, settings)
    except BrokerError as error:
        evidence, _, fix = str(error).partition(". ")
        return [failed("broker", evidence, fix or start)], None
    results = [passed("broker", f"{bootstrap_servers} answers as {inspected.cluster_id}")]
    if inspected.missing:
        names = ", ".join(topic.name for topic in inspected.missing)
        fix = "Start a worker, which creates what is missing with its settings; or create them by hand."
        results.append(failed("topics", f"these do not exist: {names}", fix))
    elif inspected.faults:
        fix = "Change the settings of the topics; or delete them while nothing runs: a worker creates them anew."
        results.append(failed("topics", "; ".join(inspected.faults), fix))
    else:
        results.append(passed("topics", "all there, with usable settings"))
    return results, inspected


def check_worker(pair: SnapshotPair) -> CheckResult:
    """Whether somebody reads the log and answers."""
    reports = pair.after.workers
    silent = [f"{report.address} does not answer ({report.error})" for report in reports if report.error]
    facts = [*silent, *(_summary(report) for report in reports if report.error is None)]
    if pair.readers is not None:
        facts.append(f"{pair.readers} read the log")
    evidence = "; ".join(facts) or "nothing tells of a worker"
    if pair.worker_runs is False:
        start = "Start one: `stagekeeper worker`. It goes on where the lake ends."
        return failed("worker", evidence, start)
    if pair.worker_runs is None:
        return unknown("worker", evidence, "Name a worker's web server with --worker.")
    if silent:
        return warned("worker", evidence, "Look whether that process lives, and at its log.")
    return passed("worker", evidence)


def _summary(report: WorkerReport) -> str:
    up_s, stored, repeats, rejects = (
        report.metrics.get(name, 0.0)
        for name in ("uptime_seconds", "events_stored_total", "repeats_total", "rejects_total")
    )
    counts = f"{stored:,.0f} events stored, {repeats:,.0f} repeats, {rejects:,.0f} rejects"
    return f"{report.address} is up {duration(up_s)}: {counts}"


def check_lag(pair: SnapshotPair) -> CheckResult:
    """Whether the lake keeps up with the broker."""
    before, after = pair.before.lag, pair.after.lag
    if before is None or after is None:
        evidence = pair.after.error or pair.before.error or "broker or lake cannot be asked"
        return unknown("lag", evidence, "Mend broker, topics and lake first.")
    if pair.after.lost:
        evidence = f"the broker deleted {pair.after.lost:,} offsets that the lake does not cover"
        fix = "They cannot be had any more. Raise the topics' retention.ms; docs/operations.md says how to go on."
        return failed("lag", evidence, fix)
    if after == 0 or pair.after.covered:
        newer = f"; {after:,} newer ones are under way" if after else ""
        return passed("lag", f"the lake covers all that the broker held {pair.seconds:.1f} s ago{newer}")
    caught_up_per_s = (before - after) / pair.seconds
    evidence = f"{after:,} records are not in the lake, {before:,} were {pair.seconds:.1f} s ago"
    if after > before:
        fix = (
            "Start a worker."
            if pair.worker_runs is False
            else "Start another worker (`stagekeeper worker --data-only`); "
            "give the topics more partitions if each has one."
        )
        return failed("lag", f"{evidence}: it grows by {-caught_up_per_s:,.0f} a second", fix)
    if caught_up_per_s > 0:
        evidence = f"{evidence}: caught up in {duration(max(1.0, after / caught_up_per_s))}"
        return warned("lag", evidence, "Wait, and look again.")
    return warned("lag", f"{evidence}: it does not shrink", "See the checks `worker` and `commits`.")


def check_commits(pair: SnapshotPair, age: timedelta | None) -> CheckResult:
    """Whether what is read is also committed; `age` is that of the newest commit, None where there is no lake."""
    if age is None:
        return unknown("commits", "there is no lake", "Start a worker.")
    evidence = f"the newest commit is {duration(max(0.0, age.total_seconds()))} old"
    records_wait = bool(pair.before.lag and pair.after.lag)
    if records_wait and not pair.committed and pair.worker_runs is not False:
        evidence += f", none came in {pair.seconds:.1f} s, and {pair.after.lag:,} records wait"
        fix = "Look at the worker's log; kill it (SIGKILL is safe) and start it again: it goes on where the lake ends."
        state = CheckState.FAIL if age.total_seconds() > _STALLED_S else CheckState.WARN
        return CheckResult("commits", state, evidence, fix)
    if records_wait and not pair.committed:
        evidence += ", and no worker is there to commit"
        return unknown("commits", evidence, "Start a worker.")
    committing = [metrics for metrics in pair.worker_metrics if metrics.get("commit_seconds_count")]
    if committing:
        commits = sum(metrics["commit_seconds_count"] for metrics in committing)
        mean_s = sum(metrics["commit_seconds_sum"] for metrics in committing) / commits
        evidence += f"; a batch takes {mean_s * 1_000:,.0f} ms to commit"
        if mean_s > _SLOW_COMMIT_S:
            fix = "The lake's storage is slow, or its tables consist of many small files: docs/operations.md."
            return warned("commits", evidence, fix)
    return passed("commits", evidence)


def check_freshness(pair: SnapshotPair) -> CheckResult:
    """How long it takes until an event's counts can be read, as the workers measured it."""
    measured = [metrics for metrics in pair.worker_metrics if 'freshness_seconds{quantile="0.99"}' in metrics]
    if not measured:
        fix = "Name a worker's web server with --worker; it knows after the first events."
        return unknown("freshness", "no worker told of one", fix)
    p50_s = max(metrics['freshness_seconds{quantile="0.5"}'] for metrics in measured)
    p99_s = max(metrics['freshness_seconds{quantile="0.99"}'] for metrics in measured)
    evidence = f"from record to counts: median {p50_s:.2f} s, 99 % within {p99_s:.2f} s"
    if p99_s > MAX_FRESHNESS_S:
        fix = "A backlog that was read after a pause shows here for a while; else start another worker."
        return warned("freshness", f"{evidence}, limit {MAX_FRESHNESS_S:.0f} s", fix)
    return passed("freshness", evidence)
