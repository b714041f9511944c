"""What travels from the source to the fold: records in columns, partition by partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analytics.lake.tables import SourcePartition
    from streams.ingest.binary_mode import HeadersOf


@dataclass
class PartitionRecords:
    """Consecutive records of one partition, as columns of equal length, in the order of their offsets."""

    offsets: list[int] = field(default_factory=list)  # rising; at a gap the log holds no readable record
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    broker_at_ms: list[int | None] = field(default_factory=list)  # milliseconds since 1970 UTC; None: no timestamp
    headers_of: HeadersOf | None = None  # a record's headers by its position here; None: none has any
    end: int | None = None  # the log was read up to here (exclusive), perhaps past the last record; None: not known

    def add(self, offset: int, key: bytes | None, value: bytes | None, broker_at_ms: int | None) -> None:
        """Append one record."""
        self.offsets.append(offset)
        self.keys.append(key)
        self.values.append(value)
        self.broker_at_ms.append(possible_ms(broker_at_ms))


def possible_ms(at_ms: int | None) -> int | None:
    """A record's timestamp; one that no calendar holds counts as none, since a writer may set any."""
    latest_ms = 253_402_300_799_999  # the end of year 9999
    return at_ms if at_ms is not None and 0 <= at_ms <= latest_ms else None


@dataclass(frozen=True)
class Batch:
    """One micro-batch: whatever was fetched together."""

    number: int  # position among everything the source hands over, counted from 1 without a gap
    partitions: dict[SourcePartition, PartitionRecords]
