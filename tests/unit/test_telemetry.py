from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from producers.boundary.action import acting
from producers.boundary.errors import ActionDeniedError, InvalidCallError, RefusedError
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.wire.events import ActionDecided, ActionExecuted

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Traced:
    """A router under a tracer of its own."""

    def __init__(self, **flags: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.shelf = Shelf()
        self.router = Router(
            authorizer=Permit(),
            flags=flag_evaluator(**flags),
            recorder=Recorder(self.shelf, source="/test"),
            environment="production",
            tracer_provider=self.provider,
        )

    def refund(self, run: Any = lambda: "done", **changed: Any) -> Any:
        spec = {"tool": "refund", "workflow": "refunds", "system": "billing"}
        return self.router.action(**spec, risk_class="reversible_write", reversibility="automatic", **changed)(run)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def test_an_execution_has_its_span_below_the_callers_and_both_are_in_the_events() -> None:
    held = Traced()
    with (
        held.provider.get_tracer("agent").start_as_current_span("agent"),
        acting(agent="bot", user="u-1", conversation="c-1", tool_call="t-1"),
    ):
        held.refund()()
    agent, span = held.spans()["agent"], held.spans()["execute_tool refund"]
    assert span.parent is not None
    assert agent.context is not None
    assert span.context is not None
    assert span.parent.span_id == agent.context.span_id
    decided, executed = held.shelf.events
    assert (decided.traceparent or "").startswith(f"00-{agent.context.trace_id:032x}-{agent.context.span_id:016x}-")
    assert (executed.traceparent or "").startswith(f"00-{agent.context.trace_id:032x}-{span.context.span_id:016x}-")
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.operation.name"] == "execute_tool"
    assert attributes["gen_ai.tool.name"] == "refund"
    assert attributes["gen_ai.workflow.name"] == "refunds"
    assert attributes["deployment.environment.name"] == "production"
    assert attributes["stagekeeper.decision.id"] == decided.subject
    assert (attributes["gen_ai.agent.name"], attributes["gen_ai.tool.call.id"]) == ("bot", "t-1")
    assert attributes["gen_ai.conversation.id"] == "c-1"
    assert (attributes["gen_ai.tool.type"], attributes["user.id"]) == ("function", "u-1")
    assert attributes["stagekeeper.stage"] == "narrow_autonomy"


def test_every_evaluated_flag_is_an_event_of_the_callers_span() -> None:
    held = Traced(mode=None)
    with held.provider.get_tracer("agent").start_as_current_span("agent"), acting(account="acct-1"):
        held.refund(draft=lambda: None, search_only=lambda: None)()
    events = held.spans()["agent"].events
    flags = [dict(event.attributes or {}) for event in events if event.name == "feature_flag.evaluation"]
    assert len(flags) == 5
    enabled, mode = flags[0], flags[2]
    assert enabled["feature_flag.key"] == "agent-action-governance-enabled"
    assert enabled["feature_flag.result.variant"] == "set"
    assert enabled["feature_flag.result.reason"] == "static"
    assert enabled["feature_flag.context.id"] == "acct-1"
    assert "feature_flag.result.value" not in enabled, "only where there is no variant"
    assert (mode["feature_flag.result.reason"], mode["feature_flag.result.value"]) == ("error", "search_only")
    assert mode["feature_flag.error.message"]
    assert (mode["error.type"], "error.type" in enabled) == ("flag_not_found", False)
    assert enabled["feature_flag.provider.name"] == "In-Memory Provider"
    assert isinstance(held.shelf.events[0], ActionDecided)
    assert enabled["feature_flag.version"] == held.shelf.events[0].data.decision.ruleset_sha256
    (decided,) = [dict(event.attributes or {}) for event in events if event.name == "stagekeeper.action.decided"]
    assert decided["stagekeeper.decision.outcome"] == "constrain"
    assert held.spans()["execute_tool refund"].attributes["stagekeeper.constrained_to"] == "search_only"  # type: ignore[index]


def test_a_denied_action_has_a_span_of_its_own_below_the_callers_that_its_event_names() -> None:
    held = Traced(denylist=True)
    with (
        held.provider.get_tracer("agent").start_as_current_span("agent"),
        acting(agent="bot", conversation="c-1", tool_call="t-1"),
        pytest.raises(ActionDeniedError),
    ):
        held.refund()()
    assert set(held.spans()) == {"agent", "stagekeeper.refuse refund"}
    agent, span = held.spans()["agent"], held.spans()["stagekeeper.refuse refund"]
    (decided,) = held.shelf.events
    assert span.parent is not None
    assert span.context is not None
    assert agent.context is not None
    assert span.parent.span_id == agent.context.span_id
    assert (decided.traceparent or "").startswith(f"00-{agent.context.trace_id:032x}-{span.context.span_id:016x}-")
    attributes = dict(span.attributes or {})
    assert attributes["stagekeeper.decision.id"] == decided.subject
    assert (attributes["stagekeeper.decision.outcome"], attributes["stagekeeper.decision.reason"]) == (
        "deny",
        "on_denylist",
    )
    assert attributes["stagekeeper.decision.enforced"] is True
    assert (attributes["gen_ai.tool.name"], attributes["gen_ai.tool.call.id"]) == ("refund", "t-1")
    assert attributes["gen_ai.conversation.id"] == "c-1"
    assert "gen_ai.operation.name" not in attributes, "nobody counts it as a call of the tool"
    assert span.status.status_code is trace.StatusCode.UNSET
    assert "stagekeeper.action.decided" in [event.name for event in agent.events]


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [({"mode": "approved_external"}, None), ({"mode": "observe"}, "allow"), ({"mode": "search_only"}, "constrain")],
)
def test_whatever_lets_nothing_run_has_such_a_span_and_nothing_else_has(
    flags: dict[str, Any], outcome: str | None
) -> None:
    held = Traced(**flags)
    routed = held.refund()
    if outcome is None:
        routed()
        assert list(held.spans()) == ["execute_tool refund"]
        return
    with pytest.raises(RefusedError):
        routed()
    (span,) = held.exporter.get_finished_spans()
    assert span.name == "stagekeeper.refuse refund"
    assert span.parent is None
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time
    assert (span.attributes or {})["stagekeeper.decision.outcome"] == outcome


