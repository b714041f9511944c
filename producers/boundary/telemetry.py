"""OpenTelemetry: a span for each execution and each refusal, an event for each evaluated flag and each decision.

Silent until a tracer provider is configured. The names of attributes are those of OpenTelemetry's conventions for GenAI
and feature flags, and for what they lack `stagekeeper.*`. `openfeature.telemetry` still has the flags' older names.
For what a boundary refuses the GenAI conventions have settled no span: the name of ours is our own, and it has no
`gen_ai.operation.name`, so that whoever counts calls of tools by it does not count what never ran.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from openfeature.exception import ErrorCode
from opentelemetry import context, trace

from producers.boundary.action import Action, Permit, call_context

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from producers.wire.decision import Decision, FlagEvaluation
    from producers.wire.event_writer import SharedDecision

_OPERATION = "execute_tool"
_REFUSAL = "stagekeeper.refuse"
_ERROR_TYPE = "error.type"
_ERROR_CODES = frozenset(ErrorCode) - {ErrorCode.GENERAL}


def get_traceparent(span: Span | None = None) -> str | None:
    """W3C trace context of a span, by default the current one; None without a trace."""
    span = span or trace.get_current_span()
    if span is trace.INVALID_SPAN or not (at := span.get_span_context()).is_valid:
        return None
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{int(at.trace_flags):02x}"


def add_decision_events(decision_id: str, decision: Decision, *, tool: str, targeting_key: str) -> None:
    """Write a decision and the flags it rests on into the caller's span."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    for flag in decision.flags:
        span.add_event("feature_flag.evaluation", _flag_attributes(flag, decision.ruleset_sha256, targeting_key))
    span.add_event(
        "stagekeeper.action.decided",
        {"stagekeeper.decision.id": decision_id, "gen_ai.tool.name": tool, **_decision_attributes(decision)},
    )


class RefusalSpan:
    """The span of a decision after which nothing runs, below the caller's; that one where the process makes none.

    Its status stays unset: that a boundary refuses is no error of the boundary.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(
        self, provider: TracerProvider | None, action: Action, shared: SharedDecision, decide_ms: float
    ) -> None:
        provider = provider or trace.get_tracer_provider()
        self._span: Span | None = None
        if not isinstance(provider, trace.ProxyTracerProvider):
            decision = shared.decision
            authorization = decision.authorization
            self._span = provider.get_tracer("stagekeeper").start_span(
                f"{_REFUSAL} {action.tool}",
                start_time=time.time_ns() - int(decide_ms * 1e6),
                attributes={
                    **_call_attributes(action),
                    **_decision_attributes(decision),
                    "stagekeeper.stage": shared.stage.value,
                    **_known(
                        {
                            "stagekeeper.decision.mode": getattr(decision.result, "mode", None),
                            "stagekeeper.authorization.rule": None if authorization is None else authorization.rule,
                            "feature_flag.version": decision.ruleset_sha256,
                        }
                    ),
                },
            )
        self.traceparent = get_traceparent(self._span)

    def end(self, decision_id: str) -> None:
        """End the span, with the id of the decision."""
        if self._span is not None:
            self._span.set_attribute("stagekeeper.decision.id", decision_id)
            self._span.end()


class ExecutionSpan:
    """The span of one execution, current from its start to its end; the caller's where the process makes none."""

    __slots__ = ("_span", "_token", "traceparent")

    def __init__(self, provider: TracerProvider | None, action: Action, permit: Permit) -> None:
        provider = provider or trace.get_tracer_provider()
        self._token = None
        self._span = trace.get_current_span()
        if not isinstance(provider, trace.ProxyTracerProvider):  # else the process has configured none
            tracer, name = provider.get_tracer("stagekeeper"), f"{_OPERATION} {action.tool}"
            self._span = tracer.start_span(name, attributes=_execution_attributes(action, permit))
            self._token = context.attach(trace.set_span_in_context(self._span))
        self.traceparent = get_traceparent(self._span)

    def end(self, error_type: str | None) -> None:
        """End the span, with the class of the failure if there was one."""
        if self._token is None:
            return
        if error_type is not None:
            self._span.set_attribute(_ERROR_TYPE, error_type)
            self._span.set_status(trace.StatusCode.ERROR)
        context.detach(self._token)
        self._span.end()


def _decision_attributes(decision: Decision) -> dict[str, str | bool]:
    return {
        "stagekeeper.decision.outcome": decision.result.outcome,
        "stagekeeper.decision.reason": decision.result.reason,
        "stagekeeper.decision.enforced": decision.enforced,
    }


def _call_attributes(action: Action) -> dict[str, str]:
    call = call_context()
    return _known(
        {
            "gen_ai.tool.name": action.tool,
            "gen_ai.tool.type": "function",
            "gen_ai.workflow.name": action.workflow,
            "deployment.environment.name": action.environment,
            "gen_ai.agent.name": call.agent,
            "gen_ai.conversation.id": call.conversation,
            "gen_ai.tool.call.id": call.tool_call,
            "user.id": call.user,
        }
    )


def _execution_attributes(action: Action, permit: Permit) -> dict[str, str]:
    return _call_attributes(action) | _known(
        {
            "gen_ai.operation.name": _OPERATION,
            "stagekeeper.decision.id": permit.decision_id,
            "stagekeeper.decision.outcome": permit.decision.result.outcome,
            "stagekeeper.stage": permit.receipt.stage.value,
            "stagekeeper.constrained_to": permit.constrained_to,
        }
    )


def _flag_attributes(flag: FlagEvaluation, ruleset_sha256: str | None, targeting_key: str) -> dict[str, str]:
    code = None if flag.error is None else flag.error.partition(":")[0]  # `FlagEvaluator` puts it first
    return _known(
        {
            "feature_flag.key": flag.key,
            "feature_flag.result.variant": flag.variant,
            "feature_flag.result.value": flag.value if flag.variant is None else None,
            "feature_flag.result.reason": flag.reason.value,
            "feature_flag.provider.name": flag.provider,
            "feature_flag.context.id": targeting_key,
            "feature_flag.version": ruleset_sha256,
            "feature_flag.error.message": flag.error,
            _ERROR_TYPE: code and (code if code in _ERROR_CODES else ErrorCode.GENERAL).lower(),
        }
    )


def _known(attributes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value is not None}
