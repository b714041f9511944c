"""What the page keeps between two looks at one lake: a look costs by what was appended, not by what there is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from analytics.audit.quality import latest_quality
from analytics.counted import Counted
from analytics.lake.schemas import LOOKS, QUALITY, REJECTS, SIGNALS, VERDICTS
from analytics.report import rejected
from analytics.verdicts import ledger, looks
from dashboard.document import CellSignals, QualityRun, Rejects, Report, Verdict
from dashboard.trends import Trend, Trends
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from analytics.lake.tables import Lake
    from analytics.verdicts.looks import Look

_Order: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Snapshot:
    """Everything the overview needs, as of one set of table versions.

    Attributes:
        report: Signals, verdicts and rejects.
        trends: Recent behaviour of each cell in shared bins.
        quality: The last quality run; None when there was none.
        versions: The newest version of each table that the page watches.
    """

    report: Report
    trends: Mapping[Cell, Trend]
    quality: QualityRun | None
    versions: Mapping[str, int]


class Kept:
    """Everything that was read of one lake. What broke off in the middle of a look is not to be used any more."""

    def __init__(self) -> None:
        self._counted = Counted()
        self._trends = Trends(self._counted.columns)
        self._signals: dict[Cell, CellSignals] = {}
        self._shown_trends: dict[Cell, Trend] = {}
        self._verdicts: dict[Cell, tuple[_Order, Verdict]] = {}
        self._newest_look: Look | None = None
        self._rejects = Rejects()
        self._quality: QualityRun | None = None
        self._versions: Mapping[str, int] = {}

    def look(self, lake: Lake, versions: Mapping[str, int]) -> Snapshot:
        """Bring everything to the newest versions.

        Args:
            lake: The lake.
            versions: The newest version of each table; that of `looks` no newer than that of `verdicts`, or a verdict
                that was replaced meanwhile would be taken for confirmed.

        Raises:
            LakeError: The lake cannot be read, or its log no longer reaches back to what is kept.
            ValidationError: A record has a shape that this release does not know.
        """
        moved = {table for table, version in versions.items() if self._versions.get(table) != version}
        if SIGNALS in moved:
            self._read_signals(lake, versions[SIGNALS])
        if LOOKS in moved:
            self._newest_look = looks.newest(lake, version=versions[LOOKS])
        if VERDICTS in moved:
            self._read_verdicts(lake, versions[VERDICTS])
        if REJECTS in moved:
            self._rejects = Rejects.model_validate(rejected(lake))
        if QUALITY in moved:
            run = latest_quality(lake)
            self._quality = None if run is None else QualityRun.model_validate(run)
        self._versions = versions
        report = Report.model_construct(
            signals=tuple(self._signals[cell] for cell in sorted(self._signals)),
            verdicts=tuple(_confirmed(self._verdicts[cell][1], self._newest_look) for cell in sorted(self._verdicts)),
            rejects=self._rejects,
        )
        return Snapshot(report, self._shown_trends, self._quality, versions)

    def _read_signals(self, lake: Lake, version: int) -> None:
        for increment in self._counted.read(lake, version):
            self._trends.add(increment)
        for row in self._counted.rows(self._counted.take_changed()):
            signals = CellSignals.model_validate(row)
            self._signals[signals.cell] = signals
        self._shown_trends = self._trends.of_cells()

    def _read_verdicts(self, lake: Lake, version: int) -> None:
        known = self._versions.get(VERDICTS)
        self._take(ledger.standing(lake) if known is None else ledger.following(lake, after=known, through=version))

    def _take(self, rows: pl.DataFrame) -> None:
        for *names, judged_at, lake_version, verdict_id, payload in rows.iter_rows():
            cell, order = Cell(*names), (judged_at, lake_version, verdict_id)
            known = self._verdicts.get(cell)
            if known is None or known[0] <= order:
                self._verdicts[cell] = (order, Verdict.model_validate(json.loads(payload)))


def _confirmed(verdict: Verdict, look: Look | None) -> Verdict:
    """A verdict with the moment of the newest look that found it again."""
    at = verdict.judged_at
    if look is not None and look.confirms(verdict.gate_sha256 or "", judged_at=at):
        at = look.judged_at
    return verdict.model_copy(update={"confirmed_at": at})
