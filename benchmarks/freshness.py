"""How long it takes from producing an event until its counts can be read, at a steady rate.

    python benchmarks/freshness.py --rate 20000 --seconds 30 --broker embedded

One run, one after the other, at the same rate: a bare loop around `Consumer.consume`, which is the least that any
reader needs; and a worker with the whole path. One in twenty records is timed, from the call of `produce` until a
commit of `signals` that covers its offset lies in the lake's log, by a watcher that shares nothing with the worker.
What the worker itself says at `/metrics` stands beside it. The first seconds of each are left out.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from asking import add_broker, ask
from confluent_kafka import Consumer, Producer, TopicPartition
from places import WorkerLife, a_broker, a_folder, machine
from traffic import events

from analytics.lake.tables import SourcePartition
from producers.wire.topics import DECISIONS, OUTCOMES
from streams.broker import ensure_topics

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from confluent_kafka import KafkaError, Message

TARGET_P99_S = 2.0

_EVERY = 20
_CHUNK_S = 0.02
_WARM_UP_S = 3.0
_LOOK_EVERY_S = 0.005
_PATIENCE_S = 60.0


@dataclass
class Timed:
    """Records that were timed: when each was produced, by partition and in the order of offsets."""

    produced: dict[tuple[str, int], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def note(self, at_s: float) -> Callable[[KafkaError | None, Message], None]:
        """A callback for one record that was produced at a moment."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                raise SystemExit(f"the broker refuses a record: {error}")
            place = (str(message.topic()), int(message.partition() or 0))
            self.produced[place].append((int(message.offset() or 0), at_s))

        return delivered

    @property
    def count(self) -> int:
        """How many."""
        return sum(map(len, self.produced.values()))


class Speaker:
    """Produces at a steady rate, in chunks of 20 ms.

    Args:
        address: The broker.
        rate: Records a second.
        live: Whether decisions are made when they are told, and not within the half hour before.
    """

    def __init__(self, address: str, rate: int, *, live: bool = False) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": address,
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )
        self._rate = rate
        self._live = live
        self._said = 0

    def say(self, seconds: float) -> tuple[Timed, float]:
        """Produce for so long; what was timed, and the rate that was reached."""
        timed, count = Timed(), int(self._rate * seconds)
        until = datetime.now(UTC)
        if self._live:
            made = events(count, until=until + timedelta(seconds=seconds), start=self._said, minutes=seconds / 60)
        else:
            made = events(count, until=until, start=self._said)
        size, began = max(1, int(self._rate * _CHUNK_S)), time.perf_counter()
        warm_s = time.time() + _WARM_UP_S
        for number in itertools.count():
            chunk = list(itertools.islice(made, size))
            if not chunk:
                break
            for index, (topic, key, value) in enumerate(chunk):
                now_s = time.time()
                if index % _EVERY == 0 and now_s > warm_s:
                    self._producer.produce(topic, value, key=key, on_delivery=timed.note(now_s))
                else:
                    self._producer.produce(topic, value, key=key)
            self._producer.poll(0)
            ahead_s = began + (number + 1) * _CHUNK_S - time.perf_counter()
            if ahead_s > 0:
                time.sleep(ahead_s)  # the pace is what is asked for
        took = time.perf_counter() - began
        self._said += (count + 1) // 2
        if self._producer.flush(_PATIENCE_S):
            raise SystemExit("the broker did not take everything")
        return timed, count / took


class Watcher:
    """Notes when commits of `signals` come to lie in the lake's log, and which offsets they cover.

    Args:
        lake: Root of the lake.
    """

    def __init__(self, lake: Path) -> None:
        self._log = lake / "signals" / "_delta_log"
        self.covered: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        version = 0
        while not self._end.wait(_LOOK_EVERY_S):
            while (path := self._log / f"{version:020}.json").exists():
                at_s = time.time()
                for line in path.read_text().splitlines():
                    moved = json.loads(line).get("txn")
                    if moved is not None:
                        self.covered[moved["appId"]].append((int(moved["version"]), at_s))
                version += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def ages_s(self, timed: Timed, log_id: str) -> list[float]:
        """From produce to visible, for every record that is covered by now."""
        ages = []
        for (topic, partition), records in timed.produced.items():
            commits = self.covered[SourcePartition(log_id, topic, partition).app_id]
            reached = [offset for offset, _ in commits]
            for offset, at_s in records:
                index = bisect_left(reached, offset)
                if index < len(commits):
                    ages.append(commits[index][1] - at_s)
        return ages


