"""The service as an ASGI application."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from stagekeeper.api import (
    audit_routes,
    authzen_routes,
    decision_routes,
    evidence_routes,
    flag_routes,
    intake_routes,
    review_routes,
)
from stagekeeper.api.api_models import DecisionRequest, FlatContract
from stagekeeper.api.problems import answer_problems
from stagekeeper.api.request_limits import RequestLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from pydantic import BaseModel

    from stagekeeper.api.access import AccessControl
    from stagekeeper.api.decision_service import DecisionService
    from stagekeeper.settings import Settings

DESCRIPTION = """One boundary for agents in any language: ask before each action, report what came of it, review, and \
ask the gate. Every request but `/livez` and `/readyz` carries a token, which fixes agent, service and scopes."""


OPENAPI_FILE: Final = "openapi.yaml"


def openapi_text() -> str:
    """The OpenAPI 3.1 document of the service as YAML."""
    document = service_app().openapi()
    # Bodies that are read by hand, so that either form is told from the other.
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (DecisionRequest, "validation"),
        (FlatContract, "validation"),
    ]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] = dict(sorted((schemas["$defs"] | document["components"]["schemas"]).items()))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def service_app(
    *,
    access: AccessControl | None = None,
    decisions: DecisionService | None = None,
    settings: Settings | None = None,
    ready: Callable[[], Mapping[str, Any]] | None = None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The application; without its parts, for its OpenAPI document alone."""
    app = FastAPI(
        title="Stagekeeper",
        version=version("stagekeeper"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.access, app.state.decisions, app.state.settings = access, decisions, settings
    app.add_middleware(RequestLimits)
    answer_problems(app)
    for room in (
        decision_routes,
        review_routes,
        evidence_routes,
        audit_routes,
        intake_routes,
        flag_routes,
        authzen_routes,
    ):
        app.include_router(room.routes)

    # Before its twin, which says in the OpenAPI document what it takes.
    app.router.routes.insert(0, Route("/v1/decisions", decision_routes.decide_directly, methods=["POST"]))

    @app.get("/livez", include_in_schema=True, tags=["health"])
    async def livez() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "Not ready; `faults` says why."}})
    def readyz() -> JSONResponse:
        """Whether decisions can be made and kept; `degraded` names what is away without stopping them."""
        state = dict(ready()) if ready is not None else {"ready": False, "faults": ["not started"]}
        return JSONResponse(state, 200 if state["ready"] else 503)

    return app
