"""What a decision costs the agent, beside the Microsoft Agent Governance Toolkit, measured in the same run.

Ours: from the call to the first line of the action's function. It contains the contract with the arguments' digest,
hard authorization, five flags from a flagd file with targeting, the weighing, and the encoded audit record: handed to
the Kafka client (`buffered`), or forced to the disk before the action runs (`durable`; `durable, no fsync` survives the
death of the process, not that of the machine). Theirs: four flat rules and its audit logger, in memory and with its
JSON-lines file. Each runs in an interpreter of its own, which stands still while others are measured; the rounds are
short and alternate, so that a busy machine is busy for all.

    python -m venv .bench && .bench/bin/pip install agent-governance-toolkit-core==5.0.0
    python benchmarks/decision.py --agt .bench/bin/python

Without `--agt` the comparison is left out, and the output says so. A broker takes what is delivered, in this run, when
the extra `embedded` is installed; else the records wait in the client.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asking import ask
from places import machine

from producers.boundary.action import Action, acting
from producers.boundary.authorization import FileAuthorizer
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.recorder import Recorder
from producers.wire.contract import Reversibility, RiskClass

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

ROUNDS = 12
"""So many and so short that what else the machine does falls on all alike."""
CALLS = 1_000
WARM_UP = 500
DRAIN_S = 30.0
RATE_S = 0.000_5
"""Pause between two calls: an agent's router is not called in a loop, and the client's threads need their turn."""

BUFFERED = "ours, buffered"
DURABLE = "ours, durable"
THEIR_FILE = "AGT, file audit"
DISK = "the disk alone: append, fdatasync"
"""Rows that `table.py` looks for."""

KEY = b"a key of some length for the receipts"

AUTHORIZATION = """
version: 1
rules:
  - {name: search, tools: ["search.*"], environments: [production], highest_risk_class: scoped_read}
  - {name: mail, tools: [mail.send], environments: [production], highest_risk_class: external_effect}
  - {name: crm, tools: ["crm.*"], environments: [production], agents: [support-*], highest_risk_class: reversible_write}
  - {name: staging, tools: ["*"], environments: [staging], highest_risk_class: irreversible}
"""

THEIRS = """
import json, sys, tempfile, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from agent_os import audit_logger as audit
from agent_os.policies.evaluator import PolicyEvaluator
from agent_os.policies.schema import PolicyAction, PolicyCondition, PolicyDocument, PolicyOperator, PolicyRule

rules = [PolicyRule(name=f"r{i}", action=list(PolicyAction)[1], priority=i,
                    condition=PolicyCondition(field="tool_name", operator=PolicyOperator.EQ, value=f"tool{i}"))
         for i in range(4)]
policy = PolicyEvaluator([PolicyDocument(name="p", rules=rules)])
context = {"tool_name": "crm.update", "agent_id": "a", "environment": "production", "user_id": "u1"}
folder = tempfile.TemporaryDirectory()
logs = {}
for name, backend in (("memory", audit.InMemoryBackend()), ("file", audit.JsonlFileBackend(folder.name + "/a.jsonl"))):
    logs[name] = audit.GovernanceAuditLogger()
    logs[name].add_backend(backend)
for line in sys.stdin:
    asked = json.loads(line)
    took = []
    for _ in range(asked["calls"]):
        start = time.perf_counter()
        decision = policy.evaluate(context)
        logs[asked["what"]].log_decision("a", "crm.update", "allow" if decision.allowed else "deny", decision.reason)
        took.append(time.perf_counter() - start)
        if asked["pause_s"]:
            time.sleep(asked["pause_s"])
    print(json.dumps(took), flush=True)
