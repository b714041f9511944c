"""Many workers at once, and a broker that is away while they work."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from boundary_cases import Permit, flagd_file
from confluent_kafka import Consumer, TopicPartition
from workers import frozen

from producers.boundary.action import Action, acting
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.delivery.kafka_emitter import DeliveryStats
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.recorder import Recorder
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import EventRecord, event_from_bytes
from producers.wire.topics import DECISIONS, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streams.broker import EmbeddedBroker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LOG = logging.getLogger(__name__)

WORKERS = 32
ACTIONS = 10_000
OUTAGE_S = float(os.environ.get("STAGEKEEPER_TEST_OUTAGE_S", "3"))
"""How long the broker is away; the whole promise is 60."""
RATE = 1_000


class Order:
    """Keeps what is handed over, in order."""

    stats = DeliveryStats()

    def __init__(self) -> None:
        self.records: list[EventRecord] = []

    def emit(self, record: EventRecord) -> None:
        self.records.append(record)

    keep = emit

    def flush(self, timeout_s: float) -> int:
        return 0


@pytest.fixture
def flags(tmp_path: Path) -> Iterator[FlagEvaluator]:
    held = FlagEvaluator.from_file(flagd_file(tmp_path / "flags.json"))
    yield held
    held.close()


def router_of(emitter: Any, flags: FlagEvaluator) -> Router:
    recorder = Recorder(emitter, source="/stress", key=b"a key")
    return Router(authorizer=Permit(), flags=flags, recorder=recorder, environment="production")


def action(run: Callable[..., Any], risk_class: RiskClass) -> Action:
    return Action(
        tool=f"tool-{risk_class.value}",
        workflow="w",
        system="s",
        environment="production",
        risk_class=risk_class,
        reversibility=Reversibility.AUTOMATIC,
        run=run,
    )


def assert_each_decision_comes_before_its_execution(records: list[EventRecord]) -> None:
    decided: set[bytes] = set()
    executed: Counter[bytes] = Counter()
    for topic, key, _ in records:
        if topic == DECISIONS:
            assert key not in decided
            decided.add(key)
        else:
            assert key in decided, "an execution before its decision"
            executed[key] += 1
    assert len(decided) == ACTIONS
    assert executed.keys() == decided
    assert set(executed.values()) == {1}


def test_threads(flags: FlagEvaluator) -> None:
    order = Order()
    router = router_of(order, flags)
    ran: list[int] = []

    def note(number: int) -> None:
        ran.append(number)

    known = [action(note, risk) for risk in (RiskClass.SEARCH, RiskClass.REVERSIBLE_WRITE)]

    def work(worker: int) -> None:
        with acting(account=f"acct-{worker}"):
            for number in range(worker, ACTIONS, WORKERS):
                router.call(known[number % 2], number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == list(range(ACTIONS))
    assert_each_decision_comes_before_its_execution(order.records)


async def test_tasks(flags: FlagEvaluator) -> None:
    order, ran = Order(), []
    router = router_of(order, flags)

    async def run(number: int) -> None:
        if number % 100 == 0:
            await asyncio.sleep(0)
        ran.append(number)

    known = [action(run, risk) for risk in (RiskClass.SEARCH, RiskClass.REVERSIBLE_WRITE)]

    async def work(worker: int) -> None:
        with acting(account=f"acct-{worker}"):
            for number in range(worker, ACTIONS, WORKERS):
                await router.call_async(known[number % 2], number)

    await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    assert sorted(ran) == list(range(ACTIONS))
    assert_each_decision_comes_before_its_execution(order.records)


class Log(NamedTuple):
    """What stands in a topic: how often each decision id and each event id."""

    decisions: Counter[str]
    events: Counter[str]

    @property
    def repeats(self) -> int:
        """Records whose event stands there already."""
        return self.events.total() - len(self.events)


def log_of(address: str, topic: str, wanted: int) -> Log:
    """A topic's log, read until as many events are there and then nothing comes for two seconds, or nothing for ten."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": f"reader-{topic}"})
    log = Log(Counter(), Counter())
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
        while messages := consumer.consume(10_000, 2.0 if len(log.events) >= wanted else 10.0):
            for message in messages:
                event = event_from_bytes(message.value())
                log.decisions[event.subject] += 1
                log.events[event.id] += 1
    finally:
        consumer.close()
    return log


def test_a_broker_that_is_away_holds_nothing_up_and_gets_everything(
    own_broker: EmbeddedBroker, flags: FlagEvaluator, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A thousand actions a second, a fifth of them writes; all are decided and run while the broker is stopped."""
    emitter = OutboxEmitter.to_kafka(own_broker.address, Outbox(tmp_path / "outbox.db"))
    router = router_of(emitter, flags)
    ran: list[int] = []

    def note(number: int) -> None:
        ran.append(number)

    read, write = (action(note, risk) for risk in (RiskClass.SEARCH, RiskClass.REVERSIBLE_WRITE))
    due, pause = int(RATE * OUTAGE_S), threading.Event()
    router.call(read, -1)
    assert emitter.flush(30) == 0
    frozen(own_broker.pid)
    try:
        began = time.monotonic()
        for number in range(due):
            ahead = began + number / RATE - time.monotonic()
            if ahead > 0.005:
                pause.wait(ahead)
            router.call(write if number % 5 == 0 else read, number)
        assert ran == [-1, *range(due)], "everything has run, and the broker has not answered once"
        assert emitter.stats.delivered == 2
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    with emitter:
        assert emitter.flush(120) == 0
        assert emitter.lost == 0
    for topic in (DECISIONS, OUTCOMES):
        log = log_of(own_broker.address, topic, due + 1)
        record_property(f"{topic}: distinct events", len(log.events))
        record_property(f"{topic}: repeats", log.repeats)
        LOG.info("%s: %d distinct events, %d repeats", topic, len(log.events), log.repeats)
        assert len(log.events) == due + 1, "each event arrives, and after repeats are taken out, once"
        assert len(log.decisions) == due + 1, "and each is about another decision"
        assert log.repeats <= due, "what was in flight may come again, not everything"
