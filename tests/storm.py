"""A storm over the data plane, and the count afterwards.

Traffic with repeats, disorder and broken records flows at a steady pace while workers are killed, frozen past their
session, joined by others, denied the lake and cut off from the broker. They enact as well, and are killed in the moment
in which the flag file changes. Afterwards the tables of the lake are compared with what the simulator says that it
emitted, to the last unit, and flag file, enactments and policy changes with each other.

    python tests/storm.py --events 1000000 --kills 20 --broker apache
    python tests/storm.py --minutes 60 --broker embedded
    python tests/storm.py --events 100000 --kills 5 --broker apache --lake bucket

Prints what happens, then every difference; exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import polars as pl
from invariants import broken_invariants
from storm_enactor import Enacted
from storm_places import a_broker, a_folder, a_storage
from storm_traffic import KEY, Fingerprint, Traffic, lopsided
from workers import WorkerProcess, await_drained, await_that

from analytics.enactment.enactments import enactments
from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.signals.definitions import COUNTERS
from streams.apache_broker import ApacheBroker
from streams.broker import EmbeddedBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import Broker
    from storages import Storage

    from analytics.lake.tables import Lake
    from producers.simulation.ground_truth import GroundTruth

SESSION_S = 6.0
"""The workers' session timeout."""

REFUSAL_S = 10.0
"""How long the lake refuses to be written."""

_AFTER_PROGRESS = 0.75
"""Share of disasters that wait for a commit first; the others also hit workers that have not come to work yet."""

_LASTS_S = {"kill": 7.0, "zombie": 16.0, "second_worker": 9.0, "refusal": 14.0, "restart_of_the_broker": 15.0} | {
    "kill_amid_a_change": 15.0
}
"""How long each disaster and the recovery take, about; how long they do take on this machine is learned."""

_QUICKEST = 0.3
"""The traffic is never spread over less than this share of those times."""


class Crew:
    """The workers, and a supervisor that replaces one that ends."""

    def __init__(self, folder: Path, broker: Broker, lake_root: str, enacted: Enacted) -> None:
        self._folder, self._broker, self._lake_root, self.enacted = folder, broker, lake_root, enacted
        self.workers: list[WorkerProcess] = []
        self.ended: list[str] = []

    def join(self) -> WorkerProcess:
        environment = self.enacted.environment
        worker = WorkerProcess(self._folder, self._broker, self._lake_root, KEY, environment=environment)
        self.workers.append(worker)
        return worker

    def leave(self, worker: WorkerProcess, *, kill: bool) -> None:
        """Let one go, by an order that it may refuse or by one that it may not."""
        self.workers.remove(worker)
        if kill:
            worker.kill()
        elif (code := worker.stop()) not in (0, -signal.SIGTERM):  # the latter, where it had hardly begun
            self._note(worker, code)

    def tend(self) -> None:
        """Replace those that ended by themselves."""
        for worker in list(self.workers):
            if (code := worker.process.poll()) is not None:
                self.workers.remove(worker)
                self._note(worker, code)
                self.join()

    def _note(self, worker: WorkerProcess, code: int) -> None:
        lines = [line for line in worker.log.read_text().splitlines() if line.startswith("Error: ")]
        self.ended.append(lines[-1] if lines else f"exit code {code} without a named error; see {worker.log}")

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.process.send_signal(signal.SIGCONT)
            worker.kill()
        self.workers.clear()


