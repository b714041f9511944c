"""The tables of the lake and their columns."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from analytics.signals.definitions import COUNTERS, HISTOGRAMS

EVENTS: Final = "events"
SIGNALS: Final = "signals"
VERDICTS: Final = "verdicts"
REJECTS: Final = "rejects"
QUALITY: Final = "quality"
GATES: Final = "gates"
SIGNOFFS: Final = "signoffs"
LEASES: Final = "leases"
JUDGE_HEARTBEATS: Final = "judge_heartbeats"

# Number of the layout below; `analytics.lake.migrations` brings a lake of an earlier one here, a step a number.
# 1: the tables `looks`, `rulings` and `claims`. 2: they are called as below. 3: `events` has `kind` and `user`.
LAYOUT: Final = 3

_MOMENT = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_CELL = [_required(name, pa.string()) for name in ("environment", "workflow", "tool", "stage", "cohort", "epoch")]

_SOURCE = [
    _required("log_id", pa.string()),  # the cluster's identity: an offset means nothing without it
    _required("topic", pa.string()),
    _required("partition", pa.int32()),
    _required("offset", pa.int64()),
]

TABLES: Final[dict[str, pa.Schema]] = {
    # Every accepted event, once, with the exact bytes that were received.
    EVENTS: pa.schema(
        [
            *_SOURCE,
            _required("id", pa.string()),
            _required("type", pa.string()),
            _required("source", pa.string()),
            _required("time", _MOMENT),
            _required("subject", pa.string()),
            *(pa.field(field.name, field.type) for field in _CELL),  # a policy change carries no receipt
            pa.field("decided_at", _MOMENT),
            pa.field("broker_at", _MOMENT),
            _required("ingested_at", _MOMENT),
            _required("value", pa.binary()),
            _required("kind", pa.int8()),  # what it counts as: `analytics.signals.event_kinds.EventKind`
            pa.field("user", pa.string()),  # whom a decision's contract names; null for every other event
        ]
    ),
    # Increments: several rows for one cell, epoch and minute; whoever reads them sums.
    SIGNALS: pa.schema(
        [
            *_CELL,
            _required("bucket", _MOMENT),  # the minute of `decided_at`; of a rolled hour see `analytics.lake.rollup`
            pa.field("risk_rank", pa.int8()),
            _required("last_event_at", _MOMENT),
            *(_required(name, pa.int64()) for name in COUNTERS),
            *(
                _required(f"{name}_{part}", pa.list_(kind))
                for name in HISTOGRAMS
                for part, kind in (("bins", pa.int16()), ("counts", pa.int64()))
            ),
        ]
    ),
    # The ledger: append only, one row for each verdict that was reached.
    VERDICTS: pa.schema(
        [
            _required("verdict_id", pa.string()),
            _required("judged_at", _MOMENT),
            *_CELL,
            _required("verdict", pa.string()),
            pa.field("to_stage", pa.string()),
            _required("gate", pa.string()),
            _required("gate_sha256", pa.string()),
            _required("lake_version", pa.int64()),  # of `signals`
            _required("watermark", _MOMENT),
            _required("changed", pa.bool_()),
            _required("payload", pa.string()),  # the whole verdict as JSON
        ]
    ),
    # When the judge looked at every cell: a verdict of the ledger that no later row replaces was found again.
    JUDGE_HEARTBEATS: pa.schema(
        [
            _required("judged_at", _MOMENT),
            _required("watermark", _MOMENT),
            _required("lake_version", pa.int64()),  # of `signals`
            _required("gate_sha256", pa.string()),
            _required("cells", pa.int64()),
            pa.field("events_version", pa.int64()),  # what users were counted at; null where they were not
            pa.field("users_as_of", _MOMENT),
        ]
    ),
    # Records that could not be used, with the reason.
    REJECTS: pa.schema(
        [
            *_SOURCE,
            _required("reason", pa.string()),
            _required("detail", pa.string()),
            pa.field("key", pa.binary()),
            _required("first_bytes", pa.binary()),  # at most 256
            _required("size", pa.int64()),  # bytes; 0 for a null value
            pa.field("broker_at", _MOMENT),
            _required("rejected_at", _MOMENT),
        ]
    ),
    # Validation runs.
    QUALITY: pa.schema(
        [
            _required("run_id", pa.string()),
            _required("run_at", _MOMENT),
            _required("event_type", pa.string()),
            _required("checked", pa.int64()),
            _required("success", pa.bool_()),
            _required("payload", pa.string()),  # the expectations and their results as JSON
        ]
    ),
    # Every gate file that a verdict was reached under, by the digest of its bytes.
    GATES: pa.schema(
        [
            _required("sha256", pa.string()),
            _required("kept_at", _MOMENT),
            _required("text", pa.binary()),  # the exact bytes
        ]
    ),
    # Approvals, dismissals and overrides by people. Append only, like the verdicts.
    SIGNOFFS: pa.schema(
        [
            _required("signoff_id", pa.string()),
            _required("kind", pa.string()),
            _required("given_at", _MOMENT),
            _required("expires_at", _MOMENT),
            *(_required(name, pa.string()) for name in ("environment", "workflow", "tool")),
            pa.field("cohort", pa.string()),  # null: all of them
            _required("to_stage", pa.string()),
            _required("actor", pa.string()),
            _required("reason", pa.string()),
            _required("payload", pa.string()),  # the whole sign-off as JSON, with the verdicts that it is about
        ]
    ),
    # Who took a right that one process at a time holds, or gave it up; see `analytics.lake.leases`.
    LEASES: pa.schema(
        [
            _required("name", pa.string()),
            _required("epoch", pa.int64()),
            pa.field("holder", pa.string()),  # null: given up
            _required("taken_at", _MOMENT),
            _required("lease_s", pa.float64()),
        ]
    ),
}
"""Every table and its Arrow schema. A column that may be unknown is nullable; all others must have a value."""

COLUMNS: Final[dict[str, pl.Schema]] = {
    name: pl.Schema(pl.DataFrame(schema.empty_table()).schema) for name, schema in TABLES.items()
}
"""The same columns as polars types, for whoever builds rows."""
