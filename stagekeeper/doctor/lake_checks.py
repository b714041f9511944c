"""What the lake's rows tell: clocks, verdicts, the age of the evidence, rejects."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS, VERDICTS
from analytics.verdicts import heartbeats
from stagekeeper.doctor.finding import Finding, State, healthy, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from stagekeeper.doctor.probes import WorkerWords

_RECENT: Final = timedelta(minutes=10)
_LONG: Final = timedelta(hours=24)
_SKEW_S: Final = 2.0
_UNJUDGED: Final = timedelta(minutes=1)
_REJECTED: Final = 0.2
"""Share of rejects among recent records from which on something is broken."""
_NOTABLE: Final = 0.01
_FEWEST: Final = 10
_OWN: Final = "stagekeeper.stage.recommended.v1"

_MENDS: Final = {
    "forged_receipt": "give routers and workers the same STAGEKEEPER_RECEIPT_KEY",
    "unsigned_receipt": "give the routers the workers' STAGEKEEPER_RECEIPT_KEY",
    "impossible_time": "set the clocks of the machines that write (NTP)",
    "too_large": "look for arguments or results that were put into events",
    "unknown_type": "use one version of Stagekeeper for routers and workers",
    "unknown_version": "use one version of Stagekeeper for routers and workers",
}


def clock_found(lake: Lake | None, workers: Sequence[WorkerWords], now: datetime) -> Finding:
    """Whether anything is stamped ahead of this machine's clock, and whether the workers' clocks agree with it."""
    said: list[str] = []
    ahead: list[str] = []
    few: list[str] = []
    for words in workers:
        if words.clock is None:
            continue
        off_s = (words.clock - now).total_seconds()
        told = f"the clock of {words.address} is {abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}"
        (ahead if abs(off_s) > _SKEW_S + 1 else said).append(told)  # it tells whole seconds
    if lake is not None:
        recent = lake.scan(EVENTS).filter(pl.col("ingested_at") > now - _LONG, pl.col("type") != _OWN)
        newest = recent.select(pl.col("broker_at").max(), pl.col("time").max(), pl.col("ingested_at").max()).collect()
        for column, what in (("broker_at", "record"), ("time", "event"), ("ingested_at", "row")):
            moment: datetime | None = newest[column][0]
            if moment is None:
                continue
            ahead_s = (moment - now).total_seconds()
            if ahead_s <= _SKEW_S:
                said.append(f"the newest {what} is {seconds(max(0.0, -ahead_s))} old")
                continue
            source = recent.filter(pl.col(column) == moment).select("source", "topic").head(1).collect().row(0)
            whose = "by a worker" if column == "ingested_at" else f"from {source[0]} on {source[1]}"
            ahead.append(f"a {what} {whose} is stamped {seconds(ahead_s)} ahead of this clock")
        refused = _rejects_since(lake, now - _RECENT).filter(pl.col("reason") == "impossible_time").height
        taken = recent.filter(pl.col("ingested_at") > now - _RECENT).select(pl.len()).collect().item()
        if refused:
            told = f"{refused:,} rejected lately because they lie ahead of the worker's clock"
            (few if refused < _NOTABLE * (refused + taken) else ahead).append(told)
    if ahead or few:
        mend = "Set the clocks (NTP) of the machines that are named, and this one's."
        state = State.FAIL if ahead else State.WARN  # a few among many can be a writer's mistake
        return Finding("clock", state, "; ".join([*ahead, *few, *said]), mend)
    if not said:
        return Finding("clock", State.UNKNOWN, "there is no event to compare with", "Look again when events came.")
    return healthy("clock", "; ".join(said))


def verdicts_found(lake: Lake | None, gates: GateFile | None, workers: Sequence[WorkerWords], now: datetime) -> Finding:
    """Whether the cells are judged, by the gate file that is in force here."""
    if gates is None:
        return Finding("verdicts", State.FAIL, "nothing is judged without a usable gate file", "Mend the gate file.")
    faults = [words.judge for words in workers if words.judge not in (None, "ok")]
    if faults:
        return Finding("verdicts", State.FAIL, f"the judge says: {faults[0]}", "Mend that; it judges again by itself.")
    if lake is None:
        return Finding("verdicts", State.UNKNOWN, "there is no lake", "Start a worker.")
    return _judged(lake, gates, now)


def _judged(lake: Lake, gates: GateFile, now: datetime) -> Finding:
    newest = lake.scan(VERDICTS).sort("judged_at").tail(1).select("judged_at", "gate_sha256").collect()
    if newest.is_empty():
        first = lake.scan(EVENTS).filter(pl.col("type") != _OWN).select(pl.col("ingested_at").min()).collect().item()
        if first is None or now - first < _UNJUDGED:
            return Finding("verdicts", State.UNKNOWN, "there was nothing to judge yet", "Look again when events came.")
        mend = "One worker has to run without --data-only, with the gate file that is named here."
        return Finding("verdicts", State.FAIL, "there are events, and not one verdict", mend)
    judged_at, sha256 = newest.row(0)
    look = heartbeats.newest(lake)
    looked_at = judged_at if look is None else max(judged_at, look.judged_at)
    evidence = f"all were last looked at {seconds(max(0.0, (now - looked_at).total_seconds()))} ago"
    if sha256 != gates.sha256:
        mend = "Start the workers with the same STAGEKEEPER_GATE_FILE; a gate asked here does not open before."
        return Finding("verdicts", State.WARN, f"{evidence}, under another gate file ({sha256[:12]})", mend)
    return healthy("verdicts", f"{evidence}, under this gate file")


def evidence_found(lake: Lake | None, limit: timedelta, now: datetime) -> Finding:
    """How old the newest event is: evidence that is too old opens no gate."""
    newest: datetime | None = None
    if lake is not None:
        own = pl.col("type") != _OWN
        newest = lake.scan(EVENTS).filter(own).select(pl.col("time").max()).collect().item()
    if newest is None:
        mend = "Point the routers at this broker; `stagekeeper simulate` makes some to try with."
        return Finding("evidence", State.UNKNOWN, "no event is stored yet", mend)
    age = max(timedelta(), now - newest)
    evidence = f"the newest event is {seconds(age.total_seconds())} old, limit {seconds(limit.total_seconds())}"
    if age > limit:
        mend = "No gate opens on it. Look whether routers run and reach the broker, and at the check `lag`."
        return Finding("evidence", State.FAIL, evidence, mend)
    if age > limit / 2:
        return Finding("evidence", State.WARN, evidence, "Look whether the routers still reach the broker.")
    return healthy("evidence", evidence)


def rejects_found(lake: Lake | None, now: datetime) -> Finding:
    """Whether more records than before cannot be used."""
    if lake is None:
        return Finding("rejects", State.UNKNOWN, "there is no lake", "Start a worker.")
    since = now - _RECENT
    recent, before = _rejects_since(lake, since), _rejects_since(lake, now - _LONG, until=since)
    share, earlier = _share(lake, recent.height, since, now), _share(lake, before.height, now - _LONG, since)
    window = f"in the last {seconds(_RECENT.total_seconds())}"
    evidence = f"{recent.height:,} records were rejected {window}"
    if recent.is_empty():
        return healthy("rejects", evidence)
    reasons = recent["reason"].value_counts(sort=True).head(3).rows()
    latest = recent.sort("rejected_at").tail(1).select("topic", "partition", "offset", "detail").row(0)
    evidence += (
        f", {share:.2%} of what came ({earlier:.2%} in the day before): "
        f"{', '.join(f'{reason} {count:,}' for reason, count in reasons)}; "
        f"the latest is {latest[0]}/{latest[1]}/{latest[2]}: {latest[3]}"
    )
    mend = _MENDS.get(reasons[0][0], "look at the first bytes in the table rejects, and mend what writes them")
    mend = f"{mend[0].upper()}{mend[1:]}."
    if share >= _REJECTED:
        return Finding("rejects", State.FAIL, evidence, mend)
    if recent.height >= _FEWEST and share >= max(_NOTABLE, 2 * earlier):
        return Finding("rejects", State.WARN, evidence, mend)
    return healthy("rejects", evidence)


def commit_age(lake: Lake | None, now: datetime) -> timedelta | None:
    """Age of the newest commit to `signals`."""
    return None if lake is None else now - lake.committed_at(SIGNALS)


def _rejects_since(lake: Lake, since: datetime, until: datetime | None = None) -> pl.DataFrame:
    rows = lake.scan(REJECTS).filter(pl.col("rejected_at") > since)
    if until is not None:
        rows = rows.filter(pl.col("rejected_at") <= until)
    return rows.select("topic", "partition", "offset", "reason", "detail", "rejected_at").collect()


def _share(lake: Lake, rejected: int, since: datetime, until: datetime) -> float:
    """Rejects as a share of all that was read in a stretch of time."""
    stored = lake.scan(EVENTS).filter(pl.col("ingested_at").is_between(since, until)).select(pl.len()).collect().item()
    return rejected / (rejected + stored) if rejected + stored else 0.0
