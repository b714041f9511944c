"""Random fleets, gate files and user-windows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from verdict_cases import NOON, a_row

from analytics.gates.gate_file import GateFile
from analytics.judging.latches import Latches
from analytics.judging.user_windows import BLOCK_FAILED, IN_WINDOWS, WINDOW, ClosedWindows, amounts_of, known_of
from analytics.signals import definitions
from analytics.signals.cells import EPOCH
from analytics.verdicts.evidence_models import Reassessment
from analytics.verdicts.signoffs import rollback_binding
from analytics.verdicts.verdict import Latch, Overdue, Regrade
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.random import Generator

    from analytics.signals.state import CellState
    from analytics.verdicts.ledger import LatchKey

STAGES = [stage.value for stage in LADDER]
RATES = list(definitions.RATES)


def a_signal(rng: Generator, signal: str, role: str) -> str:
    """One signal of a gate, as YAML."""
    said = {"signal": signal, "role": role, **_limit(rng, signal, role)}
    weighed = role in {"guardrail", "promote"}
    for key, chance, values in (
        ("weight", 0.4 * (role == "guardrail"), ["1", "2", "4"]),
        ("maturity", 0.4 * (signal in RATES and signal != "missing_outcome"), ["1m", "3m", "10m"]),
        ("unit", 0.3 * (signal != "severe_incident" and weighed), ["user", "action"]),
        ("must_have_data", 0.25, ["true", "false"]),
        ("dry_run", 0.15, ["true"]),
    ):
        if rng.random() < chance:
            said[key] = str(rng.choice(values))
    if rng.random() < 0.2:
        said["stages"] = f"[{', '.join(rng.choice(STAGES, size=2, replace=False))}]"
    return "{" + ", ".join(f"{key}: {value}" for key, value in said.items()) + "}"


def _limit(rng: Generator, signal: str, role: str) -> dict[str, str]:
    if role == "trip":
        return {"max_count": str(rng.integers(0, 4))} if rng.random() < 0.5 else {}
    if signal in {"latency_p50", "latency_p95", "latency_p99"}:
        return {"limit_ms": str(rng.choice([100, 500, 2_000]))}
    if signal == "severe_incident" or (role == "watch" and rng.random() < 0.5):
        return {}
    return {"limit": str(rng.choice([0.02, 0.05, 0.1, 0.2, 0.4]))}


def a_gate(rng: Generator, name: str, match: str) -> str:
    """A gate, as YAML."""
    asked = rng.choice([*RATES, "latency_p50", "latency_p95", "latency_p99"], size=rng.integers(0, 6), replace=False)
    signals = [
        a_signal(rng, str(each), str(rng.choice(["guardrail", "guardrail", "promote", "watch"]))) for each in asked
    ]
    if rng.random() < 0.5:
        signals.append(a_signal(rng, "severe_incident", str(rng.choice(["trip", "watch"]))))
    if rng.random() < 0.3:
        signals.append(a_signal(rng, "undo_failed", "trip"))
    first = int(rng.integers(0, 3))
    lines = [f"  - name: {name}", f"    match: {match}", "    owner: somebody"]
    lines.append(f"    ladder: [{', '.join(STAGES[first : first + int(rng.integers(1, 5))])}]")
    lines.append(f"    alpha: {rng.choice([0.001, 0.01, 0.3])}")
    lines.append(f"    beta: {rng.choice([0.3, 0.5])}")
    lines.append(f"    unit: {rng.choice(['user', 'action'])}")
    least = f"actions: {rng.choice([0, 30])}, users: {rng.choice([0, 3])}, days: {rng.choice([0, 0, 0.003])}"
    lines.append(f"    minimum_exposure: {{{least}}}")
    if rng.random() < 0.3:
        lines.append("    on_promote: ask")
    if rng.random() < 0.4:
        lines.append(f"    hold_expires: {rng.choice(['5m', '20m'])}")
    if rng.random() < 0.1:
        lines.append("    dry_run: true")
    lines.append("    signals:" + ("" if signals else " []"))
    return "\n".join([*lines, *(f"      - {each}" for each in signals)])


def a_gate_file(rng: Generator) -> GateFile:
    """A gate file of a few gates: some actions match one, some two equally well, some none."""
    matches = [
        "{tool: a}",
        "{tool: b}",
        "{tool: '[ac]'}",
        "{risk_class: irreversible}",
        "{stage: '*_*'}",
        "{cohort: all}",
    ]
    chosen = [*rng.choice(matches, size=rng.integers(0, 3), replace=False), "{workflow: w}"][:: rng.choice([1, -1])]
    chosen = chosen[: 1 + int(rng.integers(0, 4))]
    text = f"version: 1\nfreshness: {rng.choice(['4m', '30m'])}\noutcome_deadline: {rng.choice(['1m', '2m', '5m'])}\n"
    text += f"user_window: 5m\nafter_promotion: {{alpha: {rng.choice([0.05, 0.5])}, within: 1h}}\n"
    gates = "\n".join(a_gate(rng, f"gate-{place}", str(match)) for place, match in enumerate(chosen))
    return GateFile.parse(f"{text}gates:\n{gates}\n".encode())


def some_rows(rng: Generator, count: int, first: int, last: int) -> list[dict[str, Any]]:
    """Increments of minutes up to `last`, most of them recent, late ones and contradictory ones among them."""
    rows = []
    for _ in range(count):
        tool = str(rng.choice(["a", "b", "c", "d"]))
        cell = Cell("production", "w", tool, str(rng.choice(STAGES[1:5])), "all")
        minute = int(rng.integers(first, last + 1))
        allowed, denied = int(rng.integers(0, 40)), int(rng.integers(0, 8))
        executed = int(rng.integers(0, allowed + 1)) if rng.random() < 0.3 else allowed
        bad = rng.choice([0.0, 0.02, 0.3])
        failed, timed_out = (int(rng.binomial(executed, bad / 2)) for _ in range(2))
        undone, lost = int(rng.binomial(executed, bad / 3)), int(rng.binomial(executed, bad / 6))
        checks = int(rng.integers(0, 10))
        severe = int(rng.random() < 0.05)
        later = timedelta(seconds=int(rng.integers(0, 240)) if rng.random() < 0.2 else 59)
        counts = {
            "decisions": allowed + denied,
            "allowed": allowed,
            "denied": denied,
            "expected": allowed,
            "executed": executed,
            "failed": failed,
            "timed_out": min(timed_out, executed - failed),
            "undone": undone,
            "undo_failed": min(lost, executed - undone),
            "incidents": severe + int(rng.binomial(executed, bad / 9)),
            "severe_incidents": severe,
            "support": int(rng.binomial(executed, bad / 4)),
            "quality_checks": checks,
            "quality_failures": int(rng.binomial(checks, bad)),
            "reviews_approved": int(rng.integers(0, 5)),
            "reviews_rejected": int(rng.integers(0, 2)),
        }
        if rng.random() < 0.01:
            counts["failed"] = executed + 500
        rows.append(
            a_row(
                cell,
                epoch=str(rng.choice(["e1", "e1", "e1", "e2"])),
                minute=minute,
                last_event_at=NOON + timedelta(minutes=minute) + later,
                last_ingested_at=NOON + timedelta(minutes=minute) + later * 2 if rng.random() < 0.5 else None,
                risk_rank=None if rng.random() < 0.1 else int(rng.choice([3, 4, 6])),
                latencies_ms=rng.lognormal(5.5, 1.0, size=min(executed, 6)),
                **counts,
            )
        )
    return rows


def some_users(rng: Generator, state: CellState, watermark: datetime, gates: GateFile) -> ClosedWindows:
    """User-windows of most epochs, out of thin air."""
    epochs = [row for row in state.names(np.arange(state.epochs)).iter_rows() if rng.random() < 0.7]
    rows, amounts = [], amounts_of(gates)
    for key in epochs:
        for _ in range(int(rng.integers(0, 40))):
            trials = int(rng.integers(0, 6))
            counts = dict.fromkeys((*IN_WINDOWS, *amounts, *map(known_of, amounts)), 0) | {
                "decisions": trials,
                "executed": trials,
            }
            counts |= {"failed": int(rng.binomial(trials, 0.2)), "undone": int(rng.binomial(trials, 0.05))}
            counts |= {"expected": trials, "is_first": int(rng.random() < 0.5)}
            counts |= {name: int(rng.binomial(trials, 0.1)) for name in amounts}
            counts |= dict.fromkeys(map(known_of, amounts), trials)
            closed = watermark - timedelta(minutes=5 * int(rng.integers(0, 4)))
            rows.append({**dict(zip(EPOCH, key, strict=True)), "closed_at": closed, **counts, "count": 1})
    schema = {
        **dict.fromkeys(EPOCH, pl.String),
        "closed_at": pl.Datetime("us", "UTC"),
        **dict.fromkeys((*IN_WINDOWS, *amounts, *map(known_of, amounts), "count"), pl.Int64),
    }
    people = {key: int(rng.integers(0, 9)) for key in epochs}
    named = frozenset(key for key in epochs if rng.random() < 0.8)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    heavy = table.clear().select(*WINDOW, *BLOCK_FAILED.values(), "count"), table.clear()
    by_hour = pl.DataFrame(schema={name: schema[name] for name in WINDOW})
    by_hour = by_hour.with_columns(*(pl.lit(0, pl.Int64).alias(name) for name in ("hour", "windows", "failed")))
    return ClosedWindows(
        1, watermark, 300.0, frozenset(epochs), people, {}, named, table, table.clear(), *heavy, by_hour
    )


def some_latches(rng: Generator, state: CellState, gates: GateFile) -> Latches:
    """Some epochs have crossed, and some cells have earlier epochs that were graded anew."""
    latches: dict[LatchKey, dict[VerdictName, Latch]] = {}
    overrides: set[str] = set()
    for key in sorted(state.names(np.arange(state.epochs)).iter_rows()):
        cell, epoch = Cell(*key[:-1]), key[-1]
        content = str(rng.choice([*gates.contents.values(), "of another gate"]))
        if rng.random() < 0.2:
            latch = Latch(VerdictName.PROMOTE, str(rng.choice(STAGES)), "0123", content)
            latches[cell, epoch, content] = {latch.verdict: latch}
        if rng.random() < 0.1:
            overdue = (Overdue("missing_outcome", 9, 10, float(rng.integers(0, 30))),) if rng.random() < 0.5 else ()
            latch = Latch(VerdictName.ROLL_BACK, "search_only", "4567", content, overdue)
            latches[cell, epoch, None] = {latch.verdict: latch}
            if rng.random() < 0.3:
                overrides.add(rollback_binding(cell, epoch, content, latch.verdict_id))
    shown = Reassessment(epoch="e0", verdict_id="r1", verdict=VerdictName.ROLL_BACK, summary="harm")
    made = Regrade(shown, NOON + timedelta(minutes=int(rng.integers(0, 60))), ("execution_error",))
    regraded = {cell: [made] * int(rng.integers(1, 3)) for cell in state.cells if rng.random() < 0.1}
    return Latches(latches, regraded, frozenset(overrides))
