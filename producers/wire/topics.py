"""The Kafka topics, what each carries, and the settings it must have."""

from __future__ import annotations

from dataclasses import dataclass, field

DECISIONS = "agent.decisions"
OUTCOMES = "agent.outcomes"
REVIEWS = "agent.reviews"
POLICY_CHANGES = "agent.policy-changes"
RECOMMENDATIONS = "agent.recommendations"
ROUTERS = "agent.routers"
DEAD_LETTER = "agent.dead-letter"

MAX_EVENT_BYTES = 1_000_000  # the largest event that is accepted; a larger one is rejected as `too_large`
MAX_RECORD_BYTES = 4_000_000  # the largest a topic takes: so that an oversized event is seen and rejected by name

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """One topic and the settings under which it is created."""

    name: str
    partitions: int
    key: str  # what its records are keyed by
    purpose: str  # one sentence for the published documents
    settings: dict[str, str] = field(default_factory=dict)  # Broker-side topic settings


_EVENT_SETTINGS = {
    "cleanup.policy": "delete",
    "retention.ms": str(7 * _DAY_MS),
    "max.message.bytes": str(MAX_RECORD_BYTES),
}
_LATEST_SETTINGS = {"cleanup.policy": "compact", "max.message.bytes": str(MAX_RECORD_BYTES)}

TOPICS: tuple[Topic, ...] = (
    Topic(DECISIONS, 4, "decision id", "Every decision about an action, as it was made.", _EVENT_SETTINGS),
    Topic(OUTCOMES, 4, "decision id", "Executions, undos and downstream impact of decided actions.", _EVENT_SETTINGS),
    Topic(REVIEWS, 1, "decision id", "People's approvals and rejections of queued actions.", _EVENT_SETTINGS),
    Topic(POLICY_CHANGES, 1, "flag key", "Who changed which flag, from what to what, and why.", _EVENT_SETTINGS),
    Topic(RECOMMENDATIONS, 1, "cell", "The latest verdict on every cell.", _LATEST_SETTINGS),
    Topic(
        ROUTERS,
        1,
        "source",
        "What each router decides by, told every few seconds.",
        {**_EVENT_SETTINGS, "retention.ms": str(3600 * 1000)},
    ),
    Topic(
        DEAD_LETTER,
        1,
        "topic/partition/offset of the rejected record",
        "Records that could not be used, with the reason.",
        {**_EVENT_SETTINGS, "retention.ms": str(30 * _DAY_MS)},
    ),
)

# What the data plane reads into the lake: everything but its own dead letters, and what only the latest counts of
SOURCE_TOPICS: tuple[Topic, ...] = tuple(topic for topic in TOPICS if topic.name not in {ROUTERS, DEAD_LETTER})
