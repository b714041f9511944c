"""More than one worker on a lake: partitions move, one judges, and every event is counted once."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import object_store
import polars as pl
import pytest
from object_store import BUCKET, ObjectStore
from workers import Spoken, WorkerProcess, await_drained, await_that, metrics

from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.signals.definitions import COUNTERS
from streams.broker import EmbeddedBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_workers_share_the_work_and_take_over_from_each_other(
    either_broker: Broker, either_lake: str, tmp_path: Path
) -> None:
    lake_root = either_lake
    if "://" in lake_root and isinstance(either_broker, EmbeddedBroker):
        pytest.skip("object storage is tried where workers share the partitions")
    together = not isinstance(either_broker, EmbeddedBroker)
    spoken = Spoken(either_broker)
    first = WorkerProcess(tmp_path, either_broker, lake_root)
    second = None
    try:
        first.await_ready()
        spoken.say(500)
        await_drained(either_broker, lake_root)
        second = WorkerProcess(tmp_path, either_broker, lake_root, "", "--data-only")
        if together:
            second.await_ready()
            for _ in range(20):
                spoken.say(200)
                await_drained(either_broker, lake_root)
                if metrics(second)["events_stored_total"]:
                    break
            assert metrics(first)["judging"] == 1
            assert metrics(second)["judging"] == 0
            assert metrics(second)["events_stored_total"] > 0
        measured = metrics(first)
        assert measured["events_stored_total"] >= 500
        assert 0 < measured['freshness_seconds{quantile="0.5"}'] <= measured['freshness_seconds{quantile="0.99"}']
        assert measured["commit_seconds_count"] > 0
        first.kill()
        spoken.say(300)
        lake = await_drained(either_broker, lake_root)
        await_that(lambda: metrics(second)["events_stored_total"] >= 300, "the second to have stored the rest")
        assert second.stop() == 0
    finally:
        first.kill()
        if second is not None:
            second.kill()
    stored = lake.scan(EVENTS).select("id").collect()
    assert sorted(stored["id"]) == sorted(f"e-{number}" for number in range(spoken.count))
    sums = lake.scan(SIGNALS).select(pl.col(COUNTERS).sum()).collect().row(0, named=True)
    assert sums["decisions"] == sums["allowed"] == spoken.count


def judging_and_other(workers: list[WorkerProcess]) -> tuple[WorkerProcess, WorkerProcess]:
    """The worker that judges, and the other one, once there is one that does."""
    await_that(lambda: sum(metrics(worker)["judging"] for worker in workers) == 1, "one to judge", every_s=0.2)
    judging, other = sorted(workers, key=lambda worker: -metrics(worker)["judging"])
    return judging, other


def test_one_worker_of_two_judges_and_the_other_takes_over(
    either_broker: Broker, either_lake: str, tmp_path: Path
) -> None:
    if isinstance(either_broker, EmbeddedBroker):
        pytest.skip("on the embedded broker the second worker waits, and judges nothing")
    workers = [WorkerProcess(tmp_path / str(number), either_broker, either_lake) for number in range(2)]
    try:
        judging, other = judging_and_other(workers)
        Spoken(either_broker).say(50)
        await_drained(either_broker, either_lake)
        assert sum(metrics(worker)["judging"] for worker in workers) == 1
        assert judging.stop() == 0
        await_that(lambda: metrics(other)["judging"] == 1, "the other to judge at once", every_s=0.2)
        workers = [other, WorkerProcess(tmp_path / "third", either_broker, either_lake)]
        third = workers[1]
        third.await_ready()
        other.kill()
        await_that(lambda: metrics(third)["judging"] == 1, "the third to judge after a lease", every_s=0.2)
    finally:
        for worker in (judging, *workers):
            worker.kill()


@contextmanager
def unavailable(store: ObjectStore) -> Iterator[list[str]]:
    """Something that answers 503 in the place of a store that has been stopped; the paths that it was asked for."""
    asked: list[str] = []

    class Unavailable(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        do_GET = do_PUT = do_POST = do_HEAD = _refuse  # noqa: N815 - the names that the base class looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            """Say nothing."""

    port = int(store.endpoint.rpartition(":")[2])
    with ThreadingHTTPServer(("127.0.0.1", port), Unavailable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def test_a_worker_whose_store_dies_says_what_it_could_not_save(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    if reason := object_store.missing():
        pytest.skip(reason)
    store, root = ObjectStore.start(tmp_path / "store"), f"s3://{BUCKET}/lake"
    worker = WorkerProcess(tmp_path, own_broker, root, environment=store.environment)
    try:
        worker.await_ready()
        store.stop()
        with unavailable(store) as asked:
            Spoken(own_broker).say(20)
            await_that(lambda: any("/events" in path or "%2Fevents" in path for path in asked), "a commit to begin")
            assert worker.stop() == 1
        said = worker.log.read_text()
        (named,) = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert root in named or root in said.partition(named)[2], said  # what a store answers has many lines
        assert "Traceback" not in said
    finally:
        worker.kill()
        store.process.kill()
        store.process.wait()
