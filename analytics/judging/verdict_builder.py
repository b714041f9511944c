"""Whole verdicts, for the rows that are written or read: evidence in full, its digest, and reasons in sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.gates.gate_file import Gate, GateTieError
from analytics.judging.latches import NO_STAGE, Latches
from analytics.judging.signal_evidence import EvidenceRows
from analytics.judging.user_windows import BLOCK_FAILED, harm_windows, measure, promotion_windows
from analytics.judging.verdict_rules import VERDICTS, Decisions, GateDecision, Mark
from analytics.signals.cells import MATURE
from analytics.signals.counted import counted_numbers
from analytics.signals.definitions import ADDED, COUNTERS, contradictions
from analytics.signals.state import UNKNOWN_RISK, EpochRows, moment_of
from analytics.verdicts import messages
from analytics.verdicts.verdict import EpochsBeside, Exposure, Verdict, VerdictInputs, VerdictResult
from producers.wire.contract import RiskClass
from producers.wire.events import Reason, VerdictName
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy.typing as npt

    from analytics.judging.weights import EvaluationInputs
    from analytics.verdicts.evidence_models import SignalEvidence

    Positions = npt.NDArray[np.intp]

_ORDER: Final = {
    code: place
    for place, code in enumerate(
        (
            *("harm", "combined_harm", "regression", "trip", "late_harm", "regraded"),
            *("hold_expired", "split_mismatch", "undeclared_arm", "epoch_beside", "latched", "contradictory_counts"),
            *("stale_evidence", "no_signals", "no_promotion_signals", "not_on_ladder", "top_of_ladder", "is_baseline"),
            # What stands most in the way comes first: it is what a summary shows.
            *("over_limit", "no_maturity", "below_minimum_exposure", "missing_data"),
            *("too_few_users", "rates_disagree", "immature", "more_evidence_needed"),
            *("shown_safe", "rising", "uneven_hours", "approval_required", "set_aside", "late_outcomes"),
            "earlier_epoch_regraded",
        )
    )
}
_COUNTED_OF_COURSE: Final = {
    *("windows_of_day", "failed_of_day", "windows_before", "failed_before"),
    *("windows_of_worst_hour", "failed_of_worst_hour"),
}
_BLOCKS: Final = frozenset({"over_limit", "missing_data", "too_few_users", "immature", "more_evidence_needed"})


@dataclass(frozen=True)
class Group:
    """Epochs that were decided together."""

    places: npt.NDArray[np.intp]  # their places among all that were evaluated
    epochs: EpochRows  # the epochs
    decisions: Decisions  # what follows for each
    inputs: EvaluationInputs  # what it follows from
    gate: Gate | None = None  # their gate; None where none can be named
    decision: GateDecision | None = None  # how it was decided; None where they cannot be judged


class VerdictBuilder:
    """Builds whole verdicts from what was decided."""

    def __init__(self, inputs: EvaluationInputs, latches: Latches, *, are_over: bool) -> None:
        self._inputs = inputs
        self._latches = latches
        self._are_over = are_over

    def build(self, group: Group, positions: Positions, *, lake_version: int, judged_at: datetime) -> list[Verdict]:
        """The verdicts at some positions of a group, in their order."""
        watermark, gate_sha256 = self._inputs.sums.watermark, self._inputs.gates.sha256
        verdicts = []
        for inputs, position in zip(self._verdict_inputs(group, positions), positions.tolist(), strict=True):
            would = None
            if group.decision is not None and group.decision.would is not None:
                would = _result(group.decision.would, position, inputs, None)
            result = _result(group.decisions, position, inputs, would)
            verdicts.append(Verdict(inputs, result, gate_sha256, lake_version, watermark, judged_at))
        return verdicts

    def _verdict_inputs(self, group: Group, positions: Positions) -> list[VerdictInputs]:
        epochs, decision = group.epochs[positions], group.decision
        state, freshness_s = self._inputs.state, self._inputs.gates.freshness_s
        signals: list[tuple[SignalEvidence, ...]] = [()] * positions.size
        if decision is not None and decision.signals:
            rows = EvidenceRows(decision.gate, decision.stage, group.epochs, positions, self._inputs)
            signals = rows.all(decision.signals)
        exposures, evidence = self._exposures(group.gate, epochs), self._evidence(epochs)
        names = state.names(epochs)["epoch"].to_list()
        content = None if group.gate is None else self._inputs.gates.contents[group.gate.name]
        verdict_inputs = []
        for place, (epoch, position) in enumerate(zip(epochs.tolist(), positions.tolist(), strict=True)):
            cell = state.cells[state.cell_of[epoch]]
            regrades = () if self._are_over else self._latches.regrades(cell)
            fault, fault_code = self._fault(group, epoch)
            stale_s = (self._inputs.sums.watermark - moment_of(state.event_us[epoch])).total_seconds()
            split = None if decision is None else decision.splits[position]
            if split is not None:
                evidence[place]["split"] = [
                    *([arm.arm, arm.assigned] for arm in split.arms),
                    split.outside,
                    split.crossed,
                ]
            if group.gate is not None and group.gate.minimum_exposure.covers_time:
                seen = exposures[place]
                evidence[place]["coverage"] = [seen.days, seen.weekdays, seen.hours]
            course = None
            if group.gate is not None and self._inputs.users is not None:
                course = self._inputs.users.course.shown(epoch)
            beside = None
            if not self._are_over and (counts := self._inputs.alive.of_cell(state, int(state.cell_of[epoch]))):
                beside = EpochsBeside(*counts)
                evidence[place]["beside"] = [list(one) for one in beside.others]
            evidence[place]["attempt"] = int(self._inputs.attempts[epoch])
            if course is not None:
                evidence[place]["course"] = course.model_dump(mode="json", include=_COUNTED_OF_COURSE)
            log_e = None if decision is None or decision.log_e is None else float(decision.log_e[position])
            verdict_inputs.append(
                VerdictInputs(
                    cell=cell,
                    epoch=names[place],
                    risk_class=_risk_class(int(state.risk[epoch])),
                    gate=group.gate,
                    fault=fault,
                    fault_code=fault_code,
                    signals=signals[place],
                    log_e_combined=log_e,
                    exposure=exposures[place],
                    stale_s=stale_s if stale_s > freshness_s else None,
                    latches=self._latches.of(cell, names[place], content),
                    evidence=evidence[place],
                    gate_content_sha256=content,
                    split=split,
                    course=course,
                    attempt=int(self._inputs.attempts[epoch]),
                    beside=beside,
                    regraded=tuple(made.shown for made in regrades),
                    late_harm=() if decision is None else decision.late.get(position, ()),
                    is_reassessment=self._are_over,
                )
            )
        return verdict_inputs

    def _fault(self, group: Group, epoch: int) -> tuple[str | None, str]:
        """Why an epoch cannot be judged or promoted, and the reason's code; None where it can."""
        state = self._inputs.state
        if group.decision is not None:
            if not self._inputs.soundness.contradictory[epoch]:
                return None, ""
            counts = {name: int(self._inputs.counter(name)[epoch]) for name in (*COUNTERS, *MATURE)}
            return "; ".join(contradictions(counts)), "contradictory_counts"
        code = group.decisions.marks[0].code
        cell = state.cells[state.cell_of[epoch]]
        action = (cell.environment, cell.workflow, cell.tool)
        try:
            self._inputs.gates.gate_of(cell, _risk_class(int(state.risk[epoch])))
        except GateTieError as error:
            return str(error), code
        return messages.no_gate(*action), code

    def _exposures(self, gate: Gate | None, epochs: EpochRows) -> list[Exposure]:
        state, users, watermark_us = self._inputs.state, self._inputs.users, self._inputs.sums.watermark_us
        seen = state.coverage(epochs, "UTC" if gate is None else gate.minimum_exposure.timezone)
        held_s = np.maximum((watermark_us - state.first_us[epochs]) / 1e6, 0.0)
        columns = [state.counter("decisions")[epochs], seen.days, seen.weekdays, seen.hours, held_s]
        if users is None:
            return [Exposure(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        columns += [users.people(epochs), users.unnamed(epochs), users.named(epochs)]
        versions = (users.windows.as_of, users.windows.events_version, users.open_version)
        return [Exposure(*(*row, *versions)) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _evidence(self, epochs: EpochRows) -> list[dict[str, object]]:
        """Every number about each epoch, for its digest."""
        inputs, state = self._inputs, self._inputs.state
        # What no earlier gate file could ask for has no part in the digests of earlier verdicts.
        asked = {part.signal for gate in inputs.gates.gates for part in gate.signals}
        counters = [name for name in COUNTERS if name not in ADDED or "bad_outcome" in asked]
        added = [name for name in ADDED if name in counters]
        mature = zip(*(inputs.counter(name)[epochs].tolist() for name in (*MATURE, *added)), strict=True)
        parts = [(gate, part) for gate in inputs.gates.gates for part in gate.signals]
        windows_s = sorted({age_s for _, part in parts for age_s in inputs.gates.ages_s(part)} - {0.0})
        young = {
            window_s: np.stack([inputs.sums.young(window_s, name)[epochs] for name in counters], axis=1).tolist()
            for window_s in windows_s
        }
        has_young = {window_s: inputs.sums.has_young(window_s)[epochs] for window_s in windows_s}
        users = inputs.users
        named = np.zeros(epochs.size, dtype=np.bool_) if users is None else users.named(epochs)
        by_user = sorted(
            {
                (measure(part), counting)
                for gate, part in parts
                if gate.unit_of(part) == "user"
                for counting in (
                    harm_windows(part),
                    *(
                        counting
                        for claim in ("users_seen", *gate.claims)
                        for counting in promotion_windows(part, inputs.gates.outcome_deadline_s, claim)
                    ),
                )
            }
        )
        tables, early, blocks = {}, np.zeros((0, epochs.size), dtype=np.int64), []
        if users is not None and named.any():
            tables = {
                (signal, *counting): users.table(signal, counting, epochs).rows_by_cell()
                for signal, counting in by_user
            }
            early = users.early_counts(epochs)
            blocks = [users.blocks(signal, epochs).rows_by_cell() for signal in BLOCK_FAILED]
        by_epoch = []
        for place, (numbers, counts) in enumerate(zip(counted_numbers(state, epochs), mature, strict=True)):
            counted = numbers | dict(zip((*MATURE, *added), counts, strict=True))
            counted["immature"] = [
                [window_s, *rows[place]] for window_s, rows in young.items() if has_young[window_s][place]
            ]
            if named[place]:
                counted["windows"] = [[*key, *table[place]] for key, table in tables.items()]
                counted["early"] = [early[:, place].tolist(), *(table[place] for table in blocks)]
            by_epoch.append(counted)
        return by_epoch


def _result(decisions: Decisions, position: int, inputs: VerdictInputs, would: VerdictResult | None) -> VerdictResult:
    """What follows for one cell, with its reasons in sentences, what matters most first."""
    verdict = VERDICTS[decisions.verdicts[position]]
    held = [
        (mark, _evidence_of(mark, inputs.signals))
        for mark, counts in zip(decisions.marks, decisions.counts, strict=True)
        if counts[position]
    ]
    held.sort(key=lambda reason: _rank(*reason))
    reasons = [
        Reason(code=mark.code, message=sentence, signal=mark.signal or None)
        for mark, evidence in held
        for sentence in messages.sentences(
            mark.code, inputs, verdict=verdict, evidence=evidence, detail=mark.detail, would=would
        )
    ]
    rank = int(decisions.stages[position])
    to_stage = None if rank == NO_STAGE else LADDER[rank].value
    latch = inputs.latches.get(verdict)
    stands = latch is not None and latch.refuted_by is None
    is_latched = latch is not None and stands and (verdict is VerdictName.ROLL_BACK or latch.to_stage == to_stage)
    latched_by = latch.verdict_id if latch is not None and is_latched else None
    codes = {mark.code for mark, _ in held}
    set_aside, refuted = (
        inputs.latches[VerdictName.ROLL_BACK].verdict_id if code in codes else None
        for code in ("set_aside", "late_outcomes")
    )
    return VerdictResult(verdict, to_stage, tuple(reasons), latched_by, set_aside, refuted, would)


def _evidence_of(mark: Mark, signals: Sequence[SignalEvidence]) -> SignalEvidence | None:
    return signals[mark.part] if mark.part >= 0 else None


def _rank(mark: Mark, evidence: SignalEvidence | None) -> tuple[int, float]:
    """What to sort a reason by: its code, then how much more evidence it takes, or how little room is left."""
    order = _ORDER.get(mark.code, 0)
    if evidence is None:
        return order, 0.0
    if mark.code in _BLOCKS and (mark.code != "missing_data" or _waits_for_data(evidence)):
        return order, -math.inf if evidence.more_needed is None else -evidence.more_needed
    if mark.code == "shown_safe" and evidence.upper is not None and evidence.limit:
        return order, 1.0 - evidence.upper / evidence.limit
    return order, 1.0 if mark.code == "shown_safe" else 0.0


def _waits_for_data(evidence: SignalEvidence) -> bool:
    return evidence.needs_data and evidence.role in {"guardrail", "promote"}


def _risk_class(rank: int) -> str | None:
    return None if rank == UNKNOWN_RISK else list(RiskClass)[rank].value
