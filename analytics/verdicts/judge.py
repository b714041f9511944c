"""The judge: from counters, a gate file and a watermark to verdicts, and from new increments to the ledger."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.cells import CELL, EPOCH, MATURE, Folded
from analytics.counters import COUNTERS, HISTOGRAMS
from analytics.evidence.sequential import crosses
from analytics.evidence.signals import contradictions
from analytics.verdicts import explain, gatestore, ledger
from analytics.verdicts.gates import Gate, GateFile, GateTieError
from analytics.verdicts.verdict import Case, Latch, Verdict, decide
from analytics.verdicts.watermark import SETTLE_S, Watermark
from analytics.verdicts.weighing import Question, combined, questions, weigh
from producers.strict_yaml import ConfigurationFileError
from producers.wire.contract import RiskClass
from producers.wire.events import StageRecommended, StageRecommendedData, VerdictName, schema_id
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from analytics.lake.tables import Lake
    from analytics.verdicts.ledger import LatchKey, Seen

SOURCE: Final = "/stagekeeper/judge"
"""The `source` of every recommendation."""

_NO_LATCHES: Final[Mapping[LatchKey, Mapping[VerdictName, Latch]]] = MappingProxyType({})
# In event time: how long a quiet cell's verdict may lag behind the watermark, and so behind going stale.
_FULL_ROUND: Final = timedelta(seconds=60)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A cell with its gate, and what the gate asks of it."""

    row: dict[str, Any]
    gate: Gate | None
    fault: str | None
    fault_code: str
    questions: list[Question]
    evidence: dict[str, object]


def judge(
    folded: Folded,
    gates: GateFile,
    *,
    watermark: datetime,
    lake_version: int,
    judged_at: datetime,
    cells: Collection[Cell] | None = None,
    latches: Mapping[LatchKey, Mapping[VerdictName, Latch]] = _NO_LATCHES,
) -> list[Verdict]:
    """Reach the verdicts on cells, each on its current epoch.

    Args:
        folded: Every counter at `lake_version`.
        gates: The gate file in force.
        watermark: Event time up to which everything has been read: what is old or mature is so by it, not by a clock.
        lake_version: Version of the table `signals`; only recorded.
        judged_at: When this is computed; only recorded.
        cells: The cells to judge; None is all.
        latches: What earlier looks at an epoch of a cell under a gate file have decided.

    Returns:
        One verdict a cell, in the order of the cells' names.
    """
    current = folded.current()
    if cells is not None:
        wanted = pl.DataFrame(list(cells), schema=dict.fromkeys(CELL, pl.String), orient="row")
        current = current.join(wanted, on=CELL, how="semi").sort(CELL)
    mature = folded.mature(watermark, gates.outcome_deadline_s)
    rows = current.join(mature, on=EPOCH, how="left", maintain_order="left").with_columns(pl.col(MATURE).fill_null(0))
    histograms = {name: folded.histogram(name) for name in HISTOGRAMS}
    asked = [
        _ask(row, gates, {name: known.get(tuple(row[part] for part in EPOCH)) for name, known in histograms.items()})
        for row in rows.iter_rows(named=True)
    ]
    answers = iter(weigh([question for one in asked for question in one.questions]))
    verdicts = []
    for one in asked:
        evidence = tuple(next(answers) for _ in one.questions)
        cell, epoch = Cell(*(one.row[name] for name in CELL)), one.row["epoch"]
        log_e = combined(evidence)
        stale_s = (watermark - one.row["last_event_at"]).total_seconds()
        case = Case(
            cell=cell,
            epoch=epoch,
            risk_class=_risk_class(one.row),
            gate=one.gate,
            fault=one.fault,
            fault_code=one.fault_code,
            signals=evidence,
            combined_harm=one.gate is not None and log_e is not None and bool(crosses(log_e, one.gate.alpha)),
            log_e_combined=log_e,
            actions=one.row["decisions"],
            stale_s=stale_s if stale_s > gates.freshness_s else None,
            latches=latches.get((cell, epoch, gates.sha256), {}),
            evidence=one.evidence,
        )
        verdicts.append(Verdict(case, decide(case), gates.sha256, lake_version, watermark, judged_at))
    return verdicts


