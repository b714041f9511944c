from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from random_fleets import a_gate_file, some_latches, some_rows, some_users
from verdict_cases import NOON, increments

from analytics.evidence.change_detector import Watch
from analytics.gates.gate_file import GateFile
from analytics.judging.engine import ChangeKeys, Engine, judge
from analytics.judging.latches import Latches
from analytics.judging.regression import Watched
from analytics.judging.user_evidence import UserEvidence
from analytics.judging.window_sums import WindowSums
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.state import CellState, microseconds
from analytics.verdicts.document import VerdictDocument

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.random import Generator

    from analytics.judging.engine import Evaluation

SEEDS = st.integers(0, 2**32 - 1)


class Fleet:
    """A fleet that is kept up from look to look, and everything that came, for reading it from the beginning."""

    def __init__(self, gates: GateFile, rows: list[dict[str, Any]], watermark: datetime) -> None:
        self.gates, self.rows, self.watermark = gates, rows, watermark
        self.state = CellState.from_increments(increments(*rows))
        self.sums = WindowSums(self.state, gates, watermark)
        self.change_keys = ChangeKeys()
        self.engine = Engine(self.state, gates, self.change_keys)
        self.latches = Latches()
        self.users: UserEvidence | None = None

    def by_window(self, users: UserEvidence | None) -> dict[float, UserEvidence]:
        return {} if users is None else {self.gates.user_window: users}

    def step(self, rows: list[dict[str, Any]], watermark: datetime) -> None:
        increment = self.state.add(increments(*rows))
        self.sums.advance(increment, watermark)
        self.engine.match(increment.risen)
        self.rows, self.watermark = self.rows + rows, watermark

    def settle(self) -> None:
        whole = np.zeros(self.state.epochs, dtype=np.bool_)
        self.state.settle(self.watermark, self.gates.horizon_s, whole=whole)

    def evaluate(self) -> Evaluation:
        cells = np.ones(len(self.state.cells), dtype=np.bool_)
        alive = AliveEpochs.from_state(self.state, cells, self.watermark, self.gates.horizon_s)
        users = self.by_window(self.users)
        return self.engine.evaluate(alive.current, sums=self.sums, alive=alive, latches=self.latches, users=users)

    def documents(self) -> list[dict[str, Any]]:
        evaluation = self.evaluate()
        places = np.arange(evaluation.epochs.size)
        verdicts = evaluation.verdicts(places, lake_version=1, judged_at=self.watermark)
        return sorted((VerdictDocument.from_verdict(verdict).to_dict() for verdict in verdicts), key=by_cell)

    def documents_from_the_beginning(self) -> list[dict[str, Any]]:
        state = CellState.from_increments(increments(*self.rows))
        users = None if self.users is None else UserEvidence(self.users.windows, state)
        verdicts = judge(
            state,
            self.gates,
            watermark=self.watermark,
            lake_version=1,
            judged_at=self.watermark,
            latches=self.latches,
            users=self.by_window(users),
        )
        return [VerdictDocument.from_verdict(verdict).to_dict() for verdict in verdicts]


def by_cell(document: dict[str, Any]) -> tuple[str, ...]:
    return tuple(document[name] for name in ("environment", "workflow", "tool", "stage", "cohort"))


def history(rng: Generator, gates: GateFile | None = None) -> Iterator[Fleet]:
    """One fleet at one look after another: minutes close and ripen, outcomes come late, evidence goes stale."""
    fleet = Fleet(gates or a_gate_file(rng), some_rows(rng, 30, 0, 8), NOON + timedelta(minutes=4))
    for minute in (8.0, 9.5, 9.6, 16.0, 40.0):
        fleet.step(some_rows(rng, int(rng.integers(0, 25)), 0, int(minute) + 1), NOON + timedelta(minutes=minute))
        if rng.random() < 0.5:
            fleet.users = UserEvidence(some_users(rng, fleet.state, fleet.watermark, fleet.gates), fleet.state)
        if rng.random() < 0.5:
            fleet.latches = some_latches(rng, fleet.state, fleet.gates)
        if rng.random() < 0.3:
            fleet.settle()
        yield fleet


@given(SEEDS)
@settings(max_examples=examples(8), deadline=None)
def test_what_is_kept_up_equals_what_is_read_from_the_beginning(seed: int) -> None:
    for fleet in history(np.random.default_rng(seed)):
        assert fleet.documents() == fleet.documents_from_the_beginning()


@given(SEEDS)
@settings(max_examples=examples(8), deadline=None)
@pytest.mark.slow
def test_a_verdict_does_not_depend_on_what_is_judged_with_it(seed: int) -> None:
    for fleet in history(np.random.default_rng(seed)):
        evaluation, together = fleet.evaluate(), fleet.documents()
        alone = [
            evaluation.verdicts([place], lake_version=1, judged_at=fleet.watermark)[0]
            for place in range(evaluation.epochs.size)
        ]
        assert sorted((VerdictDocument.from_verdict(verdict).to_dict() for verdict in alone), key=by_cell) == together
        for verdict, number in zip(alone, evaluation.change_keys.tolist(), strict=True):
            result = verdict.result
            codes = tuple(sorted(f"{reason.code}:{reason.signal or ''}" for reason in result.reasons))
            change_key = (result.verdict, result.to_stage, codes)
            assert fleet.change_keys.key(number) == change_key, "its sentences are of those reasons"


