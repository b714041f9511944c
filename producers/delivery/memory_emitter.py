"""An emitter for tests of what is behind a router: it keeps events in memory, and says what is missing among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from producers.delivery.kafka_emitter import DeliveryStats
from producers.wire import events

if TYPE_CHECKING:
    from producers.wire.decision import Decision

Kind = TypeVar("Kind", bound=events.Event)


class MemoryEmitter:
    """Takes every event, as an outbox would, and keeps it as `events`, in order.

    Its assertions raise an `AssertionError` that names what was recorded instead.
    """

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def emit(self, record: events.EventRecord) -> None:
        """Keep an event, checked against its published form."""
        self.events.append(events.event_from_bytes(record.value))

    keep = emit

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002 - there is nothing to wait for
        """Nothing is ever left."""
        return 0

    @property
    def stats(self) -> DeliveryStats:
        """Everything was delivered."""
        return DeliveryStats(emitted=len(self.events), delivered=len(self.events))

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def decisions(self, tool: str) -> list[Decision]:
        """What was decided about a tool's calls, in order."""
        decided = self.of(events.ActionDecided)
        return [event.data.decision for event in decided if event.data.contract.tool == tool]

    def executions(self, tool: str) -> list[events.ActionExecutedData]:
        """What came of a tool's calls, in order."""
        ids = {event.subject for event in self.of(events.ActionDecided) if event.data.contract.tool == tool}
        return [event.data for event in self.of(events.ActionExecuted) if event.subject in ids]

    def assert_decided(self, tool: str, *outcomes: str) -> None:
        """The tool's calls were decided so, in this order, as `assert_decided("refund", "allow", "deny")` says."""
        recorded = [decision.result.outcome for decision in self.decisions(tool)]
        _require(
            recorded == list(outcomes), f"{tool} was to be decided {_listed(outcomes)}, and was {_listed(recorded)}"
        )

    def assert_executed(self, tool: str, *statuses: str) -> None:
        """The tool's calls ran and ended so, in this order, as `assert_executed("refund", "succeeded")` says."""
        recorded = [execution.status.value for execution in self.executions(tool)]
        _require(recorded == list(statuses), f"{tool} was to have {_listed(statuses)}, and has {_listed(recorded)}")

    def assert_nothing_ran(self) -> None:
        """No action was executed."""
        ran = self.of(events.ActionExecuted)
        _require(not ran, f"{len(ran)} action(s) ran, of the decisions {_listed([event.subject for event in ran])}")


def _listed(words: object) -> str:
    return ", ".join(map(str, words)) or "nothing"  # type: ignore[call-overload]


def _require(holds: bool, fault: str) -> None:  # noqa: FBT001 - an assertion
    if not holds:
        raise AssertionError(fault)
