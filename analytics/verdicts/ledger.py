"""The ledger: every verdict that was reached, append only, and what was last said about each cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import polars as pl

from analytics.gates import gate_store
from analytics.gates.gate_store import AlteredGateFileError, GateFileNotKeptError
from analytics.lake.table_schemas import EVENTS, VERDICTS
from analytics.signals.cells import ACTION, CELL, EPOCH, EpochKey, epoch_frame, rows_of
from analytics.signals.state import microseconds
from analytics.verdicts import heartbeats
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import REASSESSED, Latch, is_of_earlier, overdue_of
from producers.strict_yaml import ConfigurationFileError
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from analytics.lake.tables import Lake
    from analytics.verdicts.verdict import Regrade

LatchKey: TypeAlias = tuple[Cell, str, str | None]
"""A cell, its epoch, and for a promotion the digest of the gate's content; a rollback stands under any (None)."""

ChangeKey: TypeAlias = tuple[str, str | None, tuple[str, ...]]
"""Verdict, destination and reason codes: the part whose change is news."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Outline of a verdict: what tells whether another one on its cell is news."""

    verdict_id: str
    change_key: ChangeKey
    epoch: str
    gate_sha256: str
    at_us: int  # when it was reached, microseconds since 1970


ORDER: Final = ["judged_at", "lake_version", "verdict_id"]  # what tells the later of two verdicts on a cell

_OUTLINED: Final = pl.Struct(
    {
        "verdict": pl.String,
        "to_stage": pl.String,
        "reasons": pl.List(pl.Struct({"code": pl.String, "signal": pl.String})),
    }
)
"""What `latest_outlines` reads of a payload."""


def latest_verdicts(lake: Lake, *, actions: Collection[tuple[str, str, str]] | None = None) -> list[VerdictDocument]:
    """The last verdict on every cell (of some actions), by the cells' names, and up to when it was found again."""
    heartbeat = heartbeats.newest(lake)
    return [heartbeats.confirmed(document, heartbeat) for document in unconfirmed_verdicts(lake, actions=actions)]


def unconfirmed_verdicts(
    lake: Lake, *, actions: Collection[tuple[str, str, str]] | None = None
) -> list[VerdictDocument]:
    """The last verdict on every cell (of some actions), by the cells' names, as the ledger has it."""
    return [VerdictDocument.from_json(payload) for payload in _last(lake, actions)["payload"]]


def latest_outlines(lake: Lake) -> dict[Cell, Outline]:
    """The outline of the last verdict on each cell."""
    last = _last(lake, None, "epoch", "gate_sha256", "judged_at").with_columns(
        pl.col("payload").str.json_decode(_OUTLINED).alias("document")
    )
    entries = {}
    for row in last.drop("payload").iter_rows(named=True):
        document = row["document"]
        codes = tuple(sorted(f"{reason['code']}:{reason['signal'] or ''}" for reason in document["reasons"]))
        entries[Cell(*(row[name] for name in CELL))] = Outline(
            row["verdict_id"],
            (document["verdict"], document["to_stage"], codes),
            row["epoch"],
            row["gate_sha256"],
            microseconds(row["judged_at"]),
        )
    return entries


def verdicts_between(lake: Lake, *, after: int, through: int) -> list[VerdictDocument]:
    """What the ledger added after one version and through another, oldest first. Raises `LakeError`."""
    rows = lake.increments(VERDICTS, after=after, through=through, columns=[*ORDER, "payload"])
    rows = rows.filter(~pl.col("verdict_id").str.starts_with(REASSESSED)).sort(ORDER)
    return [VerdictDocument.from_json(payload) for payload in rows["payload"]]


def _last(lake: Lake, actions: Collection[tuple[str, str, str]] | None, *more: str) -> pl.DataFrame:
    # Two reads at one version: payloads are large, and only the last of each cell is wanted.
    ledger = lake.scan(VERDICTS).filter(~pl.col("verdict_id").str.starts_with(REASSESSED))
    if actions is not None:
        ledger = rows_of(ledger, ACTION, actions)
    last = ledger.select(*CELL, *ORDER).sort(ORDER).unique(subset=CELL, keep="last", maintain_order=True).collect()
    return (
        ledger.filter(pl.col("verdict_id").is_in(last["verdict_id"].implode()))
        .select(*CELL, "verdict_id", "payload", *more)
        .unique(subset=[*CELL, "verdict_id"])
        .sort(CELL)
        .collect()
    )


