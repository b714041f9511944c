"""The route for webhooks of Unleash and FeatBit: what people change there themselves is on record, too."""

from __future__ import annotations

from fastapi import APIRouter, Request

from producers.errors import SettingsError
from producers.flag_services.flag_webhooks import FlagWebhookError, ForgedWebhookError
from producers.wire.events import EventRecord
from stagekeeper.api.api_models import AcceptedEvents
from stagekeeper.api.decision_routes import PROBLEMS
from stagekeeper.api.decision_service import DecisionService
from stagekeeper.api.problems import ProblemError
from stagekeeper.stage_stores import flag_webhook

routes = APIRouter(prefix="/v1", tags=["intake"], responses=PROBLEMS)


@routes.post("/flag-changes", status_code=202)
async def accept_flag_changes(request: Request) -> AcceptedEvents:
    """Take in a webhook of the flag service that is configured; its secret or signature stands for a token.

    What is not about the flags that decide, and what Stagekeeper's own user did there, counts as no event.
    """
    service: DecisionService = request.app.state.decisions
    try:
        webhook = flag_webhook(request.app.state.settings)
    except SettingsError as error:
        raise ProblemError(401, "unauthenticated", str(error)) from error
    if webhook is None:
        raise ProblemError(401, "unauthenticated", "STAGEKEEPER_STAGE_STORE names neither Unleash nor FeatBit here")
    try:
        events = webhook.events(request.headers, await request.body())
    except ForgedWebhookError as error:
        raise ProblemError(401, "unauthenticated", str(error)) from error
    except FlagWebhookError as error:
        raise ProblemError(422, "not_a_webhook", str(error)) from error
    await service.accept([EventRecord.from_event(event) for event in events])
    return AcceptedEvents(accepted=len(events))
