from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from fakes import a_decided, a_receipt

from producers.delivery.kafka_emitter import DeliveryStats, Emitter, KafkaEmitter, UndeliveredError
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.wire.events import EventRecord, event_from_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = "127.0.0.1:1"
IN_PROCESS = {"test.mock.num.brokers": 1}  # librdkafka's own stand-in for a broker


class Undeliverable:
    """Remembers what could not be delivered."""

    def __init__(self) -> None:
        self.seen: list[tuple[EventRecord, str]] = []
        self.any = threading.Event()

    def __call__(self, record: EventRecord, reason: str) -> None:
        self.seen.append((record, reason))
        self.any.set()


@pytest.fixture
def emitter() -> Iterator[KafkaEmitter]:
    with KafkaEmitter(NOBODY, settings=IN_PROCESS) as made:
        yield made


def a_record(event_id: str = "e-1", decision_id: str = "decision-1") -> EventRecord:
    return EventRecord.from_event(a_decided(a_receipt(decision_id=decision_id), event_id=event_id))


def test_everything_handed_over_is_acknowledged(emitter: KafkaEmitter) -> None:
    for number in range(50):
        emitter.emit(a_record(f"e-{number}"))
    assert emitter.flush(20) == 0
    assert emitter.stats == DeliveryStats(emitted=50, delivered=50)
    emitter.stats.require_all()


def test_an_emitter_is_an_emitter(emitter: KafkaEmitter) -> None:
    taken: Emitter = emitter  # a type checker reads this test, too
    assert taken.stats.emitted == 0


def test_closing_twice_is_harmless_and_later_events_are_refused_by_name() -> None:
    lost = Undeliverable()
    emitter = KafkaEmitter(NOBODY, settings=IN_PROCESS, on_undeliverable=lost)
    emitter.emit(a_record())
    assert emitter.close() == 0
    assert emitter.close() == 0
    late = a_record("late")
    emitter.emit(late)
    assert lost.seen == [(late, "emitter_closed")]
    assert emitter.stats == DeliveryStats(emitted=2, delivered=1, refused=1, by_error={"emitter_closed": 1})


def test_a_broker_that_is_away_neither_raises_nor_blocks_and_is_counted_in_the_end() -> None:
    lost = Undeliverable()
    emitter = KafkaEmitter(NOBODY, message_timeout_s=0.1, on_undeliverable=lost)
    record = a_record()
    emitter.emit(record)
    assert lost.any.wait(30)  # the poll thread reports it without anybody asking
    assert emitter.close() == 0
    assert lost.seen == [(record, "_MSG_TIMED_OUT")]
    assert emitter.stats == DeliveryStats(emitted=1, failed=1, by_error={"_MSG_TIMED_OUT": 1})


def test_a_full_queue_refuses_and_hands_the_event_to_the_outbox_seam() -> None:
    lost = Undeliverable()
    emitter = KafkaEmitter(NOBODY, message_timeout_s=0.5, queue_limit=2, on_undeliverable=lost)
    records = [a_record(f"e-{number}") for number in range(3)]
    for record in records:
        emitter.emit(record)
    assert lost.seen == [(records[2], "queue_full")]
    assert emitter.stats.refused == 1
    assert emitter.stats.in_flight == 2
    emitter.close()
    assert emitter.stats.by_error == {"queue_full": 1, "_MSG_TIMED_OUT": 2}


def test_a_record_that_no_topic_takes_is_refused_by_name(emitter: KafkaEmitter) -> None:
    emitter.send("agent.outcomes", b"k", b"x" * 5_000_000)
    assert emitter.stats == DeliveryStats(emitted=1, refused=1, by_error={"MSG_SIZE_TOO_LARGE": 1})


def test_what_is_left_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    emitter = KafkaEmitter(NOBODY, message_timeout_s=300)
    emitter.emit(a_record())
    with caplog.at_level(logging.ERROR):
        assert emitter.close(0.05) == 1
    assert "1 records were not acknowledged" in caplog.text
    with pytest.raises(UndeliveredError, match=r"1 of 1 records did not reach the broker: 1 unanswered"):
        emitter.stats.require_all()


def test_the_log_holds_no_payload_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "u"}
    with caplog.at_level(logging.DEBUG):
        emitter = KafkaEmitter(NOBODY, message_timeout_s=0.1, settings={**secret, "sasl.password": "hunter2-secret"})
        emitter.emit(a_record(decision_id="decision-seen"))
        emitter.flush(20)
        emitter.close()
    assert "_MSG_TIMED_OUT" in caplog.text
    assert "hunter2-secret" not in caplog.text
    assert "decision-seen" not in caplog.text


def test_an_outage_is_logged_in_powers_of_two(caplog: pytest.LogCaptureFixture) -> None:
    emitter = KafkaEmitter(NOBODY, settings=IN_PROCESS)
    emitter.close()
    with caplog.at_level(logging.ERROR, "producers.delivery.kafka_emitter"):
        for _ in range(20):
            emitter.emit(a_record())
    assert [line.getMessage() for line in caplog.records] == [
        f"{count} records refused so far: emitter_closed" for count in (1, 2, 4, 8, 16)
    ]


def test_what_is_given_up_comes_back_as_it_was() -> None:
    lost = Undeliverable()
    emitter = KafkaEmitter(NOBODY, message_timeout_s=300, on_undeliverable=lost)
    records = [a_record(f"e-{number}") for number in range(3)]
    for record in records:
        emitter.emit(record)
    assert emitter.close(0.05) == 3
    assert sorted(record for record, _ in lost.seen) == records
    late = a_record("late")
    emitter.emit(late)
    assert lost.seen[-1] == (late, "emitter_closed")


@pytest.mark.slow
def test_many_threads_fill_the_buffer_and_nothing_of_it_is_lost_or_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    emitter = OutboxEmitter(lambda hook: KafkaEmitter(NOBODY, on_undeliverable=hook), Outbox(path))

    def hand_over(thread: int) -> None:
        for number in range(500):
            emitter.emit(a_record(f"{thread}-{number}", f"d-{thread}"))

    threads = [threading.Thread(target=hand_over, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emitter.close(0.05)  # what no broker takes is on disk
    assert emitter.lost == 0
    with Outbox(path) as outbox:
        kept = outbox.after(0, 10_000)
    assert {event_from_bytes(record.value).id for record in kept} == {f"{t}-{n}" for t in range(4) for n in range(500)}
    assert all(record.key == f"d-{event_from_bytes(record.value).id.partition('-')[0]}".encode() for record in kept)