def unpublished(lake: Lake) -> list[VerdictDocument]:
    """The last news about each cell that has not come back through Kafka, as whole verdicts.

    A worker that dies between the ledger's commit and the broker's acknowledgement leaves such news behind. Of news
    older than every event nobody knows any more whether it came back; it is not told again.
    """
    oldest = lake.scan(EVENTS).select(pl.col("ingested_at").min()).collect().item()
    unknown = pl.lit(value=False) if oldest is None else pl.col("judged_at") < oldest
    news = (
        lake.scan(VERDICTS)
        .filter(pl.col("changed"))
        .select(*CELL, *ORDER)
        .sort(ORDER)
        .unique(subset=CELL, keep="last", maintain_order=True)
        .collect()
    )
    ids = news["verdict_id"].implode()
    arrived = lake.scan(EVENTS).filter(pl.col("id").is_in(ids)).select("id").collect()["id"]
    left = news.filter(~pl.col("verdict_id").is_in(arrived.implode()) & ~unknown)["verdict_id"]
    if left.is_empty():
        return []
    payloads = lake.scan(VERDICTS).filter(pl.col("verdict_id").is_in(left.implode())).sort(CELL).collect()
    return [VerdictDocument.from_json(payload) for payload in payloads["payload"].unique(maintain_order=True)]


def newest_watermark(lake: Lake) -> datetime | None:
    """Where the watermark of the newest verdict, or heartbeat, stood; None while there are none."""
    newest = lake.scan(VERDICTS).select(pl.col("watermark").max()).collect().item()
    watermarks = [newest.astimezone(UTC)] if isinstance(newest, datetime) else []
    heartbeat = heartbeats.newest(lake)
    return max([*watermarks, *([] if heartbeat is None else [heartbeat.watermark])], default=None)


def latches(
    lake: Lake, *, before: Mapping[str, Any] | None = None, epochs: Collection[str] = ()
) -> dict[LatchKey, dict[VerdictName, Latch]]:
    """The first rollback of every epoch of every cell, and its first promotion under each content of its gate.

    A rollback that late outcomes refuted is followed by the first one after that.
    With a row of the ledger, only what was reached before it on some `epochs` of its cell counts. Rows that do not name
    the content have it from the gate file that is kept; a promotion under a file that is not kept any more does not
    stand.
    """
    epoch = [*CELL, "epoch"]
    ledger = lake.scan(VERDICTS)
    known = ledger
    if before is not None:
        here = (pl.col(name) == before[name] for name in CELL)
        # Epochs that are over are graded first, and what comes of it counts at the same look.
        at_once = pl.col("verdict_id").str.starts_with(REASSESSED) & (pl.col("epoch") != before["epoch"])
        same_look = (pl.col("lake_version") < before["lake_version"]) | (
            (pl.col("lake_version") == before["lake_version"]) & at_once
        )
        known = known.filter(*here, pl.col("epoch").is_in(epochs)).filter(
            (pl.col("judged_at") < before["judged_at"]) | ((pl.col("judged_at") == before["judged_at"]) & same_look)
        )
    is_promoted = (pl.col("verdict") == VerdictName.PROMOTE) & ~pl.col("verdict_id").str.starts_with(REASSESSED)
    rows = known.filter(is_promoted | (pl.col("verdict") == VerdictName.ROLL_BACK))
    first = (
        rows.select(*epoch, "gate", "gate_sha256", "verdict", "judged_at", "lake_version", "verdict_id", "to_stage")
        .sort("judged_at", "lake_version")
        .unique(subset=[*epoch, "gate", "gate_sha256", "verdict"], keep="first", maintain_order=True)
        .collect()
    )
    content = pl.col("payload").str.json_path_match("$.gate_content_sha256").alias("content")
    ids = pl.col("verdict_id").is_in(first["verdict_id"].implode())
    recorded = dict(ledger.filter(ids).select("verdict_id", content).collect().iter_rows())
    kept: dict[str, Mapping[str, str]] = {}
    latches_of: dict[LatchKey, dict[VerdictName, Latch]] = {}
    for row in first.iter_rows(named=True):
        digest = recorded[row["verdict_id"]]
        if digest is None:
            if row["gate_sha256"] not in kept:
                kept[row["gate_sha256"]] = _kept_contents(lake, row["gate_sha256"])
            digest = kept[row["gate_sha256"]].get(row["gate"])
        verdict = VerdictName(row["verdict"])
        if digest is None and verdict is VerdictName.PROMOTE:
            continue
        key = (Cell(*(row[name] for name in CELL)), row["epoch"], digest if verdict is VerdictName.PROMOTE else None)
        latch = Latch(verdict, row["to_stage"], row["verdict_id"], digest)
        latches_of.setdefault(key, {}).setdefault(verdict, latch)
    _follow_rollbacks(known, latches_of)
    return latches_of


