"""Time of `POST /v1/decisions` with its record on disk, at a steady rate and at saturation, beside other deciders.

    python benchmarks/service.py                 five flags, a write, an idempotency key each
    python benchmarks/service.py --opa ./opa     beside OPA's server, with its decision log to a file

The client is a process of its own on the same machine, so the service has less than all of it. `load` is the machine's
load average, which says how much else it did; `cpu_ms` is what a decision takes of a core, whatever else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
ASKED: Final = {
    "contract": {
        "actor": {"agent": "support-bot", "user": "u-1", "account": "a-1"},
        "intent": "the order came twice",
        "target": {"environment": "production", "system": "billing", "record": "o-1"},
        "tool": "issue_refund",
        "workflow": "refunds",
        "risk_class": "external_effect",
        "reversibility": "manual",
    },
    "arguments": {"order": "o-1", "amount": 5},
}
AUTHORIZATION: Final = """version: 1
rules:
  - {name: bots, agents: [support-bot], tools: ["*"], environments: [production], highest_risk_class: external_effect}
"""
FLAGS: Final = {
    "agent-action-governance-enabled": True,
    "agent-action-denylist": False,
    "agent-action-mode": "autonomous",
    "agent-action-approval-required": False,
    "agent-action-confidence-threshold": 0.5,
}
# The same contract by the same rules, in OPA's language.
POLICY: Final = """package stagekeeper
import rego.v1
default allow := false
ranks := {"search": 0, "scoped_read": 1, "sensitive_read": 2, "reversible_write": 3, "external_effect": 4}
allow if {
    data.flags["agent-action-governance-enabled"]
    not data.flags["agent-action-denylist"]
    data.flags["agent-action-mode"] == "autonomous"
    not data.flags["agent-action-approval-required"]
    input.contract.actor.agent == "support-bot"
    input.contract.target.environment == "production"
    ranks[input.contract.risk_class] <= 4
}
"""


class HttpClient:
    """A connection that sends one request after the other, written by hand so that it costs little of the machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> HttpClient:
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes, headers: str) -> bytes:
        """The body of the answer; the benchmark ends where that is none."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answered = await self._reader.readuntil(b"\r\n\r\n")
        lines = answered.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        content = await self._reader.readexactly(length)
        if b" 200 " not in lines[0]:
            raise SystemExit(f"answered {lines[0].decode()}: {content[:500].decode()}")
        return content

    def close(self) -> None:
        """Leave."""
        self._writer.close()


class Decider:
    """Something that is asked over HTTP."""

    def __init__(self, *, name: str, port: int, path: str, body: bytes, token: str | None, expected: bytes) -> None:
        self.name, self.port, self.path, self.body, self.expected = name, port, path, body, expected
        self._token = token

    def headers(self) -> str:
        """The headers of one request."""
        if self._token is None:
            return ""
        return f"Authorization: Bearer {self._token}\r\nIdempotency-Key: {uuid.uuid4()}\r\n"

    async def ask(self, client: HttpClient) -> None:
        """Ask once; the benchmark ends where the answer is another one."""
        answer = await client.post(self.path, self.body, self.headers())
        if self.expected not in answer:
            raise SystemExit(f"{self.name} decided otherwise: {answer[:500].decode()}")


async def at_rate(decider: Decider, per_second: float, seconds: float) -> dict[str, float]:
    """Latencies from the moment at which a request was due, whether or not it could be sent then."""
    idle: asyncio.Queue[HttpClient] = asyncio.Queue()
    for _ in range(64):
        idle.put_nowait(await HttpClient.connect(decider.port))
    latencies: list[float] = []

    async def one(due: float) -> None:
        client = await idle.get()
        await decider.ask(client)
        latencies.append((time.perf_counter() - due) * 1000)
        idle.put_nowait(client)

    start, tasks = time.perf_counter(), []
    for number in range(int(per_second * seconds)):
        due = start + number / per_second
        if (wait_s := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    achieved = len(latencies) / (time.perf_counter() - start)
    while not idle.empty():
        idle.get_nowait().close()
    ranked = statistics.quantiles(latencies, n=1000)
    return {"per_second": achieved, "p50_ms": ranked[499], "p95_ms": ranked[949], "p99_ms": ranked[989]}


async def saturated(decider: Decider, clients: int, seconds: float) -> float:
    """Decisions a second of so many clients, each of which asks as soon as it is answered."""
    until, counts = time.perf_counter() + seconds, []

    async def one() -> None:
        client, count = await HttpClient.connect(decider.port), 0
        while time.perf_counter() < until:
            await decider.ask(client)
            count += 1
        counts.append(count)
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return sum(counts) / seconds


def sync_ms(folder: Path) -> float:
    """The median time that the disk takes for one record by itself: what a decision cannot be faster than."""
    file = sqlite3.connect(folder / "sync.db", isolation_level=None)
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("PRAGMA synchronous=FULL")
    file.execute("CREATE TABLE t (value BLOB)")
    times = []
    for _ in range(200):
        start = time.perf_counter()
        file.execute("INSERT INTO t VALUES (?)", (b"x" * 2_000,))
        times.append((time.perf_counter() - start) * 1000)
    file.close()
    return statistics.median(times)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_service(folder: Path) -> tuple[subprocess.Popen[bytes], Decider]:
    """The service as users start it, on files of its own."""
    flags = {
        key: {"state": "ENABLED", "variants": {"set": value}, "defaultVariant": "set"} for key, value in FLAGS.items()
    }
    (folder / "flags.json").write_text(json.dumps({"flags": flags}))
    (folder / "authorization.yaml").write_text(AUTHORIZATION)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "STAGEKEEPER_HOME": str(folder / "home"),
        "STAGEKEEPER_RECEIPT_KEY": "a key for the benchmark",
    }
    command = [sys.executable, "-m", "stagekeeper"]
    scope = ["--agent", "support-bot", "--service", "crm", "--scope", "decide", "--per-second", "1000000", "--json"]
    drawn = subprocess.run(
        [*command, "token", "new", *scope], cwd=folder, env=environment, capture_output=True, check=True
    )
    ready = folder / "ready"
    child = subprocess.Popen(
        [*command, "serve", "--port", "0", "--ready-file", str(ready)], cwd=folder, env=environment
    )
    port = int(_await(child, lambda: ready.read_text() if ready.exists() else "").rpartition(":")[2])
    token = json.loads(drawn.stdout)["token"]
    return child, Decider(
        name="stagekeeper",
        port=port,
        path="/v1/decisions",
        body=json.dumps(ASKED).encode(),
        token=token,
        expected=b'"as_asked"',
    )


def start_opa(folder: Path, opa: Path) -> tuple[subprocess.Popen[bytes], Decider]:
    """OPA's server with the same rules, which writes its decision log to a file."""
    (folder / "policy.rego").write_text(POLICY)
    (folder / "data.json").write_text(json.dumps({"flags": FLAGS}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    with (folder / "opa.log").open("wb") as log:
        child = subprocess.Popen(
            [
                *(str(opa), "run", "--server", "--addr", f"127.0.0.1:{number}", "--log-level", "info"),
                *("--set", "decision_logs.console=true", "policy.rego", "data.json"),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )

    def port() -> str:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number), 0.5):
            return "open"
        return ""

    _await(child, port)
    body = json.dumps({"input": ASKED}).encode()
    return child, Decider(
        name="opa", port=number, path="/v1/data/stagekeeper/allow", body=body, token=None, expected=b'"result":true'
    )


def _await(child: subprocess.Popen[bytes], ready: Any, timeout_s: float = 60.0) -> str:  # noqa: ANN401
    until = time.monotonic() + timeout_s
    while not (answer := str(ready())):
        if child.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"{child.args} did not start")
        time.sleep(0.05)
    return answer