@given(SEEDS)
@settings(max_examples=examples(8), deadline=None)
def test_missing_outcomes_are_counted_minute_by_minute(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gates = GateFile.parse(b"version: 1\noutcome_deadline: 3m\ngates: []\n")
    for fleet in history(rng, gates):
        by_epoch: dict[tuple[str, ...], list[int]] = {}
        now_us, deadline_us = microseconds(fleet.watermark), 180_000_000
        minutes: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for row in fleet.rows:
            key = (*by_cell(row), row["epoch"])
            minute = minutes.setdefault((key, microseconds(row["bucket"])), [0, 0, -(2**62)])
            minute[0] += row["expected"]
            minute[1] += row["executed"]
            if row["expected"]:
                known_at = max(row["last_event_at"], row["last_ingested_at"] or row["last_event_at"])
                minute[2] = max(minute[2], microseconds(known_at))
        for (key, bucket), (expected, executed, expected_at) in minutes.items():
            sums = by_epoch.setdefault(key, [0, 0, 0])
            short = max(expected - executed, 0) if expected else 0
            if bucket + 60_000_000 + deadline_us > now_us:
                continue
            waits = expected_at + deadline_us > now_us
            sums[0] += expected - (short if waits else 0)
            sums[2 if waits else 1] += short
        found = fleet.sums.missing()
        names = fleet.state.names(np.arange(fleet.state.epochs)).rows()
        counted = zip(found.expected.tolist(), found.missing.tolist(), found.pending.tolist(), strict=True)
        assert dict(zip(names, map(list, counted), strict=True)) == by_epoch


def minute_rows(rng: Generator, minute: int, share: float) -> list[dict[str, Any]]:
    """What one minute brings, and now and then what an earlier one still had to bring."""
    rows = []
    for row in some_rows(rng, 6, minute, minute):
        late = rng.random() < 0.4
        counts = {"executed": int(rng.integers(0, 30)), "failed": 0}
        counts["failed"] = int(rng.binomial(counts["executed"], share))
        if late:
            counts = {"executed": int(rng.integers(0, 2)), "failed": int(rng.integers(0, 3))}
        earlier = NOON + timedelta(minutes=int(rng.integers(max(0, minute - 30), minute + 1)))
        rows.append({**row, **counts, "undone": 0, "bucket": earlier if late else row["bucket"]})
    return rows


@given(SEEDS, st.sampled_from([0.02, 0.1, 0.3, 0.6]))
@settings(max_examples=examples(6), deadline=None)
@pytest.mark.slow
def test_no_alarm_is_overlooked(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    gates = GateFile.parse(
        b"version: 1\nafter_promotion: {within: 1h}\ngates:\n  - name: g\n"
        b"    ladder: [observe_only, search_only, draft_write, approval_gated, narrow_autonomy]\n"
        b"    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]\n"
    )
    watched = Watched("execution_error", 0.1, gates.after_promotion.run_length(0.5, 60.0))
    fleet = Fleet(gates, minute_rows(rng, 0, share), NOON)
    for minute in range(1, 60, int(rng.integers(1, 4))):
        fleet.step(minute_rows(rng, minute, share), NOON + timedelta(minutes=minute, seconds=7))
        if minute % 10 == 0:
            fleet.settle()
        epochs = np.flatnonzero(rng.random(fleet.state.epochs) < 0.7)
        detector = fleet.sums.detector
        minutes, near = detector.minutes(epochs), detector.near(watched, epochs)
        for place, regression in enumerate(detector.regressions(watched, epochs)):
            own = minutes.filter(minutes["row"] == epochs[place])
            # What is due and not reported is a trial that did not fail.
            trials = np.maximum(own["executed"].to_numpy(), own["expected"].to_numpy())
            failures = np.minimum(own["failed"].to_numpy(), trials)
            watch = Watch.start(1, threshold=0.1, run_length=watched.run_length)
            begun: set[tuple[int, int]] = set()
            for bucket, x, n in zip(own["bucket"].to_list(), failures, trials, strict=True):
                if n:
                    new = [unit for unit in (10, 60) if (unit, bucket // (unit * 60_000_000)) not in begun]
                    begun |= {(unit, bucket // (unit * 60_000_000)) for unit in new}
                    restarts = 0.15 + 8.0 * (10 in new) + 3.0 * (60 in new)
                    watch = watch.after([x], [n], restarts=np.array([[restarts]]))
            assert (regression.since is not None) == bool(watch.alarmed[0])
            assert near[place] or regression.since is None