class Judge:
    """Judges whatever changed since it last looked, and keeps the ledger.

    Args:
        lake: The lake, for the tables `signals` and `verdicts`; nobody else may use this handle meanwhile.
        gates: The gate file, or its path. Where there is a path the file is read again whenever its bytes change.
        settle_s: Seconds that an event time must have been known before executions are overdue by it.
    """

    def __init__(self, lake: Lake, gates: GateFile | Path, *, settle_s: float = SETTLE_S) -> None:
        self._lake = lake
        self._path = gates if isinstance(gates, Path) else gates.path
        self._gates = gates if isinstance(gates, GateFile) else None
        self._gate_error: str | None = None
        self._judged_under: str | None = None
        self._kept: str | None = None
        self._folded: Folded | None = None
        self._version = 0
        self._settle_s = settle_s
        self._follower: Watermark | None = None
        self._watermark: datetime | None = None
        self._all_judged_at: datetime | None = None
        self._seen: dict[Cell, Seen] = {}
        self._latches: dict[LatchKey, dict[VerdictName, Latch]] = {}

    @property
    def gates(self) -> GateFile | None:
        """The gate file in force; None while it cannot be read."""
        return self._gates

    @property
    def gate_error(self) -> str | None:
        """Why the gate file cannot be used at the moment; None while it can."""
        return self._gate_error

    def tick(self, now: datetime, *, caught_up: bool = True) -> list[StageRecommended]:
        """Judge the cells whose numbers, mature minutes, freshness or gate file changed, and append to the ledger.

        While the gate file cannot be read, nothing is judged: the error is logged once and kept in `gate_error`.

        Args:
            now: The present moment.
            caught_up: Whether the data plane has read everything that the broker holds. While it has not, no further
                execution becomes overdue; everything else is judged as ever.

        Returns:
            A recommendation for each verdict whose name, destination or reasons differ from the ledger's last word; at
            the first tick also those that an earlier judge wrote down and did not get published.

        Raises:
            LakeError: The lake cannot be read or written. Nothing was decided; the next tick begins where this one did.
        """
        gates = self._read_gates()
        if gates is None:
            return []
        if gates.sha256 != self._kept:
            # Before the first verdict under it: no row of the ledger names a gate file that nobody has.
            gatestore.keep(self._lake, gates, now=now)
            self._kept = gates.sha256
        version = self._lake.version("signals")
        left_behind: list[StageRecommended] = []
        if self._folded is None or self._follower is None:
            left_behind = [_recommendation_of(document) for document in ledger.unpublished(self._lake)]
            self._follower = Watermark(settle_s=self._settle_s, at=ledger.newest_watermark(self._lake))
            self._seen, self._latches = ledger.last_words(self._lake), ledger.latches(self._lake)
            folded = Folded.of(self._lake.scan("signals", version=version).collect())
            changed = folded.cells()
        else:
            increments = Folded.of(self._lake.increments("signals", after=self._version, through=version))
            folded = self._folded.plus(increments) if version > self._version else self._folded
            changed = increments.cells()
        if folded.latest_event_at is None:
            self._folded, self._version = folded, version
            return []
        settled = self._follower.follow(folded.latest_event_at, now, caught_up=caught_up)
        watermark = folded.earliest_bucket if settled is None else settled
        if (
            gates.sha256 != self._judged_under
            or self._watermark is None
            or self._all_judged_at is None
            or watermark >= self._all_judged_at + _FULL_ROUND
        ):
            due, all_judged_at = folded.cells(), watermark
        else:
            due = changed | _matured(folded, gates, self._watermark, watermark)
            all_judged_at = self._all_judged_at
        verdicts = judge(
            folded,
            gates,
            watermark=watermark,
            lake_version=version,
            judged_at=now,
            cells=due,
            latches=self._latches,
        )
        news = self._record(verdicts)
        self._folded, self._version = folded, version
        self._watermark, self._all_judged_at, self._judged_under = watermark, all_judged_at, gates.sha256
        return left_behind + [recommendation(verdict) for verdict in news]

    def _record(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Append to the ledger what it does not hold yet, and give back what is news."""
        fresh = [
            verdict
            for verdict in verdicts
            if (seen := self._seen.get(verdict.case.cell)) is None or seen.verdict_id != verdict.verdict_id
        ]
        news = [
            verdict
            for verdict in fresh
            if (seen := self._seen.get(verdict.case.cell)) is None or seen.outline != verdict.outline
        ]
        ledger.append(self._lake, fresh, changed={verdict.verdict_id for verdict in news})
        for verdict in fresh:
            self._seen[verdict.case.cell] = ledger.Seen(verdict.verdict_id, verdict.outline)
            finding = verdict.finding
            if finding.verdict in {VerdictName.PROMOTE, VerdictName.ROLL_BACK}:
                key = (verdict.case.cell, verdict.case.epoch, verdict.gate_sha256)
                latch = Latch(finding.verdict, finding.to_stage, verdict.verdict_id)
                self._latches.setdefault(key, {}).setdefault(finding.verdict, latch)
        return news

    def _read_gates(self) -> GateFile | None:
        if self._path is None:
            return self._gates
        try:
            text = self._path.read_bytes()
            if self._gates is None or hashlib.sha256(text).hexdigest() != self._gates.sha256:
                self._gates = GateFile.parse(text, path=self._path)
                logger.info("gate file %s in force, sha256 %s", self._path, self._gates.sha256)
        except OSError as error:
            self._refuse_gates(f"the gate file {self._path} cannot be read: {error.strerror or error}")
        except ConfigurationFileError as error:
            self._refuse_gates(str(error))
        else:
            self._gate_error = None
        return self._gates

    def _refuse_gates(self, fault: str) -> None:
        if fault != self._gate_error:
            logger.error("%s; nothing is judged until it is mended", fault)
        self._gates, self._gate_error = None, fault


def recommendation(verdict: Verdict) -> StageRecommended:
    """The event that publishes a verdict; its id is the verdict's, so that a repetition is counted once."""
    return _recommendation_of(verdict.document())


def _recommendation_of(document: Mapping[str, Any]) -> StageRecommended:
    cell = Cell(*(document[name] for name in CELL))
    published = StageRecommendedData.model_fields
    return StageRecommended(
        id=document["verdict_id"],
        source=SOURCE,
        time=document["judged_at"],
        subject=cell.key,
        dataschema=schema_id(StageRecommended),
        data=StageRecommendedData.model_validate({name: document[name] for name in published}),
    )


def _ask(row: dict[str, Any], gates: GateFile, histograms: Mapping[str, Any]) -> _Asked:
    """Find a cell's gate and put its questions; a cell that cannot be judged says why instead."""
    action = (row["environment"], row["workflow"], row["tool"])
    counted = {name: row[name] for name in (*COUNTERS, *MATURE)}
    known = {name: [part.tolist() for part in pair] for name, pair in histograms.items() if pair is not None}
    evidence = {**counted, **known, "risk_rank": row["risk_rank"], "last_event_at": explain.iso(row["last_event_at"])}
    try:
        gate = gates.gate_for(*action, _risk_class(row))
    except GateTieError as error:
        return _Asked(row, None, str(error), "ambiguous_gate", [], evidence)
    if gate is None:
        return _Asked(row, None, explain.no_gate(*action), "no_gate", [], evidence)
    if impossible := contradictions({name: row[name] for name in COUNTERS}):
        return _Asked(row, gate, "; ".join(impossible), "contradictory_counts", [], evidence)
    return _Asked(row, gate, None, "", questions(gate, row["stage"], row, histograms), evidence)


def _risk_class(row: Mapping[str, Any]) -> str | None:
    return None if row["risk_rank"] is None else list(RiskClass)[row["risk_rank"]].value


def _matured(folded: Folded, gates: GateFile, before: datetime, watermark: datetime) -> set[Cell]:
    """The cells that the mere passing of event time gave another mature minute."""
    matured = folded.maturing(gates.outcome_deadline_s).filter(
        (pl.col("mature_at") > before) & (pl.col("mature_at") <= watermark)
    )
    return {Cell(*row) for row in matured.select(CELL).unique().iter_rows()}
