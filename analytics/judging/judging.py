"""From counters, a gate file and a watermark to verdicts: pure, and for many cells at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.gates.gate_file import Gate, GateFile, GateTieError
from analytics.judging.baseline import compare
from analytics.judging.deciding import decide
from analytics.judging.regression import watch_actions, watch_users
from analytics.judging.split_check import check_split
from analytics.judging.user_windows import Observed
from analytics.judging.weighing import Known, Question, combined, questions, weigh
from analytics.signals.cells import CELL, EPOCH, ESTABLISHED_AFTER, MATURE, Folded
from analytics.signals.definitions import COUNTERS, HISTOGRAMS, contradictions
from analytics.text import iso
from analytics.verdicts import messages
from analytics.verdicts.verdict import Exposure, Latch, Verdict, VerdictInputs
from producers.wire.contract import RiskClass
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from analytics.gates.gate_signal import CountBy
    from analytics.judging.user_windows import Users
    from analytics.signals.cells import EpochKey, Histogram
    from analytics.verdicts.document import Reassessment, SignalEvidence, SplitEvidence
    from analytics.verdicts.ledger import LatchKey
    from producers.wire.events import VerdictName

_NO_LATCHES: Final[Mapping[LatchKey, Mapping[VerdictName, Latch]]] = MappingProxyType({})
_NO_REGRADES: Final[Mapping[Cell, Sequence[Reassessment]]] = MappingProxyType({})
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """An epoch with its gate, and what the gate asks of it."""

    row: dict[str, Any]
    key: EpochKey
    gate: Gate | None
    fault: str | None
    fault_code: str
    questions: list[Question]
    evidence: dict[str, object]
    split: SplitEvidence | None = None


@dataclass(frozen=True, slots=True)
class _Knowledge:
    """What is known about all the epochs that are judged, looked up by epoch."""

    histograms: Mapping[str, Mapping[tuple[str, ...], Histogram]]
    immature: Mapping[float, Mapping[EpochKey, Mapping[str, int]]]
    windows: Mapping[tuple[str, float], Mapping[EpochKey, Observed]]
    users: Users | None

    def of(self, key: EpochKey, row: dict[str, Any]) -> Known:
        windows = None
        if self.users is not None and key in self.users.named:
            nothing = Observed((), (), ())
            windows = {asked: found.get(key, nothing) for asked, found in self.windows.items()}
        return Known(
            row,
            {window_s: found[key] for window_s, found in self.immature.items() if key in found},
            {name: found.get(key) for name, found in self.histograms.items()},
            windows,
            {},
        )


def judge(
    folded: Folded,
    gates: GateFile,
    *,
    watermark: datetime,
    lake_version: int,
    judged_at: datetime,
    cells: Collection[Cell] | None = None,
    latches: Mapping[LatchKey, Mapping[VerdictName, Latch]] = _NO_LATCHES,
    users: Users | None = None,
    regraded: Mapping[Cell, Sequence[Reassessment]] = _NO_REGRADES,
    over: Collection[EpochKey] = (),
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
        users: Closed user-windows; None where nothing is counted by user.
        regraded: What came of earlier epochs of a cell, of which outcomes came late.
        over: Epochs to judge in place of the current ones: epochs that are over, and of which outcomes came late.

    Returns:
        One verdict a cell (or epoch), in the order of the cells' names.
    """
    if over:
        wanted = epochs_of(over)
        current = folded.current(watermark, of=wanted)
        judged = folded.totals.join(wanted, on=EPOCH, how="semi").sort(EPOCH)
    elif cells is not None:
        chosen = pl.DataFrame(list(cells), schema=dict.fromkeys(CELL, pl.String), orient="row")
        # All cells of their actions, since a gate may compare one with another.
        current = folded.current(watermark, of=chosen)
        judged = current.join(chosen, on=CELL, how="semi").sort(CELL)
    else:
        current = judged = folded.current(watermark)
    mature = folded.mature(watermark, gates.outcome_deadline_s, of=judged)
    rows = judged.join(mature, on=EPOCH, how="left", maintain_order="left").with_columns(pl.col(MATURE).fill_null(0))
    knowledge = _knowledge(folded, gates, judged, watermark, users)
    asked = [
        _ask(row, gates, knowledge, folded=folded, current=current, watermark=watermark, is_over=bool(over))
        for row in rows.iter_rows(named=True)
    ]
    answers = iter(weigh([question for one in asked for question in one.questions]))
    signals = [tuple(next(answers) for _ in one.questions) for one in asked]
    signals = _watched(folded, gates, asked, signals, watermark=watermark, users=users)
    verdicts = []
    for one, evidence in zip(asked, signals, strict=True):
        cell, epoch = Cell(*one.key[:-1]), one.row["epoch"]
        stale_s = (watermark - one.row["last_event_at"]).total_seconds()
        case = VerdictInputs(
            cell=cell,
            epoch=epoch,
            risk_class=_risk_class(one.row),
            gate=one.gate,
            fault=one.fault,
            fault_code=one.fault_code,
            signals=evidence,
            log_e_combined=combined(evidence, dry=one.gate is not None and one.gate.dry_run),
            exposure=_exposure(one, watermark, users),
            stale_s=stale_s if stale_s > gates.freshness_s else None,
            latches=latches.get((cell, epoch, gates.sha256), {}),
            evidence=one.evidence,
            split=one.split,
            regraded=() if over else tuple(regraded.get(cell, ())),
            is_reassessment=bool(over),
        )
        verdicts.append(Verdict(case, decide(case), gates.sha256, lake_version, watermark, judged_at))
    return verdicts


