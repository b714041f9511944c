"""Checks of the lake's rows: clocks, verdicts, the age of the evidence, rejects."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import EVENTS, REJECTS, VERDICTS
from analytics.text import duration
from analytics.verdicts import heartbeats
from stagekeeper.doctor.check_result import CheckResult, CheckState, failed, passed, unknown, warned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from stagekeeper.doctor.probes import WorkerReport

_RECENT: Final = timedelta(minutes=10)
_DAY: Final = timedelta(hours=24)
_MAX_SKEW_S: Final = 2.0
_TIME_TO_JUDGE: Final = timedelta(minutes=1)
_BROKEN_SHARE: Final = 0.2  # share of rejects among recent records from which on something is broken
_NOTABLE_SHARE: Final = 0.01
_NOTABLE_COUNT: Final = 10
_NOT_OURS: Final = pl.col("type") != "stagekeeper.stage.recommended.v1"  # leaves out what the judge itself publishes

_FIXES: Final = {
    "forged_receipt": "Give routers and workers the same STAGEKEEPER_RECEIPT_KEY.",
    "unsigned_receipt": "Give the routers the workers' STAGEKEEPER_RECEIPT_KEY.",
    "impossible_time": "Set the clocks of the machines that write (NTP).",
    "too_large": "Look for arguments or results that were put into events.",
    "unknown_type": "Use one version of Stagekeeper for routers and workers.",
    "unknown_version": "Use one version of Stagekeeper for routers and workers.",
}


def check_clocks(lake: Lake | None, workers: Sequence[WorkerReport], now: datetime) -> CheckResult:
    """Whether anything is stamped ahead of this machine's clock, and whether the workers' clocks agree with it."""
    good: list[str] = []
    bad: list[str] = []
    doubtful: list[str] = []
    for report in workers:
        if report.clock is None:
            continue
        off_s = (report.clock - now).total_seconds()
        fact = f"the clock of {report.address} is {abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}"
        (bad if abs(off_s) > _MAX_SKEW_S + 1 else good).append(fact)  # it tells whole seconds
    if lake is not None:
        _check_stamps(lake, now, good, bad)
        refused = _rejects_since(lake, now - _RECENT).filter(pl.col("reason") == "impossible_time").height
        if refused:
            fact = f"{refused:,} rejected lately because they lie ahead of the worker's clock"
            accepted = _stored(lake, now - _RECENT, now, _NOT_OURS)
            # A few among many can be a writer's mistake.
            (doubtful if refused < _NOTABLE_SHARE * (refused + accepted) else bad).append(fact)
    if bad or doubtful:
        fix = "Set the clocks (NTP) of the machines that are named, and this one's."
        state = CheckState.FAIL if bad else CheckState.WARN
        return CheckResult("clock", state, "; ".join([*bad, *doubtful, *good]), fix)
    if not good:
        return unknown("clock", "there is no event to compare with", "Look again when events came.")
    return passed("clock", "; ".join(good))


def _check_stamps(lake: Lake, now: datetime, good: list[str], bad: list[str]) -> None:
    """Hold the newest stamps of brokers, writers and workers against this machine's clock."""
    recent = lake.scan(EVENTS).filter(pl.col("ingested_at") > now - _DAY, _NOT_OURS)
    newest = recent.select(pl.col("broker_at").max(), pl.col("time").max(), pl.col("ingested_at").max()).collect()
    for column, what in (("broker_at", "record"), ("time", "event"), ("ingested_at", "row")):
        moment: datetime | None = newest[column][0]
        if moment is None:
            continue
        ahead_s = (moment - now).total_seconds()
        if ahead_s <= _MAX_SKEW_S:
            good.append(f"the newest {what} is {duration(max(0.0, -ahead_s))} old")
            continue
        source, topic = recent.filter(pl.col(column) == moment).select("source", "topic").head(1).collect().row(0)
        whose = "by a worker" if column == "ingested_at" else f"from {source} on {topic}"
        bad.append(f"a {what} {whose} is stamped {duration(ahead_s)} ahead of this clock")


def check_verdicts(
    lake: Lake | None, gates: GateFile | None, workers: Sequence[WorkerReport], now: datetime
) -> CheckResult:
    """Whether the cells are judged, by the gate file that is in force here."""
    if gates is None:
        return failed("verdicts", "nothing is judged without a usable gate file", "Mend the gate file.")
    faults = [report.judge for report in workers if report.judge not in (None, "ok")]
    if faults:
        return failed("verdicts", f"the judge says: {faults[0]}", "Mend that; it judges again by itself.")
    if lake is None:
        return unknown("verdicts", "there is no lake", "Start a worker.")
    return _check_newest_verdict(lake, gates, now)


