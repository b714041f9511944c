"""Routes that take in what happened elsewhere: impacts from other systems, and events of routers without Kafka."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from producers.errors import UsageError
from producers.wire.events import (
    ActionDecided,
    ActionExecuted,
    ActionImpact,
    ActionUndone,
    Event,
    EventError,
    EventRecord,
    event_from_bytes,
)
from producers.wire.receipt import Receipt, ReceiptError
from producers.wire.topics import MAX_EVENT_BYTES
from stagekeeper.api.access import Reporting
from stagekeeper.api.access_tokens import AccessScope, AccessToken
from stagekeeper.api.api_models import AcceptedEvents, ForeignImpactReport, ReportAnswer
from stagekeeper.api.decision_routes import PROBLEMS, IdempotencyKey
from stagekeeper.api.decision_service import DecisionService
from stagekeeper.api.event_sources import EventSources
from stagekeeper.api.problems import ProblemError
from stagekeeper.find_receipt import find_receipt, find_receipts_of_trace
from stagekeeper.settings import Settings

_STRUCTURED: Final = "application/cloudevents+json"
_BATCH: Final = "application/cloudevents-batch+json"
_ACCEPTED: Final = (ActionDecided, ActionExecuted, ActionUndone, ActionImpact)
_ENVELOPE: Final = (
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "partitionkey",
    "recordnumber",
)
_TRACE: Final = ("traceparent", "tracestate")

routes = APIRouter(prefix="/v1", tags=["intake"], responses=PROBLEMS)


@routes.post("/impacts")
async def report_foreign_impact(
    request: Request, token: Reporting, report: ForeignImpactReport, key: IdempotencyKey = None
) -> ReportAnswer:
    """Report what an action led to, by its decision id, its receipt or its trace id: for alerts and tickets.

    A repetition by `Idempotency-Key`, or by the impact's `reference`, counts once.
    """
    if sum(name is not None for name in (report.decision_id, report.receipt, report.trace_id)) != 1:
        raise ProblemError(422, "invalid_request", "name the action by one of decision_id, receipt and trace_id")
    service: DecisionService = request.app.state.decisions
    settings: Settings = request.app.state.settings
    if report.receipt is not None:
        receipt = Receipt.from_token(report.receipt, settings.signing_key)
    elif report.decision_id is not None:
        here = service.receipt_of(report.decision_id)
        receipt = await run_in_threadpool(find_receipt, report.decision_id, settings) if here is None else here
    else:
        receipt = await _receipt_of_trace(report.trace_id or "", service, settings)
    return await service.report_foreign_impact(token, receipt, report.impact, key)


async def _receipt_of_trace(trace_id: str, service: DecisionService, settings: Settings) -> Receipt:
    stored = await run_in_threadpool(find_receipts_of_trace, trace_id, settings)
    found = {receipt.decision_id: receipt for receipt in (*stored, *service.receipts_of_trace(trace_id))}
    if len(found) != 1:
        names = ", ".join(sorted(found)[:20]) or "none"
        raise ProblemError(
            409 if found else 404, "not_one_decision", f"the decisions of this trace are: {names}; name one by its id"
        )
    return next(iter(found.values()))


@routes.post(
    "/events",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "CloudEvents 1.0: one in structured or binary mode, or a batch.",
            "content": {kind: {"schema": {}} for kind in (_STRUCTURED, _BATCH, "application/json")},
        }
    },
)
async def accept_events(request: Request, token: Reporting) -> AcceptedEvents:
    """Take in events of actions that another router decided, as published; all of them, or none.

    Decisions take the scope `decide`, too, and the token's own agent. Nobody reports reviews or policy changes so.
    A source is that of the agent and service that first sent under it.
    """
    settings: Settings = request.app.state.settings
    service: DecisionService = request.app.state.decisions
    sources: EventSources = request.app.state.sources
    events, records = [], []
    for number, value in enumerate(_values(request, await request.body())):
        try:
            events.append(_event(value, token, service, settings.signing_key))
        except (EventError, ReceiptError, UsageError) as error:
            raise ProblemError(422, "not_an_event", f"event {number}: {error}") from error
        records.append(EventRecord(events[-1].topic, events[-1].subject.encode(), value))
    await sources.accept(token, events, records)
    return AcceptedEvents(accepted=len(records))


def _values(request: Request, body: bytes) -> list[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == _BATCH:
            batch = from_json(body, allow_inf_nan=False)
            if not isinstance(batch, list):
                raise ProblemError(422, "not_an_event", "a batch is a JSON list of events")
            return [_bytes(event) for event in batch]
        if kind == _STRUCTURED:
            return [_bytes(from_json(body, allow_inf_nan=False))]
        if request.headers.get("ce-specversion") is None:
            raise ProblemError(
                415, "unsupported_media_type", f"send {_STRUCTURED}, {_BATCH}, or application/json with ce-* headers"
            )
        attributes = {name: request.headers.get(f"ce-{name}") for name in _ENVELOPE}
        traces = {name: request.headers.get(f"ce-{name}") or request.headers.get(name) for name in _TRACE}
        known = {name: value for name, value in (attributes | traces).items() if value is not None}
        return [_bytes({**known, "datacontenttype": "application/json", "data": from_json(body, allow_inf_nan=False)})]
    except ValueError as error:
        raise ProblemError(422, "not_json", f"the body is not JSON: {error}") from error


def _event(value: bytes, token: AccessToken, service: DecisionService, key: bytes | None) -> Event:
    if len(value) > MAX_EVENT_BYTES:
        raise UsageError(f"it has {len(value):,} bytes; an event has at most {MAX_EVENT_BYTES:,}")
    event: Event = event_from_bytes(value)
    if not isinstance(event, _ACCEPTED):
        raise ProblemError(403, "event_type_not_accepted", f"nobody reports a {event.type} here")
    receipt = Receipt.from_token(event.data.receipt, key)
    if receipt.decision_id != event.subject:
        raise UsageError("its subject is not the decision of its receipt")
    if isinstance(event, ActionDecided):
        if AccessScope.DECIDE not in token.scopes:
            raise ProblemError(403, "missing_scope", "decisions take the scope `decide`")
        actor = event.data.contract.actor
        if actor.agent != token.agent or actor.service_identity not in {None, token.service}:
            raise ProblemError(403, "another_agent", f"the token {token.id} is not that of agent {actor.agent}")
        if service.knows(event.subject):
            raise UsageError(f"decision {event.subject} was made here, and is on record")
    else:
        service.require_not_anothers(
            token, event.subject, is_execution=isinstance(event, ActionExecuted | ActionUndone)
        )
    return event


def _bytes(event: Any) -> bytes:  # noqa: ANN401 - JSON
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