"""


def flag_file(folder: Path) -> Path:
    """Five flags, three of them with targeting, one with a percentage."""

    def flag(variants: dict[str, object], default: str, targeting: object = None) -> dict[str, object]:
        stated: dict[str, object] = {"state": "ENABLED", "variants": variants, "defaultVariant": default}
        return stated if targeting is None else {**stated, "targeting": targeting}

    on_off: dict[str, object] = {"on": True, "off": False}
    blocked = {"in": [{"var": "account"}, ["acct-13", "acct-66"]]}
    sensitive = {"in": [{"var": "risk_class"}, ["external_effect", "admin_action", "irreversible"]]}
    flags = {
        "agent-action-governance-enabled": flag(on_off, "on"),
        "agent-action-denylist": flag(on_off, "off", {"if": [blocked, "on", "off"]}),
        "agent-action-mode": flag(
            {"auto": "autonomous", "draft": "draft_write"},
            "draft",
            {"if": [{"==": [{"var": "workflow"}, "support"]}, {"fractional": [["auto", 100], ["draft", 0]]}, "draft"]},
        ),
        "agent-action-approval-required": flag(on_off, "on", {"if": [sensitive, "on", "off"]}),
        "agent-action-confidence-threshold": flag({"usual": 0.6}, "usual"),
    }
    path = folder / "flags.json"
    path.write_text(json.dumps({"flags": flags}), encoding="utf-8")
    return path


class Ours:
    """A router whose action only looks at the clock."""

    def __init__(self, router: Router, emitter: OutboxEmitter, risk_class: RiskClass) -> None:
        self._router = router
        self._emitter = emitter
        self._began = 0.0
        self._numbers = count()
        self._action = Action(
            tool="crm.update",
            workflow="support",
            system="crm",
            environment="production",
            risk_class=risk_class,
            reversibility=Reversibility.AUTOMATIC,
            run=self._run,
        )
        self._took = 0.0

    def _run(self, ticket: str, status: str) -> None:  # noqa: ARG002 - the arguments of a tool
        self._took = time.perf_counter() - self._began

    def measure(self, calls: int, pause_s: float, *, new: str | None = None) -> list[float]:
        """Seconds from the call to the function's first line, for each call.

        Args:
            calls: How many.
            pause_s: Pause between two.
            new: What is new with each call beside its arguments, in the words of `acting`.
        """
        took = []
        known = {"agent": "support-bot", "user": "u1", "account": "acct-1", "intent": "x"}
        for _ in range(calls):
            number = next(self._numbers)
            with acting(**known if new is None else {**known, new: f"n-{number}"}):
                self._began = time.perf_counter()
                self._router.call(self._action, f"t-{number}", status="closed")
            took.append(self._took)
            if pause_s:
                time.sleep(pause_s)
        self._emitter.flush(DRAIN_S)  # or the next in turn would pay for the delivery of these
        return took


class Disk:
    """What the disk alone takes to hold a record of the usual size: nothing that is durable can be faster."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def measure(self, calls: int, pause_s: float) -> list[float]:
        """Seconds for each append and `fdatasync`."""
        took = []
        record = os.urandom(1_700)
        for _ in range(calls):
            began = time.perf_counter()
            os.write(self._file, record)
            os.fdatasync(self._file)
            took.append(time.perf_counter() - began)
            if pause_s:
                time.sleep(pause_s)
        return took

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Interpreter:
    """Something that is measured in an interpreter of its own, which stands still while others are measured."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def measure(self, what: str, calls: int, pause_s: float) -> list[float]:
        """Seconds for each call."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both are pipes")
        self._process.send_signal(signal.SIGCONT)
        print(json.dumps({"what": what, "calls": calls, "pause_s": pause_s}), file=self._process.stdin, flush=True)
        took: list[float] = json.loads(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        return took

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()


def quantiles(took: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds."""
    ordered = sorted(took)
    return ordered[len(ordered) // 2] * 1e6, ordered[int(len(ordered) * 0.99)] * 1e6


def compare(measured: dict[str, Callable[[int, float], list[float]]], pause_s: float) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile of each, rounds alternating."""
    took: dict[str, list[float]] = {name: [] for name in measured}
    for measure in measured.values():
        measure(WARM_UP, pause_s)
    for _ in range(ROUNDS):
        for name, measure in measured.items():
            took[name] += measure(CALLS, pause_s)
    return {name: quantiles(each) for name, each in took.items()}


def serve(kind: str, folder: Path, address: str) -> None:
    """One router of ours, measured as it is told on standard input, for `Interpreter`."""
    logging.disable(logging.CRITICAL)  # no broker need be there
    flags = FlagEvaluator.from_file(folder / "flags.json")
    emitter = OutboxEmitter(
        lambda hook: KafkaEmitter(address, on_undeliverable=hook, queue_limit=1_000_000),
        Outbox(folder / f"{kind}.db", sync=kind != "nosync"),
    )
    router = Router(
        authorizer=FileAuthorizer.load(folder / "authorization.yaml"),
        flags=flags,
        recorder=Recorder(emitter, source="/benchmark", key=KEY if kind == "signed" else None),
        environment="production",
    )
    ours = Ours(router, emitter, RiskClass.SCOPED_READ if kind in {"read", "signed"} else RiskClass.REVERSIBLE_WRITE)
    for line in sys.stdin:
        asked = json.loads(line)
        took = ours.measure(asked["calls"], asked["pause_s"], new=asked["what"] or None)
        print(json.dumps(took), flush=True)
    emitter.close(1.0)
    flags.close()


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure at each pace; medians and 99th percentiles in microseconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flag_file(folder)
        (folder / "authorization.yaml").write_text(AUTHORIZATION, encoding="utf-8")
        address, stop = _broker(folder)
        interpreters = {
            kind: Interpreter([sys.executable, __file__, "--serve", kind, str(folder), address])
            for kind in ("read", "signed", "nosync", "write")
        }
        rows = {
            BUFFERED: ("read", ""),
            "ours, buffered, receipts signed": ("signed", ""),
            "ours, buffered, each call an id": ("read", "tool_call"),
            "ours, buffered, each account new": ("read", "account"),
            "ours, durable, no fsync": ("nosync", ""),
            DURABLE: ("write", ""),
        }
        if asked.agt:
            interpreters["agt"] = Interpreter([asked.agt, "-c", THEIRS])
            rows |= {THEIR_FILE: ("agt", "file"), "AGT, memory audit": ("agt", "memory")}
        disk = Disk(folder / "disk")
        measured: dict[str, Callable[[int, float], list[float]]] = {
            row: partial(interpreters[kind].measure, what) for row, (kind, what) in rows.items()
        }
        measured[DISK] = disk.measure
        try:
            paces = [
                {"pace": pace, "rows": compare(measured, pause_s)}
                for pace, pause_s in ((f"one call each {RATE_S * 1e3:g} ms", RATE_S), ("without a pause", 0.0))
            ]
        finally:
            for interpreter in interpreters.values():
                interpreter.close()
            disk.close()
            stop()
    if not asked.agt:
        print(
            "NOT COMPARED: --agt names no Python that has agent-governance-toolkit-core; see this file's first lines.",
            file=sys.stderr,
        )
    return {"machine": machine(), "paces": paces}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield found["machine"]
    for each in found["paces"]:
        reference = each["rows"].get(THEIR_FILE)
        yield f"\n{each['pace']:40}{'p50 µs':>9}{'p99 µs':>9}{'ratio to AGT, file audit':>28}"
        for name, (median, high) in each["rows"].items():
            ratio = "" if reference is None else f"{median / reference[0]:.2f} / {high / reference[1]:.2f}"
            yield f"{name:40}{median:9.1f}{high:9.1f}{ratio:>28}"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--agt", help="a Python that has agent-governance-toolkit-core 5.0.0")


def _broker(folder: Path) -> tuple[str, Callable[[], None]]:
    try:
        from streams.broker import EmbeddedBroker, ensure_topics  # noqa: PLC0415 - an extra
        from streams.ports import available_port  # noqa: PLC0415 - with the next
    except ModuleNotFoundError as error:
        print(f"WITHOUT A BROKER: {error.name} is not installed; records wait in the client.", file=sys.stderr)
        return "127.0.0.1:1", lambda: None
    broker = EmbeddedBroker.start(folder / "broker", port=available_port())
    ensure_topics(broker.address)
    return broker.address, broker.stop


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        kind, where, address = sys.argv[2:]
        serve(kind, Path(where), address)
    else:
        ask(__doc__, options, run, lines)
