"""Epochs that are over, and of which outcomes came late: which of them are to be graded anew, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.cells import EPOCH
from analytics.verdicts import ledger
from analytics.verdicts.users import closed_through
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from analytics.cells import EpochKey, Folded
    from analytics.lake.tables import Lake
    from analytics.verdicts.gates import GateFile
    from analytics.verdicts.verdict import Verdict

# By the clock. Just after a change of model the old epoch's outcomes come in one by one, and each look at its users
# reads its events.
_BETWEEN_LOOKS: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Regrading:
    """What is known of epochs that are over. Only what was graded once can be graded anew, and only to its harm.

    Attributes:
        graded: Epochs that the ledger has a verdict on.
        rolled_back: Those of them that were rolled back, under whatever gate file.
        changed: Epochs that are over, and changed since they were last looked at.
        looked_at: When (by the clock) some were last looked at.
        as_of: Up to where user-windows had closed when it was last asked what is due; None where they are not counted.
    """

    graded: frozenset[EpochKey] = frozenset()
    rolled_back: frozenset[EpochKey] = frozenset()
    changed: frozenset[EpochKey] = frozenset()
    looked_at: datetime | None = None
    as_of: datetime | None = None

    @classmethod
    def of(cls, lake: Lake) -> Regrading:
        """What a ledger tells.

        Raises:
            LakeError: The lake cannot be read.
        """
        users = ledger.newest_users(lake)
        return cls(
            ledger.graded(lake),
            ledger.graded(lake, verdict=VerdictName.ROLL_BACK),
            as_of=None if users is None else users[1],
        )

    def after(self, verdicts: Iterable[Verdict]) -> Regrading:
        """With verdicts that were reached."""
        told = [((*verdict.case.cell, verdict.case.epoch), verdict.finding.verdict) for verdict in verdicts]
        harmful = {key for key, word in told if word is VerdictName.ROLL_BACK}
        fresh = {key for key, _ in told} - self.graded
        if not fresh and harmful <= self.rolled_back:
            return self
        return replace(self, graded=self.graded | fresh, rolled_back=self.rolled_back | harmful)

    def due(
        self, changed: Collection[EpochKey], over: pl.DataFrame, gates: GateFile, watermark: datetime, now: datetime
    ) -> tuple[frozenset[EpochKey], Regrading]:
        """What is to be graded anew now, and what is known after that.

        Where actions are counted, whatever changed, at once. Where users are, now and then, and as the last windows of
        an epoch close: they were open when the next one took over.

        Args:
            changed: Epochs that changed since the last time.
            over: The totals of the epochs that are over.
            gates: The gate file in force.
            watermark: Event time up to which everything has been read.
            now: The present moment.
        """
        late = self.graded.intersection(over.select(EPOCH).iter_rows()) - self.rolled_back
        waiting = (self.changed | late.intersection(changed)) & late
        as_of = closed_through(watermark, gates.user_window) if gates.counts_users else None
        if as_of is not None and self.as_of is not None and as_of > self.as_of:
            waiting |= late.intersection(over.filter(pl.col("last_bucket") >= self.as_of).select(EPOCH).iter_rows())
        if gates.counts_users and self.looked_at is not None and now < self.looked_at + _BETWEEN_LOOKS:
            return frozenset(), replace(self, changed=waiting, as_of=as_of)
        looked_at = now if waiting else self.looked_at
        return waiting, replace(self, changed=frozenset(), looked_at=looked_at, as_of=as_of)


def over(folded: Folded, watermark: datetime) -> pl.DataFrame:
    """The totals of the epochs that are over."""
    return folded.totals.join(folded.current(watermark).select(EPOCH), on=EPOCH, how="anti")
