"""Metrics of single cells: what the ledger says last of each, and the reviews that wait, followed as the lake grows.

How many series there are is bounded: of at most `most` cells, and only of those that decided anything within a week; a
cell has as many as its gate has signals. What is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from analytics.lake.errors import ForgottenError
from analytics.lake.storage import reading
from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.signals.cells import ACTION, CELL
from analytics.verdicts.document import UnknownShapeError
from analytics.verdicts.ledger import ORDER
from analytics.verdicts.verdict import REASSESSED
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell
from streams.metrics import labels, metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from analytics.lake.tables import Lake

MOST_CELLS: Final = 500

_SHOWN_FOR: Final = timedelta(days=7)  # after its last event; a stage that an action has left has none any more
_REVIEWED_WITHIN: Final = timedelta(days=1)  # how long an approval may be given, unless a router says otherwise
_RANK: Final = {VerdictName.ROLL_BACK: 0, VerdictName.INVALID: 1, VerdictName.PROMOTE: 2, VerdictName.HOLD: 3}
_REVIEWS: Final = ("queued", "reviews_approved", "reviews_rejected")
_REVIEW: Final = [*ACTION, "bucket"]
_WAITING: Final = pl.col("queued") - pl.col("reviews_approved") - pl.col("reviews_rejected")


class ShownSignal(msgspec.Struct):
    """What a verdict says of one signal; see `analytics.verdicts.evidence_models.SignalEvidence`."""

    signal: str
    role: str
    unit: str
    value: float | None
    limit: float | None
    log_e_harm: float | None = None
    harm_threshold: float | None = None
    log_e_safe: float | None = None
    safe_threshold: float | None = None


class ShownVerdict(msgspec.Struct):
    """What a row of the ledger says that is shown as numbers."""

    verdict: VerdictName
    signals: tuple[ShownSignal, ...]
    gate: str | None = None
    attempt: int | None = None


_PARSE: Final = msgspec.json.Decoder(ShownVerdict).decode


@dataclass(frozen=True)
class CellMetrics:
    """What is known of all cells at one moment."""

    verdicts: dict[Cell, ShownVerdict] = field(default_factory=dict)  # those that are shown
    last_event_at: dict[Cell, datetime] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # all cells that decided within a week, by verdict
    reviews: int = 0  # queued within a day and not resolved
    oldest_review_at: datetime | None = None  # the minute in which the oldest of them was queued

    def lines(self, now: datetime) -> list[str]:
        """The metrics in Prometheus's text format."""
        ages_s = {cell: max((now - at).total_seconds(), 0.0) for cell, at in self.last_event_at.items()}
        oldest_s = None if self.oldest_review_at is None else (now - self.oldest_review_at).total_seconds()
        parts = [(cell, said, part) for cell, said in self.verdicts.items() for part in said.signals]

        def of_cells(name: str, purpose: str, values: Iterator[tuple[str, float | None]]) -> list[str]:
            return metric(name, "gauge", purpose, dict(values))

        def of_signals(name: str, purpose: str, read: Any) -> list[str]:  # noqa: ANN401 - of a signal, a number
            return of_cells(name, purpose, ((_of_signal(cell, part), read(part)) for cell, _, part in parts))

        said = self.verdicts.items()
        return [
            *metric("cells", "gauge", "Cells that decided anything within a week, by their verdict.", self._by_verdict),
            *metric("cells_left_out", "gauge", "Cells among them that have no series.", self._left_out),
            *of_cells(
                "cell_verdict",
                "1 for the verdict on the cell.",
                ((_of_cell(cell, verdict=one.verdict.value, gate=one.gate or ""), 1) for cell, one in said),
            ),
            *of_cells("cell_attempt", "Attempt of the cell.", ((_of_cell(cell), one.attempt) for cell, one in said)),
            *of_cells(
                "cell_evidence_age_seconds",
                "Since the newest event of the cell.",
                ((_of_cell(cell), ages_s[cell]) for cell, _ in said),
            ),
            *of_signals("signal_value", "The signal as measured, in its unit.", lambda part: part.value),
            *of_signals("signal_limit", "The limit in force, in the signal's unit.", lambda part: part.limit),
            *of_signals(
                "signal_harm_ratio",
                "Evidence of harm over what shows it (logarithms): from 1 on the signal rolls back.",
                lambda part: _ratio(part.log_e_harm, part.harm_threshold),
            ),
            *of_signals(
                "signal_safety_ratio",
                "Evidence of safety over what shows it (logarithms): from 1 on the signal promotes.",
                lambda part: _ratio(part.log_e_safe, part.safe_threshold),
            ),
            *metric("reviews_waiting", "gauge", "Actions queued within a day that nobody has reviewed.", self.reviews),
            *metric("reviews_oldest_seconds", "gauge", "Since the oldest of them was queued.", oldest_s),
        ]

    @property
    def _by_verdict(self) -> dict[str, float | None]:
        return {labels(verdict=name.value): self.counts[name.value] for name in _RANK}

    @property
    def _left_out(self) -> int:
        return self.counts.total() - len(self.verdicts)


