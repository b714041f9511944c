"""A reviewer's word on a queued action: put into the review store, and on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.errors import UsageError
from producers.wire.events import Resolution
from stagekeeper.factory import record_resolution, recording

if TYPE_CHECKING:
    from producers.boundary.approvals import Review
    from producers.boundary.review_store import ReviewStore
    from producers.boundary.reviewers import Reviewer
    from stagekeeper.settings import Settings

SOURCE = "/stagekeeper/review"


def resolve_review(
    store: ReviewStore,
    settings: Settings,
    decision_id: str,
    resolution: Resolution,
    *,
    reviewer: Reviewer,
    rationale: str,
) -> Review:
    """Record a reviewer's word; raises what `ReviewStore.resolve` does, and `UsageError` where a name alone is none."""
    if resolution is Resolution.APPROVED and not reviewer.authenticated and settings.reviewers.exists():
        raise UsageError(
            f"{settings.reviewers} says whose word counts, and the name {reviewer.name} alone is none: "
            "set STAGEKEEPER_REVIEWER_TOKEN to that person's token, or sign in at the page"
        )
    with recording(settings, SOURCE) as recorder:
        return store.resolve(
            decision_id,
            resolution,
            reviewer=reviewer,
            rationale=rationale,
            record=lambda review: record_resolution(recorder, review),
        )


def approvals_in_words(review: Review) -> str:
    """How many of the approvals that it needs it has."""
    return f"{len(review.approvals)} of {review.queued.approvers or 1} approvals"
