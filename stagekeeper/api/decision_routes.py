"""Routes of deciding: decisions, redeemed approvals, and reports of what came of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import from_json

from stagekeeper.api.access import AccessControl, Deciding, Reporting
from stagekeeper.api.access_tokens import AccessScope, AccessToken
from stagekeeper.api.api_models import (
    DecisionAnswer,
    DecisionRequest,
    ExecutionReport,
    FlatContract,
    ImpactReport,
    Problem,
    ReportAnswer,
    UndoReport,
)
from stagekeeper.api.decision_service import DecisionService
from stagekeeper.api.problems import ProblemError, fault_lines

_LONGEST_WAIT_S: Final = 60.0
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Drawn anew for each action; a retry with it is answered with the same decision.",
    ),
]
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": Problem, "description": "Not answered; the code says why."},
    "5XX": {"model": Problem, "description": "Not answered; ask again."},
}
_ASKED: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/DecisionRequest"},
                        {"$ref": "#/components/schemas/FlatContract"},
                    ]
                }
            }
        },
    }
}

routes = APIRouter(prefix="/v1", tags=["decisions"], responses=PROBLEMS)


@routes.post("/decisions", response_model=DecisionAnswer, openapi_extra=_ASKED)
async def decide(request: Request, token: Deciding, key: IdempotencyKey = None) -> Response:
    """Decide one action. A denial is an answer, too: only `permit` lets anything run."""
    return await _decide(request, token, key)


async def decide_directly(request: Request) -> Response:
    """As `decide`, without the framework's way to a function's arguments, which costs as much as to decide.

    benchmarks/service.py measures it.
    """
    access: AccessControl = request.app.state.access
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    address = request.client.host if request.client is not None else "unknown"
    token = access.admit(text if kind.lower() == "bearer" else None, address, AccessScope.DECIDE)
    key = request.headers.get("idempotency-key")
    if key is not None and _KEY.fullmatch(key) is None:
        raise ProblemError(422, "invalid_request", "Idempotency-Key: 1 to 200 visible ASCII characters")
    return await _decide(request, token, key)


async def _decide(request: Request, token: AccessToken, key: str | None) -> Response:
    body = await request.body()
    service = _service(request)
    answer = await service.decide(token, read_request(body, token), key=key, sha256=service.digest(body))
    return Response(answer.model_dump_json(), media_type="application/json")


@routes.post("/decisions/{decision_id}/redeem", openapi_extra=_ASKED)
async def redeem(request: Request, token: Deciding, decision_id: str) -> DecisionAnswer:
    """Use the approval of a queued action: the same contract and arguments once more. It holds for one execution."""
    body, service = await request.body(), _service(request)
    return await service.redeem(token, decision_id, read_request(body, token), sha256=service.digest(body))


@routes.get("/decisions/{decision_id}")
async def look(
    request: Request,
    token: Deciding,
    decision_id: str,
    wait: Annotated[str, Query(pattern=r"^\d{1,2}(\.\d+)?s$", description="At most `60s`.")] = "0s",
) -> DecisionAnswer:
    """A decision as it stands; with `wait`, once a person has spoken about a queued action, or the time is over."""
    return await _service(request).look(token, decision_id, min(float(wait[:-1]), _LONGEST_WAIT_S))


@routes.post("/decisions/{decision_id}/execution")
async def report_execution(
    request: Request, token: Reporting, decision_id: str, report: ExecutionReport
) -> ReportAnswer:
    """Report how a permitted action ran, once; a repetition is answered and not counted."""
    return await _service(request).report_execution(token, decision_id, report)


@routes.post("/decisions/{decision_id}/undo")
async def report_undo(request: Request, token: Reporting, decision_id: str, report: UndoReport) -> ReportAnswer:
    """Report what came of taking an execution back, once."""
    return await _service(request).report_undo(token, decision_id, report)


@routes.post("/decisions/{decision_id}/impact")
async def report_impact(
    request: Request, token: Reporting, decision_id: str, report: ImpactReport, key: IdempotencyKey = None
) -> ReportAnswer:
    """Report an incident, a support signal or a quality evaluation that followed from an action."""
    return await _service(request).report_impact(token, decision_id, report.impact, key)


def read_request(body: bytes, token: AccessToken) -> DecisionRequest:
    """The request in a body, in either form: with a `contract`, or as one flat object."""
    try:
        asked = from_json(body, allow_inf_nan=False)
        if isinstance(asked, dict) and "contract" in asked:
            return DecisionRequest.model_validate(asked)
        return FlatContract.model_validate(asked).to_request(token.agent or "")
    except ValidationError as error:
        raise ProblemError(422, "invalid_request", fault_lines(error.errors(include_input=False))) from error
    except ValueError as error:
        raise ProblemError(422, "not_json", f"the body is not JSON: {error}") from error


def _service(request: Request) -> DecisionService:
    service: DecisionService = request.app.state.decisions
    return service
