"""Decide calls of actions, record each decision, and permit what it lets run."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producers.boundary import errors
from producers.boundary.action import Permit, call_context, recordable
from producers.boundary.canonical_json import copied, published
from producers.boundary.decision_rules import READS, StagedDecision, decide_async
from producers.boundary.shared_calls import AskedCall, CallFault, SharedCalls
from producers.boundary.telemetry import RefusalSpan, add_decision_events, get_traceparent
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.contract import ArgumentsDigest
from producers.wire.decision import Deny

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

    from producers.boundary.action import Action
    from producers.boundary.authorization import Authorizer
    from producers.boundary.canonical_json import ArgumentDigester
    from producers.boundary.flags import FlagEvaluator, FlagValues
    from producers.boundary.review_queue import ReviewQueue
    from producers.delivery.recorder import Recorder
    from producers.wire.event_writer import SharedDecision
    from producers.wire.events import EventRecord
    from producers.wire.receipt import IssuedReceipt

LOG = logging.getLogger(__name__)

# Why a call is denied for what it is
ARGUMENTS_NOT_DIGESTIBLE: Final = "arguments_not_digestible"
CONTEXT_NOT_VALID: Final = "context_not_valid"

_NO_DIGEST: Final = ArgumentsDigest()


class CallDecisions:
    """Decides the calls of one router; safe to use from many threads and tasks. Its clock counts seconds."""

    def __init__(
        self,
        authorizer: Authorizer,
        flags: FlagEvaluator,
        recorder: Recorder,
        reviews: ReviewQueue,
        digester: ArgumentDigester,
        *,
        agent: str,  # where the context names none
        clock: Callable[[], float],
        tracer_provider: TracerProvider | None,
    ) -> None:
        self._authorizer = authorizer
        self._flags = flags
        self._recorder = recorder
        self._reviews = reviews
        self._digester = digester
        self._agent = agent
        self._clock = clock
        self._tracer_provider = tracer_provider
        self._shared_calls = SharedCalls(steady=getattr(authorizer, "steady", False) is True)

    def permit(self, action: Action, arguments: dict[str, Any]) -> Permit:
        """Decide a call, on record; raises a `RefusedError` where it may not run."""
        asked = self._ask(action, arguments)
        call = asked.call
        return self._answer(asked, call.recall(self._flags) or self._flags.evaluate(call.flag_context))

    async def permit_async(self, action: Action, arguments: dict[str, Any]) -> Permit:
        """As `permit`, without holding up the event loop."""
        asked = self._ask(action, arguments)
        call = asked.call
        return await self._answer_async(
            asked, call.recall(self._flags) or await self._flags.evaluate_async(call.flag_context)
        )

    async def foresee_async(self, action: Action) -> StagedDecision:
        """What would be decided about a call, off the record."""
        contract = action.contract(replace(call_context(), agent=call_context().agent or self._agent))
        return await decide_async(contract, self._authorizer, self._flags, variants=frozenset(action.variants))

    def deny(self, action: Action, reason: str, message: str) -> errors.InvalidCallError:
        """Record that a call is denied for what it is, whatever the policy says; returns the error to raise."""
        fault = CallFault(reason, message)
        asked = self._ask(action, {}, fault)
        return self._refuse_call(asked, fault, self._flags.evaluate(asked.call.flag_context))

    async def deny_async(self, action: Action, reason: str, message: str) -> errors.InvalidCallError:
        """As `deny`, without holding up the event loop."""
        fault = CallFault(reason, message)
        asked = self._ask(action, {}, fault)
        return self._refuse_call(asked, fault, await self._flags.evaluate_async(asked.call.flag_context))

    def _ask(self, action: Action, arguments: dict[str, Any], fault: CallFault | None = None) -> AskedCall:
        started = self._clock()
        context = call_context()
        if context.agent is None:
            context = replace(context, agent=self._agent)
        reason = CONTEXT_NOT_VALID
        arguments, injected = action.split(arguments)
        try:
            call = self._shared_calls.get(action, context)
            details = call.details(context)
            reason = ARGUMENTS_NOT_DIGESTIBLE
            arguments = copied(arguments)
            digest = _NO_DIGEST if fault is not None else self._digester.digest(arguments, action.redact)
        except (UsageError, TypeError) as error:  # a TypeError where the context holds what has no hash
            # Refused, and on record as far as it can be written.
            fault = fault or CallFault(reason, str(error), error)
            context = recordable(context)
            call = self._shared_calls.get(action, context)
            details = call.details(context)
            digest = _NO_DIGEST
        authorized = call.authorize(self._authorizer, digest, details)
        return AskedCall(started, call, details, arguments, injected, digest, authorized, fault)

    def _answer(self, asked: AskedCall, values: FlagValues) -> Permit:
        written = self._decide(asked, values)
        try:
            self._recorder.hand_over(written.record, durable=written.durable)
        except OutboxError as error:
            raise self._refuse_unrecorded(asked, written.shared, error) from error
        if (permit := self._permit_for(asked, written)) is not None:
            return permit
        if written.is_queued:
            self._submit(asked, written)
        raise errors.refusal_of(asked.call.action, written.issued.receipt, written.shared.decision)

    async def _answer_async(self, asked: AskedCall, values: FlagValues) -> Permit:
        written = self._decide(asked, values)
        try:
            await self._recorder.hand_over_async(written.record, durable=written.durable)
        except OutboxError as error:
            raise self._refuse_unrecorded(asked, written.shared, error) from error
        if (permit := self._permit_for(asked, written)) is not None:
            return permit
        if written.is_queued:
            await asyncio.to_thread(self._submit, asked, written)
        raise errors.refusal_of(asked.call.action, written.issued.receipt, written.shared.decision)

    def _decide(self, asked: AskedCall, values: FlagValues) -> _Written:
        if asked.fault is not None:
            raise self._refuse_call(asked, asked.fault, values) from asked.fault.cause
        return self._write(asked, asked.call.decide(asked.authorized, values))

    def _write(self, asked: AskedCall, shared: SharedDecision) -> _Written:
        """A decision as it is to be recorded, and the span of one after which nothing runs."""
        action, decide_ms = asked.call.action, (self._clock() - asked.started) * 1000
        refused = not shared.decision.expects_execution
        span = RefusalSpan(self._tracer_provider, action, shared, decide_ms) if refused else None
        traceparent = span.traceparent if span is not None else get_traceparent()
        record, issued = self._recorder.write_decided_call(
            shared, asked.details, published(asked.digest), decide_ms, traceparent
        )
        # On disk first, where what it permits changes anything.
        return _Written(shared, record, issued, span, durable=shared.may_run and action.risk_class not in READS)

    def _refuse(self, asked: AskedCall, refused: SharedDecision) -> _Written:
        """Record a refusal, without waiting for the disk."""
        written = self._write(asked, refused)
        self._recorder.hand_over(written.record, durable=False)
        written.end_span()
        return written

    def _refuse_unrecorded(
        self, asked: AskedCall, shared: SharedDecision, error: OutboxError
    ) -> errors.ActionDeniedError:
        tool, call = asked.call.action.tool, asked.call
        LOG.error("%s is denied: its decision cannot be kept on disk", tool, exc_info=error)
        written = self._refuse(asked, call.refuse(shared, Deny(reason="record_not_durable")))
        message = f"{tool} is denied: its decision cannot be kept on disk ({error})"
        return errors.ActionDeniedError(message, written.issued.receipt, written.shared.decision)

    def _permit_for(self, asked: AskedCall, written: _Written) -> Permit | None:
        """The permission to run, once the decision is on record; None where nothing may run."""
        written.end_span()
        issued, decision, call = written.issued, written.shared.decision, asked.call
        if get_traceparent() is not None:
            targeting_key, _ = call.flag_context
            add_decision_events(issued.decision_id, decision, tool=call.action.tool, targeting_key=targeting_key)
        if not decision.expects_execution:
            return None
        constrained_to = decision.result.mode if decision.result.outcome == "constrain" else None
        arguments, injected = asked.arguments, asked.injected
        return Permit(issued, decision, constrained_to, {**arguments, **injected} if injected else arguments)

    def _submit(self, asked: AskedCall, written: _Written) -> None:
        contract = asked.call.contract(asked.digest, asked.details)
        decision = written.shared.decision
        self._reviews.submit(asked.call.action, asked.arguments, contract, written.issued.receipt, decision)

    def _refuse_call(self, asked: AskedCall, fault: CallFault, values: FlagValues) -> errors.InvalidCallError:
        call = asked.call
        shared = call.decide(asked.authorized, values)
        if shared.decision.result.outcome != "deny":
            shared = call.refuse(shared, Deny(reason=fault.reason))
        written = self._refuse(asked, shared)
        message = f"{call.action.tool} is denied: {shared.decision.result.reason}; {fault.message}"
        return errors.InvalidCallError(message, written.issued.receipt, shared.decision)


class _Written(NamedTuple):
    """A decision that is written, and not yet recorded."""

    shared: SharedDecision
    record: EventRecord
    issued: IssuedReceipt
    span: RefusalSpan | None
    durable: bool  # whether the record must be on disk before anything runs

    @property
    def is_queued(self) -> bool:
        decision = self.shared.decision
        return decision.enforced and decision.result.outcome == "queue_for_review"

    def end_span(self) -> None:
        if self.span is not None:
            self.span.end(self.issued.decision_id)
