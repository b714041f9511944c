"""Routes of the desk: the actions that wait for a person, and that person's word."""

from __future__ import annotations

from fastapi import APIRouter, Request

from producers.boundary.approvals import Review
from producers.boundary.review_store import ReviewStore
from producers.boundary.reviewers import Reviewer
from producers.delivery.recorder import Recorder
from producers.wire.events import Resolution
from stagekeeper.api.access import Reviewing
from stagekeeper.api.access_tokens import AccessToken
from stagekeeper.api.api_models import ReviewAnswer, ReviewWord
from stagekeeper.api.decision_routes import PROBLEMS
from stagekeeper.factory import record_resolution

routes = APIRouter(prefix="/v1/reviews", tags=["reviews"], responses=PROBLEMS)


@routes.get("")
def list_reviews(request: Request, _token: Reviewing) -> list[ReviewAnswer]:
    """The actions that wait for a person, oldest first; redacted arguments are blank."""
    return [_answer(review) for review in _store(request).waiting()]


@routes.get("/{decision_id}")
def get_review(request: Request, _token: Reviewing, decision_id: str) -> ReviewAnswer:
    """One queued action, with what has been said about it."""
    return _answer(_store(request).get(decision_id))


@routes.post("/{decision_id}/approve")
def approve(request: Request, token: Reviewing, decision_id: str, word: ReviewWord) -> ReviewAnswer:
    """Approve one execution of exactly this, as the token's person; whoever asked for it cannot."""
    return _resolve(request, token, decision_id, Resolution.APPROVED, word)


@routes.post("/{decision_id}/reject")
def reject(request: Request, token: Reviewing, decision_id: str, word: ReviewWord) -> ReviewAnswer:
    """Reject a queued action; the reason comes back to the agent."""
    return _resolve(request, token, decision_id, Resolution.REJECTED, word)


def _resolve(
    request: Request, token: AccessToken, decision_id: str, resolution: Resolution, word: ReviewWord
) -> ReviewAnswer:
    recorder: Recorder = request.app.state.recorder
    review = _store(request).resolve(
        decision_id,
        resolution,
        reviewer=Reviewer(token.person or "", authenticated=True),
        rationale=word.because,
        record=lambda settled: record_resolution(recorder, settled),
    )
    return _answer(review)


def _answer(review: Review) -> ReviewAnswer:
    return ReviewAnswer(
        state=review.state,
        queued=review.queued,
        words=review.words,
        resolution=review.resolution,
        binding=review.queued.binding,
    )


def _store(request: Request) -> ReviewStore:
    store: ReviewStore = request.app.state.reviews
    return store
