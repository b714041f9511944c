"""How fast one worker takes events into the lake, beside what the client alone can read from the same topics.

    python benchmarks/ingest.py --events 400000 --broker embedded

In one run, one after the other: the whole path (a worker process: decode, verify, drop repeats, fold, three commits);
a bare loop around `Consumer.consume`; and a stock Faust agent that only counts by tool. Quix Streams and Pathway are
measured as well where `--quix PYTHON` and `--pathway PYTHON` name interpreters that have them. The broker runs on the
same cores. What the worker took in is then sealed into its transparency logs, in this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asking import add_broker, ask
from confluent_kafka import Consumer, TopicPartition
from places import WorkerLife, a_broker, a_folder, commits, is_message, machine
from traffic import fill

from analytics.audit.sealing import Sealer
from analytics.audit.signed_note import Signer
from analytics.lake.tables import Lake
from producers.wire.topics import DECISIONS, OUTCOMES
from streams.ingest.source import FETCHING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

COMPETITORS = Path(__file__).parent / "competitors"
TOPICS = (DECISIONS, OUTCOMES)

_PATIENCE_S = 60.0


def bare_consume(address: str, count: int, **settings: int) -> float:
    """Records a second of a loop that does nothing, under the client's defaults but for some settings."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "bare",
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 128 * 1_024,
            "fetch.wait.max.ms": 100,
            **settings,
        }
    )
    known = consumer.list_topics(timeout=10).topics
    consumer.assign([TopicPartition(topic, number, 0) for topic in TOPICS for number in known[topic].partitions])
    read, began = 0, 0.0
    while read < count:
        messages = consumer.consume(20_000, 0.25)
        fresh = sum(map(is_message, messages))
        if not began and fresh:
            began, count = time.perf_counter(), count - fresh
        else:
            read += fresh
    took = time.perf_counter() - began
    consumer.close()
    return read / took


def whole_path(address: str, lake: Path, count: int) -> dict[str, float]:
    """Events a second from the first commit to the last, and peak memory."""
    worker = WorkerLife(address, lake, environment={"STAGEKEEPER_SEAL_EVERY_S": "0"})
    try:
        worker.await_that(lambda: bool(commits(lake, "events")[1:]))
        started_s = worker.cpu_s
        # A look at the log is enough: nothing else may read the lake meanwhile.
        worker.await_that(lambda: sum(rows for _, rows in commits(lake, "events")) >= count)
        made = [commit for commit in commits(lake, "events") if commit[1]]
        worker.await_that(lambda: commits(lake, "signals")[-1][0] >= made[-1][0])
        peak_mb, cpu_s = worker.peak_mb, worker.cpu_s - started_s
    finally:
        worker.stop()
    rows = sum(rows for _, rows in made[1:])
    return {
        "events_per_s": rows / (made[-1][0] - made[0][0]),
        "commits": len(made),
        "peak_mb": peak_mb,
        "cpu_us": cpu_s * 1e6 / rows,
    }


def sealed(lake: Path) -> float:
    """Processor time, in microseconds a row, of sealing everything that a lake holds."""
    sealer = Sealer(Lake.open(str(lake)), [Signer.new("benchmark")], None, now=lambda: datetime.now(UTC))
    began = time.process_time()
    return 1e6 / sealer.run() * (time.process_time() - began)


def competitor(name: str, python: str, address: str, count: int) -> float | None:
    """Events a second of a program that reads the same topics and only counts; None where it cannot run."""
    command = [python, str(COMPETITORS / f"{name}.py"), address, str(count), *TOPICS]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        fault = (ran.stderr or ran.stdout).strip().splitlines()[-1:] if ran.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        fault = [str(error)]
    if fault is not None:
        print(f"NOT MEASURED: {name}: {fault}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return float(answer["events_per_s"])


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure; the numbers."""
    with a_folder() as folder, a_broker(asked.broker, folder / "broker") as address:
        size, count = fill(address, asked.events)
        found: dict[str, Any] = {"machine": machine(), "broker": asked.broker, "events": count, "bytes": round(size)}
        found["worker"] = whole_path(address, folder / "lake" / "lake", count)
        found["sealing_cpu_us"] = sealed(folder / "lake" / "lake")
        found["bare_consume"] = bare_consume(address, count)
        found["tuned_consume"] = bare_consume(address, count, **FETCHING)
        found["faust"] = competitor("stock_faust", sys.executable, address, min(count, 40_000))
        for name in ("quix", "pathway"):
            python = getattr(asked, name)
            if python is None:
                print(f"NOT MEASURED: {name}: --{name} names no interpreter that has it", file=sys.stderr)
            found[name] = python and competitor(f"count_{name}", python, address, count)
        return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    worker = found["worker"]
    yield f"{found['machine']}; {found['broker']} broker, {found['events']:,} events of {found['bytes']} bytes"
    yield (
        f"{'whole path':<28}{worker['events_per_s']:>10,.0f} events/s   {worker['cpu_us']:.1f} us of CPU an event, "
        f"peak {worker['peak_mb']:.0f} MB"
    )
    share = found["sealing_cpu_us"] / worker["cpu_us"]
    taken_us = f"{found['sealing_cpu_us']:>10.1f} us of CPU a row"
    yield f"{'sealing what it took in':<28}{taken_us} = {share:.0%} of the whole path's"
    for name, label in (
        ("bare_consume", "bare consume()"),
        ("tuned_consume", "bare, set as the worker's"),
        ("faust", "stock Faust, counts only"),
        ("quix", "Quix Streams, counts only"),
        ("pathway", "Pathway, counts only"),
    ):
        if found[name] is not None:
            ratio = worker["events_per_s"] / found[name]
            yield f"{label:<28}{found[name]:>10,.0f} events/s   whole path = {ratio:.2f} x"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--events", type=int, default=600_000)
    add_broker(parser)
    parser.add_argument("--quix", help="a Python that has quixstreams")
    parser.add_argument("--pathway", help="a Python that has pathway")


if __name__ == "__main__":
    ask(__doc__, options, run, lines)