def test_a_call_that_is_refused_for_what_it_is_has_such_a_span() -> None:
    held = Traced()
    with pytest.raises(InvalidCallError):
        held.refund()("an argument too many")
    assert (held.spans()["stagekeeper.refuse refund"].attributes or {})["stagekeeper.decision.reason"] == (
        "arguments_not_accepted"
    )


def test_a_failure_marks_the_span_by_its_class() -> None:
    held = Traced()
    with pytest.raises(ZeroDivisionError):
        held.refund(lambda: 1 / 0)()
    span = held.spans()["execute_tool refund"]
    assert (span.attributes or {})["error.type"] == "ZeroDivisionError"
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_what_the_action_traces_is_below_its_span_also_among_other_tasks() -> None:
    held = Traced()
    tracer = held.provider.get_tracer("tool")

    async def work(name: str) -> None:
        await asyncio.sleep(0)
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)

    routed = held.refund(work)
    await asyncio.gather(*(routed(f"inner-{number}") for number in range(5)))
    finished = held.exporter.get_finished_spans()
    outer = {span.context.span_id for span in finished if span.name == "execute_tool refund" and span.context}
    inner = [span.parent.span_id for span in finished if span.name.startswith("inner") and span.parent]
    assert len(outer) == 5
    assert sorted(inner) == sorted(outer)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_without_a_configured_tracer_there_is_no_span_and_no_trace_in_the_events() -> None:
    shelf = Shelf()
    router = Router(
        authorizer=Permit(),
        flags=flag_evaluator(),
        recorder=Recorder(shelf, source="/t"),
        environment="production",
        tracer_provider=trace.ProxyTracerProvider(),
    )
    router.action(workflow="w", system="s", risk_class="search", reversibility="automatic")(lambda: None)()
    assert [event.traceparent for event in shelf.events] == [None, None]
    assert isinstance(shelf.events[1], ActionExecuted)


def test_without_a_configured_tracer_a_trace_that_came_from_elsewhere_goes_on() -> None:
    shelf = Shelf()
    router = Router(
        authorizer=Permit(), flags=flag_evaluator(), recorder=Recorder(shelf, source="/t"), environment="production"
    )
    remote = trace.SpanContext(7, 9, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    with trace.use_span(trace.NonRecordingSpan(remote)):
        router.action(workflow="w", system="s", risk_class="search", reversibility="automatic")(lambda: None)()
    assert [event.traceparent for event in shelf.events] == [f"00-{7:032x}-{9:016x}-01"] * 2
