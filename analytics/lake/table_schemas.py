"""The tables of the lake and their columns."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from analytics.signals.cells import ACTION, EPOCH
from analytics.signals.definitions import COUNTERS, HISTOGRAMS

EVENTS: Final = "events"
SIGNALS: Final = "signals"
VERDICTS: Final = "verdicts"
REJECTS: Final = "rejects"
DROPPED: Final = "dropped"
QUALITY: Final = "quality"
GATES: Final = "gates"
SIGNOFFS: Final = "signoffs"
ENACTMENTS: Final = "enactments"
SEALS: Final = "seals"
LEASES: Final = "leases"
JUDGE_HEARTBEATS: Final = "judge_heartbeats"
DELIVERIES: Final = "deliveries"

# Number of the layout below; `analytics.lake.migrations` brings a lake of an earlier one here, a step a number.
# 1: the tables `looks`, `rulings` and `claims`. 2: they are called as below. 3: `events` has `kind` and `user`.
# 4: the rows of `verdicts` are chained. 5: `events` has `latency_us` and `cost_microusd`. 6: `signals` has
# `bad_outcomes`. 7: the table `enactments`. 8: `signals` has `last_ingested_at`. 9: it counts what comes of a
# decision once. 10: the table `seals`. 11: `events` has `incarnation` and `sequence`; the table `dropped`.
LAYOUT: Final = 11

_MOMENT = pa.timestamp("us", tz="UTC")


def _required(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name in names]


_TEXT = pa.string()
_CELL = _required(_TEXT, *EPOCH)

_SOURCE = [
    *_required(_TEXT, "log_id"),  # the cluster's identity: an offset means nothing without it
    *_required(_TEXT, "topic"),
    *_required(pa.int32(), "partition"),
    *_required(pa.int64(), "offset"),
]

TABLES: Final[dict[str, pa.Schema]] = {
    # Every accepted event, once, with the exact bytes received (of binary mode, its structured form).
    EVENTS: pa.schema(
        [
            *_SOURCE,
            *_required(_TEXT, "id", "type", "source"),
            *_required(_MOMENT, "time"),
            *_required(_TEXT, "subject"),
            *(pa.field(field.name, field.type) for field in _CELL),  # a policy change carries no receipt
            pa.field("decided_at", _MOMENT),
            pa.field("broker_at", _MOMENT),
            *_required(_MOMENT, "ingested_at"),
            *_required(pa.binary(), "value"),
            *_required(pa.int8(), "kind"),  # what it counts as: `analytics.signals.event_kinds.EventKind`
            pa.field("user", pa.string()),  # whom a decision's contract names; null for every other event
            pa.field("latency_us", pa.int64()),  # of an execution, whole microseconds; null where it is not known
            pa.field("cost_microusd", pa.int64()),  # likewise, millionths of a dollar
            # Which life of its source recorded it, and as how manieth of its events; null where nobody numbers them.
            pa.field("incarnation", pa.string()),
            pa.field("sequence", pa.int64()),
        ]
    ),
    # Increments: several rows for one cell, epoch and minute; whoever reads them sums.
    SIGNALS: pa.schema(
        [
            *_CELL,
            *_required(_MOMENT, "bucket"),  # the minute of `decided_at`; of a rolled hour see `analytics.lake.rollup`
            pa.field("risk_rank", pa.int8()),
            *_required(_MOMENT, "last_event_at"),
            pa.field("last_ingested_at", _MOMENT),  # `ingested_at` of what it counts; null in rows of earlier layouts
            *_required(pa.int64(), *COUNTERS),
            *(
                pa.field(f"{name}_{part}", pa.list_(kind), nullable=False)
                for name in HISTOGRAMS
                for part, kind in (("bins", pa.int16()), ("counts", pa.int64()))
            ),
        ]
    ),
    # The ledger: append only, one row for each verdict that was reached.
    VERDICTS: pa.schema(
        [
            *_required(_TEXT, "verdict_id"),
            *_required(_MOMENT, "judged_at"),
            *_CELL,
            *_required(_TEXT, "verdict"),
            pa.field("to_stage", pa.string()),
            *_required(_TEXT, "gate", "gate_sha256"),
            *_required(pa.int64(), "lake_version"),  # of `signals`
            *_required(_MOMENT, "watermark"),
            *_required(pa.bool_(), "changed"),
            *_required(_TEXT, "payload"),  # the whole verdict as JSON
            pa.field("counts_sha256", pa.string()),  # of what `signals` held about the epoch; null in older rows
            # The chain (`analytics.lake.chain`): the number of the row, how many were news up to it, and digests. A row
            # without is in no chain, and so none that a judge wrote.
            *(pa.field(name, pa.int64()) for name in ("sequence", "news")),
            *(pa.field(name, pa.string()) for name in ("previous_sha256", "row_sha256")),
        ]
    ),
    # When the judge looked at every cell: a verdict of the ledger that no later row replaces was found again.
    JUDGE_HEARTBEATS: pa.schema(
        [
            *_required(_MOMENT, "judged_at", "watermark"),
            *_required(pa.int64(), "lake_version"),  # of `signals`
            *_required(_TEXT, "gate_sha256"),
            *_required(pa.int64(), "cells"),
            pa.field("events_version", pa.int64()),  # what users were counted at; null where they were not
            pa.field("users_as_of", _MOMENT),
        ]
    ),
    # Records that could not be used, with the reason.
    REJECTS: pa.schema(
        [
            *_SOURCE,
            *_required(_TEXT, "reason", "detail"),
            pa.field("key", pa.binary()),
            *_required(pa.binary(), "first_bytes"),  # at most 256
            *_required(pa.int64(), "size"),  # bytes; 0 for a null value
            pa.field("broker_at", _MOMENT),
            *_required(_MOMENT, "rejected_at"),
        ]
    ),
    # Offsets that are neither in `events` nor in `rejects`: repeats, and those that hold no record (markers of
    # transactions, what the log was compacted of). A worker that was killed may have written some of them twice.
    DROPPED: pa.schema(
        [
            *_SOURCE,
            *_required(pa.int64(), "through"),  # the last of these offsets
            *_required(_TEXT, "reason"),  # `repeat` or `no_record`
            *(pa.field(name, pa.string()) for name in ("id", "source", "incarnation")),  # of a repeat
            pa.field("sequence", pa.int64()),
            *_required(_MOMENT, "dropped_at"),
        ]
    ),
    # Validation runs.
    QUALITY: pa.schema(
        [
            *_required(_TEXT, "run_id"),
            *_required(_MOMENT, "run_at"),
            *_required(_TEXT, "event_type"),
            *_required(pa.int64(), "checked"),
            *_required(pa.bool_(), "success"),
            *_required(_TEXT, "payload"),  # the expectations and their results as JSON
        ]
    ),
    # Every gate file that a verdict was reached under, by the digest of its bytes.
    GATES: pa.schema(
        [
            *_required(_TEXT, "sha256"),
            *_required(_MOMENT, "kept_at"),
            *_required(pa.binary(), "text"),  # the exact bytes
        ]
    ),
    # Approvals, dismissals and overrides by people. Append only, like the verdicts.
    SIGNOFFS: pa.schema(
        [
            *_required(_TEXT, "signoff_id", "kind"),
            *_required(_MOMENT, "given_at", "expires_at"),
            *_required(_TEXT, *ACTION),
            pa.field("cohort", pa.string()),  # null: all of them
            *_required(_TEXT, "to_stage", "actor", "reason"),
            *_required(_TEXT, "payload"),  # the whole sign-off as JSON, with the verdicts that it is about
        ]
    ),
    # What was done about a recommendation in the store of stages, step by step. Append only.
    ENACTMENTS: pa.schema(
        [
            *_required(_TEXT, "recommendation_id", "phase"),  # phases: `analytics.enactment.enactments.EnactmentPhase`
            *_required(_MOMENT, "at"),
            *_CELL,  # that the recommendation is about
            *_required(_TEXT, "verdict", "to_stage"),
            *_required(_TEXT, "payload"),  # the whole step as JSON
        ]
    ),
    # What the transparency logs (`analytics.audit.sealed_logs`) grew by, a row for each seal of a log. Append only.
    SEALS: pa.schema(
        [
            *_required(_TEXT, "log"),
            *_required(_MOMENT, "sealed_at"),
            *_required(pa.int64(), "first", "size"),  # the index of its first entry, and how many entries there are
            *_required(pa.int64(), "last_position"),
            pa.field("positions", pa.list_(pa.int64()), nullable=False),  # of each, where it stands in its source
            *_required(pa.binary(), "leaves"),  # the hash of each, 32 bytes
            *_required(pa.binary(), "tiles"),  # roots of the tiles of 256 leaves that became full
            *_required(pa.binary(), "peaks"),  # roots of the full subtrees of the tree as it is now, smallest first
            *_required(_TEXT, "checkpoint"),  # the signed note about it
        ]
    ),
    # Who took a right that one process at a time holds, or gave it up; see `analytics.lake.leases`.
    LEASES: pa.schema(
        [
            *_required(_TEXT, "name"),
            *_required(pa.int64(), "epoch"),
            pa.field("holder", pa.string()),  # null: given up
            *_required(_MOMENT, "taken_at"),
            *_required(pa.float64(), "lease_s"),
        ]
    ),
}
"""Every table and its Arrow schema. A column that may be unknown is nullable; all others must have a value."""

ON_DEMAND: Final[dict[str, pa.Schema]] = {
    # What came of each message to each receiver of webhooks. Append only.
    DELIVERIES: pa.schema(
        [
            *_required(_TEXT, "endpoint"),
            *_required(_MOMENT, "at"),
            *_required(_TEXT, "outcome"),  # `begun` (from then on it is told), `delivered` or `given_up`
            pa.field("message_id", pa.string()),  # null for `begun`
            *_required(pa.int64(), "attempts"),
            *_required(_TEXT, "detail"),
        ]
    ),
}
"""Tables that whoever needs them creates: a lake is whole without them, and they are no part of its layout's number."""

SCHEMAS: Final = TABLES | ON_DEMAND

COLUMNS: Final[dict[str, pl.Schema]] = {name: pl.Schema(schema) for name, schema in SCHEMAS.items()}
"""The same columns as polars types, for whoever builds rows."""
