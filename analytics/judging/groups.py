"""Cells at one stage under one gate: what they are asked is the same for all, so it is weighed and decided in columns.

The steps are those of `weighing` and `deciding`, in their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.sequential import crosses, log_e_value
from analytics.judging.deciding import rollback_stage
from analytics.judging.weighing import share_of
from analytics.signals.definitions import COUNTS, QUANTILES, RATES
from producers.wire.events import VerdictName
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from analytics.evidence.sequential import Direction, FloatArray
    from analytics.gates.gate_file import Gate, GateFile
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.user_evidence import Crowd
    from analytics.judging.window_sums import Missing, Tracked
    from analytics.signals.state import Columns, Flags, Integers, Places

NOT_CROSSED: Final = -1
NOWHERE: Final = len(LADDER)
"""In place of a stage: the action stays where it is."""
WORDS: Final = tuple(VerdictName)

_WEIGHED: Final = frozenset({"guardrail", "promote"})


@dataclass(frozen=True)
class Standing:
    """What earlier looks decided.

    Attributes:
        promoted: Where a promotion that stands leads, for each epoch: a rung of the ladder, `NOWHERE` or `NOT_CROSSED`.
        rolled_back: Where a rollback that stands leads, likewise.
        regraded: How many earlier epochs were graded anew, for each cell.
    """

    promoted: npt.NDArray[np.int8]
    rolled_back: npt.NDArray[np.int8]
    regraded: Integers


@dataclass(frozen=True)
class Told:
    """Everything that a glance knows."""

    columns: Columns
    tracked: Tracked
    missing: Missing
    standing: Standing
    crowd: Crowd | None
    gates: GateFile


@dataclass(frozen=True)
class Decided:
    """What follows for the cells of a group.

    Attributes:
        words: Each one's verdict, by its place among `WORDS`.
        stages: Where each one goes: a rung of the ladder, or `NOWHERE`.
        labels: Reason codes with their signals, in an order of their own.
        marks: How often each reason holds for each cell. Shape (cells, labels).
    """

    words: npt.NDArray[np.int8]
    stages: npt.NDArray[np.int8]
    labels: tuple[str, ...]
    marks: npt.NDArray[np.uint8]


@dataclass
class _Weighed:
    """One signal of the gate over the cells of the group; states as in `SignalEvidence.state`."""

    part: GateSignal
    failing: Flags
    passing: Flags
    trials: Integers
    mature_trials: Integers
    applies: bool = True
    applicable: bool = False
    harm: FloatArray | None = None
    share: float | None = None
    alarmed: Flags | None = None

    @property
    def missing(self) -> Flags:
        return np.asarray(self.trials == 0)


@dataclass
class _Marks:
    """Reasons as they are found."""

    size: int
    labels: list[str] = field(default_factory=list)
    columns: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def add(self, code: str, signal: str | None, where: Flags | Integers) -> None:
        if np.any(where):
            self.labels.append(f"{code}:{signal or ''}")
            self.columns.append(np.asarray(where, dtype=np.uint8))

    def matrix(self) -> npt.NDArray[np.uint8]:
        if not self.columns:
            return np.zeros((self.size, 0), dtype=np.uint8)
        return np.stack(self.columns, axis=1)


class Group:
    """The cells at one stage under one gate.

    Args:
        gate: The gate.
        stage: The stage.
        epochs: The current epochs of the cells.
        told: Everything that is known.
    """

    def __init__(self, gate: Gate, stage: str, epochs: Places, told: Told) -> None:
        self._gate = gate
        self._stage = stage
        self._epochs = epochs
        self._told = told
        self._counts: dict[str, Integers] = {}

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked that only the judge itself can weigh: a comparison between arms, or their split."""
        compares = any(part.ratio is not None and self._stage in part.stages for part in self._gate.signals)
        return self._gate.split is None and not compares

    def decide(self) -> Decided:
        """What follows, as `deciding.decide`."""
        gate, size = self._gate, self._epochs.size
        weighed = [self._weigh(part) for part in gate.signals]
        dry = [each for each in weighed if each.part.dry_run and each.applicable]
        live = [each for each in weighed if not each.part.dry_run]
        if gate.dry_run or (dry and not _deciding(live)):
            marks = _Marks(size)
            marks.add("dry_run", None, np.ones(size, dtype=np.bool_))
            return _decided(marks, _word(VerdictName.HOLD, size), np.full(size, NOWHERE, dtype=np.int8))
        asked = live if dry else weighed
        marks, words, stages = self._find(asked, self._combined(weighed))
        marks.add(
            "earlier_epoch_regraded", None, self._told.standing.regraded[self._told.columns.cell_of[self._epochs]]
        )
        return _decided(marks, words, stages)

    def _find(
        self, asked: Sequence[_Weighed], combined: FloatArray | None
    ) -> tuple[_Marks, npt.NDArray[np.int8], npt.NDArray[np.int8]]:
        size, gate, epochs = self._epochs.size, self._gate, self._epochs
        marks, nowhere = _Marks(size), np.full(size, NOWHERE, dtype=np.int8)
        if not _deciding(asked):
            marks.add("no_signals", None, np.ones(size, dtype=np.bool_))
            return marks, _word(VerdictName.INVALID, size), nowhere
        columns, standing = self._told.columns, self._told.standing
        harmed = self._harm(asked, combined, marks)
        marks.add("regraded", None, harmed & (standing.promoted[epochs] != NOT_CROSSED))
        back = standing.rolled_back[epochs]
        stands = ~harmed & (back != NOT_CROSSED)
        now_us = self._told.tracked.watermark_us
        stale = ~harmed & ~stands & ((now_us - columns.event_us[epochs]) / 1e6 > self._told.gates.freshness_s)
        marks.add("stale_evidence", None, stale)
        rest = ~(harmed | stands | stale)
        latched, promoted, is_final = self._promotion(asked, marks, rest)
        marks.add("latched", None, stands | latched)
        waits = stale | (rest & ~promoted & (not is_final))
        if gate.hold_expires is not None:
            held_s = np.maximum((now_us - columns.first_us[epochs]) / 1e6, 0.0)
            marks.add("hold_expired", None, waits & (held_s > gate.hold_expires))
        words = _word(VerdictName.HOLD, size)
        words[harmed | stands] = WORDS.index(VerdictName.ROLL_BACK)
        words[stale] = WORDS.index(VerdictName.INVALID)
        words[promoted] = WORDS.index(VerdictName.PROMOTE)
        above = gate.above(self._stage)
        stages = np.where(harmed, np.int8(rollback_stage(self._stage).rank), nowhere)
        stages = np.where(stands, back, stages)
        stages = np.where(promoted, np.int8(NOWHERE if above is None else above.rank), stages)
        return marks, words, stages.astype(np.int8)

    def _harm(self, asked: Sequence[_Weighed], combined: FloatArray | None, marks: _Marks) -> Flags:
        harmed = np.zeros(self._epochs.size, dtype=np.bool_)
        for each in asked:
            if each.part.role == "guardrail":
                marks.add("harm", each.part.signal, each.failing)
                harmed |= each.failing
        if combined is not None:
            together = ~harmed & crosses(combined, self._gate.alpha)
            marks.add("combined_harm", None, together)
            harmed = harmed | together
        for each in asked:
            if each.alarmed is not None:
                marks.add("regression", each.part.signal, each.alarmed)
                harmed = harmed | each.alarmed
        for each in asked:
            if each.part.role == "trip":
                marks.add("trip", each.part.signal, each.failing)
                harmed = harmed | each.failing
        return harmed

    def _promotion(self, asked: Sequence[_Weighed], marks: _Marks, rest: Flags) -> tuple[Flags, Flags, bool]:
        """Which cells promote because an earlier promotion stands, which promote at all, and whether none can here."""
        nobody, gate = np.zeros(self._epochs.size, dtype=np.bool_), self._gate
        above = gate.above(self._stage)
        if self._stage not in gate.ladder or above is None:
            marks.add("not_on_ladder" if self._stage not in gate.ladder else "top_of_ladder", None, rest)
            return nobody, nobody, True
        wanted = [each for each in _deciding(asked) if each.part.role in _WEIGHED]
        if not wanted:
            marks.add("no_promotion_signals", None, rest)
            return nobody, nobody, False
        found = _Marks(self._epochs.size)
        self._exposure(found)
        for each in asked:
            _block(each, found)
        blocked = found.matrix().any(axis=1)
        shown = np.any([each.passing for each in wanted], axis=0)
        unshown = ~blocked & ~shown
        for each in wanted:
            found.add("missing_data", each.part.signal, unshown)
        blocked |= unshown
        stands = rest & blocked & (self._told.standing.promoted[self._epochs] == above.rank)
        held = rest & blocked & ~stands
        for label, column in zip(found.labels, found.columns, strict=True):
            code, _, signal = label.partition(":")
            marks.add(code, signal, held * column)
        promoted = stands | (rest & ~blocked)
        for each in wanted:
            marks.add("shown_safe", each.part.signal, rest & ~blocked & each.passing)
        if gate.approval == "required":
            marks.add("approval_required", None, promoted)
        return stands, promoted, False

    def _exposure(self, found: _Marks) -> None:
        columns, least, epochs = self._told.columns, self._gate.minimum_exposure, self._epochs
        code = "below_minimum_exposure"
        found.add(code, None, columns.counter("decisions")[epochs] < least.actions)
        if least.users:
            crowd = self._told.crowd
            users = np.zeros(epochs.size) if crowd is None else crowd.people(epochs)
            found.add(code, None, users < least.users)
        seconds = (columns.last_us[epochs] - columns.first_us[epochs]) / 1e6
        found.add(code, None, seconds / 86_400.0 < least.days)

    def _combined(self, weighed: Sequence[_Weighed]) -> FloatArray | None:
        """As `weighing.combined`, term by term."""
        total: FloatArray | None = None
        for each in weighed:
            counts = each.part.role == "guardrail" and (self._gate.dry_run or not each.part.dry_run)
            if counts and each.harm is not None and each.share is not None:
                term = each.harm + math.log(each.share)
                total = term if total is None else np.logaddexp(total, term)
        return total

    def _weigh(self, part: GateSignal) -> _Weighed:
        size, gate = self._epochs.size, self._gate
        nobody = np.zeros(size, dtype=np.bool_)
        failures, trials = self._counted(part)
        mature_failures, mature_trials = self._mature(part, failures, trials)
        applies = self._stage in part.stages
        if not applies:
            return _Weighed(part, nobody, nobody, trials, mature_trials, applies=False)
        if part.role == "trip":
            failing = failures > float(part.max_count or 0)
            return _Weighed(part, failing, ~failing, trials, mature_trials, applicable=True)
        if part.threshold is None:
            return _Weighed(part, nobody, nobody, trials, mature_trials)
        share = share_of(gate, part, self._stage) if part.role == "guardrail" else None
        harm = _log_e(failures, trials, part.threshold, "above")
        safe = _log_e(mature_failures, mature_trials, part.threshold, "below")
        crowd, named = self._told.crowd, nobody
        if crowd is not None and gate.unit_of(part) == "user":
            named = crowd.named(self._epochs)
        if crowd is not None and named.any():
            every = crowd.log_e(part.signal, part.threshold, maturity_s=0.0, direction="above", places=self._epochs)
            old_s = part.maturity or 0.0
            old = crowd.log_e(part.signal, part.threshold, maturity_s=old_s, direction="below", places=self._epochs)
            harm, safe = np.where(named, every, harm), np.where(named, old, safe)
        is_harm = crosses(harm, gate.alpha * (1.0 if share is None else share)) & (trials != 0)
        is_safe = crosses(safe, gate.beta) & (trials != 0) & ~is_harm
        alarmed = None
        if part.limit is not None and gate.watches(part, self._stage):
            alarmed = np.zeros(size, dtype=np.bool_)
            alarmed[~named] = self._told.tracked.alarms.raised(part.signal, part.limit, self._epochs[~named])
            if crowd is not None and named.any():
                alarmed[named] = crowd.raised(part, self._told.gates.after_promotion, places=self._epochs[named])
        return _Weighed(
            part,
            is_harm,
            is_safe,
            trials,
            mature_trials,
            applicable=True,
            harm=harm,
            share=share,
            alarmed=alarmed,
        )

    def _counted(self, part: GateSignal) -> tuple[Integers, Integers]:
        """Failures and trials, as `weighing` counts them."""
        tracked = self._told.tracked
        if part.signal in QUANTILES:
            source = QUANTILES[part.signal].source
            trials = tracked.known(source)[self._epochs]
            if part.limit_micro is None:
                return np.zeros_like(trials), trials
            return tracked.above(source, histogram.snap(part.limit_micro))[self._epochs], trials
        if part.signal in COUNTS:
            count = COUNTS[part.signal]
            return self._count(count.counted), self._count(count.trials)
        rate = RATES[part.signal]
        return self._sum(rate.failures), self._sum(rate.trials)

    def _mature(self, part: GateSignal, failures: Integers, trials: Integers) -> tuple[Integers, Integers]:
        """Of those, what a promotion may count."""
        if part.signal == "missing_outcome":
            pending = self._told.missing.pending[self._epochs]
            return failures + pending, trials + pending
        if part.maturity is None or part.signal not in RATES:
            return failures, trials
        rate, tracked = RATES[part.signal], self._told.tracked

        def young(names: tuple[str, ...]) -> Integers:
            return np.asarray(
                np.sum([tracked.young(part.maturity or 0.0, name)[self._epochs] for name in names], axis=0)
            )

        return failures - young(rate.failures), trials - young(rate.trials)

    def _sum(self, names: tuple[str, ...]) -> Integers:
        return np.asarray(np.sum([self._count(name) for name in names], axis=0))

    def _count(self, name: str) -> Integers:
        if name not in self._counts:
            missing = self._told.missing
            values = {"mature_expected": missing.expected, "mature_missing": missing.missing}.get(name)
            column = self._told.columns.counter(name) if values is None else values
            self._counts[name] = column[self._epochs]
        return self._counts[name]


