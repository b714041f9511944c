"""Write events as JSON: what many of them share once, and for each the rest.

The JSON is the models': every value is written by its model, and names and their order are those of the model's fields.
benchmarks/decision.py measures what that saves a decision.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic_core import to_json

from producers.wire.events import CloudEvent, Event, EventRecord, schema_id, type_of
from producers.wire.model import Name, Text, WireModel
from producers.wire.receipt import Receipt, write_token

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
        opened = _open(envelope, {**slots, "recordnumber": b"%b", "traceparent": b"%b"})
        self._json = b'%b,"type":%b,"data":%%b}' % (opened.removesuffix(b"}"), to_json(type_of(event_class)))

    def write(
        self,
        event_id: bytes,
        time: bytes,
        subject: bytes,
        key: bytes,
        data: bytes,
        *,
        traceparent: str | None = None,
        number: bytes = b"",
    ) -> EventRecord:
        """The record of one event, from JSON: its id, its time in UTC, its subject, whose UTF-8 is `key`, its data.

        The traceparent is a W3C trace context; `number` is its record number, or nothing.
        """
        trace = b"" if traceparent is None else b',"traceparent":' + to_json(traceparent)
        numbered = b',"recordnumber":"%b"' % number if number else b""
        return EventRecord(self._topic, key, self._json % (event_id, numbered, time, subject, trace, data))


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

    __slots__ = ("_decision_json", "_json", "_receipt_rest", "decision", "may_run", "stage")

    def __init__(self, contract: ActionContract, decision: Decision, *, stage: Stage, cohort: str) -> None:
        self.decision = decision
        self.stage = stage
        self.may_run = decision.expects_execution or decision.result.outcome == "queue_for_review"
        receipt = Receipt.from_decision(
            contract, decision, stage=stage, cohort=cohort, decision_id="-", decided_at=_ANY_MOMENT
        )
        self._receipt_rest = b"," + to_json(receipt.members[2:]).removeprefix(b"[")
        self._decision_json = _open(decision, {"decide_ms": b"%b"})
        self._json = self._write(contract)

    def for_contract(self, contract: ActionContract) -> SharedDecision:
        """The same decision on another contract, of which the receipt says the same."""
        other = copy(self)
        other._json = self._write(contract)  # noqa: SLF001 - its own kind
        return other

    def _write(self, contract: ActionContract) -> bytes:
        contract = contract.model_copy(update={"arguments_hmac": None, "key_id": None})  # they follow the first digest
        particular = dict.fromkeys(("intent", "arguments_sha256", "conversation", "tool_call", "requested_tool"), b"%b")
        opened = _open(contract, particular)
        return b'{"receipt":"%%b","contract":%b,"decision":%b}' % (opened, self._decision_json)

    def token(self, decision_id: bytes, decided_at: bytes, key: bytes | None) -> str:
        """The receipt's token for one call, from JSON: its id, and its moment in UTC; signed when a key is given."""
        return write_token(b"[%b,%b%b" % (decision_id, decided_at, self._receipt_rest), key)

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
    members = b"" if sha256 is None else b',"arguments_sha256":"%b"' % sha256.encode()  # hexadecimal, nothing to escape
    if hmac is not None:
        members += b',"arguments_hmac":"%b"' % hmac.encode()
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
