"""Errors as answers: problem documents (RFC 9457) with a code, and never more of the inside than the error says."""

from __future__ import annotations

import http
import logging
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from producers.boundary import approvals
from producers.delivery.outbox import OutboxError
from producers.errors import StagekeeperError, UsageError
from producers.wire.events import EventError
from producers.wire.receipt import ReceiptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

LOG = logging.getLogger(__name__)

# The first that fits; an error that is none of these is answered by its exit code.
_STATUS_OF: Final[tuple[tuple[type[StagekeeperError], int, str], ...]] = (
    (approvals.UnknownReviewError, 404, "unknown_review"),
    (approvals.ReviewPendingError, 409, "review_pending"),
    (approvals.ReviewRejectedError, 409, "review_rejected"),
    (approvals.ReviewResolvedError, 409, "review_resolved"),
    (approvals.SelfApprovalError, 403, "self_approval"),
    (approvals.UnauthenticatedReviewerError, 403, "unauthenticated_reviewer"),
    (approvals.ApprovalExpiredError, 409, "approval_expired"),
    (approvals.ApprovalMismatchError, 409, "approval_mismatch"),
    (approvals.ApprovalUsedError, 409, "approval_used"),
    (approvals.AlteredReviewError, 409, "altered_review"),
    (approvals.ReviewError, 503, "review_store_away"),
    (OutboxError, 503, "record_not_durable"),
    (ReceiptError, 422, "unusable_receipt"),
    (EventError, 422, "not_an_event"),
    (UsageError, 422, "unusable_request"),
)


class ProblemError(StagekeeperError):
    """A request that is answered with a problem document."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def problem_response(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for an error."""
    return JSONResponse(
        {
            "type": f"urn:stagekeeper:problem:{code}",
            "title": http.HTTPStatus(status).phrase,
            "status": status,
            "code": code,
            "detail": detail,
        },
        status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def fault_lines(faults: Sequence[Mapping[str, Any]]) -> str:
    """Where a request is wrong; never what it holds there, which may be a secret."""
    shown = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults[:20]]
    return "; ".join(shown + ([f"and {len(faults) - 20} more"] if len(faults) > 20 else []))


def answer_problems(app: FastAPI) -> None:
    """Have every error of an application answered as a problem document."""

    @app.exception_handler(StagekeeperError)
    async def named(_request: Request, error: StagekeeperError) -> JSONResponse:
        if isinstance(error, ProblemError):
            return problem_response(error.status, error.code, str(error), error.headers)
        for kind, status, code in _STATUS_OF:
            if isinstance(error, kind):
                if status >= 500:
                    LOG.error("%s: %s", code, error)
                return problem_response(status, code, str(error))
        LOG.error("%s: %s", type(error).__name__, error)
        return problem_response(409 if error.exit_code in {1, 10, 20, 30} else 503, "not_done", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(422, "invalid_request", fault_lines(error.errors()))

    @app.exception_handler(ValidationError)
    async def unreadable(_request: Request, error: ValidationError) -> JSONResponse:
        return problem_response(422, "invalid_request", fault_lines(error.errors(include_input=False)))

    @app.exception_handler(HTTPException)
    async def plain(_request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "no_such_resource", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return problem_response(error.status_code, code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        LOG.error("a request failed: %s", type(error).__name__, exc_info=error)
        return problem_response(500, "internal_error", "the request failed inside; the service's log says more")