def _deciding(asked: Sequence[_Weighed]) -> list[_Weighed]:
    return [each for each in asked if each.applicable and each.part.role != "watch"]


def _block(each: _Weighed, found: _Marks) -> None:
    """Where a signal holds up a promotion, and why; as `deciding`."""
    part, missing = each.part, each.missing
    if part.role not in _WEIGHED:
        if part.needs_data and each.applies:
            found.add("missing_data", part.signal, missing)
        return
    if not each.applicable:
        return
    if part.needs_data:
        found.add("missing_data", part.signal, missing)
    found.add("over_limit", part.signal, ~missing & each.failing)
    undecided = ~missing & ~each.failing & ~each.passing
    found.add("immature", part.signal, undecided & (each.mature_trials == 0))
    found.add("more_evidence_needed", part.signal, undecided & (each.mature_trials != 0))


def _log_e(failures: Integers, trials: Integers, threshold: float, direction: Direction) -> FloatArray:
    n = trials.astype(np.float64)
    return log_e_value(np.minimum(failures.astype(np.float64), n), n, threshold, direction=direction)


def _word(word: VerdictName, size: int) -> npt.NDArray[np.int8]:
    return np.full(size, WORDS.index(word), dtype=np.int8)


def _decided(marks: _Marks, words: npt.NDArray[np.int8], stages: npt.NDArray[np.int8]) -> Decided:
    return Decided(words, stages, tuple(marks.labels), marks.matrix())
