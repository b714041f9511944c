"""The embedded stack: broker, topics, lake, worker, traffic and page, started in order and stopped together."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from analytics.enactment.due_changes import asks_for_enactor
from analytics.gates.gate_file import GateFile
from analytics.lake.migrations import migrate
from analytics.lake.table_schemas import EVENTS, VERDICTS
from analytics.lake.tables import Lake
from producers.errors import UsageError
from producers.simulation.flagged_stages import write_flags
from producers.simulation.scenarios import scenario
from producers.strict_yaml import ConfigurationFileError
from producers.web_guard import LOOPBACK
from producers.wire.topics import TOPICS
from stagekeeper.embedded import programs
from stagekeeper.embedded.home_lock import HomeLock, lock_home
from stagekeeper.embedded.status import PipelineStatus, row_count
from stagekeeper.embedded.supervisor import Supervisor, await_ready, ended
from streams.apache_broker import ApacheBroker
from streams.broker import BrokerError, EmbeddedBroker, ensure_topics
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from datetime import timedelta

    from analytics.report import Report
    from stagekeeper.embedded.progress import ProgressPrinter
    from stagekeeper.embedded.supervisor import Program
    from stagekeeper.settings import Settings
    from streams.children import Child

BrokerKind = Literal["embedded", "apache"]

_READY_S: Final = 60.0
_STATUS_EVERY_S: Final = 2.0
_TRAFFIC_END_S: Final = 25.0
_STUCK_S: Final = 30.0  # seconds without any progress after which what is outstanding is given up
_STOP_GRACE_S: Final = 6.0


@dataclass(frozen=True)
class UpOptions:
    """What `stagekeeper up` was asked to run."""

    settings: Settings  # where things are, from the environment; `home` is the home folder in force
    demo: bool  # simulated traffic into a fresh lake of its own
    gate_file: Path | None  # the gate file, where one was named
    broker: BrokerKind  # which broker to start, where no cluster is configured
    page: bool  # whether to serve the page
    lasting: timedelta | None  # how long to run once everything is up; None is until stopped
    kafka_port: int  # preferred port of the broker; 0 is any
    page_port: int  # preferred port of the page; 0 is any
    service_port: int  # preferred port of the HTTP service; 0 is any


@dataclass(frozen=True)
class UpResult:
    """How a run ended."""

    report: Report | None  # None where the run was stopped before its end
    loop: Mapping[str, Any]  # what was done about recommendations, and how soon the newest rollback was safe
    exit_code: int  # 0; 1 where something is missing; 128 + the signal where a run of a given length was cut short


def run(options: UpOptions, progress: ProgressPrinter) -> UpResult:
    """Start everything, keep it going, and stop all of it: when `options.lasting` is over, or on a signal.

    Raises `StagekeeperError` where something could not start, or the broker died.
    """
    home = options.settings.home
    with lock_home(home) as lock:
        if lock.stale_pid is not None:
            progress.step("home", f"process {lock.stale_pid} ended without tidying up {home}; done now")
        return asyncio.run(_run_until_signal(EmbeddedStack(options, progress, lock)))


async def _run_until_signal(stack: EmbeddedStack) -> UpResult:
    """Run the stack; the first signal ends it in order."""
    received: list[int] = []
    task = asyncio.ensure_future(stack.run())

    def stop(number: signal.Signals) -> None:
        if not received:
            stack.progress.step("stop", f"{number.name}: stopping everything")
            task.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return UpResult(None, {}, 0 if stack.options.lasting is None else 128 + received[0])


class EmbeddedStack:
    """One run of `stagekeeper up`: the programs that it started, and the tasks that watch them."""

    def __init__(self, options: UpOptions, progress: ProgressPrinter, lock: HomeLock) -> None:
        self.options = options
        self.progress = progress
        self._lock = lock
        self._supervisor = Supervisor(functools.partial(progress.step, "restart"))
        self._traffic_error: str | None = None
        self._traffic_should_run = True
        self._quality_checked = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._watchers: list[asyncio.Task[None]] = []

    def _watch(self, watching: Coroutine[None, None, None]) -> None:
        """Let a task last as long as the run; one that fails ends it."""
        self._watchers.append(self._group.create_task(watching))

    async def run(self) -> UpResult:
        """Run from the start of the broker to the report; whatever was started is stopped on every way out."""
        settings = self._absolute_settings()
        with ExitStack() as at_end:
            settings, broker = self._start_broker(settings, at_end)
            at_end.callback(self._stop_children)  # before the broker, to which they may have something to say
            try:
                async with self._group:
                    if broker is not None:
                        self._watch(_fail_when_ended(broker))
                    result = await self._run_pipeline(settings)
                    for watcher in self._watchers:
                        watcher.cancel()
                    return result
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    def _absolute_settings(self) -> Settings:
        """The settings with absolute paths, since children may run in another folder."""
        configured = self.options.settings
        home = configured.home.absolute()
        gates = self.options.gate_file or (programs.DEMO_GATE_FILE if self.options.demo else configured.gates)
        if self.options.gate_file is not None and not gates.is_file():
            raise UsageError(f"there is no gate file at {gates}.")
        lake, flags = configured.lake, configured.flags
        if self.options.demo:
            folder = home / "demo"
            if programs.fresh_demo_folder(folder):
                self.progress.step("demo", f"wiped the previous demonstration in {folder}")
            lake, flags = str(folder / "lake"), folder / "flags.json"
            write_flags(flags, scenario(programs.DEMO))
        elif "://" not in lake:
            lake = str(Path(lake).absolute())
        files = {"gate_file": gates.absolute(), "flag_file": flags.absolute()}
        # Simulated routers read the demonstration's own file.
        store = None if self.options.demo else configured.stage_store
        return configured.model_copy(update={"home": home, "lake_root": lake, "stage_store": store, **files})

    def _authorization(self) -> Path:
        """The authorization file; the demonstration brings one of its own where none is configured."""
        configured = self.options.settings.authorization
        return programs.DEMO_AUTHORIZATION if self.options.demo and not configured.is_file() else configured

    def _enacts(self, settings: Settings) -> bool:
        """Whether a worker is to carry out what it recommends: the gate file, or a setting, asks for it."""
        try:
            asked = settings.enact or (settings.gates.is_file() and asks_for_enactor(GateFile.load(settings.gates)))
        except ConfigurationFileError:
            asked = False  # the worker says what is wrong with it
        if asked and settings.stage_store is not None:
            self.progress.step(
                "enactor", "carries out in the store that STAGEKEEPER_STAGE_STORE names what the gate lets it"
            )
        elif asked and not settings.flags.is_file():
            self.progress.step("enactor", f"none: there is no flag file at {settings.flags} (STAGEKEEPER_FLAG_FILE)")
            return False
        elif asked:
            self.progress.step("enactor", f"carries out in {settings.flags} what the gate file lets it")
        return asked

    def _start_broker(self, settings: Settings, at_end: ExitStack) -> tuple[Settings, Child | None]:
        """The settings with the broker in use, and its process when it is ours. Runs on the thread that stays."""
        if settings.kafka_bootstrap_servers is not None:
            self.progress.step("broker", f"the cluster at {settings.kafka_bootstrap_servers}")
            return settings, None
        port = self._available_port("broker", self.options.kafka_port)
        broker: EmbeddedBroker | ApacheBroker
        if self.options.broker == "apache":
            folder = (settings.home / "demo" if self.options.demo else settings.home) / "kafka"
            jars = settings.home / "kafka-jars"
            self.progress.step("broker", f"Apache Kafka starts, with its log in {folder}; Maven fetches it once")
            broker = ApacheBroker.start(folder, port=port, controller_port=available_port(0), jars=jars)
            self.progress.step("broker", f"Apache Kafka, at {broker.address} (process {broker.pid})")
        else:
            broker = EmbeddedBroker.start(settings.home, port=port)
            self.progress.step("broker", f"embedded, at {broker.address} (process {broker.pid}, in memory)")
        at_end.callback(broker.stop)
        return settings.model_copy(update={"kafka_bootstrap_servers": broker.address}), broker.child

    async def _run_pipeline(self, settings: Settings) -> UpResult:
        bootstrap_servers = settings.require_kafka()
        log_id = await asyncio.to_thread(ensure_topics, bootstrap_servers, settings.kafka_security)
        self.progress.step("topics", f"{len(TOPICS)} ready on {log_id}")
        migrated = await asyncio.to_thread(migrate, settings.lake)
        await asyncio.to_thread(Lake.open, settings.lake)
        self.progress.step("lake", f"at {settings.lake}{', migrated to the layout of this version' * migrated}")
        has_gates = settings.gates.is_file()
        if not has_gates:
            hint = "signals are kept, but verdicts need one (--gates FILE)"
            self.progress.step("gates", f"no gate file at {settings.gates}: {hint}")
        if settings.signing_key is None:
            self.progress.step("key", "none: receipts are not signed, and none is checked (STAGEKEEPER_RECEIPT_KEY)")
        endpoints = {"kafka_bootstrap_servers": bootstrap_servers, "lake_root": settings.lake}
        self._lock.announce({**endpoints, "gate_file": str(settings.gates), "flag_file": str(settings.flags)})
        traffic = await self._start_programs(settings)
        self._watch(self._check_quality(settings, VERDICTS if has_gates else EVENTS))
        with PipelineStatus(
            settings.lake, bootstrap_servers, log_id, judged=has_gates, settings=settings.kafka_security
        ) as status:
            await self._show_status(status)
            if traffic is not None:
                await self._end_traffic(traffic)
            missing = await self._settle(status)
            report = await asyncio.to_thread(status.report)
            loop = await asyncio.to_thread(status.loop)
        error = missing or self._traffic_error
        if error is not None:
            self.progress.step("fault", error)
        return UpResult(report, loop, 1 if error is not None else 0)

    async def _start_programs(self, settings: Settings) -> Child | None:
        """Start worker, traffic and page at once, and wait for each; the traffic's process, where there is one."""
        ready_file = settings.home / "worker.ready"
        ready_file.unlink(missing_ok=True)
        page_port = self._available_port("page", self.options.page_port) if self.options.page else None
        decides_by = {"authorization_file": self._authorization().absolute()}  # for a contract that is tried there
        page = None if page_port is None else programs.page(settings.model_copy(update=decides_by), page_port)
        service_ready = settings.home / "service.ready"
        service_ready.unlink(missing_ok=True)
        service = self._service(settings, service_ready)
        worker = programs.worker(settings, ready_file, enacts=self._enacts(settings))
        worker_child = self._supervisor.start(worker)
        page_child = self._supervisor.start(page) if page is not None else None
        service_child = self._supervisor.start(service) if service is not None else None
        traffic = None
        if self.options.demo:
            traffic = self._supervisor.start(programs.demo_traffic(settings, settings.home / "demo" / "truth.json"))
            self._watch(self._note_traffic_end(traffic))
            history = f"{programs.DEMO_HISTORY_EVENTS:,} events of the past {programs.DEMO_HISTORY}"
            pace = f"{history}, then {programs.DEMO_RATE} a second"
            self.progress.step("traffic", f"simulated, through the SDK: {pace}")
        await await_ready(worker_child, ready_file.exists, timeout_s=_READY_S)
        self._watch(self._supervisor.keep(worker))
        self.progress.step("worker", f"reads and judges (process {worker_child.process.pid}, log {worker_child.log})")
        if page is not None and page_child is not None and page_port is not None:
            await await_ready(page_child, functools.partial(programs.page_answers, page_port), timeout_s=_READY_S)
            self._watch(self._supervisor.keep(page))
            self.progress.step("page", f"open http://{LOOPBACK}:{page_port}")
        if service is not None and service_child is not None:
            await await_ready(service_child, service_ready.exists, timeout_s=_READY_S)
            self._watch(self._supervisor.keep(service))
            address = service_ready.read_text(encoding="utf-8").strip()
            self.progress.step("service", f"{address}, with the tokens of {settings.tokens} (log {service.log})")
        return traffic

    def _service(self, settings: Settings, ready_file: Path) -> Program | None:
        """The HTTP service, where what it decides by is there; else a line says what is missing."""
        settings = settings.model_copy(update={"authorization_file": self._authorization().absolute()})
        missing = next((path for path in (settings.authorization, settings.flags) if not path.is_file()), None)
        if missing is not None or importlib.util.find_spec("uvicorn") is None:
            what = f"there is no file at {missing}" if missing is not None else "the extra `service` is not installed"
            self.progress.step("service", f"none: {what}")
            return None
        if not settings.tokens.is_file():
            self._draw_first_token(settings)
        return programs.service(settings, self._available_port("service", self.options.service_port), ready_file)

    def _draw_first_token(self, settings: Settings) -> None:
        """A token for a first try on this machine, in a file that its owner alone can read."""
        from stagekeeper.api.access_tokens import draw_token  # noqa: PLC0415 - not there without the extra

        _, text = draw_token(settings.tokens, agent="local-agent", service="local", scopes=["decide", "report", "read"])
        path = settings.home / "service.token"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
        self.progress.step("token", f"a first one, for agent `local-agent`, is in {path}")

    async def _check_quality(self, settings: Settings, after: str) -> None:
        """Validate fresh events now and then; the first time once a table has rows, out of the way of the start."""
        lake = await asyncio.to_thread(Lake.open, settings.lake)
        while not await asyncio.to_thread(row_count, lake, after):  # noqa: ASYNC110 - a table has nothing to wait on
            await asyncio.sleep(_STATUS_EVERY_S)
        program, every_s = programs.quality(settings), programs.QUALITY_EVERY_S
        await self._supervisor.repeat(program, every_s, unremarkable=frozenset({0, 1}), ran=self._quality_checked)

    async def _await_quality(self, status: PipelineStatus) -> None:
        """Let the first validation end, where there is anything to validate."""
        if not await asyncio.to_thread(status.has_events):
            return
        try:
            await asyncio.wait_for(self._quality_checked.wait(), _READY_S)
        except TimeoutError:
            self.progress.step("quality", f"the first validation did not end in {_READY_S:.0f} s")

    async def _show_status(self, status: PipelineStatus) -> None:
        """Print the status until the time is over; without a given time, until cancelled."""
        lasting = self.options.lasting
        ends_s = None if lasting is None else time.monotonic() + lasting.total_seconds()
        ending = "Ctrl-C stops everything" if lasting is None else f"ends in {lasting.total_seconds():.0f} s"
        self.progress.step("running", ending)
        while ends_s is None or time.monotonic() < ends_s:
            self.progress.live(await asyncio.to_thread(status.line))
            left_s = _STATUS_EVERY_S if ends_s is None else ends_s - time.monotonic()
            await asyncio.sleep(max(0.0, min(_STATUS_EVERY_S, left_s)))

    async def _end_traffic(self, traffic: Child) -> None:
        if not traffic.running:
            return
        self.progress.step("traffic", "ends")
        self._traffic_should_run = False
        traffic.ask_to_stop()
        try:
            await asyncio.wait_for(ended(traffic), _TRAFFIC_END_S)
        except TimeoutError:
            self._traffic_error = f"{traffic.name} did not end in {_TRAFFIC_END_S:.0f} s (log: {traffic.log})"
        else:
            if traffic.process.returncode != 0:
                self._traffic_error = traffic.reason()

    async def _settle(self, status: PipelineStatus) -> str | None:
        """Wait until all that was emitted is stored, judged and validated; what is missing where nothing moves."""
        moved_s, before = time.monotonic(), ""
        while (outstanding := await asyncio.to_thread(status.outstanding)) is not None:
            self.progress.live(outstanding)
            if outstanding != before:
                moved_s, before = time.monotonic(), outstanding
            elif time.monotonic() - moved_s > _STUCK_S:
                return f"{outstanding}, and nothing has moved for {_STUCK_S:.0f} s"
            await asyncio.sleep(0.25)  # the tables offer nothing to wait on
        await self._await_quality(status)
        self.progress.step("settled", await asyncio.to_thread(status.line))
        return None

    async def _note_traffic_end(self, traffic: Child) -> None:
        await ended(traffic)
        if self._traffic_should_run:
            self._traffic_error = traffic.reason()
            self.progress.step("traffic", self._traffic_error)

    def _available_port(self, name: str, preferred: int) -> int:
        port = available_port(preferred)
        if preferred not in (0, port):
            self.progress.step(name, f"port {preferred} is taken; using {port} instead")
        return port

    def _stop_children(self) -> None:
        killed = self._supervisor.stop_all(_STOP_GRACE_S)
        if killed:
            self.progress.step("stop", f"killed after {_STOP_GRACE_S:.0f} s: {', '.join(killed)}")


async def _fail_when_ended(broker: Child) -> None:
    await ended(broker)
    raise BrokerError(f"{broker.reason()}. What it held is gone; start again.")
