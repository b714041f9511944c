"""A decision's event, filled in ahead: what calls of one action share is checked and encoded once.

`tests/property/test_forms.py` holds what a form writes equal to what the models write.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cached_property
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING, NamedTuple

from producers.wire.events import ActionDecided, ActionExecuted, Encoded, schema_id, type_of
from producers.wire.model import Name, Text, WireModel
from producers.wire.receipt import receipt_of, sealed
from producers.wire.topics import DECISIONS, OUTCOMES

if TYPE_CHECKING:
    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision
    from producers.wire.events import ExecutionStatus
    from producers.wire.receipt import Receipt
    from producers.wire.stage import Stage

BLANK_SHA256 = "0" * 64
"""Stands for the arguments' digest in a contract that is prepared ahead."""

_SOME_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_INTENT = '"intent":""'
_DIGEST = f'"arguments_sha256":"{BLANK_SHA256}"'
_ENVELOPE = f'"datacontenttype":"application/json","dataschema":{json.dumps(schema_id(ActionDecided))},'
_EXECUTED_ENVELOPE = f'"datacontenttype":"application/json","dataschema":{json.dumps(schema_id(ActionExecuted))},'
_EXECUTED_TYPE = f'"type":{json.dumps(type_of(ActionExecuted))},"data":'
_TYPE = f'"type":{json.dumps(type_of(ActionDecided))},"data":'


class Said(WireModel):
    """What an agent says about one call alone. It decides nothing, and no two calls need have it in common."""

    intent: Text = ""
    conversation: Name | None = None
    tool_call: Name | None = None

    @cached_property
    def written(self) -> tuple[str, str]:
        """The intent as JSON, and the fields that follow the arguments' digest in a contract."""
        ids = (("conversation", self.conversation), ("tool_call", self.tool_call))
        return quoted(self.intent), "".join(f',"{name}":{quoted(value)}' for name, value in ids if value is not None)


SILENT = Said()
"""For a call about which nothing is said."""


class Asked(NamedTuple):
    """What differs between two calls of one action under the same circumstances.

    Attributes:
        arguments_sha256: Digest of the arguments.
        decide_ms: How long deciding took, in milliseconds.
        said: What the agent says about the call.
        traceparent: W3C trace context, where there is one.
    """

    arguments_sha256: str
    decide_ms: float
    said: Said = SILENT
    traceparent: str | None = None


class Call(NamedTuple):
    """One call that was decided.

    Attributes:
        decision_id: Id of the decision, and of the event that says it: there is exactly one.
        at: When it was decided.
        asked: What is particular to it.
    """

    decision_id: str
    at: datetime
    asked: Asked


class Outcome(NamedTuple):
    """How an execution ended.

    Attributes:
        status: Its fate.
        latency_ms: Wall time in milliseconds.
        error_type: Class of the failure, if it failed.
    """

    status: ExecutionStatus
    latency_ms: float
    error_type: str | None


class DecisionPart:
    """The decision's side of a form: the same for every contract that the same answers decide in the same way.

    Args:
        contract: One of these contracts.
        decision: The decision, its duration left out.
        stage: The stage at which it counts.
        cohort: Segment of the roll-out.
    """

    __slots__ = ("decision", "json", "may_run", "receipt", "stage", "tail")

    def __init__(self, contract: ActionContract, decision: Decision, *, stage: Stage, cohort: str) -> None:
        self.decision = decision
        self.stage = stage
        self.may_run = decision.expects_execution or decision.result.outcome == "queue_for_review"
        self.receipt = receipt_of(
            contract, decision, stage=stage, cohort=cohort, decision_id="-", decided_at=_SOME_MOMENT
        )
        fields = list(self.receipt.model_dump(mode="json").values())
        self.tail = json.dumps(fields[2:], ensure_ascii=False, separators=(",", ":"))[1:]
        self.json = decision.model_dump_json(exclude_none=True, exclude={"decide_ms"})[:-1] + ',"decide_ms":'


class DecisionForm:
    """An `ActionDecided` event and its receipt with all fields filled in but those of `Call`.

    Args:
        contract: The contract, its arguments' digest blank, and without what is `Said`.
        part: What was decided about it.
    """

    __slots__ = ("_contract", "_part", "decision", "may_run", "stage")

    def __init__(self, contract: ActionContract, part: DecisionPart) -> None:
        self.decision = part.decision
        self.stage = part.stage
        self.may_run = part.may_run
        self._part = part
        # Quotes within values are escaped, so these find the fields themselves and nothing that somebody wrote.
        before, _, rest = contract.model_dump_json(exclude_none=True).partition(_INTENT)
        between, _, after = rest.partition(_DIGEST)
        self._contract = (
            f'","contract":{before}"intent":',
            f'{between}"arguments_sha256":"',
            f'{after},"decision":{part.json}',
        )

    def receipt(self, call: Call) -> Receipt:
        """The receipt of one call."""
        return self._part.receipt.model_copy(update={"decision_id": call.decision_id, "decided_at": call.at})

    def encoded(self, call: Call, *, source: str, key: bytes | None) -> tuple[Encoded, str]:
        """The event of one call, for the wire.

        Args:
            call: What is particular to it.
            source: Who records, as a JSON string.
            key: Signs the receipt.

        Returns:
            The record, and the receipt's token.
        """
        moment = _moment(call.at)
        subject = quoted(call.decision_id)
        token = sealed(f'[{subject},"{moment}",{self._part.tail}', key)
        arguments_sha256, decide_ms, said, traceparent = call.asked
        trace = "" if traceparent is None else f'"traceparent":"{traceparent}",'
        head, middle, tail = self._contract
        intent, ids = said.written
        value = (
            f'{{"specversion":"1.0","id":{subject},"source":{source},"time":"{moment}",'
            f'"subject":{subject},{_ENVELOPE}{trace}{_TYPE}{{"receipt":"'
            f'{token}{head}{intent}{middle}{arguments_sha256}"{ids}{tail}{decide_ms!r}}}}}}}'
        )
        return Encoded(DECISIONS, call.decision_id.encode(), value.encode()), token


def executed(
    outcome: Outcome, *, event_id: str, source: str, at: datetime, decision_id: str, token: str, traceparent: str | None
) -> Encoded:
    """Write an `ActionExecuted` event for the wire.

    Args:
        outcome: How it ended.
        event_id: Id of the event.
        source: Who records, as a JSON string.
        at: When it ended, in UTC.
        decision_id: Id of the decision.
        token: The decision's receipt.
        traceparent: W3C trace context, where there is one.
    """
    trace = "" if traceparent is None else f'"traceparent":"{traceparent}",'
    error = "" if outcome.error_type is None else f',"error_type":{quoted(outcome.error_type)}'
    value = (
        f'{{"specversion":"1.0","id":{quoted(event_id)},"source":{source},"time":"{_moment(at)}",'
        f'"subject":{quoted(decision_id)},{_EXECUTED_ENVELOPE}{trace}{_EXECUTED_TYPE}{{"receipt":"{token}",'
        f'"status":"{outcome.status.value}","latency_ms":{outcome.latency_ms!r}{error}}}}}'
    )
    return Encoded(OUTCOMES, decision_id.encode(), value.encode())


def _moment(at: datetime) -> str:
    return f"{at.isoformat()[:-6]}Z"  # in place of +00:00: every moment that comes here is in UTC
