"""Who reads a log at the moment, asked from outside the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, KafkaException

from streams.broker import DATA_GROUP, EMBEDDED_PREFIX, admin
from streams.data.sole import has_reader

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWER_S: Final = 8.0


def reader_count(
    bootstrap_servers: str, log_id: str, settings: Mapping[str, str | int | float | bool] | None = None
) -> int | None:
    """How many workers read the log.

    On the embedded broker one reads at a time, and a lock of this machine tells whether it does. Elsewhere the members
    of the consumer group are counted.

    Returns:
        None where the broker does not say, for example because this client may not see the group.
    """
    if log_id.startswith(EMBEDDED_PREFIX):
        return int(has_reader(log_id))
    client = admin(bootstrap_servers, settings)  # kept until the answer is there: it comes through this object
    (answer,) = client.describe_consumer_groups([DATA_GROUP], request_timeout=_ANSWER_S).values()
    try:
        members: list[object] = answer.result().members
    except KafkaException as error:
        return 0 if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None  # before the first worker ever
    return len(members)
