"""Whether the record is whole: what should be in the lake and is not, and what is there and should not be.

Each check looks at the columns of `events` (and of `rejects`) in one pass. What contradicts the counts behind a verdict
makes that verdict INVALID already where the judge sees it (`analytics.judging.soundness`); here the decisions behind it
are named.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from analytics.audit.blame import POLICY_CHANGED
from analytics.audit.facts import stored_event
from analytics.audit.numbering import NumberGap, numbers_of
from analytics.lake.retention import LEAST
from analytics.lake.storage import reading
from analytics.lake.table_schemas import DROPPED, EVENTS, REJECTS
from analytics.moments import in_utc
from analytics.signals.cells import CELL
from analytics.signals.event_kinds import NO_LONGER_EXPECTED, EventKind, kinds_moving
from analytics.signals.missing_outcomes import known_at
from producers.wire.events import ActionDecided, PolicyChanged, type_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from analytics.lake.tables import Lake

GapCode = Literal[
    "missing_outcome",
    "missing_decision",
    "ran_though_refused",
    "review_without_request",
    "sequence_gap",
    "offset_gap",
    "unannounced_policy",
]

MEANINGS: Final[dict[GapCode, str]] = {
    "missing_outcome": "Decisions that let an action run, of which no outcome came within the deadline.",
    "missing_decision": "Outcomes and reviews of which the decision is not in the lake.",
    "ran_though_refused": "Executions of what was denied, or of what nobody has approved.",
    "review_without_request": "Reviews of decisions that asked for none.",
    "sequence_gap": "Numbers that a router gave to events which never came.",
    "offset_gap": "Offsets of a log of which the lake has neither an event nor a reject, nor says why not.",
    "unannounced_policy": "Policies that routers went by without a recorded change that names them.",
}
INVALIDATING: Final[frozenset[GapCode]] = frozenset(
    {"missing_decision", "ran_though_refused", "sequence_gap", "offset_gap"}
)
"""Gaps after which the counts of the cells concerned cannot be relied on. A missing outcome is a signal instead."""

EXAMPLES: Final = 10
_DECISIONS: Final = kinds_moving("decisions")
_EXPECTING: Final = kinds_moving("expected")
_OBSERVED: Final = [EventKind.OBSERVED_SUCCEEDED, EventKind.OBSERVED_FAILED, EventKind.OBSERVED_TIMED_OUT]
_EXECUTED: Final = [kind for kind in kinds_moving("executed") if kind not in _OBSERVED]
_REVIEWED: Final = [EventKind.REVIEW_APPROVED, EventKind.REVIEW_REJECTED]
_READ_AT: Final = {EVENTS: "ingested_at", REJECTS: "rejected_at", DROPPED: "dropped_at"}
_PARTITION: Final = ("log_id", "topic", "partition")


class GapExample(BaseModel):
    """One thing that a gap is about."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    what: str
    """A decision's id; of other gaps the router, the partition or the policy."""
    detail: str
    at: datetime | None


class Gap(BaseModel):
    """One way in which the record is not whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    code: GapCode
    meaning: str
    count: int
    cells: tuple[tuple[str, ...], ...]
    """The cells concerned, as environment, workflow, tool, stage and cohort; empty where that cannot be told."""
    invalidates: bool
    """Whether verdicts on these cells, or on all where none are named, cannot be relied on."""
    examples: tuple[GapExample, ...]


class CompletenessReport(BaseModel):
    """What is missing in the lake, and what is too much."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    events_version: int
    """Version of the table `events` that it is about."""
    watermark: datetime | None
    """The newest event's time; null where there are none."""
    since: datetime | None
    deadline_s: float
    decisions: int
    events: int
    rejects: int
    gaps: tuple[Gap, ...]
    unsequenced_sources: tuple[str, ...]
    """Routers that number no events: of these nobody can tell whether one was lost."""

    @property
    def state(self) -> Literal["COMPLETE", "INCOMPLETE", "INVALID"]:
        """INVALID where a gap concerns verdicts, INCOMPLETE where there are only others."""
        if any(gap.invalidates for gap in self.gaps):
            return "INVALID"
        return "INCOMPLETE" if self.gaps else "COMPLETE"

    def to_dict(self) -> dict[str, Any]:
        """The report of JSON types alone."""
        return {"state": self.state, **self.model_dump(mode="json")}


