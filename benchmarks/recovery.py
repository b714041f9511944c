"""How long it takes from SIGKILL until a worker has caught up again, with many events in the lake.

    python benchmarks/recovery.py --events 5000000 --broker embedded

A worker takes the events into the lake and is killed with SIGKILL. In the same moment its replacement starts, and
further events come in while it does. Beside it, in the same run: a worker that starts on an empty lake while the same
number of events comes in, so that the ratio says what the past costs. All events lie within the horizon of the ids that
count as seen, which is the worst case.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asking import add_broker, ask
from places import WorkerLife, a_broker, a_folder, machine
from traffic import fill

from analytics.lake.tables import Lake
from streams.broker import ensure_topics
from streams.lag import Backlog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

TARGET_S = 15.0

_ROUND = 500_000
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Place:
    """Where workers work.

    Attributes:
        address: The broker.
        log_id: Its cluster id.
        lake: Root of the lake.
        ready: The file that a worker writes once it reads.
    """

    address: str
    log_id: str
    lake: Path
    ready: Path


@dataclass(frozen=True)
class Caught:
    """How a worker caught up.

    Attributes:
        ready_s: Seconds until it read; from the death of the one before, or from its start where it is the first.
        caught_up_s: Seconds until the lake covered all that the broker held.
        peak_mb: Its peak memory.
    """

    ready_s: float
    caught_up_s: float
    peak_mb: float


def catch_up(place: Place, began_s: float, *, backlog: int, start: int) -> Caught:
    """Start a worker, write to the broker meanwhile, and wait until the lake covers everything."""
    place.ready.unlink(missing_ok=True)
    worker = WorkerLife(place.address, place.lake, "--ready-file", str(place.ready))
    try:
        fill(place.address, backlog, start=start)
        worker.await_that(place.ready.exists, _PATIENCE_S)
        ready_s = time.perf_counter() - began_s
        lake = Lake.open(str(place.lake))
        with Backlog(place.address, place.log_id) as left:
            worker.await_that(lambda: left.records_left(lake) == 0, _PATIENCE_S)
        return Caught(ready_s, time.perf_counter() - began_s, worker.peak_mb)
    finally:
        worker.stop()


def store(place: Place, count: int) -> float:
    """Bring events into the lake, a round at a time, then kill the worker; when it was killed."""
    worker = WorkerLife(place.address, place.lake, "--ready-file", str(place.ready))
    try:
        worker.await_that(place.ready.exists)
        lake, sent = Lake.open(str(place.lake)), 0
        with Backlog(place.address, place.log_id) as left:
            while sent < count:
                sent += fill(place.address, min(_ROUND, count - sent), start=sent)[1]
                worker.await_that(lambda: left.records_left(lake) < _ROUND, _PATIENCE_S)
                print(f"{sent:,} events are on the broker", file=sys.stderr, flush=True)
            worker.await_that(lambda: left.records_left(lake) == 0, _PATIENCE_S)
        killed_s = time.perf_counter()
    finally:
        worker.stop(how=signal.SIGKILL)
    return killed_s


@contextmanager
def a_place(broker: str) -> Iterator[Place]:
    """A broker and a lake, both empty."""
    with a_folder() as folder, a_broker(broker, folder / "broker") as address:
        yield Place(address, ensure_topics(address), folder / "kept" / "lake", folder / "ready.json")


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure; the numbers."""
    with a_place(asked.broker) as place:
        print("a worker on an empty lake", file=sys.stderr, flush=True)
        fresh = catch_up(place, time.perf_counter(), backlog=asked.backlog, start=0)
    with a_place(asked.broker) as place:
        killed_s = store(place, asked.events)
        print("its replacement", file=sys.stderr, flush=True)
        again = catch_up(place, killed_s, backlog=asked.backlog, start=asked.events)
    return {
        "machine": machine(),
        "broker": asked.broker,
        "events": asked.events,
        "backlog": asked.backlog,
        "recovery_s": again.caught_up_s,
        "ready_s": again.ready_s,
        "peak_mb": again.peak_mb,
        "fresh_start_s": fresh.caught_up_s,
        "ratio_to_fresh_start": again.caught_up_s / fresh.caught_up_s,
        "target_s": TARGET_S,
        "met": again.caught_up_s <= TARGET_S,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"{found['machine']}; {found['broker']} broker"
    yield (
        f"{found['events']:,} events in the lake, {found['backlog']:,} came: caught up {found['recovery_s']:.1f} s "
        f"after SIGKILL (read after {found['ready_s']:.1f} s, peak {found['peak_mb']:.0f} MB), "
        f"limit {TARGET_S:.0f} s: {'met' if found['met'] else 'MISSED'}"
    )
    yield (
        f"on an empty lake with as many coming: {found['fresh_start_s']:.1f} s; "
        f"the past makes it {found['ratio_to_fresh_start']:.2f} x as long"
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--events", type=int, default=5_000_000, help="in the lake when the worker dies")
    parser.add_argument("--backlog", type=int, default=100_000, help="that come while it starts")
    add_broker(parser)


if __name__ == "__main__":
    ask(__doc__, options, run, lines)
