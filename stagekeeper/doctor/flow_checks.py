"""Whether events flow: broker, topics, workers, lag, commits, freshness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stagekeeper.doctor.finding import Finding, State, healthy, seconds
from streams.broker import BrokerError, Inspected, inspect_topics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from stagekeeper.doctor.probes import Course, WorkerWords

FRESH_S: Final = 2.0
"""Longest time from a record's timestamp to its counts, as the 99th percentile, that is as it should be."""

_STALLED_S: Final = 10.0
_SLOW_COMMIT_S: Final = 2.0


def broker_found(
    bootstrap_servers: str | None, settings: Mapping[str, str | int | float | bool]
) -> tuple[list[Finding], Inspected | None]:
    """Whether the broker answers, and whether its topics can be used."""
    start = "Start the embedded one with `stagekeeper up`, or set STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=host:port."
    if bootstrap_servers is None:
        return [Finding("broker", State.FAIL, "no Kafka broker is known", start)], None
    try:
        found = inspect_topics(bootstrap_servers, settings)
    except BrokerError as error:
        said, _, mend = str(error).partition(". ")
        return [Finding("broker", State.FAIL, said, mend or start)], None
    findings = [healthy("broker", f"{bootstrap_servers} answers as {found.cluster_id}")]
    if found.missing:
        names = ", ".join(topic.name for topic in found.missing)
        mend = "Start a worker, which creates what is missing with its settings; or create them by hand."
        findings.append(Finding("topics", State.FAIL, f"these do not exist: {names}", mend))
    elif found.faults:
        mend = "Change the settings of the topics; or delete them while nothing runs: a worker creates them anew."
        findings.append(Finding("topics", State.FAIL, "; ".join(found.faults), mend))
    else:
        findings.append(healthy("topics", "all there, with usable settings"))
    return findings, found


def worker_found(course: Course) -> Finding:
    """Whether somebody reads the log and answers."""
    said = [_introduced(words) for words in course.after.workers if words.silence is None]
    silent = [f"{words.address} does not answer ({words.silence})" for words in course.after.workers if words.silence]
    if course.readers is not None:
        said.append(f"{course.readers} read the log")
    evidence = "; ".join([*silent, *said]) or "nothing tells of a worker"
    if course.at_work is False:
        start = "Start one: `stagekeeper worker`. It goes on where the lake ends."
        return Finding("worker", State.FAIL, evidence, start)
    if course.at_work is None:
        return Finding("worker", State.UNKNOWN, evidence, "Name a worker's web server with --worker.")
    if silent:
        return Finding("worker", State.WARN, evidence, "Look whether that process lives, and at its log.")
    return healthy("worker", evidence)


def _introduced(words: WorkerWords) -> str:
    up_s, stored, repeats, rejects = (
        words.numbers.get(name, 0.0)
        for name in ("uptime_seconds", "events_stored_total", "repeats_total", "rejects_total")
    )
    counts = f"{stored:,.0f} events stored, {repeats:,.0f} repeats, {rejects:,.0f} rejects"
    return f"{words.address} is up {seconds(up_s)}: {counts}"


def lag_found(course: Course) -> Finding:
    """Whether the lake keeps up with the broker."""
    before, after = course.before.left, course.after.left
    fault = course.after.fault or course.before.fault
    if before is None or after is None:
        evidence = fault or "broker or lake cannot be asked"
        return Finding("lag", State.UNKNOWN, evidence, "Mend broker, topics and lake first.")
    if course.after.lost:
        evidence = f"the broker deleted {course.after.lost:,} offsets that the lake does not cover"
        mend = "They cannot be had any more. Raise the topics' retention.ms; docs/operations.md says how to go on."
        return Finding("lag", State.FAIL, evidence, mend)
    if after == 0 or course.after.covered:
        under_way = f"; {after:,} newer ones are under way" if after else ""
        return healthy("lag", f"the lake covers all that the broker held {course.seconds:.1f} s ago{under_way}")
    pace = (before - after) / course.seconds
    evidence = f"{after:,} records are not in the lake, {before:,} were {course.seconds:.1f} s ago"
    if after > before:
        mend = (
            "Start a worker."
            if course.at_work is False
            else "Start another worker (`stagekeeper worker --data-only`); "
            "give the topics more partitions if each has one."
        )
        return Finding("lag", State.FAIL, f"{evidence}: it grows by {-pace:,.0f} a second", mend)
    if pace > 0:
        return Finding("lag", State.WARN, f"{evidence}: caught up in {seconds(after / pace)}", "Wait, and look again.")
    return Finding("lag", State.WARN, f"{evidence}: it does not shrink", "See the checks `worker` and `commits`.")


def commits_found(course: Course, age: timedelta | None) -> Finding:
    """Whether what is read is also committed.

    Args:
        course: The looks.
        age: Of the newest commit to `signals`; None where there is no lake.
    """
    if age is None:
        return Finding("commits", State.UNKNOWN, "there is no lake", "Start a worker.")
    evidence = f"the newest commit is {seconds(max(0.0, age.total_seconds()))} old"
    waits = bool(course.before.left and course.after.left)
    if waits and not course.committed and course.at_work is not False:
        evidence += f", none came in {course.seconds:.1f} s, and {course.after.left:,} records wait"
        mend = "Look at the worker's log; kill it (SIGKILL is safe) and start it again: it goes on where the lake ends."
        state = State.FAIL if age.total_seconds() > _STALLED_S else State.WARN
        return Finding("commits", state, evidence, mend)
    if waits and not course.committed:
        return Finding("commits", State.UNKNOWN, f"{evidence}, and no worker is there to commit", "Start a worker.")
    taken = [
        (numbers["commit_seconds_sum"], numbers["commit_seconds_count"])
        for numbers in course.numbers
        if numbers.get("commit_seconds_count")
    ]
    if taken:
        mean_s = sum(total for total, _ in taken) / sum(count for _, count in taken)
        evidence += f"; a batch takes {mean_s * 1_000:,.0f} ms to commit"
        if mean_s > _SLOW_COMMIT_S:
            mend = "The lake's storage is slow, or its tables consist of many small files: docs/operations.md."
            return Finding("commits", State.WARN, evidence, mend)
    return healthy("commits", evidence)


def freshness_found(course: Course) -> Finding:
    """How long it takes until an event's counts can be read, by what the workers saw."""
    known = [numbers for numbers in course.numbers if 'freshness_seconds{quantile="0.99"}' in numbers]
    if not known:
        mend = "Name a worker's web server with --worker; it knows after the first events."
        return Finding("freshness", State.UNKNOWN, "no worker told of one", mend)
    p50_s = max(numbers['freshness_seconds{quantile="0.5"}'] for numbers in known)
    p99_s = max(numbers['freshness_seconds{quantile="0.99"}'] for numbers in known)
    evidence = f"from record to counts: median {p50_s:.2f} s, 99 % within {p99_s:.2f} s"
    if p99_s > FRESH_S:
        mend = "A backlog that was read after a pause shows here for a while; else start another worker."
        return Finding("freshness", State.WARN, f"{evidence}, limit {FRESH_S:.0f} s", mend)
    return healthy("freshness", evidence)
