"""Traces where OpenTelemetry is set up: an `execute_tool` span for each execution, an event for each evaluated flag.

Names follow OpenTelemetry's conventions for GenAI and feature flags, as constants of our own: the Python package marks
its copies as unstable, and the boundary must not need it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final, Protocol

from producers.boundary.action import circumstances

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import TracerProvider

    from producers.boundary.action import Action, Permit
    from producers.boundary.prepared import Prepared
    from producers.wire.decision import Decision, FlagEvaluation

OPERATION: Final = "gen_ai.operation.name"
EXECUTE_TOOL: Final = "execute_tool"
TOOL: Final = "gen_ai.tool.name"
TOOL_CALL: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
AGENT: Final = "gen_ai.agent.name"
CONVERSATION: Final = "gen_ai.conversation.id"
WORKFLOW: Final = "gen_ai.workflow.name"
USER: Final = "user.id"
ENVIRONMENT: Final = "deployment.environment.name"
ERROR_TYPE: Final = "error.type"
FLAG_EVENT: Final = "feature_flag.evaluation"
FLAG_KEY: Final = "feature_flag.key"
FLAG_VARIANT: Final = "feature_flag.result.variant"
FLAG_VALUE: Final = "feature_flag.result.value"
FLAG_REASON: Final = "feature_flag.result.reason"
FLAG_PROVIDER: Final = "feature_flag.provider.name"
FLAG_CONTEXT: Final = "feature_flag.context.id"
FLAG_ERROR: Final = "feature_flag.error.message"
FLAG_VERSION: Final = "feature_flag.version"
# No convention exists for authorization or approval: names of our own. What was decided and what was done are apart.
DECISION_EVENT: Final = "stagekeeper.action.decided"
DECISION_ID: Final = "stagekeeper.decision.id"
OUTCOME: Final = "stagekeeper.decision.outcome"
REASON: Final = "stagekeeper.decision.reason"
ENFORCED: Final = "stagekeeper.decision.enforced"
STAGE: Final = "stagekeeper.stage"
CONSTRAINED_TO: Final = "stagekeeper.constrained_to"


class Span(Protocol):
    """The span of one execution."""

    @property
    def traceparent(self) -> str | None:
        """Its W3C trace context."""
        ...

    def end(self, error_type: str | None) -> None:
        """End it, with the class of the failure if there was one."""
        ...


class Traces(Protocol):
    """Makes spans, or does not."""

    def traceparent(self) -> str | None:
        """The W3C trace context of the caller, where there is one."""
        ...

    def decided(self, decision_id: str, decision: Decision, prepared: Prepared) -> None:
        """Write the decision and its flags into the caller's span."""
        ...

    def executing(self, action: Action, permit: Permit) -> Span:
        """Begin the span of an execution."""
        ...


class _NoSpan:
    traceparent = None

    def end(self, error_type: str | None) -> None:
        """Nothing was begun."""


_NO_SPAN = _NoSpan()


class NoTraces:
    """For a process without OpenTelemetry."""

    def traceparent(self) -> str | None:
        """None."""
        return None

    def decided(self, decision_id: str, decision: Decision, prepared: Prepared) -> None:
        """Nothing to write to."""

    def executing(self, action: Action, permit: Permit) -> Span:  # noqa: ARG002 - the protocol has them
        """No span."""
        return _NO_SPAN


class OpenTelemetryTraces:
    """For a process with the package `opentelemetry-api`; silent until a tracer provider is configured.

    Args:
        provider: The tracer provider; the process-wide one when left out.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 - optional: only where it is installed

        self._context = context
        self._trace = trace
        self._provider = provider

    def traceparent(self) -> str | None:
        """The context of the current span, in W3C form."""
        return _traceparent(self._trace.get_current_span())

    def decided(self, decision_id: str, decision: Decision, prepared: Prepared) -> None:
        """Events on the current span: one for each flag, and one for the decision."""
        span = self._trace.get_current_span()
        if not span.is_recording():
            return
        context_id, _ = prepared.context
        for flag in decision.flags:
            span.add_event(FLAG_EVENT, _flag_attributes(flag, decision.ruleset_sha256, context_id))
        span.add_event(
            DECISION_EVENT,
            {
                DECISION_ID: decision_id,
                TOOL: prepared.action.tool,
                OUTCOME: decision.result.outcome,
                REASON: decision.result.reason,
                ENFORCED: decision.enforced,
            },
        )

    def executing(self, action: Action, permit: Permit) -> Span:
        """A span `execute_tool <tool>` that is current within the block."""
        provider = self._provider or self._trace.get_tracer_provider()
        if isinstance(provider, self._trace.ProxyTracerProvider):
            return _NO_SPAN  # nobody has configured one
        attributes = {
            OPERATION: EXECUTE_TOOL,
            TOOL: action.tool,
            TOOL_TYPE: "function",
            WORKFLOW: action.workflow,
            ENVIRONMENT: action.environment,
            DECISION_ID: permit.decision_id,
            OUTCOME: permit.decision.result.outcome,
            STAGE: permit.receipt.stage.value,
            **_known(permit),
        }
        span = provider.get_tracer("stagekeeper").start_span(f"{EXECUTE_TOOL} {action.tool}", attributes=attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        return _RecordedSpan(self._trace, self._context, span, token)


class _RecordedSpan:
    def __init__(self, trace: Any, context: Any, span: Any, token: Any) -> None:  # noqa: ANN401 - optional modules
        self._trace = trace
        self._context = context
        self._span = span
        self._token = token
        self.traceparent = _traceparent(span)

    def end(self, error_type: str | None) -> None:
        if error_type is not None:
            self._span.set_attribute(ERROR_TYPE, error_type)
            self._span.set_status(self._trace.StatusCode.ERROR)
        self._context.detach(self._token)
        self._span.end()


def traces_here() -> Traces:
    """What fits this process."""
    return NoTraces() if importlib.util.find_spec("opentelemetry") is None else OpenTelemetryTraces()


def _traceparent(span: Any) -> str | None:  # noqa: ANN401 - an optional module's class
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _known(permit: Permit) -> Mapping[str, str]:
    known = circumstances()
    named = {
        CONSTRAINED_TO: permit.constrained_to,
        AGENT: known.agent,
        USER: known.user,
        CONVERSATION: known.conversation,
        TOOL_CALL: known.tool_call,
    }
    return {name: value for name, value in named.items() if value is not None}


def _flag_attributes(flag: FlagEvaluation, version: str | None, context_id: str) -> dict[str, str]:
    known = {
        FLAG_KEY: flag.key,
        FLAG_VARIANT: flag.variant,
        FLAG_VALUE: flag.value if flag.variant is None else None,
        FLAG_REASON: flag.reason.value,
        FLAG_PROVIDER: flag.provider,
        FLAG_CONTEXT: context_id,
        FLAG_VERSION: version,
        FLAG_ERROR: flag.error,
        ERROR_TYPE: None if flag.error is None else _code_in(flag.error),
    }
    return {name: value for name, value in known.items() if value is not None}


def _code_in(error: str) -> str:
    """OpenFeature's code of an error, as the conventions write it; a policy puts it in front of the message."""
    code = error.partition(":")[0]
    return code.lower() if code in _CODES else "general"


_CODES = frozenset(
    {"FLAG_NOT_FOUND", "INVALID_CONTEXT", "PARSE_ERROR", "PROVIDER_FATAL", "PROVIDER_NOT_READY"}
    | {"TARGETING_KEY_MISSING", "TYPE_MISMATCH"}
)
