"""Rejected records: rows of the table `rejects`, and dead letters."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import COLUMNS, REJECTS
from analytics.lake.tables import SourcePartition
from producers.wire.topics import DEAD_LETTER
from streams.publisher import Publisher, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.broker import KafkaSettings

FIRST_BYTES: Final = 256  # how much of a rejected value is kept
LONGEST_KEY: Final = 1_024  # how much of a rejected record's key is kept, in bytes

# Columns of `rejects` that a reject holds under the same name.
_SAME = ("offset", "reason", "detail", "key", "first_bytes", "size", "rejected_at")
_HEADERS = (("content-type", b"application/json"),)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Reject:
    """One record that cannot be used."""

    partition: SourcePartition  # where it was read
    offset: int
    reason: str  # the reason code; see `streams.ingest.faults`
    detail: str  # what is wrong with which field
    key: bytes | None  # the record's key, at most `LONGEST_KEY` bytes
    first_bytes: bytes  # the first `FIRST_BYTES` of its value
    size: int  # size of its value in bytes; 0 where there is none
    broker_at_ms: int | None  # the record's timestamp, milliseconds since 1970 UTC
    rejected_at: datetime  # when it was rejected

    @property
    def place(self) -> str:
        """Topic, partition and offset: the key of its dead letter."""
        return f"{self.partition.topic}/{self.partition.partition}/{self.offset}"

    def dead_letter(self) -> bytes:
        """The letter as JSON: it names the record and quotes its beginning; the record itself stays where it is."""
        document = {
            "log_id": self.partition.log_id,
            "topic": self.partition.topic,
            "partition": self.partition.partition,
            "offset": self.offset,
            "reason": self.reason,
            "detail": self.detail,
            "size": self.size,
            "key_base64": None if self.key is None else base64.b64encode(self.key).decode(),
            "first_bytes_base64": base64.b64encode(self.first_bytes).decode(),
            "rejected_at": self.rejected_at.isoformat(),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def reject(
    partition: SourcePartition,
    offset: int,
    *,
    reason: str,
    detail: str,
    now: datetime,
    key: bytes | None = None,
    value: bytes | None = None,
    broker_at_ms: int | None = None,
) -> Reject:
    """Describe a record that cannot be used, keeping only the beginning of what may be large."""
    return Reject(
        partition=partition,
        offset=offset,
        reason=reason,
        detail=detail,
        key=None if key is None else key[:LONGEST_KEY],
        first_bytes=(value or b"")[:FIRST_BYTES],
        size=len(value or b""),
        broker_at_ms=broker_at_ms,
        rejected_at=now,
    )


def to_rows(rejects: Sequence[Reject]) -> pl.DataFrame:
    """Rows for the table `rejects`."""
    rows = [
        {
            **reject.partition._asdict(),
            **{name: getattr(reject, name) for name in _SAME},
            "broker_at": None if reject.broker_at_ms is None else _EPOCH + timedelta(milliseconds=reject.broker_at_ms),
        }
        for reject in rejects
    ]
    return pl.DataFrame(rows, schema=COLUMNS[REJECTS])


def from_rows(rows: pl.DataFrame) -> list[Reject]:
    """The rejects that rows of the table `rejects` describe."""
    return [
        Reject(
            partition=SourcePartition(row["log_id"], row["topic"], row["partition"]),
            broker_at_ms=None if row["broker_at"] is None else (row["broker_at"] - _EPOCH) // timedelta(milliseconds=1),
            **{name: row[name] for name in _SAME},
        )
        for row in rows.iter_rows(named=True)
    ]


class KafkaDeadLetters:
    """Publishes rejects to `agent.dead-letter`, keyed by topic/partition/offset.

    A worker that dies after the acknowledgement and before its next commit publishes the same letter again after its
    restart, under the same key. The table `rejects` holds each once.
    """

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings | None = None) -> None:
        self._publisher = Publisher(
            bootstrap_servers, DEAD_LETTER, client_id="stagekeeper-dead-letters", settings=settings
        )

    def publish(self, rejects: Sequence[Reject]) -> None:
        """Publish and wait for all acknowledgements; raises `PublicationError` where one is missing."""
        self._publisher.publish([Record(reject.place.encode(), reject.dead_letter(), _HEADERS) for reject in rejects])
