"""Time to safe: from the outcome that crosses a limit to the first constrained decision in another process.

    python benchmarks/time_to_safe.py --broker embedded
    python benchmarks/time_to_safe.py --quick

A worker that enacts, a flag file, and two routers of our SDK, each a process of its own. Router A does harm with one
tool after the other: a severe incident, which is one outcome, or a row of failures, which is timed from the first of
them. Router B decides the same tool every 20 ms; what is timed ends with its first decision that is constrained or
refused. Meanwhile other events come at a steady rate. Parts:

    steady    nothing fails
    killed    the worker is killed with SIGKILL at the moment of the harm, and another one is started
    restart   Apache Kafka is stopped in order at that moment, and started again
    fleet     ten thousand cells are judged, and a hundred tools do harm at once: until the last is constrained
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from asking import add_broker, ask
from freshness import Speaker
from judge import increments, since_the_first
from loop_routers import Harm, Plan
from places import WorkerLife, a_folder, a_node, machine

from analytics.enactment.enactments import enactments
from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from streams.apache_broker import ApacheBroker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from streams.broker import EmbeddedBroker

HERE = Path(__file__).parent
TARGETS = {"p50_s": 2.0, "p99_s": 5.0}
TARGET_KILLED_S = 20.0
TARGET_FLEET_S = 10.0

_GATES = """\
version: 1
interval: 500ms
gates:
  - name: time to safe
    match: {environment: production}
    unit: action
    on_roll_back: apply
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1}
      - {signal: severe_incident, role: trip, max_count: 0}
"""
_AUTHORIZATION = """\
version: 1
rules:
  - {name: all, tools: ["*"], environments: ["*"], highest_risk_class: irreversible, because: it is a benchmark}
