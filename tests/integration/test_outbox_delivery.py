"""The outbox against a real broker: away and back, and a router killed at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from boundary_cases import contract
from confluent_kafka import Consumer, TopicPartition

from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.recorder import Recorder
from producers.wire.decision import Allow, Decision
from producers.wire.events import event_from_bytes
from producers.wire.stage import Stage
from producers.wire.topics import DECISIONS

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

    from producers.wire.receipt import Receipt

pytestmark = pytest.mark.integration


def _emitter(address: str, path: Path) -> OutboxEmitter:
    return OutboxEmitter(lambda hook: KafkaEmitter(address, message_timeout_s=2.0, on_undeliverable=hook), Outbox(path))


def _decide(recorder: Recorder, *, durable: bool) -> Receipt:
    return recorder.decided(contract(), Decision(result=Allow()), stage=Stage.NARROW_AUTONOMY, durable=durable)


def _log(address: str, awaited: set[str]) -> set[str]:
    """The decision ids in the log, read until the awaited ones are there or nothing has come for five seconds.

    The embedded broker understates the end of a log, so the end is not asked for.
    """
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader"})
    found: set[str] = set()
    try:
        consumer.assign([TopicPartition(DECISIONS, number, 0) for number in range(4)])
        while not awaited <= found and (messages := consumer.consume(10_000, 5.0)):
            found |= {event_from_bytes(message.value()).subject for message in messages}
    finally:
        consumer.close()
    return found


def test_what_is_kept_while_the_broker_is_away_arrives_when_it_is_back(either_broker: Broker, tmp_path: Path) -> None:
    address = either_broker.address
    emitter = _emitter(address, tmp_path / "outbox.db")
    recorder = Recorder(emitter, source="/test")
    before = {_decide(recorder, durable=True).decision_id for _ in range(50)}
    assert emitter.flush(20) == 0
    assert before == _log(address, before)

    os.kill(either_broker.pid, signal.SIGSTOP)  # away: nothing is answered, and nothing that was acknowledged is lost
    try:
        kept = {_decide(recorder, durable=True).decision_id for _ in range(200)}
        buffered = {_decide(recorder, durable=False).decision_id for _ in range(200)}
        assert emitter.flush(3) >= 200, "the broker answered although it was stopped"
    finally:
        os.kill(either_broker.pid, signal.SIGCONT)
    with emitter:
        assert emitter.flush(60) == 0
        assert kept | buffered <= _log(address, kept | buffered)
        assert emitter.lost == 0


_ROUTER = """
import sys
from pathlib import Path
from boundary_cases import Permit, flag_evaluator
from producers.boundary.action import Action
from producers.boundary.router import Router
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.recorder import Recorder
from producers.wire.contract import Reversibility, RiskClass

address, path = sys.argv[1:]
emitter = OutboxEmitter(lambda hook: KafkaEmitter(address, on_undeliverable=hook), Outbox(Path(path)))
recorder = Recorder(emitter, source="/killed")
router = Router(authorizer=Permit(), flags=flag_evaluator(), recorder=recorder, environment="production")
action = Action(
    tool="side_effect", workflow="w", system="s", environment="production",
    risk_class=RiskClass.REVERSIBLE_WRITE, reversibility=Reversibility.AUTOMATIC, run=print,
)
while True:
    with router.attempt(action) as permit:
        print(permit.receipt.decision_id, flush=True)
"""


def test_every_side_effect_of_a_killed_router_has_its_decision(either_broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    router = subprocess.Popen(
        [sys.executable, "-c", _ROUTER, either_broker.address, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert router.stdout is not None
    happened = [router.stdout.readline().strip() for _ in range(300)]
    os.kill(router.pid, signal.SIGKILL)
    happened += router.stdout.read().split("\n")[:-1]
    router.stdout.close()
    router.wait()

    with _emitter(either_broker.address, path) as emitter:
        assert emitter.flush(30) == 0
    assert set(happened) <= _log(either_broker.address, set(happened))