def _check_newest_verdict(lake: Lake, gates: GateFile, now: datetime) -> CheckResult:
    newest = lake.scan(VERDICTS).sort("judged_at").tail(1).select("judged_at", "gate_sha256").collect()
    if newest.is_empty():
        first = lake.scan(EVENTS).filter(_NOT_OURS).select(pl.col("ingested_at").min()).collect().item()
        if first is None or now - first < _TIME_TO_JUDGE:
            return unknown("verdicts", "there was nothing to judge yet", "Run it again when events have come.")
        fix = "One worker has to run without --data-only, with the gate file that is named here."
        return failed("verdicts", "there are events, and not one verdict", fix)
    judged_at, sha256 = newest.row(0)
    heartbeat = heartbeats.newest(lake)
    looked_at = judged_at if heartbeat is None else max(judged_at, heartbeat.judged_at)
    evidence = f"all were last looked at {duration(max(0.0, (now - looked_at).total_seconds()))} ago"
    if sha256 != gates.sha256:
        fix = "Start the workers with the same STAGEKEEPER_GATE_FILE; a gate asked here does not open before."
        return warned("verdicts", f"{evidence}, under another gate file ({sha256[:12]})", fix)
    return passed("verdicts", f"{evidence}, under this gate file")


def check_evidence(lake: Lake | None, limit: timedelta, now: datetime) -> CheckResult:
    """How old the newest event is: evidence that is too old opens no gate."""
    newest: datetime | None = None
    if lake is not None:
        newest = lake.scan(EVENTS).filter(_NOT_OURS).select(pl.col("time").max()).collect().item()
    if newest is None:
        fix = "Point the routers at this broker; `stagekeeper simulate` makes some to try with."
        return unknown("evidence", "no event is stored yet", fix)
    age = max(timedelta(), now - newest)
    evidence = f"the newest event is {duration(age.total_seconds())} old, limit {duration(limit.total_seconds())}"
    if age > limit:
        fix = "No gate opens on it. See whether routers run and reach the broker, and at the check `lag`."
        return failed("evidence", evidence, fix)
    if age > limit / 2:
        return warned("evidence", evidence, "See whether the routers still reach the broker.")
    return passed("evidence", evidence)


def check_rejects(lake: Lake | None, now: datetime) -> CheckResult:
    """Whether the share of records that cannot be used has grown."""
    if lake is None:
        return unknown("rejects", "there is no lake", "Start a worker.")
    since = now - _RECENT
    recent, before = _rejects_since(lake, since), _rejects_since(lake, now - _DAY, until=since)
    share, earlier = _share(lake, recent.height, since, now), _share(lake, before.height, now - _DAY, since)
    window = f"in the last {duration(_RECENT.total_seconds())}"
    evidence = f"{recent.height:,} records were rejected {window}"
    if recent.is_empty():
        return passed("rejects", evidence)
    reasons = recent["reason"].value_counts(sort=True).head(3).rows()
    latest = recent.sort("rejected_at").tail(1).select("topic", "partition", "offset", "detail").row(0)
    evidence += (
        f", {share:.2%} of what came ({earlier:.2%} in the day before): "
        f"{', '.join(f'{reason} {count:,}' for reason, count in reasons)}; "
        f"the latest is {latest[0]}/{latest[1]}/{latest[2]}: {latest[3]}"
    )
    fix = _FIXES.get(reasons[0][0], "Look at the first bytes in the table rejects, and mend what writes them.")
    if share >= _BROKEN_SHARE:
        return failed("rejects", evidence, fix)
    if recent.height >= _NOTABLE_COUNT and share >= max(_NOTABLE_SHARE, 2 * earlier):
        return warned("rejects", evidence, fix)
    return passed("rejects", evidence)


def _rejects_since(lake: Lake, since: datetime, until: datetime | None = None) -> pl.DataFrame:
    rows = lake.scan(REJECTS).filter(pl.col("rejected_at") > since)
    if until is not None:
        rows = rows.filter(pl.col("rejected_at") <= until)
    return rows.select("topic", "partition", "offset", "reason", "detail", "rejected_at").collect()


def _share(lake: Lake, rejected: int, since: datetime, until: datetime) -> float:
    """Rejects as a share of all that was read in a stretch of time."""
    stored = _stored(lake, since, until)
    return rejected / (rejected + stored) if rejected + stored else 0.0


def _stored(lake: Lake, since: datetime, until: datetime, *conditions: pl.Expr) -> int:
    """Events that were stored in a stretch of time."""
    stored = lake.scan(EVENTS).filter(pl.col("ingested_at").is_between(since, until), *conditions)
    return int(stored.select(pl.len()).collect().item())