def completeness(lake: Lake, *, deadline: timedelta, since: datetime | None = None) -> CompletenessReport:
    """Check whether the record is whole, of what was decided at `since` or later where that is given.

    An outcome is missing once it did not come within `deadline` after it came to be expected, by the newest event's
    time. Raises `LakeError`, and `UnusableMomentError` for `since`.
    """
    since = None if since is None else in_utc(since)
    with reading(lake.root):
        version = lake.version(EVENTS)
        stored = lake.scan(EVENTS, version=version)
        totals = stored.select(pl.len(), pl.col("time").max(), pl.col("ingested_at").max()).collect()
        events, watermark, newest = totals.row(0)
        rejected = lake.scan(REJECTS)
        gaps: list[Gap] = []
        decisions, silent = 0, list[str]()
        if watermark is not None:
            recent = stored if since is None else stored.filter(pl.coalesce("decided_at", "time") >= since)
            decisions = recent.filter(pl.col("kind").is_in(_DECISIONS)).select(pl.len()).collect().item()
            gaps += _of_decisions(recent, watermark - deadline)
            kept = _whole_since(lake)
            bounds = [moment for moment in (since, kept) if moment is not None]
            gaps += _offsets(lake, stored, max(bounds, default=None))
            numbers = numbers_of(lake, version, kept)
            gaps += _numbers(stored, numbers.gaps(newest - deadline), since)
            gaps += _policies(recent, stored)
            silent = sorted({*stored.select(pl.col("source").unique()).collect()["source"]} - numbers.sources)
        return CompletenessReport(
            events_version=version,
            watermark=watermark,
            since=since,
            deadline_s=deadline.total_seconds(),
            decisions=decisions,
            events=events,
            rejects=rejected.select(pl.len()).collect().item(),
            gaps=tuple(gaps),
            unsequenced_sources=tuple(silent),
        )


def _of_decisions(events: pl.LazyFrame, due: datetime) -> list[Gap]:
    """Gaps between the events about each decision; what came to be known after `due` may still be completed."""
    kind, is_due = pl.col("kind"), pl.col("known_at") < due
    decided, expecting, executed = (kind.is_in(kinds) for kinds in (_DECISIONS, _EXPECTING, _EXECUTED))
    ended = executed | kind.is_in([*_OBSERVED, *NO_LONGER_EXPECTED])
    reviewed = kind.is_in(_REVIEWED)
    told = (
        events.filter(pl.col("decided_at").is_not_null())
        .with_columns(known_at("time", "ingested_at").alias("known_at"))
        .group_by("subject")
        .agg(
            *(pl.col(name).first() for name in (*CELL, "decided_at", "source")),
            kind.filter(decided).first().alias("decision"),
            pl.col("known_at").max(),
            (expecting & is_due).any().alias("due"),
            expecting.any().alias("expecting"),
            ended.any().alias("ended"),
            executed.any().alias("executed"),
            reviewed.any().alias("reviewed"),
        )
    )
    is_decided, is_past = pl.col("decision").is_not_null(), pl.col("known_at") < due
    checks: dict[GapCode, pl.Expr] = {
        "missing_outcome": is_decided & pl.col("due") & ~pl.col("ended"),
        "missing_decision": ~is_decided & is_past,
        "ran_though_refused": is_decided & pl.col("executed") & ~pl.col("expecting") & is_past,
        "review_without_request": is_decided & pl.col("reviewed") & (pl.col("decision") != EventKind.QUEUED),
    }
    wrong = told.filter(pl.any_horizontal(checks.values())).collect(engine="streaming")
    return [
        _gap(
            code,
            count=rows.height,
            cells=rows.select(CELL).unique().sort(CELL).rows(),
            examples=[
                GapExample(what=row["subject"], detail=_in_words(row), at=row["decided_at"])
                for row in rows.sort("decided_at", "subject").head(EXAMPLES).iter_rows(named=True)
            ],
        )
        for code, check in checks.items()
        if (rows := wrong.filter(check)).height
    ]


def _in_words(row: dict[str, Any]) -> str:
    decision = "no decision" if row["decision"] is None else EventKind(row["decision"]).name.lower()
    return f"{row['workflow']}/{row['tool']} at {row['stage']}, {decision}, by {row['source']}"


def _gap(code: GapCode, *, count: int, examples: Sequence[GapExample], cells: Iterable[tuple[str, ...]] = ()) -> Gap:
    return Gap(
        code=code,
        meaning=MEANINGS[code],
        count=count,
        cells=tuple(cells),
        invalidates=code in INVALIDATING,
        examples=tuple(examples),
    )


def _whole_since(lake: Lake) -> datetime | None:
    """From when on no row was taken out of what accounts for offsets and numbers; None where none ever was."""
    moments = []
    for table, column in _READ_AT.items():
        lake.version(table)
        if lake.taken(table) is not None:
            oldest = lake.scan(table).select(pl.col(column).min()).collect().item()
            newest = lake.scan(EVENTS).select(pl.col("ingested_at").max()).collect().item()
            moments.append(newest - LEAST if oldest is None else oldest)
    return max(moments, default=None)


