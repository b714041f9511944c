"""Routes of the audit: why an action was decided so, which decisions there were, and whether the record is whole."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from analytics.audit.completeness import completeness
from analytics.audit.search import DecisionQuery, search
from analytics.audit.search_index import SearchIndex, index_path
from analytics.audit.story import DEADLINE, UntoldDecisionError, story
from analytics.lake.tables import Lake
from stagekeeper.api.access import Reading
from stagekeeper.api.decision_routes import PROBLEMS
from stagekeeper.api.problems import ProblemError

if TYPE_CHECKING:
    from stagekeeper.settings import Settings

_DEADLINE_S: Final = DEADLINE.total_seconds()
DeadlineS = Annotated[float, Query(gt=0, le=1e9, description="After so many seconds an outcome is overdue.")]

routes = APIRouter(prefix="/v1", tags=["audit"], responses=PROBLEMS)


@routes.get("/decisions/{decision_id}/story")
def get_story(request: Request, _token: Reading, decision_id: str, deadline_s: DeadlineS = _DEADLINE_S) -> JSONResponse:
    """The whole story of a decision, as `stagekeeper audit why --json` tells it; what is not on record is named."""
    try:
        told = story(_lake(request), decision_id, deadline=timedelta(seconds=deadline_s))
    except UntoldDecisionError as error:
        raise ProblemError(404, "unknown_decision", str(error)) from error
    return JSONResponse(told.to_dict())


@routes.get("/audit/decisions")
def search_decisions(
    request: Request,
    _token: Reading,
    *,
    query: Annotated[DecisionQuery, Query()],
) -> JSONResponse:
    """Decisions for which everything given holds, the newest first, at most 100; `until` goes on to older ones."""
    lake = _lake(request)
    settings: Settings = request.app.state.settings
    with closing(SearchIndex(index_path(lake.root, settings.home))) as index:
        page = search(index, query, events_version=index.follow(lake), limit=100)
    return JSONResponse(page.model_dump(mode="json"))


@routes.get("/audit/completeness")
def get_completeness(
    request: Request,
    _token: Reading,
    *,
    since: datetime | None = None,
    deadline_s: DeadlineS = _DEADLINE_S,
) -> JSONResponse:
    """What should be in the lake and is not, and what should not be there."""
    found: dict[str, Any] = completeness(_lake(request), deadline=timedelta(seconds=deadline_s), since=since).to_dict()
    return JSONResponse(found)


def _lake(request: Request) -> Lake:
    root = request.app.state.settings.lake
    lake = Lake.existing(root)
    if lake is None:
        raise ProblemError(404, "no_lake", f"there is no lake at {root} yet; a worker makes one")
    return lake