def _follow_rollbacks(known: pl.LazyFrame, latches_of: dict[LatchKey, dict[VerdictName, Latch]]) -> None:
    """See which rollbacks rested on overdue outcomes alone, and what became of those."""
    back = VerdictName.ROLL_BACK
    rollbacks = {latches[back].verdict_id: key for key, latches in latches_of.items() if back in latches}
    if not rollbacks:
        return
    payloads = known.filter(pl.col("verdict_id").is_in(list(rollbacks))).sort(ORDER).select("verdict_id", "payload")
    for verdict_id, payload in payloads.collect().unique("verdict_id", keep="first").iter_rows():
        document, latches = VerdictDocument.from_json(payload), latches_of[rollbacks[verdict_id]]
        overdue, of_earlier = overdue_of(document.reasons, document.signals), is_of_earlier(document.reasons)
        latches[back] = replace(latches[back], overdue=overdue, of_earlier=of_earlier)
    refutable = [
        (*key[0], key[1])
        for key in rollbacks.values()
        if latches_of[key][back].overdue or latches_of[key][back].of_earlier
    ]
    if not refutable:
        return
    # What is news says something else than the row before it; verdicts on epochs that are over are not told as news.
    news = pl.col("changed") | pl.col("verdict_id").str.starts_with(REASSESSED)
    later = known.filter(news).join(epoch_frame(refutable).lazy(), on=EPOCH, how="semi").sort(ORDER)
    for payload in later.select("payload").collect()["payload"]:
        document = VerdictDocument.from_json(payload)
        latches = latches_of[document.cell, document.epoch, None]
        overdue = overdue_of(document.reasons, document.signals)
        made = Latch(document.verdict, document.to_stage, document.verdict_id, document.gate_content_sha256, overdue)
        if document.verdict_id != latches[back].verdict_id:
            latches[back] = latches[back].followed_by(made, document.refuted)


def _kept_contents(lake: Lake, sha256: str) -> Mapping[str, str]:
    try:
        return gate_store.load(lake, sha256).contents
    except (AlteredGateFileError, GateFileNotKeptError, ConfigurationFileError):
        return {}


def newest_users(lake: Lake) -> tuple[int, datetime] | None:
    """The version of the events, and the end of the windows, up to which users were last counted; None if never."""
    heartbeat = heartbeats.newest(lake)
    if heartbeat is None or heartbeat.events_version is None or heartbeat.users_as_of is None:
        return None
    return heartbeat.events_version, heartbeat.users_as_of


def regrades(lake: Lake, *, before: Mapping[str, Any] | None = None) -> dict[Cell, list[Regrade]]:
    """The verdicts on epochs that were over, in their order; those no later than a row, on its own cell, if given."""
    rows = lake.scan(VERDICTS).filter(pl.col("verdict_id").str.starts_with(REASSESSED))
    if before is not None:
        rows = rows.filter(*(pl.col(name) == before[name] for name in CELL)).filter(
            (pl.col("judged_at") <= before["judged_at"]) & (pl.col("lake_version") <= before["lake_version"])
        )
    regrades_of: dict[Cell, list[Regrade]] = {}
    ordered = rows.select(*CELL, "epoch", "judged_at", "payload").sort("judged_at", "epoch").collect()
    for row in ordered.iter_rows(named=True):
        cell = Cell(*(row[name] for name in CELL))
        document = VerdictDocument.from_json(row["payload"])
        if document.refuted is None:
            regrades_of.setdefault(cell, []).append(document.regrade)
    return regrades_of


def judged_epochs(lake: Lake) -> frozenset[EpochKey]:
    """The epochs that the ledger has a verdict on."""
    return frozenset(lake.scan(VERDICTS).select(EPOCH).unique().collect().iter_rows())


def newest_lake_version(lake: Lake) -> int | None:
    """The version of the signals that the newest verdict, or heartbeat, rests on; None while there are none."""
    newest = lake.scan(VERDICTS).select(pl.col("lake_version").max()).collect().item()
    heartbeat = heartbeats.newest(lake)
    versions = ([] if newest is None else [int(newest)]) + ([] if heartbeat is None else [heartbeat.lake_version])
    return max(versions, default=None)