def passing(folded: Folded, gates: GateFile, before: datetime, now: datetime) -> set[Cell]:
    """The cells for which event time alone, from one watermark to another, may change the verdict.

    A minute closes, becomes mature or overdue; the evidence goes stale; a hold expires; enough days were seen.
    """
    maturities = {part.maturity for gate in gates.gates for part in gate.signals if part.maturity is not None}
    found = folded.changing(before, now, {0.0, *maturities}, gates.outcome_deadline_s)
    moments = [pl.col("last_event_at") + timedelta(seconds=gates.freshness_s)]
    expiries = {gate.hold_expires for gate in gates.gates if gate.hold_expires is not None}
    moments += [pl.col("first_bucket") + timedelta(seconds=expires_s) for expires_s in expiries]
    # Ten quiet minutes establish an epoch of few decisions.
    moments.append(pl.col("first_bucket") + ESTABLISHED_AFTER)
    crossed = pl.any_horizontal((moment >= before) & (moment <= now) for moment in moments)
    return found | {Cell(*row) for row in folded.totals.filter(crossed).select(CELL).unique().iter_rows()}


def epochs_of(keys: Collection[EpochKey]) -> pl.DataFrame:
    """Epochs as a frame with the columns of `EPOCH`, sorted."""
    return pl.DataFrame(sorted(keys), schema=dict.fromkeys(EPOCH, pl.String), orient="row")


def _knowledge(
    folded: Folded, gates: GateFile, judged: pl.DataFrame, watermark: datetime, users: Users | None
) -> _Knowledge:
    parts = [(gate, part) for gate in gates.gates for part in gate.signals]
    maturities = {part.maturity for _, part in parts if part.maturity is not None}
    by_user = {
        (part.signal, maturity)
        for gate, part in parts
        if gate.unit_of(part) == "user"
        for maturity in (0.0, part.maturity or 0.0)
    }
    young = {
        window_s: {
            tuple(row[name] for name in EPOCH): row
            for row in folded.immature(judged, watermark, window_s).iter_rows(named=True)
        }
        for window_s in maturities
    }
    windows = {
        (signal, maturity): users.observed(signal, maturity_s=maturity)
        for signal, maturity in by_user
        if users is not None
    }
    return _Knowledge({name: folded.histogram(name, of=judged) for name in HISTOGRAMS}, young, windows, users)


