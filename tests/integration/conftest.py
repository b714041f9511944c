"""What integration tests share: one broker with its topics, and a fresh lake root for each test."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import object_store
import pytest
from apache_kafka import start_kafka
from brokers import embedded_broker
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from object_store import BUCKET, ObjectStore
from workers import await_that

from producers.wire.topics import TOPICS
from streams.apache_broker import ApacheBroker, missing
from streams.broker import EmbeddedBroker, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Broker


OTHER_CLUSTER = "STAGEKEEPER_TEST_KAFKA"
"""Names a Kafka cluster to test against in place of Apache Kafka from Maven. Its Stagekeeper topics are emptied."""


@dataclass(frozen=True)
class OtherCluster:
    """A cluster that the tests did not start."""

    address: str
    cluster_id: str


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """An embedded broker with every topic. Its log is shared by all tests of the session: tell your events apart."""
    with embedded_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """An embedded broker of this test's own, with every topic: empty logs, and free to be stopped."""
    with embedded_broker(tmp_path / "own-broker") as started:
        yield started


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheBroker | OtherCluster]:
    """Apache Kafka, started once; or the cluster that the environment names."""
    if address := os.environ.get(OTHER_CLUSTER):
        yield OtherCluster(address, ensure_topics(address))
        return
    if reason := missing():
        pytest.skip(f"{reason}; or set {OTHER_CLUSTER}=host:port to a cluster that may be emptied")
    started = start_kafka(tmp_path_factory.mktemp("apache-kafka"))
    try:
        yield started
    finally:
        started.stop()


def _emptied(address: str) -> None:
    """Delete our topics and create them anew: the log of a test begins at 0.

    Tried until it works: a node that an earlier test stopped for a while needs some seconds to find its feet.
    """
    client = AdminClient({"bootstrap.servers": address})

    def gone() -> bool:
        try:
            ours = {topic.name for topic in TOPICS} & set(client.list_topics(timeout=5).topics)
            if ours:
                for deleted in client.delete_topics(sorted(ours), operation_timeout=5).values():
                    deleted.result()
        except KafkaException:
            return False
        return not ours

    await_that(gone, "the topics to be deleted", every_s=0.2)
    ensure_topics(address)


@pytest.fixture
def emptied_kafka(kafka: ApacheBroker | OtherCluster) -> Broker:
    """Apache Kafka with empty topics."""
    _emptied(kafka.address)
    return kafka


@pytest.fixture(params=["embedded", "apache"])
def either_broker(request: pytest.FixtureRequest) -> Broker:
    """The embedded broker, then Apache Kafka, each with empty topics."""
    broker: Broker = request.getfixturevalue("own_broker" if request.param == "embedded" else "emptied_kafka")
    return broker


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    """Root of a lake that does not exist yet."""
    return str(tmp_path / "lake")


@pytest.fixture(scope="session")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3-compatible store, started once."""
    if reason := object_store.missing():
        pytest.skip(reason)
    started = ObjectStore.start(tmp_path_factory.mktemp("object-store"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def bucket_root(a_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Root of a lake on object storage that does not exist yet, with the settings that lead there."""
    for name, value in a_store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4()}"


@pytest.fixture(params=["folder", pytest.param("object store", marks=pytest.mark.exhaustive)])
def either_lake(request: pytest.FixtureRequest) -> str:
    """Root of a lake that does not exist yet: a folder, then object storage."""
    root: str = request.getfixturevalue("lake_root" if request.param == "folder" else "bucket_root")
    return root
