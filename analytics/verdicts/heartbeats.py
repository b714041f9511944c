"""Looks: that the judge is at work, and that what the ledger says of every cell still holds.

The ledger has a row where something is new. That nothing is new has to be said too, or an unchanged verdict could not
be told from one that nobody stands by any more: so every few seconds one row says up to which version of the lake and
which watermark all cells were looked at, under which gate file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from analytics.lake.table_schemas import COLUMNS, JUDGE_HEARTBEATS

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Fence, Lake
    from analytics.verdicts.document import VerdictDocument


@dataclass(frozen=True, slots=True)
class Look:
    """One look at every cell.

    Attributes:
        judged_at: When.
        watermark: Event time up to which everything had been read.
        lake_version: Version of the table `signals`.
        gate_sha256: Digest of the gate file.
        cells: How many cells there were.
        events_version: Version of the table `events` that users were counted at; None where they were not.
        users_as_of: End of the newest closed user-window; None likewise.
    """

    judged_at: datetime
    watermark: datetime
    lake_version: int
    gate_sha256: str
    cells: int
    events_version: int | None = None
    users_as_of: datetime | None = None

    def confirms(self, gate_sha256: str, *, judged_at: datetime) -> bool:
        """Whether this look came after a verdict and was taken under the same gate file.

        Args:
            gate_sha256: Digest of the gate file that the last verdict on a cell was reached under.
            judged_at: When it was reached.
        """
        return gate_sha256 == self.gate_sha256 and judged_at <= self.judged_at


def append(lake: Lake, look: Look, *, fence: Fence | None = None) -> None:
    """Record a look, after every verdict that it found to be new.

    Args:
        lake: The lake.
        look: The look.
        fence: The right to judge, where more than one process might.

    Raises:
        FencedError: Somebody else judges now.
        LakeError: It cannot be recorded.
    """
    lake.append(
        JUDGE_HEARTBEATS, pl.DataFrame([asdict(look)], schema=COLUMNS[JUDGE_HEARTBEATS], orient="row"), fence=fence
    )


def newest(lake: Lake, *, version: int | None = None) -> Look | None:
    """The newest look, or the newest at a version of the table; None while there was none.

    Read it before the verdicts that it is to confirm: one that is replaced meanwhile is then not taken for confirmed.

    Raises:
        LakeError: The lake cannot be read.
    """
    looks = lake.scan(JUDGE_HEARTBEATS, version=version)
    last = looks.filter(pl.col("judged_at") == pl.col("judged_at").max()).tail(1).collect()
    return Look(**last.row(0, named=True)) if last.height else None


def confirmed(document: VerdictDocument, look: Look | None) -> VerdictDocument:
    """A verdict of the ledger with the moment and the watermark of the newest look that found it again."""
    stood = document if look is None or not look.confirms(document.gate_sha256, judged_at=document.judged_at) else look
    return document.model_copy(update={"confirmed_at": stood.judged_at, "confirmed_through": stood.watermark})
