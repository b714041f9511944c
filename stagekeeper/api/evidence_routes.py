"""Routes of the evidence: the gate, cells, verdicts, recommendations and stages. All of it is read from the lake."""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from analytics.audit.replay import UnknownVerdictError, replay
from analytics.gates.gate_file import GateFile
from analytics.lake.storage import reading
from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.signoffs import SignOffKind
from producers.boundary.stage_store import ActionName
from producers.wire.model import Name
from producers.wire.stage import MODE_OF_STAGE, Stage
from stagekeeper.api.access import Operating, Reading
from stagekeeper.api.access_tokens import AccessToken
from stagekeeper.api.api_models import MoveRuling, StageChangeRequest
from stagekeeper.api.decision_routes import PROBLEMS
from stagekeeper.api.problems import ProblemError
from stagekeeper.gate_question import GateQuestion, ask_gate
from stagekeeper.listed_recommendations import list_recommendations
from stagekeeper.settings import Settings
from stagekeeper.stage_moves import StageWish, change_stage, stage_facts
from stagekeeper.stage_records import actions_seen, grounds_for
from stagekeeper.stage_stores import open_stages

AllOfThem = Annotated[bool, Query(alias="all", description="Also those that nobody has to look at any more.")]

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


@routes.get("/cells")
def list_cells(request: Request, _token: Reading) -> JSONResponse:
    """What was counted about every cell, as `stagekeeper signals --json` has it."""
    report = _report(request)
    return JSONResponse({"signals": report["signals"], "rejects": report["rejects"]})


@routes.get("/verdicts")
def list_verdicts(request: Request, _token: Reading) -> JSONResponse:
    """The latest verdict on every cell, and which of them to believe as a list."""
    report = _report(request)
    return JSONResponse({"verdicts": report["verdicts"], "marks": report["marks"]})


@routes.get("/verdicts/{verdict_id}")
def get_verdict(request: Request, _token: Reading, verdict_id: str) -> JSONResponse:
    """A verdict, reached again from the lake version and the gate file that it names."""
    settings = _settings(request)
    with reading(settings.lake):
        try:
            replayed = replay(_lake(settings), verdict_id)
        except UnknownVerdictError as error:
            raise ProblemError(404, "unknown_verdict", str(error)) from error
    return JSONResponse(replayed.document.to_dict())


@routes.get("/recommendations")
def list_recommended(request: Request, _token: Reading, *, all_of_them: AllOfThem = False) -> JSONResponse:
    """The recommendations that ask for somebody, oldest first."""
    settings = _settings(request)
    with reading(settings.lake):
        listed, _ = list_recommendations(_lake(settings), now=datetime.now(UTC), show_all=all_of_them)
    return JSONResponse([one.to_dict() for one in listed])


@routes.post("/recommendations/accept")
def accept_recommendation(request: Request, token: Operating, ruling: MoveRuling) -> JSONResponse:
    """Accept a promotion that the evidence allows, as the token's person, where the gate file asks for one."""
    return _sign_off(request, token, SignOffKind.APPROVAL, ruling)


@routes.post("/recommendations/dismiss")
def dismiss_recommendation(request: Request, token: Operating, ruling: MoveRuling) -> JSONResponse:
    """Dismiss a recommended promotion for a while, as the token's person: the gate stays shut."""
    return _sign_off(request, token, SignOffKind.DISMISSAL, ruling)


@routes.get("/stages")
def list_stages(request: Request, _token: Reading) -> JSONResponse:
    """The stage of every action that has an entry in the flag store, or that the lake knows."""
    settings = _settings(request)
    lake = Lake.existing(settings.lake)
    with contextlib.closing(open_stages(settings)) as store:
        found = store.settings(() if lake is None else actions_seen(lake))
    version = found[0].version if found else None
    return JSONResponse({"version": version, "stages": [stage_facts(setting) for setting in found]})


@routes.post("/stages")
def change(request: Request, token: Operating, wanted: StageChangeRequest) -> JSONResponse:
    """Change a stage as the token's person: up only where the gate says yes, down always, and on record."""
    settings, person = _settings(request), token.person or ""
    action = ActionName(wanted.environment, wanted.workflow, wanted.tool)
    with contextlib.closing(open_stages(settings)) as store:
        moved = change_stage(
            store,
            StageWish(action, MODE_OF_STAGE[wanted.to], wanted.share, person, wanted.because),
            settings,
            grounds_of=lambda before: grounds_for(
                before, wanted.to, settings=settings, root=settings.lake, gate_path=None
            ),
        )
    return JSONResponse({**stage_facts(moved.after), "changed": bool(moved.diff), **moved.grounds._asdict()})


def _sign_off(request: Request, token: AccessToken, kind: SignOffKind, ruling: MoveRuling) -> JSONResponse:
    settings, now = _settings(request), datetime.now(UTC)
    with reading(settings.lake):
        signed = sign_off(
            _lake(settings),
            GateFile.load(settings.gates),
            kind,
            environment=ruling.environment,
            workflow=ruling.workflow,
            tool=ruling.tool,
            to_stage=ruling.to.value,
            cohort=ruling.cohort,
            actor=token.person or "",
            reason=ruling.because,
            now=now,
            expires_at=now + timedelta(seconds=ruling.expires_s),
        )
    return JSONResponse(signed.to_dict())


def _report(request: Request) -> dict[str, Any]:
    root = _settings(request).lake
    with reading(root):
        return build_report(Lake.existing(root)).to_dict()


def _lake(settings: Settings) -> Lake:
    lake = Lake.existing(settings.lake)
    if lake is None:
        raise ProblemError(404, "no_lake", f"there is no lake at {settings.lake} yet; a worker makes one")
    return lake


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
