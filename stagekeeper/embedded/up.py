"""The embedded whole: broker, topics, lake, worker, traffic and page, started in order and stopped together."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from analytics.lake.table_schemas import EVENTS, VERDICTS
from analytics.lake.tables import Lake
from producers.errors import UsageError
from producers.wire.topics import TOPICS
from stagekeeper.embedded import programs
from stagekeeper.embedded.demo import GATE_FILE, fresh_folder
from stagekeeper.embedded.home_lock import Claim, claimed
from stagekeeper.embedded.ports import LOOPBACK, available_port
from stagekeeper.embedded.status import Standing
from stagekeeper.embedded.supervisor import Supervisor, await_ready, ended
from streams.broker import BrokerError, EmbeddedBroker, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta

    from analytics.report import Report
    from stagekeeper.embedded.progress import Progress
    from stagekeeper.settings import Settings
    from streams.children import Child

_READY_S: Final = 60.0
_LIVE_EVERY_S: Final = 2.0
_TRAFFIC_END_S: Final = 25.0
_LOOK_EVERY_S: Final = 0.25
_STUCK_S: Final = 30.0
"""Seconds without any progress after which what is outstanding is given up."""
_STOP_GRACE_S: Final = 6.0


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for.

    Attributes:
        settings: Where things are, from the environment; `home` is the home folder in force.
        demo: Simulated traffic into a fresh lake of its own.
        gate_file: The gate file, where one was named.
        page: Whether the page is wanted.
        lasting: How long to run once everything is up; None is until stopped.
        kafka_port: Preferred port of the embedded broker; 0 is any.
        page_port: Preferred port of the page; 0 is any.
    """

    settings: Settings
    demo: bool
    gate_file: Path | None
    page: bool
    lasting: timedelta | None
    kafka_port: int
    page_port: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        report: The document of `analytics.report` where the run reached its end; None where it was stopped.
        exit_code: 0; 1 where something is missing from the report; 128 + the signal where a run of a given length was
            cut short.
    """

    report: Report | None
    exit_code: int


def run(wanted: Wanted, progress: Progress) -> Outcome:
    """Start everything that is wanted, keep it going, and stop all of it.

    Returns when `wanted.lasting` is over, or on SIGINT, SIGTERM or SIGHUP. No child process is left in any case.

    Raises:
        StagekeeperError: Something could not start, or the broker died.
    """
    home = wanted.settings.home
    with claimed(home) as claim:
        if claim.replaced is not None:
            progress.step("home", f"process {claim.replaced} ended without tidying up {home}; done now")
        return asyncio.run(_until_stopped(_Whole(wanted, progress, claim)))


async def _until_stopped(whole: _Whole) -> Outcome:
    """Run the whole, and turn the first signal into an orderly end."""
    received: list[int] = []
    task = asyncio.ensure_future(whole.run())

    def stop(number: signal.Signals) -> None:
        if not received:
            whole.progress.step("stop", f"{number.name}: stopping everything")
            task.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return Outcome(None, 0 if whole.wanted.lasting is None else 128 + received[0])


class _Whole:
    """One run: what was started, and who watches it."""

    def __init__(self, wanted: Wanted, progress: Progress, claim: Claim) -> None:
        self.wanted = wanted
        self.progress = progress
        self._claim = claim
        self._supervisor = Supervisor(functools.partial(progress.step, "restart"))
        self._traffic_fault: str | None = None
        self._traffic_wanted = True

    async def run(self) -> Outcome:
        """Everything, from the broker to the report; whatever was started is stopped on every way out.

        Raises:
            StagekeeperError: Something could not start, or the broker died.
        """
        settings = self._places()
        with ExitStack() as at_end:
            settings, broker = self._broker(settings, at_end)
            at_end.callback(self._stop_children)  # before the broker, to which they may have something to say
            try:
                async with asyncio.TaskGroup() as group:
                    watchers = _Watchers(group)
                    if broker is not None:
                        watchers.add(_fail_when_ended(broker))
                    outcome = await self._carry_on(settings, watchers)
                    watchers.cancel()
                    return outcome
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    def _places(self) -> Settings:
        """Where everything lies, as absolute paths: children may run in another folder."""
        asked = self.wanted.settings
        home = asked.home.absolute()
        gates = self.wanted.gate_file or (GATE_FILE if self.wanted.demo else asked.gates)
        if self.wanted.gate_file is not None and not gates.is_file():
            raise UsageError(f"there is no gate file at {gates}.")
        lake = asked.lake
        if self.wanted.demo:
            folder = home / "demo"
            if fresh_folder(folder):
                self.progress.step("demo", f"wiped the previous demonstration in {folder}")
            lake = str(folder / "lake")
        elif "://" not in lake:
            lake = str(Path(lake).absolute())
        return asked.model_copy(update={"home": home, "lake_root": lake, "gate_file": gates.absolute()})

    def _broker(self, settings: Settings, at_end: ExitStack) -> tuple[Settings, Child | None]:
        """The broker in use, and the process when it is ours. Runs on the thread that stays."""
        if settings.kafka_bootstrap_servers is not None:
            self.progress.step("broker", f"the cluster at {settings.kafka_bootstrap_servers}")
            return settings, None
        port = self._port("broker", self.wanted.kafka_port)
        broker = EmbeddedBroker.start(settings.home, port=port)
        at_end.callback(broker.stop)
        self.progress.step("broker", f"embedded, at {broker.address} (process {broker.pid}, in memory)")
        return settings.model_copy(update={"kafka_bootstrap_servers": broker.address}), broker.child

    async def _carry_on(self, settings: Settings, watchers: _Watchers) -> Outcome:
        """From the topics to the end of the run."""
        bootstrap_servers = settings.require_kafka()
        log_id = await asyncio.to_thread(ensure_topics, bootstrap_servers, settings.kafka_security)
        self.progress.step("topics", f"{len(TOPICS)} ready on {log_id}")
        await asyncio.to_thread(Lake.open, settings.lake)
        self.progress.step("lake", f"at {settings.lake}")
        has_gates = settings.gates.is_file()
        if not has_gates:
            self.progress.step(
                "gates", f"no gate file at {settings.gates}: signals are kept, but verdicts need one (--gates FILE)"
            )
        stated = {"kafka_bootstrap_servers": bootstrap_servers, "lake_root": settings.lake}
        self._claim.announce({**stated, "gate_file": str(settings.gates)})
        traffic = await self._start_programs(settings, watchers)
        watchers.add(self._check_quality(settings, VERDICTS if has_gates else EVENTS))
        with Standing(
            settings.lake, bootstrap_servers, log_id, judged=has_gates, settings=settings.kafka_security
        ) as standing:
            await self._live(standing)
            if traffic is not None:
                await self._end_traffic(traffic)
            missing = await self._settle(standing)
            report = await asyncio.to_thread(standing.report)
        fault = missing or self._traffic_fault
        if fault is not None:
            self.progress.step("fault", fault)
        return Outcome(report, 1 if fault is not None else 0)

    async def _start_programs(self, settings: Settings, watchers: _Watchers) -> Child | None:
        """Start worker, traffic and page at once, and wait for each; the traffic's process, where there is one."""
        ready_file = settings.home / "worker.ready"
        ready_file.unlink(missing_ok=True)
        page_port = self._port("page", self.wanted.page_port) if self.wanted.page else None
        page = programs.page(settings, page_port) if page_port is not None else None
        worker = programs.worker(settings, ready_file)
        worker_child = self._supervisor.start(worker)
        page_child = self._supervisor.start(page) if page is not None else None
        traffic = None
        if self.wanted.demo:
            traffic = self._supervisor.start(programs.demo_traffic(settings, settings.home / "demo" / "truth.json"))
            watchers.add(self._note_end_of(traffic))
            self.progress.step(
                "traffic",
                f"simulated, through the SDK: {programs.DEMO_HISTORY_EVENTS:,} events of the past "
                f"{programs.DEMO_HISTORY}, then {programs.DEMO_RATE} a second",
            )
        await await_ready(worker_child, ready_file.exists, timeout_s=_READY_S)
        watchers.add(self._supervisor.keep(worker))
        self.progress.step("worker", f"reads and judges (process {worker_child.process.pid}, log {worker_child.log})")
        if page is not None and page_child is not None and page_port is not None:
            await await_ready(page_child, functools.partial(programs.page_answers, page_port), timeout_s=_READY_S)
            watchers.add(self._supervisor.keep(page))
            self.progress.step("page", f"open http://{LOOPBACK}:{page_port}")
        return traffic

    async def _check_quality(self, settings: Settings, after: str) -> None:
        """Validate fresh events now and then; the first time once a table has rows, out of the way of the start."""
        lake = await asyncio.to_thread(Lake.open, settings.lake)
        while await asyncio.to_thread(lake.version, after) == 0:  # noqa: ASYNC110 - a table has nothing to wait on
            await asyncio.sleep(_LIVE_EVERY_S)
        await self._supervisor.repeat(
            programs.quality(settings), programs.QUALITY_EVERY_S, unremarkable=frozenset({0, 1})
        )

    async def _live(self, standing: Standing) -> None:
        """Say how things are until the time is over; without a given time, until cancelled."""
        lasting = self.wanted.lasting
        ends_s = None if lasting is None else time.monotonic() + lasting.total_seconds()
        ending = "Ctrl-C stops everything" if lasting is None else f"ends in {lasting.total_seconds():.0f} s"
        self.progress.step("running", ending)
        while ends_s is None or time.monotonic() < ends_s:
            self.progress.live(await asyncio.to_thread(standing.line))
            left_s = _LIVE_EVERY_S if ends_s is None else ends_s - time.monotonic()
            await asyncio.sleep(max(0.0, min(_LIVE_EVERY_S, left_s)))

    async def _end_traffic(self, traffic: Child) -> None:
        """Let the traffic end in order, so that everything it emitted is on the broker."""
        if not traffic.running:
            return
        self.progress.step("traffic", "ends")
        self._traffic_wanted = False
        traffic.ask_to_stop()
        try:
            await asyncio.wait_for(ended(traffic), _TRAFFIC_END_S)
        except TimeoutError:
            self._traffic_fault = f"{traffic.name} did not end in {_TRAFFIC_END_S:.0f} s (log: {traffic.log})"
        else:
            if traffic.process.returncode != 0:
                self._traffic_fault = traffic.reason()

    async def _settle(self, standing: Standing) -> str | None:
        """Wait until everything emitted is in the lake and judged; what is missing when nothing moves any more."""
        moved_s, before = time.monotonic(), ""
        while (outstanding := await asyncio.to_thread(standing.outstanding)) is not None:
            self.progress.live(outstanding)
            if outstanding != before:
                moved_s, before = time.monotonic(), outstanding
            elif time.monotonic() - moved_s > _STUCK_S:
                return f"{outstanding}, and nothing has moved for {_STUCK_S:.0f} s"
            await asyncio.sleep(_LOOK_EVERY_S)  # the tables offer nothing to wait on
        self.progress.step("settled", await asyncio.to_thread(standing.line))
        return None

    async def _note_end_of(self, traffic: Child) -> None:
        await ended(traffic)
        if self._traffic_wanted:
            self._traffic_fault = traffic.reason()
            self.progress.step("traffic", self._traffic_fault)

    def _port(self, name: str, wanted: int) -> int:
        port = available_port(wanted)
        if wanted not in (0, port):
            self.progress.step(name, f"port {wanted} is taken; using {port} instead")
        return port

    def _stop_children(self) -> None:
        killed = self._supervisor.stop_all(_STOP_GRACE_S)
        if killed:
            self.progress.step("stop", f"killed after {_STOP_GRACE_S:.0f} s: {', '.join(killed)}")


class _Watchers:
    """Tasks that last as long as the run; one that fails ends it."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, watching: Coroutine[None, None, None]) -> None:
        self._tasks.append(self._group.create_task(watching))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _fail_when_ended(broker: Child) -> None:
    await ended(broker)
    raise BrokerError(f"{broker.reason()}. What it held is gone; start again.")