def _ask(
    row: dict[str, Any],
    gates: GateFile,
    knowledge: _Knowledge,
    *,
    folded: Folded,
    current: pl.DataFrame,
    watermark: datetime,
    is_over: bool,
) -> _Asked:
    """Find an epoch's gate and put its questions; one that cannot be judged says why instead."""
    key = tuple(row[name] for name in EPOCH)
    known = knowledge.of(key, row)
    evidence = _evidence(row, known)
    action = (row["environment"], row["workflow"], row["tool"])
    try:
        gate = gates.gate_for(*action, _risk_class(row))
    except GateTieError as error:
        return _Asked(row, key, None, str(error), "ambiguous_gate", [], evidence)
    if gate is None:
        return _Asked(row, key, None, messages.no_gate(*action), "no_gate", [], evidence)
    if impossible := contradictions({name: row[name] for name in COUNTERS}):
        return _Asked(row, key, gate, "; ".join(impossible), "contradictory_counts", [], evidence)
    if gate.baseline.kind != "none":
        known = replace(known, compared=compare(folded, current, row, gate, watermark=watermark))
    split = None
    # An epoch that is over is promoted no more.
    if gate.split is not None and not is_over:
        split = check_split(folded, current, row, gate, watermark=watermark, users=knowledge.users)
    if split is not None:
        evidence["split"] = [[arm.arm, arm.assigned] for arm in split.arms] + [split.outside, split.crossed]
    return _Asked(row, key, gate, None, "", questions(gate, row["stage"], known), evidence, split)


def _evidence(row: dict[str, Any], known: Known) -> dict[str, object]:
    """Every number about an epoch, for its digest."""
    counted: dict[str, object] = {name: row[name] for name in (*COUNTERS, *MATURE)}
    counted |= {name: [part.tolist() for part in pair] for name, pair in known.histograms.items() if pair is not None}
    counted |= {"risk_rank": row["risk_rank"], "last_event_at": iso(row["last_event_at"])}
    counted["immature"] = [
        [window_s, *(young[name] for name in COUNTERS)] for window_s, young in sorted(known.immature.items())
    ]
    if known.windows is not None:
        counted["windows"] = [
            [*asked, found.trials, found.failures, found.count] for asked, found in sorted(known.windows.items())
        ]
    return counted


def _watched(
    folded: Folded,
    gates: GateFile,
    asked: Sequence[_Asked],
    signals: Sequence[tuple[SignalEvidence, ...]],
    *,
    watermark: datetime,
    users: Users | None,
) -> list[tuple[SignalEvidence, ...]]:
    """The same signals, with what the detector says where it watches: by user wherever the signal itself is."""
    by_unit: dict[CountBy, list[tuple[int, int]]] = {"action": [], "user": []}
    for at, one in enumerate(asked):
        for place, question in enumerate(one.questions):
            if one.gate is not None and one.gate.watches(question.part, one.row["stage"]):
                by_unit["action" if question.windows is None else "user"].append((at, place))
    watched = {
        unit: [(asked[at].key, asked[at].questions[place].part) for at, place in places]
        for unit, places in by_unit.items()
    }
    rules = gates.after_promotion
    found = watch_actions(folded, watched["action"], watermark=watermark, rules=rules)
    if users is not None:
        found += watch_users(users, watched["user"], rules=rules)
    told = [list(each) for each in signals]
    for (at, place), regression in zip([*by_unit["action"], *by_unit["user"]], found, strict=True):
        told[at][place] = told[at][place].model_copy(update={"regression": regression})
    return [tuple(each) for each in told]


def _exposure(one: _Asked, watermark: datetime, users: Users | None) -> Exposure:
    first, last = one.row["first_bucket"], one.row["last_bucket"]
    seen = Exposure(
        actions=one.row["decisions"],
        days=(last - first).total_seconds() / _DAY_S,
        held_s=max((watermark - first).total_seconds(), 0.0),
    )
    if users is None:
        return seen
    return replace(
        seen,
        users=users.people.get(one.key, 0),
        unnamed=users.unnamed.get(one.key, 0),
        by_user=one.key in users.named,
        as_of=users.as_of,
        events_version=users.events_version,
    )


def _risk_class(row: Mapping[str, Any]) -> str | None:
    return None if row["risk_rank"] is None else list(RiskClass)[row["risk_rank"]].value
