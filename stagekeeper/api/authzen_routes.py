"""Routes of the AuthZEN Authorization API 1.0: the same decisions in the standard's words.

Without an idempotency key nothing is decided for good: clients of the standard ask again and again what they might do.
Such an answer is off the record, so it is no to whatever changes anything, unless the caller says that it is a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from producers.boundary.decision_rules import READS
from producers.wire.contract import ActionContract
from stagekeeper.api.access import Deciding
from stagekeeper.api.access_tokens import AccessToken
from stagekeeper.api.api_models import DecisionAnswer, DecisionRequest
from stagekeeper.api.decision_service import DecisionService
from stagekeeper.api.problems import ProblemError, fault_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST: Final = 100  # evaluations in one request
_STOPS_AT: Final = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}

routes = APIRouter(tags=["AuthZEN"])


class _AuthzenPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class AuthzenEntity(_AuthzenPart):
    """A subject or a resource."""

    type: Annotated[str, Field(min_length=1, max_length=200)]
    id: Annotated[str, Field(min_length=1, max_length=200)]
    properties: dict[str, Any] = Field(default_factory=dict)


class AuthzenAction(_AuthzenPart):
    """What is to be done; `name` is the tool."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    properties: dict[str, Any] = Field(default_factory=dict)


class AuthzenEvaluation(_AuthzenPart):
    """One question."""

    subject: AuthzenEntity
    """`type` is `agent`, `id` the token's agent; `properties`: `user`, `account`, `model`, `prompt_version`."""
    action: AuthzenAction
    """`properties`: `workflow`, `risk_class`, `reversibility`, `tool_version`."""
    resource: AuthzenEntity
    """`type` is the system, `id` the record; `properties`: `environment`."""
    context: dict[str, Any] = Field(default_factory=dict)
    """In `stagekeeper`, `idempotency_key` or `hint`, `intent`, `arguments`, `redact`, `variants`, `consequence`."""

    def to_request(self) -> DecisionRequest:
        """The same in our words; `ValidationError` where something is missing."""
        subject, action, resource, ours = self.subject, self.action, self.resource, self.context.get("stagekeeper", {})
        ours = ours if isinstance(ours, dict) else {}
        workflow = action.properties.get("workflow")
        contract = ActionContract.model_validate(
            {
                "actor": {
                    "agent": subject.id,
                    **_chosen(subject.properties, "user", "account", "model", "prompt_version"),
                },
                "intent": ours.get("intent", ""),
                "target": {
                    "environment": resource.properties.get("environment"),
                    "system": resource.type,
                    "record": resource.id,
                },
                "tool": action.name,
                "workflow": workflow,
                **_chosen(action.properties, "risk_class", "reversibility", "tool_version"),
            }
        )
        beside = _chosen(ours, "arguments", "redact", "variants", "consequence", "cohort")
        return DecisionRequest.model_validate({"contract": contract, **beside})

    @property
    def is_hint(self) -> bool:
        """Whether the caller only wants to know, as for a button, and does not act on the answer."""
        ours = self.context.get("stagekeeper")
        return isinstance(ours, dict) and ours.get("hint") is True

    @property
    def idempotency_key(self) -> str | None:
        """The key of this one question."""
        ours = self.context.get("stagekeeper")
        key = ours.get("idempotency_key") if isinstance(ours, dict) else None
        return key if isinstance(key, str) and 0 < len(key) <= 200 else None


@routes.get("/.well-known/authzen-configuration", include_in_schema=False)
async def configuration(request: Request, _token: Deciding) -> JSONResponse:
    """Where the standard's endpoints are."""
    base = str(request.base_url).rstrip("/")
    return JSONResponse(
        {
            "policy_decision_point": base,
            "access_evaluation_endpoint": f"{base}/access/v1/evaluation",
            "access_evaluations_endpoint": f"{base}/access/v1/evaluations",
        }
    )


