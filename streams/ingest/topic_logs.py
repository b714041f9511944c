"""Which log a topic is: a topic that was deleted and made anew is another one, whose offsets begin again.

Brokers give each topic an id. The table `events` remembers them in its log, each with a number: the first log of a
topic goes by the cluster's id, a later one by that and its number. Offsets are stored under this name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl
from confluent_kafka import KafkaError, KafkaException, TopicCollection

from analytics.lake.errors import FencedError
from analytics.lake.table_schemas import COLUMNS, EVENTS
from analytics.lake.tables import Advance, Lake
from producers.wire.topics import SOURCE_TOPICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka.admin import AdminClient

LOG: Final = logging.getLogger(__name__)

_ANSWER_S: Final = 8.0
_ATTEMPTS: Final = 5  # several workers may start at the same time


class _TopicLog(NamedTuple):
    """The number of one log of a topic."""

    cluster_id: str
    topic: str
    topic_id: str

    @property
    def app_id(self) -> str:
        return f"topic/{self.cluster_id}/{self.topic}/{self.topic_id}"


class _NewestLog(NamedTuple):
    """The number of the newest log of a topic."""

    cluster_id: str
    topic: str

    @property
    def app_id(self) -> str:
        return f"topics/{self.cluster_id}/{self.topic}"


def topic_ids(client: AdminClient) -> dict[str, str]:
    """The ids of the source topics that exist; raises `KafkaException` where the broker does not answer."""
    names = [topic.name for topic in SOURCE_TOPICS]
    ids = {}
    for name, answer in client.describe_topics(TopicCollection(names), request_timeout=_ANSWER_S).items():
        try:
            ids[name] = str(answer.result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return ids


def known_logs(lake: Lake, cluster_id: str, ids: Mapping[str, str]) -> dict[str, str]:
    """The log of each topic by its id, also of one that nobody has remembered yet. Raises `LakeError`."""
    return {name: _log_id(cluster_id, number) for name, (number, _) in _numbers(lake, cluster_id, ids).items()}


def remember_logs(lake: Lake, cluster_id: str, ids: Mapping[str, str]) -> dict[str, str]:
    """The same, and remember the ids; a topic that was made anew is named in the log. Raises `LakeError`."""
    for attempt in range(_ATTEMPTS):
        numbers = _numbers(lake, cluster_id, ids)
        new = {name: number for name, (number, is_stored) in numbers.items() if not is_stored}
        advances: dict[_TopicLog | _NewestLog, Advance] = {}
        for name, number in new.items():
            advances[_TopicLog(cluster_id, name, ids[name])] = Advance(None, number)
            advances[_NewestLog(cluster_id, name)] = Advance(number - 1 or None, number)
        try:
            if advances:
                lake.append(EVENTS, pl.DataFrame(schema=COLUMNS[EVENTS]), advances=advances)
        except FencedError:
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        for name, number in new.items():
            if number > 1:
                LOG.warning(
                    "the topic %s was deleted and made anew (id %s): its new log is read from its beginning, as %s; "
                    "what the old one held and was not read is gone",
                    name,
                    ids[name],
                    _log_id(cluster_id, number),
                )
        break
    return {name: _log_id(cluster_id, number) for name, (number, _) in numbers.items()}


def _numbers(lake: Lake, cluster_id: str, ids: Mapping[str, str]) -> dict[str, tuple[int, bool]]:
    """The number of each topic's log, and whether it is remembered."""
    logs = {name: _TopicLog(cluster_id, name, topic_id) for name, topic_id in ids.items()}
    newest = {name: _NewestLog(cluster_id, name) for name in ids}
    stored, last = lake.stored_offsets(EVENTS, logs.values()), lake.stored_offsets(EVENTS, newest.values())
    return {
        name: (stored[logs[name]], True) if logs[name] in stored else (last.get(newest[name], 0) + 1, False)
        for name in ids
    }


def _log_id(cluster_id: str, number: int) -> str:
    return cluster_id if number == 1 else f"{cluster_id}#{number}"
