from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from glance_cases import Fleet, a_gate_file, some_rows, some_users
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from verdict_cases import NOON

from analytics.gates.gate_file import GateFile
from analytics.judging.regression import watch_actions
from analytics.signals.cells import EPOCH, MATURE
from analytics.signals.definitions import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from numpy.random import Generator

SEEDS = st.integers(0, 2**32 - 1)


def history(rng: Generator, gates: GateFile | None = None) -> Iterator[Fleet]:
    """One fleet at one look after another: minutes close and ripen, outcomes come late, evidence goes stale."""
    fleet = Fleet.begin(gates or a_gate_file(rng), some_rows(rng, 30, 0, 8), NOON + timedelta(minutes=4))
    for minute in (8.0, 9.5, 9.6, 16.0, 40.0):
        fleet.step(some_rows(rng, int(rng.integers(0, 25)), 0, int(minute) + 1), NOON + timedelta(minutes=minute))
        if rng.random() < 0.5:
            fleet.users = some_users(rng, fleet.folded, fleet.watermark)
        if rng.random() < 0.5:
            fleet.cross(rng)
        if rng.random() < 0.3:
            fleet.settle()
        yield fleet


@given(SEEDS)
@settings(max_examples=examples(20), deadline=None)
def test_a_glance_sees_what_the_judge_finds_one_cell_at_a_time(seed: int) -> None:
    for fleet in history(np.random.default_rng(seed)):
        assert fleet.at_a_glance() == fleet.one_by_one()


@given(SEEDS)
@settings(max_examples=examples(10), deadline=None)
def test_what_is_kept_up_equals_what_is_folded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gates = GateFile.parse(
        b"version: 1\noutcome_deadline: 3m\nafter_promotion: {window: 20m}\ngates:\n  - name: g\n    signals:\n"
        b"      - {signal: undo, role: guardrail, limit: 0.1, maturity: 4m}\n"
        b"      - {signal: latency_p95, role: guardrail, limit_ms: 300}\n"
    )
    for fleet in history(rng, gates):
        places = np.arange(fleet.columns.epochs)
        names = fleet.columns.names(places)

        def by_place(frame: pl.DataFrame, names: pl.DataFrame = names) -> pl.DataFrame:
            return names.join(frame, on=EPOCH, how="left", maintain_order="left")

        totals = by_place(fleet.folded.totals)
        mature = by_place(fleet.folded.mature(fleet.watermark, gates.outcome_deadline_s))
        young = by_place(fleet.folded.immature(names, fleet.watermark, 240.0)).fill_null(0)
        missing = fleet.tracked.missing()
        for name in COUNTERS:
            assert fleet.columns.counter(name).tolist() == totals[name].to_list()
            assert fleet.tracked.young(240.0, name).tolist() == young[name].to_list()
        for name, found in zip(MATURE, (missing.expected, missing.missing, missing.pending), strict=True):
            assert found.tolist() == mature[name].to_list(), name
        known = {key: int(counts.sum()) for key, (_, counts) in fleet.folded.histogram("latency").items()}
        assert fleet.tracked.known("latency").tolist() == [known.get(row, 0) for row in names.iter_rows()]
        again = fleet.columns.folded(places)
        for one, other in ((fleet.folded, again), (fleet.folded.settled(fleet.watermark, gates.horizon_s), again)):
            assert sorted_rows(one.totals) == sorted_rows(other.totals)
            assert sorted_rows(one.histograms["latency"]) == sorted_rows(other.histograms["latency"])


def sorted_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.sort(*EPOCH, *({"bin"} & set(frame.columns))).to_dicts()


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
@settings(max_examples=examples(10), deadline=None)
def test_no_alarm_is_overlooked_and_none_is_raised(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    gates = GateFile.parse(
        b"version: 1\nafter_promotion: {false_alarm_every: 1h, fleet: 1, window: 25m}\ngates:\n  - name: g\n"
        b"    ladder: [observe_only, search_only, draft_write, approval_gated, narrow_autonomy]\n"
        b"    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]\n"
    )
    (part,) = gates.gates[0].signals
    fleet = Fleet.begin(gates, minute_rows(rng, 0, share), NOON)
    for minute in range(1, 60, int(rng.integers(1, 4))):
        fleet.step(minute_rows(rng, minute, share), NOON + timedelta(minutes=minute, seconds=7))
        if minute % 10 == 0:
            fleet.settle()
        places = np.flatnonzero(rng.random(fleet.columns.epochs) < 0.7)
        watched = [(fleet.columns.key(place), part) for place in places]
        found = watch_actions(fleet.folded, watched, watermark=fleet.watermark, rules=gates.after_promotion)
        alarms = fleet.tracked.alarms.raised(part.signal, part.limit or 0.0, places)
        assert alarms.tolist() == [each.since is not None for each in found]
