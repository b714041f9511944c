"""Read micro-batches from Kafka in a thread, from the offsets that the lake stores.

The consumer group only assigns partitions; on the embedded broker one worker reads all of them, and others wait for its
lock. The offset to read on from comes from the lake at every assignment; none is committed to Kafka.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from analytics.lake.tables import Lake, SourcePartition
from producers.wire.topics import SOURCE_TOPICS
from streams.broker import DATA_GROUP, EMBEDDED_PREFIX, KafkaSettings, admin, cluster_id_of
from streams.ingest.cadence import COMMIT_EVERY_S, IDLE_S, LARGE_RECORDS, SOONEST_S
from streams.ingest.errors import DataPlaneError, LogIdentityError
from streams.ingest.pipeline import Assignment
from streams.ingest.reader_lock import reader_lock
from streams.ingest.records import Batch, PartitionRecords, possible_ms
from streams.ingest.recovery import resume
from streams.ingest.topic_logs import remember_logs, topic_ids
from streams.publisher import CLIENT_LOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka.admin import AdminClient

    from streams.ingest.binary_mode import Headers
    from streams.metrics import Progress

LOG: Final = logging.getLogger(__name__)

# A batch has at most about this many records, where more wait, and bytes; when it is handed over, see `cadence`.
BATCH_RECORDS: Final = 30_000
BATCH_BYTES: Final = 64 * 1_024 * 1_024

FETCH_RECORDS: Final = 5_000  # records that are taken from the client at a time, so that `BATCH_BYTES` is seen in time

FETCHING: Final = {  # librdkafka settings for reading ahead
    "queued.max.messages.kbytes": 32 * 1_024,
    "fetch.queue.backoff.ms": 20,  # one second by default, in which a queue that was full runs empty
}

_TopicAndPartition: TypeAlias = tuple[str | None, int | None]

_PAUSE_S: Final = 1.0  # between two calls of the client, also while the plane is busy: it has to hear of its group
_ANSWER_S: Final = 10.0
_DRAIN_S: Final = 30.0
_LAST_DRAIN_S: Final = 2.0
_TRANSIENT: Final = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # whether it is gone, its id tells
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001  (the partitions are lost, and assigned anew by the next poll)
    }
)


class StoppedError(DataPlaneError):
    """The worker is stopping: nothing more is taken."""


class Source:
    """Reads the source topics as one member of the consumer group, with a lake handle of its own.

    What is read goes to `put`, in order; it blocks while another item is waiting, and raises `StoppedError` while the
    worker is stopping. `progress` tells what was committed of it. `on_failure` is called in the source's thread when it
    cannot go on.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        log_id: str,
        lake: Lake,
        put: Callable[[Assignment | Batch], None],
        progress: Progress,
        *,
        on_failure: Callable[[BaseException], None],
        settings: KafkaSettings | None = None,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> None:
        self._lake = lake
        self._commit_every_s = commit_every_s
        self._put = put
        self._progress = progress
        self._on_failure = on_failure
        self._bootstrap_servers, self._settings = bootstrap_servers, settings
        self._config: dict[str, object] = {
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 2_000,
            **(settings or {}),
            "bootstrap.servers": bootstrap_servers,
            "client.id": "stagekeeper-worker",
            "group.id": DATA_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # a missing offset must stop the worker, never move it
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "topic.metadata.refresh.interval.ms": 10_000,  # how soon partitions that were added are read
            **FETCHING,
        }
        self._log_id = log_id
        self._admin: AdminClient | None = None
        self._topic_ids: dict[str, str] = {}
        self._logs: dict[str, str] = {}  # the log of each topic
        self._next: dict[SourcePartition, int] = {}
        self._seen_ids: dict[str, str] = {}  # the topics' ids as the broker last said
        self._given: list[TopicPartition] = []  # what this member is to read
        self._handed_over = 0
        self._away = False
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stagekeeper-source", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout_s: float, *, drain: bool) -> bool:
        """Stop reading; whether the thread ended in time. Without `drain`, what was handed over is not waited for."""
        self._stopping.set()
        if not drain:
            self._abandoned.set()
        self._progress.wake()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def is_away(self) -> bool:
        """Whether the broker did not answer when it was last asked."""
        return self._away

    @property
    def unsaved(self) -> int:
        """Number of batches and assignments that were handed over and are not committed."""
        return self._handed_over - self._progress.reached

    def _run(self) -> None:
        try:
            consumer = Consumer(self._config, logger=CLIENT_LOG)
            try:
                self._admin = admin(self._bootstrap_servers, self._settings)
                self._check_identity(consumer)
                if self._log_id.startswith(EMBEDDED_PREFIX):
                    self._read_alone(consumer)
                else:
                    self._read_as_member(consumer)
            finally:
                consumer.close()
        except StoppedError:
            LOG.debug("the source has stopped")
        except KafkaException as error:
            refused = DataPlaneError(
                f"Kafka cannot be read: {error.args[0].str()}. Started again, the worker resumes from the lake."
            )
            refused.__cause__ = error
            self._on_failure(refused)
        except BaseException as error:  # noqa: BLE001  (whatever it is must end the worker, from another thread)
            self._on_failure(error)

    def _read_as_member(self, consumer: Consumer) -> None:
        # The consumer itself must not be asked within its own callbacks: `list_topics` takes away what the client's
        # next callback of the same `consume` needs. A log line is one, and the process aborts in `CallState_get`.
        def assigned(reading: Consumer, partitions: list[TopicPartition]) -> None:
            if self._admin is not None:
                self._check_identity(self._admin)
            self._assigned(reading, partitions)

        topics = [topic.name for topic in SOURCE_TOPICS]
        consumer.subscribe(topics, on_assign=assigned, on_revoke=self._revoked, on_lost=self._revoked)
        self._read(consumer)

    def _read_alone(self, consumer: Consumer) -> None:
        with reader_lock(self._log_id, self._stopping) as is_held:
            if not is_held:
                return
            self._check_identity(consumer)  # waiting for the lock may have taken long
            topics = consumer.list_topics(timeout=_ANSWER_S).topics
            names = [topic.name for topic in SOURCE_TOPICS]
            partitions = [TopicPartition(name, number) for name in names for number in topics[name].partitions]
            self._assigned(consumer, partitions)
            try:
                self._read(consumer)
            finally:
                self._revoked(consumer, partitions)

    def _read(self, consumer: Consumer) -> None:
        behind, idle, handed_s, fetched_s = False, True, 0.0, time.monotonic()
        while not self._stopping.is_set():
            messages = self._fetch(consumer, handed_s, fetched_s, BATCH_RECORDS if behind else LARGE_RECORDS)
            fetched_s = time.monotonic()
            # A broker that came back empty under the same address is another log. Its identity only ever changes from
            # the old to the new, so records that were fetched before it is seen unchanged are the old log's.
            # What was fetched is kept meanwhile where the broker is away.
            while not self._broker_answers(consumer) and messages:
                if self._stopping.wait(0.1):
                    raise StoppedError("the worker is stopping")
            if self._is_elsewhere(consumer):
                continue
            partitions = self._collect(messages)
            if partitions or (not idle and fetched_s >= handed_s + IDLE_S):
                idle = not partitions
                self._hand_over(Batch(self._handed_over + 1, partitions))
                handed_s = time.monotonic()
            lag = self._lag(consumer)
            self._progress.lag_is(lag)
            behind = lag >= BATCH_RECORDS
            if not behind:
                # What comes now is visible soonest if it is taken only when the plane can begin with it: taken
                # earlier, it would wait in a batch of its own for the two that are under way.
                self._progress.wait_for(self._handed_over - 1, _PAUSE_S, self._stopping.is_set)

    def _fetch(self, consumer: Consumer, handed_s: float, fetched_s: float, most: int) -> list[Message]:
        """Fetch one batch, of about `most` records.

        `handed_s` is when the last was handed over, `fetched_s` when the last fetch ended (monotonic seconds).
        """
        messages: list[Message] = []
        size = 0
        while len(messages) < most and size < BATCH_BYTES:
            every_s = min(SOONEST_S, self._commit_every_s)
            # After a pause the first record is not kept waiting for long, and what came while the plane was busy not at
            # all.
            pause_s = every_s if self._progress.hurry else self._commit_every_s
            due_s = max(handed_s + pause_s, fetched_s + every_s)
            left_s = due_s - time.monotonic()
            fetched = consumer.consume(FETCH_RECORDS, min(max(0.0, left_s), every_s))
            messages += fetched
            size += sum(map(len, fetched))
            if len(fetched) < FETCH_RECORDS and (left_s <= every_s or self._stopping.is_set()):
                break
        return messages

    def _is_elsewhere(self, consumer: Consumer) -> bool:
        """Whether a topic is gone or was made anew; if so, what there is now is read on from where the lake is.

        What was fetched is not taken then, since nobody can tell which log it is of.
        """
        if not self._given or self._seen_ids == self._topic_ids:
            return False
        if gone := self._topic_ids.keys() - self._seen_ids.keys():
            LOG.warning("topics that were read are gone: %s; waiting until they are made anew", ", ".join(sorted(gone)))
        self._revoked(consumer, self._given)
        self._assigned(consumer, self._given)
        return True

    def _collect(self, messages: list[Message]) -> dict[SourcePartition, PartitionRecords]:
        logs, log_id = self._logs, self._log_id
        ends: dict[_TopicAndPartition, int] = {}
        grouped: dict[_TopicAndPartition, list[Message]] = defaultdict(list)
        origins = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
        for message, origin, error in zip(messages, origins, map(Message.error, messages), strict=True):
            if error is None:
                grouped[origin].append(message)
            else:
                self._note_error(error, origin, message.offset(), ends)
        collected = {
            SourcePartition(logs.get(str(topic), log_id), str(topic), int(number or 0)): _columns(group)
            for (topic, number), group in grouped.items()
        }
        for partition, records in collected.items():
            self._next[partition] = records.offsets[-1] + 1
        for (topic, number), end in ends.items():
            partition = SourcePartition(logs.get(str(topic), log_id), str(topic), int(number or 0))
            # Read to the end, and the last offsets held nothing that the broker hands out: markers and aborted records
            # of transactions on Apache Kafka, null values on the embedded broker. Without a commit that covers them the
            # lake would never count as caught up.
            if end > self._next.get(partition, end):
                collected.setdefault(partition, PartitionRecords()).end = end
                self._next[partition] = end
        return collected

    @staticmethod
    def _note_error(
        error: KafkaError, origin: _TopicAndPartition, offset: int | None, ends: dict[_TopicAndPartition, int]
    ) -> None:
        if error.code() == KafkaError._PARTITION_EOF and offset is not None:  # noqa: SLF001
            ends[origin] = offset
        elif error.code() in _TRANSIENT:
            LOG.debug("the broker is away: %s", error.str())
        else:
            raise DataPlaneError(f"Kafka refuses to be read at {origin[0]}/{origin[1]}: {error.str()}.")

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        log_id = self._log_id
        self._given = assigned
        if self._admin is not None:
            self._topic_ids = self._seen_ids = topic_ids(self._admin)
            self._logs = remember_logs(self._lake, log_id, self._topic_ids)
        bounds = {}
        for partition in assigned:
            if self._admin is not None and partition.topic not in self._topic_ids:
                continue  # it is gone
            low, end = consumer.get_watermark_offsets(partition, timeout=_ANSWER_S)
            if log_id.startswith(EMBEDDED_PREFIX):
                # It answers with the start of its last batch, plus one. Its log can be neither cut nor exchanged
                # without a new id, so there is nothing to compare the end with.
                end = sys.maxsize
            bounds[SourcePartition(self._logs.get(partition.topic, log_id), partition.topic, partition.partition)] = (
                low,
                end,
            )
        resumed = resume(self._lake, bounds)
        self._next = {partition: recovered.start for partition, recovered in resumed.items()}
        self._hand_over(Assignment(self._handed_over + 1, resumed))
        consumer.assign([TopicPartition(source.topic, source.partition, at) for source, at in self._next.items()])
        LOG.info("reading %d partitions of log %s", len(resumed), log_id)

    def _revoked(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Wait until what was handed over is committed, before another worker may read on."""
        patience_s = _LAST_DRAIN_S if self._stopping.is_set() else _DRAIN_S
        if self._handed_over and not self._progress.wait_for(self._handed_over, patience_s, self._abandoned.is_set):
            LOG.warning("%d partitions are given up before all of them is committed", len(revoked))
        self._next = {}
        consumer.unassign()

    def _hand_over(self, item: Assignment | Batch) -> None:
        self._put(item)
        self._handed_over = item.number

    def _check_identity(self, client: Consumer | AdminClient, timeout_s: float = _ANSWER_S) -> None:
        identity = cluster_id_of(client.list_topics(SOURCE_TOPICS[0].name, timeout=timeout_s))
        if identity is None:
            raise LogIdentityError(
                "the broker states no cluster id, so that stored offsets could not be told from another log's. "
                "Use a broker that has one (Apache Kafka does since 0.10.1)."
            )
        if identity != self._log_id:
            raise LogIdentityError(
                f"the log {self._log_id} has been replaced by {identity} under the same address; its offsets mean "
                "something else. Start the worker again to read the new log."
            )

    def _broker_answers(self, consumer: Consumer) -> bool:
        """Check the log's identity (`LogIdentityError`); False while the broker is away, which is waited for."""
        try:
            self._check_identity(consumer, timeout_s=1.0)
            if self._admin is not None:
                self._seen_ids = topic_ids(self._admin)
        except KafkaException as error:
            if not self._away:
                LOG.warning("the broker does not answer (%s); waiting for it", error.args[0].str())
            self._away = True
            return False
        if self._away:
            LOG.warning("the broker answers again")
        self._away = False
        return True

    def _lag(self, consumer: Consumer) -> int:
        """Records that are in the log but not yet fetched, as far as the client knows."""
        lag = 0
        for partition, following in self._next.items():
            place = TopicPartition(partition.topic, partition.partition)
            _low, end = consumer.get_watermark_offsets(place, cached=True)
            lag += max(0, end - following) if end != OFFSET_INVALID else 0
        return lag


def _columns(messages: list[Message]) -> PartitionRecords:
    return PartitionRecords(
        offsets=cast("list[int]", list(map(Message.offset, messages))),  # a message that was read has one
        keys=cast("list[bytes | None]", list(map(Message.key, messages))),  # a plain consumer decodes nothing
        values=cast("list[bytes | None]", list(map(Message.value, messages))),
        broker_at_ms=[possible_ms(at_ms) if kind else None for kind, at_ms in map(Message.timestamp, messages)],
        headers_of=lambda position: cast("Headers | None", messages[position].headers()),  # a consumer gives no mapping
    )
