from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from verdict_cases import CELL, NOON, a_row, document_of, executions, gate_file, increments, verdict_on

from analytics.judging.engine import judge
from analytics.signals.definitions import COUNTERS
from analytics.signals.state import CellState

if TYPE_CHECKING:
    from random import Random

GATES = gate_file(
    "signal: execution_error, role: guardrail, limit: 0.1, weight: 2",
    "signal: undo, role: guardrail, limit: 0.05",
    "signal: missing_outcome, role: guardrail, limit: 0.2",
    "signal: denial, role: promote, limit: 0.2",
    "signal: latency_p95, role: promote, limit_ms: 500",
    "signal: severe_incident, role: trip",
    "signal: support, role: watch, limit: 0.5",
    minimum_exposure="{actions: 5}",
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A possible increment: outcomes never outnumber what they are outcomes of."""
    allowed, denied = draw(st.integers(0, 60)), draw(st.integers(0, 30))
    executed = draw(st.integers(0, allowed))
    failed = draw(st.integers(0, executed))
    undone = draw(st.integers(0, executed))
    severe = draw(st.sampled_from([0] * 9 + [1]))
    return a_row(
        CELL._replace(tool=draw(st.sampled_from(["a", "b"]))),
        epoch=draw(st.sampled_from(["e1", "e2"])),
        minute=draw(st.integers(0, 6)),
        risk_rank=draw(st.sampled_from([None, 0, 3])),
        latencies_ms=draw(st.lists(st.floats(0.1, 5_000), max_size=executed)),
        decisions=allowed + denied,
        allowed=allowed,
        denied=denied,
        expected=allowed,
        executed=executed,
        failed=failed,
        undone=undone,
        incidents=severe,
        severe_incidents=severe,
    )


def documents(state: CellState) -> list[dict[str, Any]]:
    mark = NOON + timedelta(minutes=7)
    found = judge(state, GATES, watermark=mark, lake_version=1, judged_at=mark)
    return [document_of(verdict) for verdict in found]


def totals(state: CellState) -> dict[tuple[Any, ...], list[int]]:
    """Everything counted of each epoch, by its names."""
    columns = [*(state.counter(name) for name in COUNTERS), state.risk, state.first_us, state.last_us, state.event_us]
    return dict(zip(state.names(np.arange(state.epochs)).rows(), np.stack(columns, axis=1).tolist(), strict=True))


@given(st.lists(rows(), min_size=1, max_size=12), st.data(), st.randoms(use_true_random=False))
@settings(max_examples=examples(40), deadline=None)
def test_increments_may_come_in_any_order_and_any_grouping(
    some: list[dict[str, Any]], data: st.DataObject, random: Random
) -> None:
    at_once = CellState.from_increments(increments(*some))
    shuffled = random.sample(some, len(some))
    cut = data.draw(st.integers(0, len(some)))
    stepwise = CellState.from_increments(increments(*shuffled[:cut]))
    stepwise.add(increments(*shuffled[cut:]))
    assert totals(at_once) == totals(stepwise)
    assert documents(at_once) == documents(stepwise)


@given(st.lists(rows(), min_size=1, max_size=6))
@settings(max_examples=examples(60), deadline=None)
def test_bounds_states_and_verdicts_agree(some: list[dict[str, Any]]) -> None:
    for document in documents(CellState.from_increments(increments(*some))):
        shown = {part["signal"]: part for part in document["signals"]}
        for part in document["signals"]:
            if part["log_e_harm"] is None:
                continue
            if part["unit"] == "ratio":
                assert (part["lower"] > part["limit"]) == (part["state"] == "fail")
                assert (part["upper"] < part["limit"]) == (part["state"] == "pass")
            elif part["trials"]:
                assert (part["lower"] >= part["limit"]) == (part["state"] == "fail")
                assert (part["upper"] is not None and part["upper"] <= part["limit"]) == (part["state"] == "pass")
            assert (part["state"] == "missing") == (part["trials"] == 0)
        if document["verdict"] == "PROMOTE":
            asked = [part for part in shown.values() if part["role"] in {"guardrail", "promote"}]
            assert all(part["state"] == "pass" for part in asked)
            assert document["exposure"]["actions"] >= document["exposure"]["minimum"]
            assert document["to_stage"] == "approval_gated"
        if any(part["state"] == "fail" and part["role"] in {"guardrail", "trip"} for part in shown.values()):
            assert document["verdict"] == "ROLL_BACK"


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=examples(60), deadline=None)
def test_more_failures_never_make_a_verdict_better(executed: int, one: int, other: int) -> None:
    gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1")
    fewer, more = sorted((min(one, executed), min(other, executed)))
    order = ["ROLL_BACK", "HOLD", "PROMOTE"]
    better, worse = (
        order.index(verdict_on(gates, a_row(**executions(executed, failed))).result.verdict.value)
        for failed in (fewer, more)
    )
    assert worse <= better