def bare(address: str, speaker: Speaker, seconds: float) -> list[float]:
    """From produce to the return of `consume`, for a loop that does nothing else."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "bare", "enable.auto.commit": False, "fetch.wait.max.ms": 100}
    )
    known = consumer.list_topics(timeout=10).topics
    places = [TopicPartition(topic, number) for topic in (DECISIONS, OUTCOMES) for number in known[topic].partitions]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
    consumer.assign(places)
    got: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    end = threading.Event()

    def read() -> None:
        while not end.is_set():
            messages, now_s = consumer.consume(20_000, 0.05), time.time()
            for message in messages:
                if message.error() is None:
                    got[str(message.topic()), int(message.partition() or 0)][int(message.offset() or 0)] = now_s

    thread = threading.Thread(target=read)
    thread.start()
    timed, _ = speaker.say(seconds)
    _await(lambda: sum(len(each) for each in got.values()) >= timed.count * _EVERY, "the bare reader to end")
    end.set()
    thread.join()
    consumer.close()
    return [
        got[place][offset] - at_s
        for place, records in timed.produced.items()
        for offset, at_s in records
        if offset in got[place]
    ]


def _await(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(0.05)


def _metrics(web: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{web}/metrics", timeout=10) as answer:  # noqa: S310 - our own worker's address
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("stagekeeper_"))
    return {name.removeprefix("stagekeeper_"): float(value) for name, value in pairs}


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure; the numbers."""
    print(f"a bare reader, {asked.seconds:.0f} s", file=sys.stderr, flush=True)
    with a_folder() as folder, a_broker(asked.broker, folder / "broker") as address:
        bare_s = bare(address, Speaker(address, asked.rate), asked.seconds)
    print(f"the whole path, {asked.seconds:.0f} s", file=sys.stderr, flush=True)
    with a_folder() as folder, a_broker(asked.broker, folder / "broker") as address:
        log_id = ensure_topics(address)
        lake, ready = folder / "lake" / "lake", folder / "ready.json"
        worker = WorkerLife(address, lake, "--ready-file", str(ready))
        try:
            worker.await_that(ready.exists)
            with Watcher(lake) as watcher:
                timed, reached = Speaker(address, asked.rate).say(asked.seconds)
                _await(lambda: len(watcher.ages_s(timed, log_id)) == timed.count, "the last commit")
                ages_s = watcher.ages_s(timed, log_id)
            said = _metrics(str(json.loads(ready.read_text())["web"]))
        finally:
            worker.stop()
    quantiles = {"p50_s": 0.5, "p99_s": 0.99, "max_s": 1.0}
    found: dict[str, Any] = {
        "machine": machine(),
        "broker": asked.broker,
        "events_per_s": round(reached),
        "seconds": asked.seconds,
        "timed": len(ages_s),
        "visible": {name: float(np.quantile(ages_s, q)) for name, q in quantiles.items()},
        "bare_consume": {name: float(np.quantile(bare_s, q)) for name, q in quantiles.items()},
        "worker_says": {
            "p50_s": said.get('freshness_seconds{quantile="0.5"}'),
            "p99_s": said.get('freshness_seconds{quantile="0.99"}'),
        },
        "target_p99_s": TARGET_P99_S,
    }
    found["met"] = found["visible"]["p99_s"] <= TARGET_P99_S and reached >= 0.98 * asked.rate
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield (
        f"{found['machine']}; {found['broker']} broker, {found['events_per_s']:,} events/s for {found['seconds']:.0f} s"
    )
    for name, label in (
        ("bare_consume", "bare consume()"),
        ("visible", "produce to visible in signals"),
        ("worker_says", "what the worker says of it"),
    ):
        numbers = {quantile: value for quantile, value in found[name].items() if value is not None}
        yield f"{label:<32}{'   '.join(f'{quantile[:-2]} {value:.3f} s' for quantile, value in numbers.items())}"
    yield f"limit: p99 {TARGET_P99_S:.0f} s: {'met' if found['met'] else 'MISSED'}"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    add_broker(parser)


if __name__ == "__main__":
    ask(__doc__, options, run, lines)