async def measure(decider: Decider, pid: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one decider, whose process is `pid`."""
    client = await HttpClient.connect(decider.port)
    for _ in range(200):  # until everything is loaded
        await decider.ask(client)
    client.close()
    steady = await at_rate(decider, arguments.rate, arguments.seconds)
    before = cpu_s(pid)
    per_second = await saturated(decider, arguments.clients, arguments.seconds)
    cpu_ms = (cpu_s(pid) - before) * 1000 / (per_second * arguments.seconds)
    return {**steady, "saturated_per_second": per_second, "cpu_ms": cpu_ms}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500.0, help="decisions a second at the steady rate")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32, help="at saturation")
    parser.add_argument("--opa", type=Path, help="OPA's program, to be measured beside it")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--folder", type=Path, help="where the files lie: the disk is measured, too")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stagekeeper-service-", dir=arguments.folder))
    results: dict[str, Any] = {"load": os.getloadavg()[0], "sync_ms": sync_ms(folder)}
    try:
        starts = [start_service] + ([lambda where: start_opa(where, arguments.opa.resolve())] if arguments.opa else [])
        for start in starts:
            child, decider = start(folder)
            try:
                results[decider.name] = asyncio.run(measure(decider, child.pid, arguments))
            finally:
                child.terminate()
                child.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.as_json:
        print(json.dumps(results, indent=2))
        return
    print(f"load {results['load']:.1f}; one record alone takes the disk {results['sync_ms']:.2f} ms")
    for name in ("stagekeeper", "opa"):
        if name in results:
            row = results[name]
            print(
                f"{name:<12} at {row['per_second']:.0f}/s: p50 {row['p50_ms']:.2f} ms, p95 {row['p95_ms']:.2f} ms, "
                f"p99 {row['p99_ms']:.2f} ms; saturated {row['saturated_per_second']:,.0f}/s, "
                f"{row['cpu_ms']:.2f} ms of a core for each"
            )


if __name__ == "__main__":
    main()
