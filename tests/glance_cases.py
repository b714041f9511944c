"""Random fleets and gate files, for holding the columns against the plain reading one cell at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from verdict_cases import NOON, a_row, increments

from analytics.gates.gate_file import GateFile
from analytics.judging.glance import UNDECLARED, ChangeKeys, Glance
from analytics.judging.groups import NOT_CROSSED, Standing
from analytics.judging.judging import judge
from analytics.judging.user_evidence import Crowd
from analytics.judging.user_windows import BY_USER, COUNTED_BY_USER, Users
from analytics.judging.window_sums import Tracked
from analytics.signals.cells import EPOCH, Folded
from analytics.signals.state import Columns
from analytics.verdicts.document import Reassessment
from analytics.verdicts.verdict import Latch
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator

    from analytics.verdicts.ledger import ChangeKey, LatchKey

STAGES = [stage.value for stage in LADDER]
REASSESSMENT = Reassessment(epoch="e0", verdict_id="r1", verdict=VerdictName.ROLL_BACK, summary="harm")
RATES = [*BY_USER, "missing_outcome"]


def a_signal(rng: Generator, signal: str, role: str) -> str:
    """One signal of a gate, as YAML."""
    said = {"signal": signal, "role": role, **_limit(rng, signal, role)}
    weighed = role in {"guardrail", "promote"}
    for key, chance, values in (
        ("weight", 0.4 * (role == "guardrail"), ["1", "2", "4"]),
        ("maturity", 0.4 * (signal in BY_USER), ["1m", "3m", "10m"]),
        ("unit", 0.3 * (signal in BY_USER and weighed), ["user", "action"]),
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
        lines.append("    approval: required")
    if rng.random() < 0.4:
        lines.append(f"    hold_expires: {rng.choice(['5m', '20m'])}")
    if rng.random() < 0.1:
        lines.append("    dry_run: true")
    lines.append("    signals:" + ("" if signals else " []"))
    return "\n".join([*lines, *(f"      - {each}" for each in signals)])


def a_gate_file(rng: Generator) -> GateFile:
    """A gate file of a few gates: some actions match one, some two equally well, some none."""
    matches = ["{tool: a}", "{tool: b}", "{tool: '[ac]'}", "{risk_class: irreversible}"]
    chosen = [*rng.choice(matches, size=rng.integers(0, 3), replace=False), "{workflow: w}"][:: rng.choice([1, -1])]
    chosen = chosen[: 1 + int(rng.integers(0, 4))]
    text = f"version: 1\nfreshness: {rng.choice(['4m', '30m'])}\noutcome_deadline: {rng.choice(['1m', '2m', '5m'])}\n"
    text += (
        f"user_window: 5m\nafter_promotion: {{false_alarm_every: 1h, fleet: 1, window: {rng.choice(['6m', '20m'])}}}\n"
    )
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
                risk_rank=None if rng.random() < 0.1 else int(rng.choice([3, 4, 6])),
                latencies_ms=rng.lognormal(5.5, 1.0, size=min(executed, 6)),
                **counts,
            )
        )
    return rows


def some_users(rng: Generator, folded: Folded, watermark: datetime) -> Users:
    """User-windows of most epochs, out of thin air."""
    epochs = [row for row in folded.totals.select(EPOCH).iter_rows() if rng.random() < 0.7]
    rows = []
    for key in epochs:
        for _ in range(int(rng.integers(0, 40))):
            trials = int(rng.integers(0, 6))
            counts = dict.fromkeys(COUNTED_BY_USER, 0) | {"decisions": trials, "executed": trials}
            counts |= {"failed": int(rng.binomial(trials, 0.2)), "undone": int(rng.binomial(trials, 0.05))}
            closed = watermark - timedelta(minutes=5 * int(rng.integers(0, 4)))
            rows.append({**dict(zip(EPOCH, key, strict=True)), "closed_at": closed, **counts, "count": 1})
    schema = {
        **dict.fromkeys(EPOCH, pl.String),
        "closed_at": pl.Datetime("us", "UTC"),
        **dict.fromkeys((*COUNTED_BY_USER, "count"), pl.Int64),
    }
    people = {key: int(rng.integers(0, 9)) for key in epochs}
    named = frozenset(key for key in epochs if rng.random() < 0.8)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return Users(1, watermark, 300.0, frozenset(epochs), people, {}, named, table, table.clear())


@dataclass
class Fleet:
    """One fleet, read both ways."""

    gates: GateFile
    columns: Columns
    folded: Folded
    watermark: datetime
    tracked: Tracked
    glance: Glance
    change_keys: ChangeKeys
    users: Users | None = None
    latches: dict[LatchKey, dict[VerdictName, Latch]] | None = None
    regraded: dict[Cell, list[Reassessment]] | None = None

    @classmethod
    def begin(cls, gates: GateFile, rows: list[dict[str, Any]], watermark: datetime) -> Fleet:
        columns = Columns()
        columns.add(increments(*rows))
        return cls(
            gates,
            columns,
            Folded.of(increments(*rows)),
            watermark,
            Tracked(columns, gates, watermark),
            Glance(columns, gates),
            ChangeKeys(),
        )

    def step(self, rows: list[dict[str, Any]], watermark: datetime) -> None:
        """Take in more, and move on."""
        fresh = increments(*rows)
        increment = self.columns.add(fresh)
        self.folded = self.folded.plus(Folded.of(fresh))
        self.tracked.advance(increment, watermark)
        self.glance.match(increment.risen)
        self.watermark = watermark

    def settle(self) -> None:
        """Let go of what no longer matters, in the columns alone."""
        whole = np.zeros(self.columns.epochs, dtype=np.bool_)
        self.columns.settle(self.watermark, self.gates.horizon_s, whole=whole)

    def cross(self, rng: Generator) -> None:
        """Let some epochs have crossed, and some cells have earlier epochs that were graded anew."""
        self.latches, self.regraded = {}, {}
        for key in self.folded.totals.select(EPOCH).sort(EPOCH).iter_rows():
            found = {}
            if rng.random() < 0.2:
                to = str(rng.choice(STAGES))
                found[VerdictName.PROMOTE] = Latch(VerdictName.PROMOTE, to, "0123")
            if rng.random() < 0.1:
                found[VerdictName.ROLL_BACK] = Latch(VerdictName.ROLL_BACK, "search_only", "4567")
            if found:
                self.latches[Cell(*key[:-1]), key[-1], self.gates.sha256] = found
        for cell in sorted(self.folded.cells()):
            if rng.random() < 0.1:
                self.regraded[cell] = [REASSESSMENT] * int(rng.integers(1, 3))

    def standing(self) -> Standing:
        """What had crossed, by places."""
        size = self.columns.epochs
        found = {name: np.full(size, NOT_CROSSED, dtype=np.int8) for name in VerdictName}
        for (cell, epoch, _), latches in (self.latches or {}).items():
            frame = pl.DataFrame([(*cell, epoch)], schema=dict.fromkeys(EPOCH, pl.String), orient="row")
            for word, latch in latches.items():
                found[word][self.columns.places_of(frame)[0]] = STAGES.index(str(latch.to_stage))
        counts = np.array([len((self.regraded or {}).get(cell, [])) for cell in self.columns.cells], dtype=np.int64)
        return Standing(found[VerdictName.PROMOTE], found[VerdictName.ROLL_BACK], counts)

    def at_a_glance(self) -> dict[tuple[Cell, str], ChangeKey | None]:
        """What every cell comes to, in columns; None where only the judge can say."""
        found = self.glance.look(
            self.columns.current(np.ones(len(self.columns.cells), dtype=np.bool_), self.watermark),
            self.change_keys,
            tracked=self.tracked,
            standing=self.standing(),
            crowd=None if self.users is None else Crowd(self.users, self.columns),
        )
        return {
            (self.columns.cells[cell], self.columns.key(epoch)[-1]): None
            if number == UNDECLARED
            else self.change_keys.change_key(number)
            for cell, epoch, number in zip(found.cells, found.epochs, found.change_keys, strict=True)
        }

    def one_by_one(self) -> dict[tuple[Cell, str], ChangeKey]:
        """What every cell comes to, one at a time."""
        return {(verdict.inputs.cell, verdict.inputs.epoch): verdict.change_key for verdict in self._verdicts()}

    def _verdicts(self) -> Iterator[Any]:
        for cell in sorted(self.folded.cells()):
            yield from judge(
                self.folded,
                self.gates,
                watermark=self.watermark,
                lake_version=1,
                judged_at=self.watermark,
                cells={cell},
                latches=self.latches or {},
                users=self.users,
                regraded=self.regraded or {},
            )