@routes.post("/access/v1/evaluation", response_model=None)
async def evaluate(
    request: Request,
    token: Deciding,
    x_request_id: Annotated[str | None, Header()] = None,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """One question of the standard: `decision` is true where the action may run as asked."""
    try:
        asked = AuthzenEvaluation.model_validate(_object(await request.body()))
        answer = await _evaluate(request, token, asked, idempotency_key or asked.idempotency_key)
    except ProblemError as error:
        return _plain(error, x_request_id)
    except ValidationError as error:
        return _plain(ProblemError(400, "invalid_request", fault_lines(error.errors())), x_request_id)
    return _answer(answer, x_request_id)


@routes.post("/access/v1/evaluations", response_model=None)
async def evaluate_many(
    request: Request, token: Deciding, x_request_id: Annotated[str | None, Header()] = None
) -> Response:
    """Many questions of the standard, with defaults; short-circuits end the answer at the deciding one."""
    try:
        body = _object(await request.body())
        items = body.get("evaluations") or None
        if items is None:
            asked = AuthzenEvaluation.model_validate(body)
            return _answer(await _evaluate(request, token, asked, asked.idempotency_key), x_request_id)
    except ProblemError as error:
        return _plain(error, x_request_id)
    except ValidationError as error:
        return _plain(ProblemError(400, "invalid_request", fault_lines(error.errors())), x_request_id)
    options = body.get("options") or {}
    semantic = options.get("evaluations_semantic", "execute_all") if isinstance(options, dict) else None
    if not isinstance(items, list) or len(items) > _MOST or not isinstance(semantic, str) or semantic not in _STOPS_AT:
        message = f"evaluations: at most {_MOST}, by one of {', '.join(_STOPS_AT)}"
        return _plain(ProblemError(400, "invalid_request", message), x_request_id)
    defaults = {name: body[name] for name in ("subject", "action", "resource", "context") if name in body}
    answers = []
    for item in items:
        answers.append(await _one_of_many(request, token, {**defaults, **item} if isinstance(item, dict) else item))
        if answers[-1]["decision"] is _STOPS_AT[semantic]:
            break
    return _answer({"evaluations": answers}, x_request_id)


async def _one_of_many(request: Request, token: AccessToken, item: object) -> dict[str, Any]:
    try:
        asked = AuthzenEvaluation.model_validate(item)
        return await _evaluate(request, token, asked, asked.idempotency_key)
    except ProblemError as error:
        status, message = error.status, str(error)
    except ValidationError as error:
        status, message = 400, fault_lines(error.errors())
    return {"decision": False, "context": {"error": {"status": status, "message": message}}}


async def _evaluate(request: Request, token: AccessToken, asked: AuthzenEvaluation, key: str | None) -> dict[str, Any]:
    service: DecisionService = request.app.state.decisions
    ours = asked.to_request()
    if key is None:
        outcome, reason, permitted = await service.foresee(token, ours)
        # Whoever acts on a yes leaves no record of it: only what changes nothing, or a mere hint, is answered with one.
        if permitted and ours.contract.risk_class not in READS and not asked.is_hint:
            permitted, reason = False, "idempotency_key_needed"
        return {"decision": permitted, "context": {"stagekeeper": {"outcome": outcome, "reason": reason}}}
    digest = service.digest(to_json(asked))
    answer = await service.decide(token, ours, key=key, sha256=digest)
    return {"decision": _may_run(answer, ours), "context": {"stagekeeper": _context(answer)}}


def _may_run(answer: DecisionAnswer, asked: DecisionRequest) -> bool:
    """A client may act on the bare answer: a lesser variant is a yes only to who said that it runs it."""
    return answer.permit is not None and (answer.permit.runs == "as_asked" or answer.permit.runs in asked.variants)


def _context(answer: DecisionAnswer) -> dict[str, Any]:
    return answer.model_dump(mode="json", exclude={"decision"}, exclude_none=True)


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(400, "not_json", f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ProblemError(400, "invalid_request", "the body is a JSON object")
    return document


def _chosen(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _answer(document: dict[str, Any], request_id: str | None) -> Response:
    return JSONResponse(document, headers=_echo(request_id))


def _plain(error: ProblemError, request_id: str | None) -> Response:
    # The standard has texts for errors, and 400 for whatever is missing.
    status = 400 if error.status == 422 else error.status
    return PlainTextResponse(str(error), status, headers={**error.headers, **_echo(request_id)})


def _echo(request_id: str | None) -> dict[str, str]:
    return {} if request_id is None else {"X-Request-ID": request_id}