def _numbers(events: pl.LazyFrame, missing: Sequence[NumberGap], since: datetime | None) -> list[Gap]:
    """Numbers that routers gave, of incarnations that were heard since then."""
    missing = [gap for gap in missing if since is None or gap.since >= since]
    if not missing:
        return []
    concerned = events.filter(pl.col("incarnation").is_in([gap.incarnation for gap in missing]))
    cells = concerned.filter(pl.col("tool").is_not_null()).select(CELL).unique().sort(CELL).collect()
    examples = [
        GapExample(
            what=gap.source or "a source of which everything was dropped",
            detail=f"{gap.missing:,} events of its incarnation {gap.incarnation} never came: {_ranges(gap)}",
            at=gap.since,
        )
        for gap in sorted(missing, key=lambda gap: -gap.missing)[:EXAMPLES]
    ]
    return [_gap("sequence_gap", count=sum(gap.missing for gap in missing), cells=cells.rows(), examples=examples)]


def _ranges(gap: NumberGap) -> str:
    shown = [f"{begin:,}" if begin == end else f"{begin:,} to {end:,}" for begin, end in gap.ranges]
    told = sum(end - begin + 1 for begin, end in gap.ranges)
    return ", ".join([*shown, *(["…"] if told < gap.missing else [])])


def _offsets(lake: Lake, events: pl.LazyFrame, since: datetime | None) -> list[Gap]:
    """Offsets between the first and the last of a partition that no table accounts for."""
    tables = {EVENTS: events, REJECTS: lake.scan(REJECTS), DROPPED: lake.scan(DROPPED)}
    parts = {
        table: rows if since is None else rows.filter(pl.col(_READ_AT[table]) >= since)
        for table, rows in tables.items()
    }
    dropped = parts.pop(DROPPED).with_columns(offset=pl.int_ranges("offset", pl.col("through") + 1)).explode("offset")
    columns = [*_PARTITION, "offset"]
    known = pl.concat([rows.select(columns) for rows in [*parts.values(), dropped]])
    spans = (
        known.group_by(_PARTITION)
        .agg(
            pl.col("offset").n_unique().alias("rows"),
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
        )
        .filter(pl.col("last") - pl.col("first") + 1 > pl.col("rows"))
        .sort(_PARTITION)
        .collect(engine="streaming")
    )
    if spans.is_empty():
        return []
    examples = []
    for span in spans.head(EXAMPLES).iter_rows(named=True):
        here = (pl.col(name) == span[name] for name in _PARTITION)
        offsets = known.filter(*here).select("offset").unique().sort("offset").collect()["offset"]
        jumps = offsets.to_frame().with_columns(pl.col("offset").shift().alias("before"))
        first = jumps.filter(pl.col("offset") - pl.col("before") > 1).row(0)
        missing = span["last"] - span["first"] + 1 - span["rows"]
        examples.append(
            GapExample(
                what=f"{span['topic']} {span['partition']} of {span['log_id']}",
                detail=f"{missing:,} of {span['first']:,} to {span['last']:,}; the first is {first[1] + 1:,}",
                at=None,
            )
        )
    count = spans.select((pl.col("last") - pl.col("first") + 1 - pl.col("rows")).sum()).item()
    return [_gap("offset_gap", count=count, examples=examples)]


def _policies(recent: pl.LazyFrame, events: pl.LazyFrame) -> list[Gap]:
    """Policies that a router went by after its first, and that no recorded change names.

    A decision has its ruleset in its bytes alone. The quotes of a text within them are escaped, so none passes for it.
    """
    ruleset = pl.col("value").cast(pl.String).str.extract(r'"ruleset_sha256":\s*"([0-9a-f]{64})"')
    went_by = (
        recent.filter(pl.col("type") == type_of(ActionDecided))
        .select("source", "time", "subject", *CELL, ruleset.alias("ruleset"))
        .filter(pl.col("ruleset").is_not_null())
        .group_by("source", "ruleset")
        .agg(
            pl.col("time").min().alias("first"),
            pl.len().alias("decisions"),
            pl.struct(CELL).unique().alias("cells"),
        )
        .sort("source", "first")
        .collect(engine="streaming")
    )
    changes = events.filter(pl.col("type") == POLICY_CHANGED).select("value").collect()["value"]
    announced = {
        event.data.ruleset_sha256 for value in changes if isinstance(event := stored_event(value), PolicyChanged)
    }
    policies_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in went_by.iter_rows(named=True):
        policies_of[row["source"]].append(row)
    silent = [row for rows in policies_of.values() for row in rows[1:] if row["ruleset"] not in announced]
    if not silent:
        return []
    examples = [
        GapExample(
            what=row["ruleset"],
            detail=f"{row['source']} decided {row['decisions']:,} actions by it",
            at=row["first"],
        )
        for row in sorted(silent, key=lambda row: row["first"])[:EXAMPLES]
    ]
    cells = sorted({tuple(cell.values()) for row in silent for cell in row["cells"]})
    return [_gap("unannounced_policy", count=len(silent), cells=cells, examples=examples)]
