"""The worker's numbers in Prometheus's text format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from streams.data.freshness import Freshness
    from streams.data.progress import Totals

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


def exposition(
    totals: Totals, freshness: Freshness, *, up_s: float, judging: bool, judge_fault: bool, now: datetime
) -> str:
    """Everything that a worker tells about itself.

    Args:
        totals: Sums since it started.
        freshness: How long events take.
        up_s: Seconds since it started.
        judging: Whether it is the worker that judges.
        judge_fault: Whether its last look failed.
        now: The present moment, for the age of the evidence.
    """
    age_s = None if freshness.last_event_at is None else (now - freshness.last_event_at).total_seconds()
    lines = [
        *_metric("events_read_total", "counter", "Records read, repeats and rejects included.", totals.read),
        *_metric("events_stored_total", "counter", "Events committed to the lake.", totals.stored),
        *_metric("repeats_total", "counter", "Repeats dropped.", totals.repeats),
        *_metric("rejects_total", "counter", "Records rejected.", totals.rejects),
        *_metric("lag_records", "gauge", "Records in the log that are not yet read.", totals.lag),
        *_summary("commit_seconds", "Time of the commits of a batch.", totals.commit_s, totals.batches),
        *_quantiles("freshness_seconds", "From a record's timestamp until its counts can be read.", freshness),
        *_metric("evidence_age_seconds", "gauge", "Age of the newest event that is stored.", age_s),
        *_metric("uptime_seconds", "gauge", "Since the worker started.", up_s),
        *_metric("judging", "gauge", "1 in the worker that judges.", int(judging)),
        *_metric("judge_fault", "gauge", "1 while nothing can be judged.", int(judge_fault)),
    ]
    return "\n".join([*lines, ""])


def _metric(name: str, kind: str, purpose: str, value: float | None) -> Iterable[str]:
    """One number; left out while it is unknown."""
    return () if value is None else (*_heading(name, kind, purpose), f"stagekeeper_{name} {value!r}")


def _summary(name: str, purpose: str, total: float, count: int) -> Iterable[str]:
    full = f"stagekeeper_{name}"
    return (*_heading(name, "summary", purpose), f"{full}_sum {total!r}", f"{full}_count {count}")


def _quantiles(name: str, purpose: str, freshness: Freshness) -> Iterable[str]:
    if freshness.p50_s is None or freshness.p99_s is None:
        return ()
    return (
        *_heading(name, "gauge", purpose),
        f'stagekeeper_{name}{{quantile="0.5"}} {freshness.p50_s!r}',
        f'stagekeeper_{name}{{quantile="0.99"}} {freshness.p99_s!r}',
    )


def _heading(name: str, kind: str, purpose: str) -> tuple[str, str]:
    return f"# HELP stagekeeper_{name} {purpose}", f"# TYPE stagekeeper_{name} {kind}"
