"""The data plane as a process, against a broker: bad input, sudden death, other logs."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from brokers import apache_in_exhaustive, embedded_broker
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from fakes import KEY, a_decided, a_receipt, an_executed, an_undone
from workers import a_worker, await_drained, await_that

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Lake, SourcePartition
from analytics.signals.definitions import COUNTERS
from producers.wire.decision import Deny
from producers.wire.events import ExecutionStatus, PolicyChanged, PolicyChangedData, event_to_bytes
from producers.wire.topics import DEAD_LETTER, DECISIONS, MAX_RECORD_BYTES, OUTCOMES, POLICY_CHANGES, REVIEWS
from streams.broker import EmbeddedBroker, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers import Broker

    from producers.wire.receipt import Receipt

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Writer:
    """Writes records as they are and notes where each came to lie."""

    def __init__(self, broker: Broker) -> None:
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "message.max.bytes": MAX_RECORD_BYTES, "linger.ms": 5}
        )
        self.places: dict[str, tuple[str, int, int]] = {}

    def write(self, name: str, topic: str, value: bytes | None, key: str | None = None) -> None:
        def note(error: object, message: Message) -> None:
            assert error is None, error
            self.places[name] = (str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))

        while True:
            try:
                self._producer.produce(topic, value, key=(key or name).encode(), on_delivery=note)
            except BufferError:
                self._producer.poll(0.1)
            else:
                break
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def a_fresh_receipt(number: int, **fields: Any) -> Receipt:
    return a_receipt(decision_id=f"d-{number}", decided_at=datetime.now(UTC), **fields)


def dead_letters(broker: Broker) -> list[dict[str, Any]]:
    """Everything on the dead-letter topic, with the key of each."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "letters", "enable.auto.commit": False})
    try:
        place = TopicPartition(DEAD_LETTER, 0, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        letters: list[dict[str, Any]] = []
        while len(letters) < end:
            for message in consumer.consume(end - len(letters), 10):
                assert message.error() is None, message.error()
                letters.append({"record_key": message.key(), **json.loads(message.value() or b"")})
        return letters
    finally:
        consumer.close()


def changed(event: bytes, path: str, value: object) -> bytes:
    document = json.loads(event)
    *outer, last = path.split(".")
    place = document
    for part in outer:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def bad_input() -> dict[str, tuple[str, bytes | None]]:
    """One record for each reason: its name, the reason, the value."""
    event = event_to_bytes(an_executed(a_fresh_receipt(1), key=KEY, event_id="bad"))
    ahead = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    return {
        "no JSON": ("not_json", b"\xff\xfe nothing"),
        "a list": ("not_object", b"[1, 2]"),
        "a wrong type": ("wrong_type", changed(event, "data.latency_ms", "fast")),
        "a missing field": ("missing_field", changed(event, "data.status", None)),
        "an unknown type": ("unknown_type", changed(event, "type", "stagekeeper.action.dreamt.v1")),
        "an unknown version": ("unknown_version", changed(event, "type", "stagekeeper.action.executed.v9")),
        "no receipt": ("missing_receipt", changed(event, "data.receipt", None)),
        "half a receipt": ("malformed_receipt", changed(event, "data.receipt", "sk1.AAAA.AAAA")),
        "an unsigned receipt": ("unsigned_receipt", event_to_bytes(an_executed(a_fresh_receipt(1), event_id="bad"))),
        "a forged receipt": (
            "forged_receipt",
            event_to_bytes(an_executed(a_fresh_receipt(1), key=b"?", event_id="bad")),
        ),
        "another's receipt": ("receipt_mismatch", changed(event, "subject", "d-2")),
        "from the future": ("impossible_time", changed(event, "time", ahead)),
        "a negative latency": ("negative_value", changed(event, "data.latency_ms", -1.0)),
        "two megabytes": ("too_large", b'{"id": "' + b"x" * 2_000_000 + b'"}'),
        "nothing": ("null_value", None),
    }


def test_bad_input_is_rejected_once_by_name_and_nothing_else_suffers(
    either_broker: Broker, lake_root: str, tmp_path: Path
) -> None:
    writer, bad = Writer(either_broker), bad_input()
    bad["half a receipt"] = ("forged_receipt", bad["half a receipt"][1])  # it reads well, but nobody signed it
    bad["no receipt at all"] = ("malformed_receipt", changed(bad["a negative latency"][1] or b"", "data.receipt", "?"))
    bad["no receipt at all"] = (
        "malformed_receipt",
        changed(changed(bad["no receipt at all"][1] or b"", "data.receipt", "sk1.!!!!"), "data.latency_ms", 1.0),
    )
    policy = PolicyChanged(
        id="policy-1",
        source="/flags",
        time=datetime.now(UTC),
        subject="agent-action-mode",
        data=PolicyChangedData(flag_key="agent-action-mode", changed_by="ana", reason="a test"),
    )

    def good(number: int) -> None:
        receipt = a_fresh_receipt(number)
        writer.write(
            f"good-{number}", DECISIONS, event_to_bytes(a_decided(receipt, key=KEY, event_id=f"good-{number}"))
        )

    with a_worker(tmp_path, either_broker, lake_root, KEY.decode()) as worker:
        for number, (name, (_, value)) in enumerate(bad.items()):
            good(number)
            writer.write(name, OUTCOMES, value)
        writer.write("last null", REVIEWS, None)  # nothing follows that would show the gap
        writer.write("policy-1", POLICY_CHANGES, event_to_bytes(policy))
        writer.flush()
        lake = await_drained(either_broker, lake_root)
        assert worker.stop() == 0
    good(100)
    writer.write("another", DECISIONS, b"{}")
    writer.flush()
    with a_worker(tmp_path, either_broker, lake_root, KEY.decode()) as worker:
        lake = await_drained(either_broker, lake_root)
        assert worker.stop() == 0
    bad |= {"last null": ("null_value", None), "another": ("missing_field", b"{}")}

    rejects = lake.scan(REJECTS).collect()
    found = {(row["topic"], row["partition"], row["offset"]): row for row in rejects.iter_rows(named=True)}
    assert rejects.height == len(found) == len(bad)
    for name, (reason, value) in bad.items():
        row = found[writer.places[name]]
        assert (name, row["reason"]) == (name, reason)
        assert row["first_bytes"] == (value or b"")[:256]
        assert row["size"] == len(value or b"")
        assert row["log_id"] == either_broker.cluster_id
    letters = dead_letters(either_broker)
    assert Counter(letter["record_key"] for letter in letters) == {
        "{}/{}/{}".format(*place).encode(): 1 for place in found
    }
    assert {(each["topic"], each["partition"], each["offset"]): each["reason"] for each in letters} == {
        place: row["reason"] for place, row in found.items()
    }
    stored = lake.scan(EVENTS).collect()
    expected = {f"good-{number}" for number in [*range(len(bad) - 2), 100]} | {"policy-1"}
    assert sorted(stored["id"]) == sorted(expected)
    assert {row["id"]: (row["topic"], row["partition"], row["offset"]) for row in stored.iter_rows(named=True)} == {
        name: writer.places[name] for name in expected
    }
    assert lake.scan(SIGNALS).collect()["decisions"].sum() == len(expected) - 1


class Truth:
    """What was said to the broker, counted without any of the code under test."""

    def __init__(self, writer: Writer, random: Random) -> None:
        self._writer = writer
        self._random = random
        self._said: list[tuple[str, str, bytes]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ids: set[str] = set()
        self.bad: set[str] = set()

    def say(self, number: int) -> None:
        """Write one action, and now and then a repeat or a malformed record."""
        tool = f"tool-{number % 7}"
        receipt = a_fresh_receipt(number, tool=tool)
        denied = number % 11 == 0
        self._event(
            f"decided-{number}",
            DECISIONS,
            receipt,
            event_to_bytes(a_decided(receipt, Deny(reason="no") if denied else None, event_id=f"decided-{number}")),
            ("decisions", "denied") if denied else ("decisions", "allowed", "expected"),
        )
        if not denied:
            failed = number % 5 == 0
            status = ExecutionStatus.FAILED if failed else ExecutionStatus.SUCCEEDED
            event = an_executed(receipt, status, event_id=f"executed-{number}", latency_ms=float(number % 900))
            counters = ("executed", "failed", "bad_outcomes") if failed else ("executed",)
            self._event(f"executed-{number}", OUTCOMES, receipt, event_to_bytes(event), counters)
        if number % 29 == 0 and not denied:
            value = changed(
                event_to_bytes(an_undone(receipt, event_id=f"undone-{number}")), "time", str(datetime.now(UTC))
            )
            # What failed is a bad outcome already.
            counters = ("undone",) if number % 5 == 0 else ("undone", "bad_outcomes")
            self._event(f"undone-{number}", OUTCOMES, receipt, value, counters)
        if self._random.random() < 0.06:
            topic, key, value = self._random.choice(self._said[-20_000:])
            self._writer.write("a repeat", topic, value, key)
        if self._random.random() < 0.02:
            self._writer.write(f"bad-{number}", OUTCOMES, b"{" if number % 2 else None)
            self.bad.add(f"bad-{number}")

    def _event(self, name: str, topic: str, receipt: Receipt, value: bytes, counters: tuple[str, ...]) -> None:
        self._writer.write(name, topic, value, receipt.decision_id)
        self._said.append((topic, receipt.decision_id, value))
        self.ids.add(name)
        self.counts.update((receipt.tool, counter) for counter in counters)


def newest_commit(root: str, table: str) -> str:
    if "://" not in root:
        return max((path.name for path in Path(root, table, "_delta_log").glob("*.json")), default="")
    lake = Lake.existing(root)
    return "" if lake is None else f"{lake.version(table):020}.json"


@apache_in_exhaustive
def test_sudden_death_leaves_exact_counts(either_broker: Broker, either_lake: str, tmp_path: Path) -> None:
    lake_root = either_lake
    if "://" in lake_root and not isinstance(either_broker, EmbeddedBroker):
        pytest.skip("object storage is tried with the embedded broker here, and with Apache Kafka in test_workers.py")
    random, writer = Random(20_260_314), Writer(either_broker)
    truth, done = Truth(writer, random), threading.Event()

    def speak() -> None:
        """At least 4,000 actions, and on until the last death: the worker always has something to read."""
        for number in itertools.count(1):
            truth.say(number)
            if number % 500 == 0:
                writer.flush()
                if done.wait(0.5) and number >= 4_000:
                    break
        writer.flush()

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        for table in (EVENTS, REJECTS, SIGNALS):
            with a_worker(tmp_path, either_broker, lake_root) as worker:
                for _ in range(random.randint(1, 2)):  # die right after a commit, before the next
                    before = newest_commit(lake_root, table)
                    await_that(
                        lambda table=table, before=before: newest_commit(lake_root, table) != before,  # type: ignore[misc]
                        f"a commit of {table}",
                        every_s=0.001 if "://" not in lake_root else 0.05,
                    )
                worker.kill()
    finally:
        done.set()
        speaker.join()
    with a_worker(tmp_path, either_broker, lake_root) as worker:
        lake = await_drained(either_broker, lake_root)
        assert worker.stop() == 0

    stored = lake.scan(EVENTS).select("id", "topic", "partition", "offset").collect()
    assert stored.height == len(truth.ids) > 7_000
    assert set(stored["id"]) == truth.ids
    assert not stored.select("topic", "partition", "offset").is_duplicated().any()
    rejects = lake.scan(REJECTS).collect()
    assert sorted(rejects.select("topic", "partition", "offset").rows()) == sorted(
        writer.places[name] for name in truth.bad
    )
    summed = lake.scan(SIGNALS).group_by("tool").agg(pl.col(COUNTERS).sum()).collect()
    assert {
        (row["tool"], name): row[name] for row in summed.iter_rows(named=True) for name in COUNTERS if row[name]
    } == dict(truth.counts)
    known = lake.scan(SIGNALS).select(pl.col("latency_counts").list.sum().sum()).collect().item()
    assert known == sum(count for (_, name), count in truth.counts.items() if name == "executed")


@pytest.fixture
def second_broker(own_broker: EmbeddedBroker, tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with embedded_broker(tmp_path / "second-broker") as started:
        yield started


def write_some(broker: EmbeddedBroker, prefix: str, count: int) -> None:
    writer = Writer(broker)
    for number in range(count):
        receipt = a_fresh_receipt(number)
        writer.write(f"{prefix}-{number}", DECISIONS, event_to_bytes(a_decided(receipt, event_id=f"{prefix}-{number}")))
    writer.flush()


def test_another_log_in_the_same_lake_begins_at_its_own_beginning(
    own_broker: EmbeddedBroker, second_broker: EmbeddedBroker, lake_root: str, tmp_path: Path
) -> None:
    write_some(own_broker, "one", 300)
    with a_worker(tmp_path, own_broker, lake_root) as worker:
        await_drained(own_broker, lake_root)
        assert worker.stop() == 0
    write_some(second_broker, "two", 40)
    with a_worker(tmp_path, second_broker, lake_root) as worker:
        lake = await_drained(second_broker, lake_root)
        assert worker.stop() == 0
    stored = lake.scan(EVENTS).collect()
    counts = stored.group_by("log_id", pl.col("id").str.head(3)).len()
    assert sorted(counts.rows()) == sorted([(own_broker.cluster_id, "one", 300), (second_broker.cluster_id, "two", 40)])
    for broker, log in ((own_broker, "one"), (second_broker, "two")):
        mine = stored.filter(pl.col("id").str.starts_with(log))
        for partition, offsets in mine.group_by("partition").agg("offset").iter_rows():
            place = SourcePartition(broker.cluster_id, DECISIONS, partition)
            assert sorted(offsets) == list(range(len(offsets)))
            assert lake.stored_offsets(EVENTS, [place]) == {place: len(offsets) - 1}


def test_a_log_that_is_replaced_under_the_workers_feet_stops_it(
    own_broker: EmbeddedBroker, lake_root: str, tmp_path: Path
) -> None:
    write_some(own_broker, "one", 50)
    with a_worker(tmp_path, own_broker, lake_root) as worker:
        lake = await_drained(own_broker, lake_root)
        own_broker.stop()
        replacement = EmbeddedBroker.start(tmp_path / "replacement", port=int(own_broker.address.partition(":")[2]))
        try:
            ensure_topics(replacement.address)
            write_some(replacement, "two", 400)
            assert worker.process.wait(60) == 1
        finally:
            replacement.stop()
        assert f"has been replaced by {replacement.cluster_id}" in worker.log.read_text()
    stored = Lake.open(lake_root).scan(EVENTS).collect()
    assert stored.height == 50
    assert set(stored["log_id"]) == {own_broker.cluster_id}
    assert lake.root == lake_root