"""
_WARM_UP_S = 12.0  # of the routers, the worker and the traffic, before the first harm
_AT_ONCE = 100  # harms in the fleet


class Loop:
    """A broker, a lake, a flag file and a worker that enacts.

    Args:
        node: The broker.
        folder: Where the rest lies.
    """

    def __init__(self, node: EmbeddedBroker | ApacheBroker, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.lake = folder / "kept" / "lake"
        self.flags, self.gates, self.authorization = (
            folder / name for name in ("flags.json", "gates.yaml", "authorization.yaml")
        )
        self.gates.write_text(_GATES)
        self.authorization.write_text(_AUTHORIZATION)
        document = json.loads((HERE.parent / "examples" / "flags.json").read_text())
        mode = document["flags"]["agent-action-mode"]
        mode["defaultVariant"] = "autonomous"
        del mode["targeting"]
        self.flags.write_text(json.dumps(document, indent=2))
        self.spent: list[dict[str, float]] = []
        self._ready = folder / "ready.json"
        self.worker = self.start_worker()

    def start_worker(self) -> WorkerLife:
        """Start a worker; it need not read yet."""
        self._ready.unlink(missing_ok=True)
        environment = {"STAGEKEEPER_GATE_FILE": str(self.gates), "STAGEKEEPER_FLAG_FILE": str(self.flags)}
        arguments = ("--enact", "--ready-file", str(self._ready))
        self.worker = WorkerLife(self.node.address, self.lake, *arguments, environment=environment)
        return self.worker

    def await_ready(self) -> None:
        """Wait until the worker reads."""
        self.worker.await_that(self._ready.exists)

    def kill_worker(self) -> None:
        """Kill it and start another one, as a supervisor does."""
        self.worker.stop(how=signal.SIGKILL)
        self.start_worker()

    def restart_broker(self) -> None:
        """Stop the broker in order, and start it again."""
        if not isinstance(self.node, ApacheBroker):
            raise SystemExit("only Apache Kafka is restarted")
        self.node.stop()
        self.node.restart()

    def router(self, role: str, plan: Path) -> subprocess.Popen[str]:
        """One of the routers, with an outbox of its own."""
        return subprocess.Popen(
            [sys.executable, str(HERE / "loop_routers.py"), role, str(plan)],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "STAGEKEEPER_HOME": str(self.folder / role),
                "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": self.node.address,
                "STAGEKEEPER_RECEIPT_KEY": "",
            },
        )

    def seconds_to_safe(
        self,
        harms: list[Harm],
        *,
        rate: int,
        at_harm: Callable[[], None] = lambda: None,
        first_in_s: float = _WARM_UP_S,
    ) -> dict[str, float]:
        """Let the routers do what they should, and tell for each tool how long it took."""
        plan = self.folder / f"plan-{time.monotonic_ns()}.json"
        Plan(time.time() + first_in_s, str(self.flags), str(self.authorization), tuple(harms)).save(plan)
        seconds = first_in_s + harms[-1].at_s + 2.0
        with ThreadPoolExecutor(2) as threads:
            traffic = threads.submit(Speaker(self.node.address, rate, live=True).say, seconds) if rate else None
            routers = [self.router(role, plan) for role in ("harm", "watch")]
            try:
                safe = threads.submit(_moments, routers[1], lambda: None)
                harmed = _moments(routers[0], at_harm)
                constrained = safe.result()
            finally:
                for router in routers:
                    router.kill()
                    router.wait(30)
            if traffic is not None:
                _, reached = traffic.result()
                print(f"{reached:,.0f} events/s beside it", file=sys.stderr, flush=True)
        self.spent.append(self._spent(harmed, constrained))
        return {tool: constrained[tool] - at_s for tool, at_s in harmed.items()}

    def _spent(self, harmed: dict[str, float], constrained: dict[str, float]) -> dict[str, float]:
        """Median seconds of each step."""
        applied = {
            one.last.tool: step for one in enactments(Lake.open(str(self.lake))).values() if (step := one.applied)
        }
        rows = [
            (at_s, step.judged_at.timestamp(), step.at.timestamp(), constrained[tool])
            for tool, at_s in harmed.items()
            if (step := applied.get(tool)) is not None
        ]
        names = ("outcome_to_verdict_s", "verdict_to_flag_file_s", "flag_file_to_decision_s")
        medians = np.median(np.diff(np.array(rows), axis=1), axis=0)
        return dict(zip(names, map(float, medians), strict=True))


def _moments(router: subprocess.Popen[str], after_each: Callable[[], None]) -> dict[str, float]:
    moments = {}
    for line in router.stdout or ():
        tool, at_s = json.loads(line)
        after_each()
        moments[tool] = at_s
    if router.wait(30):
        raise SystemExit("a router has failed; why stands above")
    return moments


@contextmanager
def a_loop(broker: str, prepare: Callable[[Path], None] = lambda _lake: None) -> Iterator[Loop]:
    """All of it, new."""
    with a_folder() as folder, a_node(broker, folder / "broker") as node:
        prepare(folder / "kept" / "lake")
        loop = Loop(node, folder)
        try:
            loop.await_ready()
            yield loop
        finally:
            loop.worker.stop()


def harms(count: int, spacing_s: float) -> list[Harm]:
    """So many, one after the other; every second one is a row of failures."""
    kinds = ("incident", "failures")
    return [Harm(f"tool-to-watch-{number}", number * spacing_s, kinds[number % 2]) for number in range(count)]


def summed(seconds: dict[str, float]) -> dict[str, Any]:
    """Quantiles over the tools."""
    values = list(seconds.values())
    quantiles = {"p50_s": 0.5, "p99_s": 0.99, "max_s": 1.0}
    return {"count": len(values), **{name: float(np.quantile(values, q)) for name, q in quantiles.items()}}


def steady(asked: argparse.Namespace) -> dict[str, Any]:
    """Nothing fails."""
    with a_loop(asked.broker) as loop:
        planned = harms(asked.count, asked.spacing)
        seconds = loop.seconds_to_safe(planned, rate=asked.rate)
        found = {**summed(seconds), "medians": loop.spent[-1]}
    for kind in ("incident", "failures"):
        found[kind] = summed({each.tool: seconds[each.tool] for each in planned if each.kind == kind})
    return {**found, "met": all(found[name] <= target for name, target in TARGETS.items())}


def failing(asked: argparse.Namespace, what: str) -> dict[str, Any]:
    """The worker or the broker goes at the moment of each harm."""
    with a_loop(asked.broker) as loop:
        at_harm = loop.kill_worker if what == "killed" else loop.restart_broker
        # While the broker is away what is produced waits with the producer, which has room for some.
        rate = asked.rate if what == "killed" else asked.rate // 10
        found = summed(loop.seconds_to_safe(harms(asked.kills, 40.0), rate=rate, at_harm=at_harm))
    return {**found, "events_per_s": rate, "met": found["max_s"] <= TARGET_KILLED_S}


def fleet(asked: argparse.Namespace) -> dict[str, Any]:
    """Many harms at once among many cells."""

    def fill(root: Path) -> None:
        now, rng = datetime.now(UTC), np.random.default_rng(20)
        first = since_the_first(now - timedelta(hours=1))
        cells = np.repeat(np.arange(asked.cells), 6)
        Lake.open(str(root)).append(SIGNALS, increments(cells, first + rng.integers(0, 60, cells.size), rng))

    with a_loop(asked.broker, fill) as loop:
        lake = Lake.open(str(loop.lake))
        judged = pl.col("tool").n_unique()
        loop.worker.await_that(lambda: lake.scan(VERDICTS).select(judged).collect().item() >= asked.cells)
        at_once = [Harm(f"tool-to-watch-{number}", 0.0, "incident") for number in range(_AT_ONCE)]
        seconds = loop.seconds_to_safe(at_once, rate=0)
        found = {**summed(seconds), "medians": loop.spent[-1]}
    return {**found, "cells": asked.cells, "met": max(seconds.values()) <= TARGET_FLEET_S}


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure; the numbers."""
    if asked.quick:
        asked.count, asked.kills, asked.rate, asked.cells = 10, 1, min(asked.rate, 2_000), 500
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "steady": lambda: steady(asked),
        "killed": lambda: failing(asked, "killed"),
        "restart": lambda: failing(asked, "restart"),
        "fleet": lambda: fleet(asked),
    }
    if asked.broker == "embedded":
        del parts["restart"]
    found: dict[str, Any] = {"machine": machine(), "broker": asked.broker, "events_per_s": asked.rate}
    for name, measure in parts.items():
        if asked.only is None or name in asked.only:
            print(f"time to safe: {name}", file=sys.stderr, flush=True)
            found[name] = measure()
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"{found['machine']}; {found['broker']} broker"
    limits = {
        "steady": f"p50 {TARGETS['p50_s']:g} s, p99 {TARGETS['p99_s']:g} s",
        "killed": f"{TARGET_KILLED_S:g} s",
        "restart": f"{TARGET_KILLED_S:g} s",
        "fleet": f"{TARGET_FLEET_S:g} s",
    }
    for name, limit in limits.items():
        if name in found:
            each = found[name]
            numbers = "   ".join(f"{key[:-2]} {each[key]:.2f} s" for key in ("p50_s", "p99_s", "max_s"))
            yield f"{name:<9}{each['count']:>4} times   {numbers}   limit {limit}: {'met' if each['met'] else 'MISSED'}"
            for step, seconds in each.get("medians", {}).items():
                yield f"    {step.removesuffix('_s').replace('_', ' '):<28}{seconds:.2f} s in the median"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--rate", type=int, default=20_000, help="events a second beside it")
    parser.add_argument("--count", type=int, default=100, help="harms where nothing fails")
    parser.add_argument("--spacing", type=float, default=0.75, help="seconds between two of them")
    parser.add_argument("--kills", type=int, default=3, help="how often the worker or the broker goes")
    parser.add_argument("--cells", type=int, default=10_000, help="of the fleet")
    parser.add_argument("--only", nargs="+", choices=("steady", "killed", "restart", "fleet"), help="these alone")
    parser.add_argument("--quick", action="store_true", help="smaller numbers: whether it works, not how fast it is")
    add_broker(parser)


if __name__ == "__main__":
    ask(__doc__, options, run, lines)
