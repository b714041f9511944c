"""Write events as JSON: what many of them share once, and for each the rest.

The JSON is the models': every value is written by its model, and names and their order are those of the model's fields.
benchmarks/decision.py measures what that saves a decision.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic_core import to_json

from producers.wire.events import CloudEvent, Event, EventRecord, schema_id, type_of
from producers.wire.model import Name, Text, WireModel
from producers.wire.receipt import IssuedReceipt, Receipt, write_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.wire.contract import ActionContract, ArgumentsDigest
    from producers.wire.decision import Decision
    from producers.wire.stage import Stage

_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)


class EventWriter:
    """Writes the events of one class from one source, which is a URI reference."""

    __slots__ = ("_json", "_topic")

    def __init__(self, event_class: type[Event], source: str) -> None:
        self._topic = event_class.topic
        envelope = CloudEvent(id="-", source=source, time=_ANY_MOMENT, subject="-", dataschema=schema_id(event_class))
        slots = {name: b',"%b":%%b' % name.encode() for name in ("id", "time", "subject")}
        opened = _open(envelope, {**slots, "traceparent": b"%b"})
        self._json = b'%b,"type":%b,"data":%%b}' % (opened.removesuffix(b"}"), to_json(type_of(event_class)))

    def write(
        self, event_id: str, time: datetime, subject: str, data: bytes, *, traceparent: str | None = None
    ) -> EventRecord:
        """The record of one event; its time is in UTC, its data JSON, its traceparent a W3C trace context."""
        trace = b"" if traceparent is None else b',"traceparent":' + to_json(traceparent)
        event_id_json = to_json(event_id)
        subject_json = event_id_json if subject is event_id else to_json(subject)  # one id for decision and event
        value = self._json % (event_id_json, to_json(time), subject_json, trace, data)
        return EventRecord(self._topic, subject.encode(), value)


class CallDetails(WireModel):
    """Fields of a contract that an agent gives for one call alone; no decision rests on them."""

    intent: Text = ""
    conversation: Name | None = None
    tool_call: Name | None = None
    requested_tool: Name | None = None

    @cached_property
    def members(self) -> tuple[bytes, ...]:
        """Each field as a member of a JSON object."""
        return tuple(b"" if value is None else _members({name: value}) for name, value in self)


class SharedDecision:
    """A contract and the decision on it, for all calls that differ only in the arguments of its methods."""

    __slots__ = ("_json", "_receipt_rest", "decision", "may_run", "stage")

    def __init__(self, contract: ActionContract, decision: Decision, *, stage: Stage, cohort: str) -> None:
        self.decision = decision
        self.stage = stage
        self.may_run = decision.expects_execution or decision.result.outcome == "queue_for_review"
        receipt = Receipt.from_decision(
            contract, decision, stage=stage, cohort=cohort, decision_id="-", decided_at=_ANY_MOMENT
        )
        self._receipt_rest = b"," + to_json(receipt.members[2:]).removeprefix(b"[")
        contract = contract.model_copy(update={"arguments_hmac": None, "key_id": None})  # they follow the first digest
        particular = dict.fromkeys(("intent", "arguments_sha256", "conversation", "tool_call", "requested_tool"), b"%b")
        self._json = b'{"receipt":"%%b","contract":%b,"decision":%b}' % (
            _open(contract, particular),
            _open(decision, {"decide_ms": b"%b"}),
        )

    def issue(self, decision_id: str, decided_at: datetime, key: bytes | None) -> IssuedReceipt:
        """The receipt of one call, decided at a moment in UTC; signed when a key is given."""
        payload = to_json([decision_id, decided_at]).removesuffix(b"]") + self._receipt_rest
        return IssuedReceipt(decision_id, write_token(payload, key))

    def data(self, token: str, details: CallDetails, arguments: ArgumentsDigest, decide_ms: float | None) -> bytes:
        """The data of one call's event, as JSON; deciding took `decide_ms` milliseconds."""
        intent, conversation, tool_call, requested_tool = details.members
        return self._json % (
            token.encode(),
            intent,
            _digest_members(arguments),
            conversation,
            tool_call,
            requested_tool,
            b"" if decide_ms is None else b',"decide_ms":' + to_json(decide_ms),
        )


def _digest_members(arguments: ArgumentsDigest) -> bytes:
    sha256, hmac, key_id = arguments
    members = b"" if sha256 is None else b',"arguments_sha256":' + to_json(sha256)
    if hmac is not None:
        members += b',"arguments_hmac":' + to_json(hmac)
    return members if key_id is None else members + b',"key_id":' + to_json(key_id)


def _open(record: WireModel, slots: Mapping[str, bytes]) -> bytes:
    """A record as JSON for the operator `%`, with slots in place of some of its fields; the first is always there."""
    json = b""
    between: dict[str, object] = {}
    for name, value in record.__dict__.items():  # in the order of the fields
        if name in slots:
            json += _members(between).replace(b"%", b"%%") + slots[name]
            between = {}
        elif value is not None:
            between[name] = value
    return b"{%b}" % (json + _members(between).replace(b"%", b"%%"))[1:]


def _members(fields: Mapping[str, object]) -> bytes:
    return b"," + to_json(fields, exclude_none=True)[1:-1] if fields else b""
