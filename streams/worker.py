"""The worker: a Faust app around the data plane and the judge.

librdkafka feeds, Faust schedules: a thread puts whole micro-batches on an in-memory channel, an agent folds and commits
them, another keeps the latest recommendations, timers report and maintain the lake, tasks run the judge and the
enactor, and the app's web server answers `/health`, `/metrics` and `/verdicts`. Nothing that must be right rests on
Faust: an exception in the data plane ends the process, and the next one resumes from the lake.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import polars as pl
from polars.exceptions import PanicException

from analytics.lake.errors import READ_FAILURES
from analytics.lake.leases import LEASE_S
from analytics.lake.migrations import migrate
from analytics.lake.storage import unreadable
from analytics.lake.table_schemas import EVENTS
from analytics.lake.tables import Lake
from producers.errors import StagekeeperError
from producers.wire.topics import RECOMMENDATIONS, ROUTERS
from streams.broker import ensure_topics
from streams.control.enactor_report import EnactorReport
from streams.control.enactor_runner import LOOK_EVERY_S, EnactorRunner
from streams.control.judge_runner import JudgeRunner
from streams.control.maintenance_runner import Leases, MaintenanceRunner
from streams.control.outward import Outward
from streams.control.recommendation_cache import Recommendations
from streams.control.router_statuses import RouterStatuses
from streams.faust_app import KeptChannel, create_faust_app, follow, guarded
from streams.ingest.pipeline import Assignment, DataPlane, Pipeline
from streams.ingest.rejects import KafkaDeadLetters
from streams.ingest.source import Source, StoppedError
from streams.malloc import limit_memory, release_free_memory
from streams.metrics import CONTENT_TYPE, Enacting, FreshnessGauge, Progress, Totals, exposition, status_line
from streams.ports import available_port
from streams.ready_file import ReadyFile, web_address
from streams.shutdown import end_process, unsaved

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from streams.ingest.records import Batch
    from streams.worker_config import WorkerConfig

LOG: Final = logging.getLogger(__name__)
Result = TypeVar("Result")

_MAINTENANCE_EVERY_S: Final = 10.0
_LEASES_EVERY_S: Final = 2.0
_START_S: Final = 60.0
_STOP_S: Final = 4.0


class Worker:
    """One worker process; raises a `StagekeeperError` where the broker or the lake cannot be used."""

    def __init__(self, config: WorkerConfig) -> None:
        limit_memory()
        self._config = config
        self._ready_file = ReadyFile(config.ready_file)
        self._ready_file.withdraw()
        servers, now = config.bootstrap_servers, config.now
        self._log_id = ensure_topics(servers, config.kafka)
        self._web_port = config.web_port or available_port()
        self._progress = Progress()
        dead_letters = KafkaDeadLetters(servers, config.kafka)
        migrate(config.lake_root)
        lake = Lake.open(config.lake_root)
        pipeline = Pipeline(lake, dead_letters, key=config.receipt_key, now=now, keep=config.policy.kept(EVENTS))
        self._gauge = FreshnessGauge()
        self._plane = DataPlane(
            pipeline,
            self._progress,
            self.fail,
            lambda folded: self._gauge.note(pl.DataFrame(folded.events.select(["type", "time", "broker_at"])), now()),
        )
        self._leases = Leases(config.lake_root, judges=not config.data_only, enacts=config.stages is not None)
        self._maintenance = MaintenanceRunner(
            config.lake_root,
            config.gate_file,
            config.policy,
            every_s=config.maintenance_every_s,
            now=now,
            seal_every_s=config.seal_every_s,
            signers=config.signers,
        )
        self._began_s = time.monotonic()
        own_lake = Lake.open(config.lake_root)  # handles are not shared between threads
        self._source = Source(
            servers,
            self._log_id,
            own_lake,
            self.put,
            self._progress,
            on_failure=self.fail,
            settings=config.kafka,
            commit_every_s=config.commit_every_s,
        )
        self._judge_runner = JudgeRunner(
            servers, self._log_id, config.lake_root, config.gate_file, now=now, settings=config.kafka
        )
        self._routers = RouterStatuses(now)
        self._enactor_runner = None if config.stages is None else EnactorRunner(config, config.stages, self._routers)
        self._recommendations = Recommendations()
        self._recommendations.fill(lake)
        self._outward = Outward(config)
        names = ("judge", "enactor", "maintenance", "leases", "metrics", "webhooks")
        self._aside = {name: ThreadPoolExecutor(1, f"stagekeeper-{name}") for name in names}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[int] | None = None
        self._stopping = threading.Event()
        self._fault: str | None = None
        self._failure: BaseException | None = None
        self._reported = (time.monotonic(), Totals())

    def run(self) -> int:
        """Work until SIGTERM or SIGINT, which returns 0, or until something fails.

        Raises:
            StagekeeperError: The data plane cannot go on, or could not save what it had read before it stopped. Started
                again, it resumes from the lake.
        """
        # Batches are many small objects without cycles that live for a moment: look for cycles less often, and never
        # among what the imports made.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
        return asyncio.run(self._run())

    def put(self, item: Assignment | Batch) -> None:
        """Take an item from the source's thread once there is room; raises `StoppedError` while this worker stops."""
        loop = self._loop
        if loop is None or self._stopping.is_set():
            raise StoppedError("the worker is stopping")
        waiting = asyncio.run_coroutine_threadsafe(self._put(item), loop)
        while True:
            try:
                waiting.result(0.5)
            except FutureTimeoutError:
                if self._stopping.is_set():
                    waiting.cancel()
                    raise StoppedError("the worker is stopping") from None
            else:
                return

    def fail(self, error: BaseException) -> None:
        """End the worker with an error, from any thread."""
        loop, ended = self._loop, self._ended
        if loop is None or ended is None:
            raise error
        if isinstance(error, READ_FAILURES):
            error = unreadable(self._config.lake_root, error)
        if not self._stopping.is_set():
            self._failure = self._failure or error  # also while the last batches are being saved
            loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_exception(error))

    async def _run(self) -> int:
        loop = self._loop = asyncio.get_running_loop()
        ended = self._ended = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: None if ended.done() else ended.set_result(0))
        app = create_faust_app(
            self._config.bootstrap_servers, self._log_id, (self._config.web_host, self._web_port), self._config.kafka
        )
        self._channel = KeptChannel(app, maxsize=1)
        self._started = asyncio.Event()
        self._add_agents(app)
        self._add_timers(app)
        self._add_pages(app)
        LOG.info("starts: process %d, log %s, lake %s", os.getpid(), self._log_id, self._config.lake_root)
        starting = asyncio.ensure_future(app.start())
        self._source.start()
        drain = False
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=_START_S)
            if starting.done():
                starting.result()
                self._started.set()
            elif not ended.done():
                raise StagekeeperError(f"the worker did not start in {_START_S:.0f} s. Check the broker.")
            code: int = await ended
            if self._plane.assignment is None:
                end_process()  # there is nothing to save yet, and the groups are being joined
            drain = True
        finally:
            self._failure = self._failure or sys.exception()
            await self._stop(app, starting, drain=drain)
        if (reason := self._not_saved()) is not None:
            raise reason
        return code

    def _cut_off(self) -> None:
        """End at once, since the broker or the lake takes too long; what went wrong has a name all the same."""
        LOG.warning(
            "did not stop in %.0f s and waits no longer for the broker and the lake at %s; leases that could not be "
            "given up pass to another worker after %.0f s",
            _STOP_S,
            self._config.lake_root,
            LEASE_S,
        )
        end_process(self._not_saved())

    def _not_saved(self) -> BaseException | None:
        return self._failure or unsaved(self._source.unsaved, self._config.lake_root)

    async def _stop(self, app: Any, starting: asyncio.Future[Any], *, drain: bool) -> None:  # noqa: ANN401
        """Stop in order, within `_STOP_S`; what is not committed by then is read again by the next worker."""
        # Python joins every thread at its end, and one may wait for a broker that is gone: do not wait for it.
        last_resort = threading.Timer(_STOP_S, self._cut_off)
        last_resort.daemon = True
        last_resort.start()
        deadline = time.monotonic() + _STOP_S
        self._ready_file.withdraw()
        LOG.info("stops%s", "" if drain else f": {self._failure}")
        if not drain:
            self._stopping.set()
        await asyncio.to_thread(self._source.stop, _STOP_S * 0.6, drain=drain)
        self._stopping.set()
        # All is saved that can be. Faust's threads fall over where they are stopped without a broker; that is no news.
        threading.excepthook = lambda fallen: LOG.debug("%s while stopping: %s", fallen.thread, fallen.exc_value)
        if not starting.done():
            starting.cancel()
        try:
            await asyncio.wait_for(app.stop(), max(0.1, deadline - time.monotonic() - 0.5))
        except TimeoutError:
            LOG.warning("Faust did not stop in time")
        self._plane.close()
        await asyncio.to_thread(self._leases.release)
        for pool in self._aside.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def _put(self, item: Assignment | Batch) -> None:
        await self._started.wait()  # before that nobody listens, and what is put is lost
        await self._channel.put(item)

    def _add_agents(self, app: Any) -> None:  # noqa: ANN401
        async def data_plane(stream: AsyncIterable[Assignment | Batch]) -> None:
            async for item in stream:
                await self._plane.take(item)
                if isinstance(item, Assignment):
                    web = web_address(self._config.web_host, self._web_port)
                    LOG.info("ready: reads log %s, answers at %s", self._log_id, web)
                    self._ready_file.announce(self._log_id, web, enacts=self._config.stages is not None)

        app.agent(self._channel, name="data-plane")(data_plane)
        follow(app, RECOMMENDATIONS, self._recommendations.take)
        follow(app, ROUTERS, self._routers.take)

    def _add_timers(self, app: Any) -> None:  # noqa: ANN401
        async def report() -> None:
            now_s, totals = time.monotonic(), self._progress.totals
            reported_s, reported = self._reported
            if totals.read != reported.read:
                line = status_line(reported, totals, now_s - reported_s, as_json=self._config.as_json)
                self._config.say(line)
            self._reported = (now_s, totals)

        async def maintenance() -> None:
            await self._run_aside("maintenance", lambda: self._maintenance.run_once(self._leases.maintenance))
            await self._run_aside("maintenance", release_free_memory)

        async def leases() -> None:
            await self._run_aside("leases", self._refresh_leases)

        async def judge() -> None:
            pause_s = 0.0
            while not self._stopping.is_set():
                await asyncio.sleep(pause_s)
                pause_s = await self._judge()

        async def enactor() -> None:
            while not self._stopping.is_set() and self._enactor_runner is not None:
                await asyncio.sleep(LOOK_EVERY_S)
                await self._enact(self._enactor_runner)

        app.timer(1.0)(report)
        for name, every_s, work in self._outward.timers:
            app.timer(every_s)(partial(self._run_aside, name, partial(work, lambda: self._leases.judge)))
        app.timer(_LEASES_EVERY_S)(leases)
        app.timer(_MAINTENANCE_EVERY_S)(maintenance)
        app.task(judge)
        app.task(enactor)

    def _add_pages(self, app: Any) -> None:  # noqa: ANN401
        async def livez(web: Any, _request: Any) -> Any:  # noqa: ANN401
            alive = self._failure is None and self._source.is_alive
            return web.json({"live": alive}, status=200 if alive else 503)

        async def readyz(web: Any, _request: Any) -> Any:  # noqa: ANN401
            faults = self._not_ready()
            ready = {"ready": not faults, "faults": faults, "enacts": self._leases.enactor is not None}
            return web.json(ready, status=503 if faults else 200)

        async def health(web: Any, _request: Any) -> Any:  # noqa: ANN401
            totals, runner = asdict(self._progress.totals), self._enactor_runner
            enactor = {} if runner is None else {"enactor": runner.report.fault or "ok"}
            return web.json({"log_id": self._log_id, "judge": self._fault or "ok", **enactor, **totals})

        async def verdicts(web: Any, _request: Any) -> Any:  # noqa: ANN401
            return web.json({"verdicts": self._recommendations.as_list()})

        async def routers(web: Any, _request: Any) -> Any:  # noqa: ANN401
            return web.json({"routers": self._routers.as_list()})

        async def metrics(web: Any, _request: Any) -> Any:  # noqa: ANN401
            text = exposition(
                self._progress.totals,
                self._gauge.seen(self._config.now()),
                up_s=time.monotonic() - self._began_s,
                judging=self._leases.judge is not None,
                judge_fault=self._fault is not None,
                now=self._config.now(),
                enacting=self._enacting(),
                more=self._outward.lines,
            )
            return web.text(text, content_type=CONTENT_TYPE)

        for view in (livez, readyz, health, metrics, verdicts, routers):
            app.page(f"/{view.__name__}")(guarded(view, {self._config.web_host, *self._config.web_names}))

    def _not_ready(self) -> list[str]:
        """Why this worker does not do its work at this moment; nothing where it does."""
        enactor = EnactorReport() if self._enactor_runner is None else self._enactor_runner.report
        conditions = {
            "it is stopping": self._stopping.is_set(),
            "the data plane has failed": self._failure is not None or not self._source.is_alive,
            "it has no partitions to read yet": self._plane.assignment is None,
            "the broker does not answer": self._source.is_away,
            f"judge: {self._fault}": self._fault is not None,
            f"enactor: {enactor.fault}": self._leases.enactor is not None and enactor.is_failing,
        }
        return [fault for fault, holds in conditions.items() if holds]

    async def _judge(self) -> float:
        """Run the judge once, if this worker holds the lease for it; seconds until the next time."""
        fence = self._leases.judge
        if fence is None:
            await self._run_aside("leases", self._refresh_leases)
            return 1.0 if self._leases.judge is None else 0.0
        run = await self._run_aside("judge", lambda: self._judge_runner.run_once(fence))
        if run is None:
            return 1.0
        if run.fault != self._fault:
            self._fault = run.fault
            self._config.say(f"judge: {run.fault or 'judging again'}")
        return run.next_in_s

    async def _enact(self, runner: EnactorRunner) -> None:
        """Carry out what is due, if this worker holds the lease for it."""
        fence, before = self._leases.enactor, runner.report.fault
        report = None if fence is None else await self._run_aside("enactor", lambda: runner.run_once(fence))
        if report is not None and report.fault != before:
            self._config.say(f"enactor: {report.fault or 'carrying out again'}")

    def _enacting(self) -> Enacting | None:
        if self._enactor_runner is None:
            return None
        report, is_holder = self._enactor_runner.report, self._leases.enactor is not None
        fault, took_s = is_holder and report.fault is not None, (report.seconds_to_apply, report.seconds_to_force)
        return Enacting(is_holder, fault, report.lives, *took_s)

    async def _run_aside(self, name: str, work: Callable[[], Result]) -> Result | None:
        """Work in a thread of its own; a named failure is logged, and does not hold up the data plane."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._aside[name], work)
        except StagekeeperError as error:
            LOG.warning("%s: %s", name, error)
            return None
        except (Exception, PanicException) as error:
            self.fail(error)
            raise

    def _refresh_leases(self) -> None:
        if self._plane.assignment is None:
            return  # before that this worker is no good to anybody
        before = self._leases.judge
        self._leases.refresh()
        if (fence := self._leases.judge) != before:
            LOG.info("another worker judges now" if fence is None else f"judges from now on, tenure {fence.epoch}")
