"""TLS, SASL and ACLs against Apache Kafka: who may do what, and that no secret is printed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from apache_kafka import start_kafka
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from fakes import a_decided, a_receipt
from pydantic import SecretStr
from workers import WorkerProcess, await_that

from analytics.lake.table_schemas import EVENTS
from analytics.lake.tables import Lake
from producers.delivery.kafka_config import KafkaSecurity
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.wire.events import EventRecord
from producers.wire.topics import DECISIONS
from streams.apache_broker import missing
from streams.broker import ensure_topics
from streams.lag import Backlog
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSWORDS = {name: f"the-secret-of-the-{name}" for name in ("worker", "router", "viewer")}
GRANTS = {
    "worker": {
        ("topic", "agent."): ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE"),
        ("group", "stagekeeper-"): ("READ",),
    },
    "router": {("topic", "agent."): ("WRITE",)},
    "viewer": {("topic", "agent."): ("READ",), ("group", "viewer"): ("READ",)},
}
"""As docs/operations.md lists them."""


@dataclass(frozen=True)
class Guarded:
    """A node that lets nobody in unknown."""

    address: str
    cluster_id: str
    pid: int
    authorities: Path

    def of(self, principal: str, password: str | None = None) -> KafkaSecurity:
        return KafkaSecurity.from_settings(
            protocol="SASL_SSL",
            mechanism="PLAIN",
            username=principal,
            password=SecretStr(password or PASSWORDS[principal]),
            ca=self.authorities,
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if reason := missing():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("guarded-kafka")
    store, authorities = home / "server.p12", home / "ca.pem"
    keytool = ["keytool", "-keystore", str(store), "-storetype", "PKCS12", "-storepass", "storepass", "-alias", "node"]
    made = ["-genkeypair", "-keyalg", "RSA", "-dname", "CN=127.0.0.1", "-ext", "SAN=ip:127.0.0.1", "-validity", "2"]
    subprocess.run([*keytool, *made], check=True, capture_output=True)
    subprocess.run([*keytool, "-exportcert", "-rfc", "-file", str(authorities)], check=True, capture_output=True)
    port, controller_port, guarded_port = available_port(), available_port(), available_port()
    users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
    node = start_kafka(
        home,
        port=port,
        controller_port=controller_port,
        extra=f"""
listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
ssl.keystore.location={store}
ssl.keystore.type=PKCS12
ssl.keystore.password=storepass
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
""",
    )
    try:
        _grant(node.address)
        yield Guarded(f"127.0.0.1:{guarded_port}", node.cluster_id, node.pid, authorities)
    finally:
        node.stop()


def _grant(address: str) -> None:
    bindings = [
        AclBinding(
            ResourceType[kind.upper()],
            prefix,
            ResourcePatternType.PREFIXED,
            f"User:{principal}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for principal, grants in GRANTS.items()
        for (kind, prefix), operations in grants.items()
        for operation in operations
    ]
    client = AdminClient({"bootstrap.servers": address})
    for created in client.create_acls(bindings).values():
        created.result()


def _is_refused_the_topic(guarded: Guarded, principal: str) -> bool:
    """Whether a reader is told that it may not read; a record would be a failure."""
    consumer = Consumer({**guarded.of(principal), "bootstrap.servers": guarded.address, "group.id": principal})
    try:
        consumer.assign([TopicPartition(DECISIONS, 0, 0)])
        while (message := consumer.poll(20.0)) is not None:
            error = message.error()
            assert error is not None, "it was let in"
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return True
    finally:
        consumer.close()
    return False


def test_everybody_may_do_what_is_theirs_and_nothing_else(guarded: Guarded, tmp_path: Path) -> None:
    lake_root = str(tmp_path / "lake")
    environment = {
        "STAGEKEEPER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "STAGEKEEPER_KAFKA_SASL_MECHANISM": "PLAIN",
        "STAGEKEEPER_KAFKA_SASL_USERNAME": "worker",
        "STAGEKEEPER_KAFKA_SASL_PASSWORD": PASSWORDS["worker"],
        "STAGEKEEPER_KAFKA_SSL_CA_LOCATION": str(guarded.authorities),
    }
    worker = WorkerProcess(tmp_path, guarded, lake_root, "", "--verbose", environment=environment)
    try:
        worker.await_ready()
        with KafkaEmitter(guarded.address, settings=guarded.of("router")) as emitter:
            for number in range(50):
                emitter.emit(
                    EventRecord.from_event(a_decided(a_receipt(decision_id=f"d-{number}"), event_id=f"e-{number}"))
                )
            assert emitter.flush(30) == 0
            emitter.stats.require_all()
        lake = Lake.open(lake_root)
        with Backlog(guarded.address, guarded.cluster_id, guarded.of("worker")) as backlog:
            await_that(lambda: backlog.records_left(lake) == 0, "the end of the backlog")
        assert lake.scan(EVENTS).collect().height == 50
        assert worker.stop() == 0
    finally:
        worker.kill()
    for secret in PASSWORDS.values():
        assert secret not in worker.log.read_text()

    assert _is_refused_the_topic(guarded, "router")

    refusals: list[int] = []
    producer = Producer({**guarded.of("viewer"), "bootstrap.servers": guarded.address, "message.timeout.ms": 20_000})
    producer.produce(DECISIONS, b"{}", on_delivery=lambda error, _: refusals.append(error.code() if error else 0))
    producer.flush(30)
    assert refusals == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    viewer = Consumer(
        {
            **guarded.of("viewer"),
            "bootstrap.servers": guarded.address,
            "group.id": "viewer",
            "auto.offset.reset": "earliest",
        }
    )
    viewer.subscribe([DECISIONS])
    read: list[object] = []
    await_that(lambda: read.extend(viewer.consume(50, 0.5)) is None and len(read) >= 50, "the viewer to read")
    viewer.close()


def test_who_may_not_produce_is_told_so_and_what_it_emitted_stays_on_disk(
    guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_topics(guarded.address, guarded.of("worker"))
    bare = KafkaEmitter(guarded.address, settings=guarded.of("viewer"))
    bare.emit(EventRecord.from_event(a_decided(a_receipt(decision_id="d-0"), event_id="e-0")))
    await_that(lambda: bare.stats.failed == 1, "the refusal")
    assert bare.flush(5.0) == 0, "nothing is under way any more, and nothing is raised"
    bare.close(5.0)
    assert set(bare.stats.by_error) == {"CLUSTER_AUTHORIZATION_FAILED"}

    outbox = Outbox(tmp_path / "outbox.db")
    emitter = OutboxEmitter.to_kafka(guarded.address, outbox, settings=guarded.of("viewer"))
    emitter.emit(EventRecord.from_event(a_decided(a_receipt(decision_id="d-1"), event_id="e-1")))
    emitter.keep(EventRecord.from_event(a_decided(a_receipt(decision_id="d-2"), event_id="e-2")))
    await_that(lambda: emitter.waiting == 2, "what was in memory to be on disk")
    assert emitter.flush(1.0) >= 2
    assert emitter.close(1.0) >= 2
    assert emitter.lost == 0
    assert "CLUSTER_AUTHORIZATION_FAILED" in caplog.text
    assert PASSWORDS["viewer"] not in caplog.text

    with OutboxEmitter.to_kafka(
        guarded.address, Outbox(tmp_path / "outbox.db"), settings=guarded.of("router")
    ) as allowed:
        assert allowed.flush(30.0) == 0, "once it may, all of it is delivered"


def test_a_wrong_password_ends_the_worker_with_the_reason_and_without_the_password(
    guarded: Guarded, tmp_path: Path
) -> None:
    worker = WorkerProcess(
        tmp_path,
        guarded,
        str(tmp_path / "lake"),
        "",
        "--verbose",
        environment={
            "STAGEKEEPER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "STAGEKEEPER_KAFKA_SASL_MECHANISM": "PLAIN",
            "STAGEKEEPER_KAFKA_SASL_USERNAME": "worker",
            "STAGEKEEPER_KAFKA_SASL_PASSWORD": "a-wrong-password",
            "STAGEKEEPER_KAFKA_SSL_CA_LOCATION": str(guarded.authorities),
        },
    )
    assert worker.process.wait(60) == 1
    said = worker.log.read_text()
    assert "does not let this client in" in said
    assert "uthentication failed" in said
    assert "a-wrong-password" not in said