def _of_cell(cell: Cell, **more: str) -> str:
    return labels(**cell._asdict(), **more)


def _of_signal(cell: Cell, part: ShownSignal) -> str:
    return _of_cell(cell, signal=part.signal, role=part.role, unit=part.unit)


def _ratio(log_e: float | None, threshold: float | None) -> float | None:
    return None if log_e is None or not threshold else log_e / threshold


class CellGauges:
    """Follows the ledger and the counts of a lake. One thread at a time may use it, on a handle of its own."""

    def __init__(self, lake: Lake, *, most: int = MOST_CELLS) -> None:
        self._lake, self._most = lake, most
        self._versions = {VERDICTS: -1, SIGNALS: -1}
        self._verdicts: dict[Cell, ShownVerdict] = {}
        self._last_event_at: dict[Cell, datetime] = {}
        self._reviews: dict[tuple[Any, ...], int] = {}  # by action and minute

    def read(self, now: datetime) -> CellMetrics:
        """Take in what the lake has gained. Raises `LakeError`, and what was not read is news at the next time."""
        with reading(self._lake.root):
            self._follow_ledger()
            self._follow_counts(now)
        alive = {cell for cell, at in self._last_event_at.items() if now - at <= _SHOWN_FOR}
        self._last_event_at = {cell: at for cell, at in self._last_event_at.items() if cell in alive}
        judged = [(_RANK[self._verdicts[cell].verdict], cell) for cell in alive & self._verdicts.keys()]
        # By names within a verdict, so that the same cells are shown at every look.
        shown = [cell for _, cell in sorted(judged)[: self._most]]
        oldest = now - _REVIEWED_WITHIN
        self._reviews = {key: count for key, count in self._reviews.items() if count and key[-1] >= oldest}
        waiting = {key: count for key, count in self._reviews.items() if count > 0}
        return CellMetrics(
            {cell: self._verdicts[cell] for cell in shown},
            {cell: self._last_event_at[cell] for cell in shown},
            Counter(self._verdicts[cell].verdict.value for _, cell in judged),
            sum(waiting.values()),
            min((key[-1] for key in waiting), default=None),
        )

    def _follow_ledger(self) -> None:
        rows, version = self._news(VERDICTS, [*CELL, *ORDER, "payload"])
        # Two reads: payloads are large, and only the last of each cell is wanted.
        ours = rows.filter(~pl.col("verdict_id").str.starts_with(REASSESSED)).select(*CELL, *ORDER)
        last = ours.sort(ORDER).unique(subset=CELL, keep="last", maintain_order=True).collect()["verdict_id"]
        payloads = rows.filter(pl.col("verdict_id").is_in(last.implode())).select(*CELL, "payload").collect()
        try:
            news = {Cell(*cell): _PARSE(payload) for *cell, payload in payloads.iter_rows()}
        except msgspec.MsgspecError as error:
            raise UnknownShapeError(
                f"the ledger holds a verdict of a shape that this release does not know, so cells have no metrics: "
                f"{error}. Run the worker of the release that wrote it."
            ) from error
        self._verdicts.update(news)
        self._versions[VERDICTS] = version

    def _follow_counts(self, now: datetime) -> None:
        rows, version = self._news(SIGNALS, [*CELL, "bucket", "last_event_at", *_REVIEWS])
        seen = (
            rows.filter(pl.col("last_event_at") >= now - _SHOWN_FOR).group_by(CELL).agg(pl.col("last_event_at").max())
        )
        queued = rows.filter(pl.col("bucket") >= now - _REVIEWED_WITHIN, pl.any_horizontal(pl.col(_REVIEWS) != 0))
        latest, waiting = pl.collect_all([seen, queued.group_by(_REVIEW).agg(_WAITING.sum())])
        for *names, at in latest.iter_rows():
            cell = Cell(*names)
            self._last_event_at[cell] = max(at, self._last_event_at.get(cell, at))
        for *key, count in waiting.iter_rows():
            self._reviews[tuple(key)] = self._reviews.get(tuple(key), 0) + count
        self._versions[SIGNALS] = version

    def _news(self, table: str, columns: list[str]) -> tuple[pl.LazyFrame, int]:
        """What a table has gained, up to which version; all of it where the lake cannot tell any more."""
        after, version = self._versions[table], self._lake.version(table)
        if after >= 0:
            try:
                return self._lake.increments(table, after=after, through=version, columns=columns).lazy(), version
            except ForgottenError:
                if table == SIGNALS:
                    self._reviews.clear()  # which are counted anew
        return self._lake.scan(table).select(columns), version
