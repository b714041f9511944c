"""Routes of the evidence: the gate, cells, verdicts, recommendations and stages. All of it is read from the lake."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from producers.wire.model import Name
from producers.wire.stage import Stage
from stagekeeper.api.access import Reading
from stagekeeper.api.decision_routes import PROBLEMS
from stagekeeper.gate_question import GateQuestion, ask_gate
from stagekeeper.settings import Settings

_SHUT_FOR: Final = timedelta(seconds=10)  # how long a no without evidence may be remembered

routes = APIRouter(prefix="/v1", tags=["evidence"], responses=PROBLEMS)


@routes.get("/gate", response_class=JSONResponse)
def gate(
    request: Request,
    *,
    _token: Reading,
    environment: Name,
    workflow: Name,
    tool: Name,
    to: Stage,
    cohort: Name | None = None,
    max_age_s: Annotated[float | None, Query(gt=0, le=1e9, description="Oldest evidence; only narrows.")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Whether an action may move to a stage, as `stagekeeper gate check --json` says it. Only PROMOTE means yes.

    `expires_at` says until when; `ETag` changes with the answer, not with its age.
    """
    settings = _settings(request)
    question = GateQuestion(environment, workflow, tool, to.value, cohort)
    max_age = None if max_age_s is None else timedelta(seconds=max_age_s)
    answer, expires_at = ask_gate(question, settings, root=settings.lake, max_age=max_age)
    now = datetime.now(UTC)
    expires_at = expires_at or now + _SHUT_FOR
    shown = answer.to_dict()
    stays = {name: value for name, value in shown.items() if name != "age_s"}
    etag = f'"{hashlib.sha256(json.dumps(stays, sort_keys=True).encode()).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={max(0, int((expires_at - now).total_seconds()))}, must-revalidate",
    }
    if if_none_match is not None and etag in {each.strip() for each in if_none_match.split(",")}:
        return Response(status_code=304, headers=headers)
    return JSONResponse({**shown, "verdict": shown["answer"], "expires_at": expires_at.isoformat()}, headers=headers)


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
