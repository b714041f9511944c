"""Source offsets and fences, as they are stored in the same commit as the rows that they cover."""

from __future__ import annotations

from typing import NamedTuple


class SourcePartition(NamedTuple):
    """One partition of one log.

    Attributes:
        log_id: Identity of the log (the Kafka cluster id): offsets of another log are unrelated.
        topic: Topic name.
        partition: Partition number.
    """

    log_id: str
    topic: str
    partition: int

    @property
    def app_id(self) -> str:
        """The name under which the offset is stored in a table's log."""
        return f"{self.log_id}/{self.topic}/{self.partition}"


class Advance(NamedTuple):
    """How far one commit moves a partition.

    Attributes:
        previous: The offset stored before, as the writer knows it; None when nothing was stored yet.
        reached: The last offset that the commit covers.
    """

    previous: int | None
    reached: int


class Fence(NamedTuple):
    """A right that a writer holds, for the commits that need it; see `analytics.lake.claims`.

    A table refuses a commit under a fence once it has seen a higher epoch of the same name.

    Attributes:
        name: What is claimed.
        epoch: Which tenure it is: every holder's is higher than all before.
    """

    name: str
    epoch: int

    @property
    def app_id(self) -> str:
        """The name under which the highest epoch is stored in a table's log."""
        return f"claim/{self.name}"
