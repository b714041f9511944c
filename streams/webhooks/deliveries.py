"""The record of deliveries: from when on each receiver is told, and what came of each message. Append only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import polars as pl

from analytics.lake.storage import reading
from analytics.lake.table_schemas import COLUMNS, DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.lake.tables import Fence, Lake

FOLDED_AT = 32  # small files of the table, which is in nobody else's care


class DeliveryOutcome(StrEnum):
    """What a row says."""

    BEGUN = "begun"
    """What happens from then on is told; what happened before is not."""
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of one message to one receiver, or that it is told from now on."""

    endpoint: str
    at: datetime
    outcome: DeliveryOutcome
    message_id: str | None = None
    attempts: int = 0
    detail: str = ""


def append(lake: Lake, deliveries: Sequence[Delivery], *, fence: Fence) -> None:
    """Append them in one commit; raises `FencedError` where another worker sends now, else `LakeError`."""
    rows = [asdict(one) | {"outcome": one.outcome.value} for one in deliveries]
    lake.append(DELIVERIES, pl.DataFrame(rows, schema=COLUMNS[DELIVERIES], orient="row"), fence=fence)
    if rows:
        lake.compact(DELIVERIES, at_least=FOLDED_AT, fence=fence)


def deliveries(lake: Lake) -> list[Delivery]:
    """Every row. Raises `LakeError`."""
    with reading(lake.root):
        rows = lake.scan(DELIVERIES).collect().iter_rows(named=True)
        return [Delivery(**row | {"outcome": DeliveryOutcome(row["outcome"])}) for row in rows]
