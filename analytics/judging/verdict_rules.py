"""Deciding: what follows from the evidence about cells at one stage under one gate, always asked in the same order.

Reasons are data: a code, the signal that it is about, and the cells for which it holds. Their sentences are made where
a verdict is written or read (`analytics.verdicts.messages`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from analytics.evidence.sequential import FloatArray, crosses
from analytics.judging import late_harm
from analytics.judging.latches import NO_STAGE, NOT_CROSSED
from analytics.judging.levels import EARLY_SHARE
from analytics.judging.split_check import check_split
from analytics.judging.weights import EvaluationInputs, SignalWeights, Weigher, combined
from producers.wire.events import VerdictName
from producers.wire.stage import ROLLBACK_STAGE, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from analytics.gates.gate_file import Gate
    from analytics.signals.state import EpochRows, Flags, Integers
    from analytics.verdicts.evidence_models import SplitEvidence
    from analytics.verdicts.verdict import Regrade

VERDICTS: Final = tuple(VerdictName)

_WEIGHED: Final = frozenset({"guardrail", "promote"})


def rollback_stage(stage: str) -> Stage:
    """Where a rollback sends an action from a stage."""
    return ROLLBACK_STAGE if Stage(stage).rank > ROLLBACK_STAGE.rank else Stage.OBSERVE_ONLY


class Mark(NamedTuple):
    """A reason as data."""

    code: str  # its code, one of `REASON_CODES`
    signal: str = ""  # the signal's name; empty where it is about none
    part: int = -1  # the place of that signal among those of the gate; -1 where it is about none
    detail: str = ""  # what tells it from others of the same code: which exposure is too small


@dataclass
class Decisions:
    """What follows for the cells of a group, one place a cell."""

    verdicts: npt.NDArray[np.int8]  # each one's verdict, by its place among `VERDICTS`
    stages: npt.NDArray[np.int8]  # where each one goes: the rank of a stage, or `NO_STAGE`
    marks: list[Mark] = field(default_factory=list)  # the reasons
    counts: list[npt.NDArray[np.uint8]] = field(default_factory=list)  # how often each of them holds for each cell

    @classmethod
    def all_alike(cls, size: int, verdict: VerdictName) -> Decisions:
        """The same verdict for all cells, and no reason yet."""
        return cls(np.full(size, VERDICTS.index(verdict), dtype=np.int8), np.full(size, NO_STAGE, dtype=np.int8))

    def add(self, mark: Mark, where: Flags | Integers) -> None:
        """Note for which cells a reason holds."""
        if np.any(where):
            self.marks.append(mark)
            self.counts.append(np.asarray(where, dtype=np.uint8))

    def matrix(self) -> npt.NDArray[np.uint8]:
        """How often each reason holds for each cell. Shape (cells, marks)."""
        return np.stack(self.counts, axis=1) if self.counts else np.zeros((self.verdicts.size, 0), dtype=np.uint8)


class GateDecision:
    """The verdicts on the cells at one stage under one gate.

    The order never changes: is there harm by counts that are intact (of a guardrail, of all together, since a
    promotion), has something tripped, do all counts add up, is the evidence fresh, was traffic split as declared, has
    enough been seen, is it mature, is everything shown safe. Counts that contradict each other come after harm, so that
    one bad event cannot stop a rollback. Harm comes before staleness because it does not expire: an action that was
    rolled back goes quiet, and must not look merely undecided for it. It comes before the split because an arm that
    loses its traffic is often one that is broken. A person's approval comes last, when the gate is asked.

    What is a dry run takes part in nothing; `would` is what would follow if it did. Epochs that are over are promoted
    no more, so their split is not checked.
    """

    def __init__(self, gate: Gate, stage: str, epochs: EpochRows, inputs: EvaluationInputs, *, are_over: bool) -> None:
        self.gate = gate
        self.stage = stage
        self.epochs = epochs
        self._inputs = inputs
        self._are_over = are_over
        self.late: dict[int, tuple[Regrade, ...]] = {}  # what came of earlier epochs and rolls some back, by place
        weigher = Weigher(gate, stage, epochs, inputs)
        self.signals = [weigher.weigh(part, place) for place, part in enumerate(gate.signals)]
        self.log_e: FloatArray | None = combined(self.signals, dry=gate.dry_run)
        kinds = range(max((len(signal.early) for signal in self.signals), default=0))
        self._early_log_e = [combined(self.signals, dry=gate.dry_run, early=kind) for kind in kinds]
        self.splits: list[SplitEvidence | None] = [None] * epochs.size
        if gate.split is not None and not are_over:
            self.splits = [check_split(inputs.arms, epoch, gate, inputs.users) for epoch in epochs.tolist()]
        self.would: Decisions | None = None
        live = [signal for signal in self.signals if not signal.part.dry_run]
        if gate.dry_run or any(signal.part.dry_run and signal.is_asked for signal in self.signals):
            self.would = self._decide(self.signals)
        if self.would is not None and (gate.dry_run or not any(signal.decides for signal in live)):
            self.decisions = Decisions.all_alike(epochs.size, VerdictName.HOLD)
            self.decisions.add(Mark("dry_run"), np.ones(epochs.size, dtype=np.bool_))
            return
        self.decisions = self._decide(self.signals if self.would is None else live)
        reassessed = np.zeros(epochs.size, dtype=np.int64)
        if not are_over:
            reassessed = inputs.latches.reassessed[inputs.state.cell_of[epochs]]
        self.decisions.add(Mark("earlier_epoch_regraded"), reassessed)

    def _decide(self, signals: Sequence[SignalWeights]) -> Decisions:
        size, gate, epochs = self.epochs.size, self.gate, self.epochs
        if not any(signal.decides for signal in signals):
            invalid = Decisions.all_alike(size, VerdictName.INVALID)
            invalid.add(Mark("no_signals"), np.ones(size, dtype=np.bool_))
            return invalid
        decisions = Decisions.all_alike(size, VerdictName.HOLD)
        state, latches = self._inputs.state, self._inputs.latches
        harmed = self._harm(signals, decisions)
        decisions.add(Mark("regraded"), harmed & (latches.promoted[epochs] != NOT_CROSSED))
        back = latches.rolled_back[epochs]
        refuted = ~harmed & self._inputs.refuted[epochs]
        stands = ~harmed & ~refuted & (back != NOT_CROSSED)
        late = np.zeros(size, dtype=np.bool_)
        if not self._are_over:
            deadline_s = self._inputs.gates.outcome_deadline_s
            self.late = late_harm.against(state, epochs, gate, signals, latches, deadline_s=deadline_s)
            late[list(self.late)] = True
            late &= ~latches.set_aside[epochs]
        decisions.add(Mark("late_harm"), late)
        by_earlier = late & ~harmed & ~stands
        now_us = self._inputs.sums.watermark_us
        old = (now_us - state.event_us[epochs]) / 1e6 > self._inputs.gates.freshness_s
        found = harmed | stands | by_earlier
        stale = ~found & old
        decisions.add(Mark("stale_evidence"), stale)
        contradictory = self._inputs.soundness.contradictory[epochs]
        decisions.add(Mark("contradictory_counts"), contradictory)
        unusable = ~found & (old | contradictory)
        rest = ~(found | unusable)
        split_wrong = self._split(decisions, harmed, rest)
        latched, promoted, is_final = self._promotion(signals, decisions, rest, split_wrong)
        decisions.add(Mark("latched"), stands | latched)
        decisions.add(Mark("set_aside"), latches.set_aside[epochs] & ~harmed)
        decisions.add(Mark("late_outcomes"), refuted)
        if self._inputs.users is not None:
            course = self._inputs.users.course
            decisions.add(Mark("rising"), rest & course.rises(epochs))
            decisions.add(Mark("uneven_hours"), rest & course.is_uneven(epochs))
        waits = unusable | (rest & ~promoted & ~is_final)
        if gate.hold_expires is not None:
            held_s = np.maximum((now_us - state.first_us[epochs]) / 1e6, 0.0)
            decisions.add(Mark("hold_expired"), waits & (held_s > gate.hold_expires))
        above = gate.above(self.stage)
        for where, verdict in (
            (found, VerdictName.ROLL_BACK),
            (unusable, VerdictName.INVALID),
            (promoted, VerdictName.PROMOTE),
        ):
            decisions.verdicts[where] = VERDICTS.index(verdict)
        if (harmed | by_earlier).any():
            decisions.stages[harmed | by_earlier] = rollback_stage(self.stage).rank
        decisions.stages[stands] = back[stands]
        decisions.stages[promoted] = NO_STAGE if above is None else above.rank
        return decisions

    def _harm(self, signals: Sequence[SignalWeights], decisions: Decisions) -> Flags:
        harmed = np.zeros(self.epochs.size, dtype=np.bool_)

        def note(code: str, signal: SignalWeights, where: Flags) -> None:
            nonlocal harmed
            decisions.add(_mark(code, signal), where)
            harmed = harmed | where

        for signal in signals:
            if signal.part.role == "guardrail":
                note("harm", signal, signal.failing & ~_tainted([signal]))
        if self.log_e is not None:
            level = self.gate.alpha * EARLY_SHARE
            together = crosses(self.log_e, self.gate.alpha - level * len(self._early_log_e))
            for log_e in self._early_log_e:
                together |= False if log_e is None else crosses(log_e, level)
            together &= ~harmed & ~_tainted(signals)
            decisions.add(Mark("combined_harm"), together)
            harmed = harmed | together
        for signal in signals:
            if signal.alarmed is not None:
                note("regression", signal, signal.alarmed & ~_tainted([signal]))
        for signal in signals:
            if signal.part.role == "trip":
                note("trip", signal, signal.failing)
        return harmed

    def _split(self, decisions: Decisions, harmed: Flags, rest: Flags) -> Flags:
        """Which cells are in arms that cannot be compared."""
        wrong = np.zeros(self.epochs.size, dtype=np.bool_)
        if self.gate.split is None:
            return wrong
        states = [None if split is None else split.state for split in self.splits]
        for state, code in (("mismatch", "split_mismatch"), ("undeclared", "undeclared_arm")):
            where = np.array([stated == state for stated in states], dtype=np.bool_)
            decisions.add(Mark(code), where & (harmed | rest))
            wrong |= where
        return wrong

    def _promotion(
        self, signals: Sequence[SignalWeights], decisions: Decisions, rest: Flags, split_wrong: Flags
    ) -> tuple[Flags, Flags, Flags]:
        """Which cells promote because an earlier promotion stands, which promote at all, and which never can here."""
        nobody, gate = np.zeros(self.epochs.size, dtype=np.bool_), self.gate
        above = gate.above(self.stage)
        if self.stage not in gate.ladder or above is None:
            decisions.add(Mark("not_on_ladder" if self.stage not in gate.ladder else "top_of_ladder"), rest)
            return nobody, nobody, ~nobody
        wanted = [signal for signal in signals if signal.decides and signal.part.role in _WEIGHED]
        if not wanted:
            decisions.add(Mark("no_promotion_signals"), rest)
            return nobody, nobody, nobody
        blocks = Decisions.all_alike(self.epochs.size, VerdictName.HOLD)
        self._exposure(blocks)
        is_baseline = nobody
        for signal in wanted:
            is_baseline = is_baseline if signal.is_baseline is None else is_baseline | signal.is_baseline
        blocks.add(Mark("is_baseline"), is_baseline)
        for signal in signals:
            self._block(signal, blocks)
        blocked = blocks.matrix().any(axis=1)
        # Every signal may do without data, and none has any: still nothing was shown.
        unshown = ~blocked & ~np.any([signal.passing for signal in wanted], axis=0)
        for signal in wanted:
            blocks.add(_mark("missing_data", signal), unshown)
        blocked |= unshown
        stands = rest & blocked & (self._inputs.latches.promoted[self.epochs] == above.rank)
        held = rest & blocked & ~stands
        for mark, counts in zip(blocks.marks, blocks.counts, strict=True):
            decisions.add(mark, held * counts)
        ready = rest & ~split_wrong & (stands | ~blocked)
        for signal in wanted:
            decisions.add(_mark("shown_safe", signal), ready & ~blocked & signal.passing)
        if gate.on_promote == "ask":
            decisions.add(Mark("approval_required"), ready)
        return stands & ready, ready, is_baseline

    def _exposure(self, blocks: Decisions) -> None:
        state, least, epochs = self._inputs.state, self.gate.minimum_exposure, self.epochs

        def note(detail: str, where: Flags) -> None:
            blocks.add(Mark("below_minimum_exposure", detail=detail), where)

        note("actions", state.counter("decisions")[epochs] < least.actions)
        if least.users:
            users = self._inputs.users
            people = np.zeros(epochs.size, dtype=np.int64) if users is None else users.people(epochs)
            note("users", people < least.users)
        if least.covers_time:
            seen = state.coverage(epochs, least.timezone)
            note("days", seen.days < least.days)
            note("weekdays", seen.weekdays < least.all_weekdays)
            note("hours", seen.hours < least.hours)

    def _block(self, signal: SignalWeights, blocks: Decisions) -> None:
        """Where a signal holds up a promotion, and why."""
        part, missing = signal.part, signal.missing

        def note(code: str, where: Flags) -> None:
            # No data shows what is compared with nothing.
            blocks.add(_mark(code, signal), where if signal.is_baseline is None else where & ~signal.is_baseline)

        if part.needs_data and signal.applies and (part.role not in _WEIGHED or signal.is_asked):
            note("missing_data", missing)
        if part.role not in _WEIGHED or not signal.is_asked:
            return
        undecided = ~missing & ~signal.failing & ~signal.passing
        if signal.disagree is not None:
            note("rates_disagree", signal.disagree)
            undecided &= ~signal.disagree
        if signal.few_users is not None:
            note("too_few_users", signal.few_users)
            undecided &= ~signal.few_users
        note("over_limit", ~missing & signal.failing)
        if not part.promotion_ages_s(self._inputs.gates.outcome_deadline_s):
            note("no_maturity", np.ones(self.epochs.size, dtype=np.bool_))
            return
        note("immature", undecided & (signal.mature_trials == 0))
        note("more_evidence_needed", undecided & (signal.mature_trials != 0))


def _tainted(signals: Sequence[SignalWeights]) -> Flags:
    """Where any of some signals counts what contradicts other counts; of shape () where none does."""
    tainted = np.zeros((), dtype=np.bool_)
    for signal in signals:
        if signal.tainted is not None:
            tainted = tainted | signal.tainted
    return tainted


def _mark(code: str, signal: SignalWeights) -> Mark:
    return Mark(code, signal.part.signal, signal.place)