@dataclass
class Weather:
    """What comes over the workers, in random order.

    Args:
        crew: The workers.
        storage: Where the lake lies.
        broker: The broker.
        traffic: What flows meanwhile.
        random: Decides order and moments.
        say: Takes what happens, line by line.
    """

    crew: Crew
    storage: Storage
    broker: Broker
    traffic: Traffic
    random: Random
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)

    def rage(self, kills: int) -> None:
        """So many kills, and for every ten of them each other disaster once (at least once), in random order."""
        others: list[Callable[[], None]] = [self.zombie, self.second_worker, self.refusal, self.kill_amid_a_change]
        if isinstance(self.broker, ApacheBroker):
            others.append(self.restart_of_the_broker)
        disasters = [self.kill] * kills + others * max(1, kills // 10)
        self.random.shuffle(disasters)
        expected_s = took_s = 0.0
        for index, disaster in enumerate(disasters):
            pace = max(_QUICKEST, took_s / expected_s) if expected_s else 1.0
            self.traffic.last_for(pace * sum(_LASTS_S[each.__name__] for each in disasters[index:]))
            self.traffic_up_to(index / len(disasters))
            began = time.monotonic()
            if self.random.random() < _AFTER_PROGRESS:
                self.progress()
            disaster()
            name = disaster.__name__
            expected_s += _LASTS_S[name]
            took_s += time.monotonic() - began
            self.done[name] += 1
            over = " (after the last event)" if self.traffic.over else ""
            emitted = self.traffic.simulator.ground_truth.emitted
            self.say(f"{name}: {time.monotonic() - began:.1f} s, {emitted:,} events{over}")
        self.traffic.last_for(0)

    def traffic_up_to(self, share: float) -> None:
        """Wait until so much of the traffic has flowed, so that nothing is left to a calm in the end."""
        flowed = self.traffic.share
        while not self.traffic.over and flowed < share:
            before = flowed
            await_that(lambda before=before: self._flows_on(before), f"more than {before:.2%} of the traffic")  # type: ignore[misc] # bound
            flowed = self.traffic.share

    def _flows_on(self, before: float) -> bool:
        self.crew.tend()
        return self.traffic.over or self.traffic.share > before

    def progress(self) -> None:
        """Wait for a commit that is not there yet, or for the end of the traffic."""

        def moved() -> bool:
            self.crew.tend()
            return self.storage.newest() != before or self.traffic.over

        before = self.storage.newest()
        await_that(moved, "a commit", every_s=self.storage.look_every_s)

    def moment(self) -> None:
        """A random moment."""
        time.sleep(self.random.uniform(0.0, 0.6))

    def kill(self) -> None:
        """SIGKILL at a random moment."""
        self.moment()
        self.crew.leave(self.random.choice(self.crew.workers), kill=True)
        self.crew.join()

    def kill_amid_a_change(self) -> None:
        """SIGKILL of all in the moment in which the flag file changes."""

        def changed() -> bool:
            self.crew.tend()
            return self.crew.enacted.version != before

        before = self.crew.enacted.version
        self.crew.enacted.let(every=True)
        if self.done["kill_amid_a_change"] == 0:  # from then on nothing is left to change
            await_that(changed, "a rollback", every_s=0.001)
        self.crew.kill_all()
        self.crew.join()

    def zombie(self) -> None:
        """SIGSTOP until somebody else has the partitions, then SIGCONT."""
        stopped = self.random.choice(self.crew.workers)
        other = self._another()
        self.moment()
        stopped.process.send_signal(signal.SIGSTOP)
        time.sleep(SESSION_S + 1.0)  # the passing of time is what is wanted
        if not isinstance(self.broker, EmbeddedBroker):  # there nobody takes over from a worker that is not dead
            self.progress()
        stopped.process.send_signal(signal.SIGCONT)
        self.progress()
        if other in self.crew.workers:
            self.crew.leave(other, kill=False)

    def _another(self) -> WorkerProcess:
        """One more worker, at work; on the embedded broker it waits for its turn instead."""
        other = self.crew.join()
        if not isinstance(self.broker, EmbeddedBroker):
            other.await_ready()
        return other

    def second_worker(self) -> None:
        """Another worker joins, works and leaves."""
        other = self._another()
        self.progress()
        self.moment()
        if other in self.crew.workers:
            self.crew.leave(other, kill=False)

    def refusal(self) -> None:
        """The lake takes nothing for ten seconds."""
        with self.storage.refusing() as refused:
            if not refused:
                self.say("NOT TRIED: a lake that refuses writes (root, and a file system without immutable folders)")
                return
            until = time.monotonic() + REFUSAL_S
            while time.monotonic() < until:
                self.crew.tend()
                time.sleep(0.1)

    def restart_of_the_broker(self) -> None:
        """Apache Kafka goes down and comes back with its log."""
        assert isinstance(self.broker, ApacheBroker)
        self.broker.stop()
        self.broker.restart()


def differences(lake: Lake, ground_truth: GroundTruth, sent: Fingerprint) -> list[str]:
    """Where the lake does not say what was emitted."""
    found: list[str] = []

    def compare(what: str, stored: object, emitted: object) -> None:
        if stored != emitted:
            found.append(f"{what}: the lake says {stored}, emitted were {emitted}")

    # What the workers' own judge and enactor say comes through the same log.
    events = lake.scan(EVENTS).filter(~pl.col("source").str.starts_with("/stagekeeper/"))
    counts = events.select(pl.len(), pl.col("id").n_unique().alias("ids")).collect()
    compare("events", counts["len"][0], ground_truth.emitted)
    compare("ids", counts["ids"][0], ground_truth.emitted)
    by_type = events.group_by("type").len().collect()
    compare("events by type", dict(sorted(by_type.iter_rows())), dict(sorted(ground_truth.by_type.items())))
    kept = Fingerprint()
    for chunk in events.select("value").collect_batches(chunk_size=50_000):
        for value in chunk["value"]:
            kept.add(value)
    compare("bytes", kept.stated, sent.stated)
    rejects = lake.scan(REJECTS).select("topic", "partition", "offset", "reason").collect()
    compare("rejected places", rejects.select("topic", "partition", "offset").n_unique(), rejects.height)
    compare("rejects", Counter(rejects["reason"]), ground_truth.malformed)
    cell = ("environment", "workflow", "tool", "stage", "cohort")
    sums = (
        lake.scan(SIGNALS)
        .group_by(cell)
        .agg(
            pl.col(COUNTERS).sum(),
            pl.col("latency_counts").list.sum().sum().alias("latency_known"),
            pl.col("cost_counts").list.sum().sum().alias("cost_known"),
        )
    )
    stored = {tuple(row[name] for name in cell): row for row in sums.collect().iter_rows(named=True)}
    compare("cells", sorted(stored), sorted(tuple(each) for each in ground_truth.cells))
    for each, counted in ground_truth.cells.items():
        row = stored.get(tuple(each), {})
        for name in COUNTERS:
            compare(f"{each.tool} at {each.stage}: {name}", row.get(name), counted.counts[name])
        compare(f"{each.tool} at {each.stage}: known latencies", row.get("latency_known"), counted.latency_known)
        compare(f"{each.tool} at {each.stage}: known costs", row.get("cost_known"), counted.cost_known)
    return found + broken_invariants(lake)


@dataclass(frozen=True)
class Aftermath:
    """What was left.

    Attributes:
        ground_truth: What was emitted.
        differences: Where the lake says something else.
        ended: The last words of the workers that ended by themselves.
        done: How often which disaster came.
    """

    ground_truth: GroundTruth
    differences: list[str]
    ended: list[str]
    done: Counter[str]


def storm(
    broker: Broker,
    folder: Path,
    storage: Storage,
    *,
    events: int,
    kills: int,
    seed: int,
    say: Callable[[str], None],
) -> Aftermath:
    """Let a storm pass.

    Args:
        broker: A broker with empty topics.
        folder: For the logs.
        storage: Where the lake is to lie.
        events: Distinct events.
        kills: How often a worker is killed.
        seed: Decides traffic, order and moments.
        say: Takes what happens, line by line.
    """
    enacted = Enacted(folder / "enacted", lopsided())
    crew = Crew(folder, broker, storage.root, enacted)
    try:
        crew.join().await_ready()
        with Traffic(broker, events=events, seed=seed) as traffic:
            weather = Weather(crew, storage, broker, traffic, Random(seed), say)
            weather.rage(kills)
            truth, sent = traffic.finish()
        began = time.monotonic()
        lake = await_drained(broker, storage.root, crew.tend)
        say(f"drained: {time.monotonic() - began:.1f} s")

        def agree() -> bool:
            crew.tend()
            return not enacted.disagreements(lake)

        with suppress(AssertionError):  # what does not agree is told below
            await_that(agree, "flag file, enactments and policy changes to agree", every_s=0.5)
        say(f"agreed: {time.monotonic() - began:.1f} s, {len(enactments(lake))} rollbacks")
        for worker in list(crew.workers):
            crew.leave(worker, kill=False)
    finally:
        crew.kill_all()
    found = differences(lake, truth, sent) + enacted.disagreements(lake)
    return Aftermath(truth, found, crew.ended, weather.done)


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main() -> int:
    """The storm as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="go on this long, with as many kills and events as fit")
    parser.add_argument("--broker", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--lake", choices=("folder", "bucket"), default="folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep lake and logs in this folder, which must not exist")
    asked = parser.parse_args()
    events, kills = asked.events, asked.kills
    if asked.minutes:
        kills = max(1, round((asked.minutes * 60 - 40) / 8))
        events = round(asked.minutes * 60 * 1_500)
    with (
        a_folder(asked.keep) as name,
        a_broker(asked.broker, Path(name)) as broker,
        a_storage(asked.lake, Path(name)) as storage,
    ):
        began = time.monotonic()
        aftermath = storm(broker, Path(name), storage, events=events, kills=kills, seed=asked.seed, say=_say)
        for line in aftermath.ended:
            _say(f"ended by itself: {line}")
        for line in aftermath.differences:
            _say(f"DIFFERENT: {line}")
        _say(
            f"{aftermath.ground_truth.emitted:,} events, {aftermath.ground_truth.repeats:,} repeats, "
            f"{aftermath.ground_truth.malformed.total():,} broken, {dict(aftermath.done)} "
            f"in {time.monotonic() - began:.0f} s: "
            f"{'different' if aftermath.differences else 'equal to the last unit'}"
        )
        return 1 if aftermath.differences else 0


if __name__ == "__main__":
    sys.exit(main())
