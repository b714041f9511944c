"""Queued actions and their reviews, in one SQLite file that routers and reviewers share."""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from producers.boundary.approvals import (
    ApprovalExpiredError,
    ApprovalUsedError,
    QueuedAction,
    Review,
    ReviewError,
    ReviewPendingError,
    ReviewResolution,
    ReviewResolvedError,
    ReviewState,
    UnknownReviewError,
    require_redeemable,
)
from producers.delivery.outbox import open_database
from producers.wire.events import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS reviews (
    decision_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    queued_at TEXT NOT NULL,
    queued TEXT NOT NULL,
    resolution TEXT
)
"""

_POLL_S = 0.2  # how often the file is read for a resolution that somebody waits for


class ReviewStore:
    """Queued actions in one SQLite file, safe to use from many threads and processes. Its folder is created."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_database(path, _TABLES, synchronous="FULL")
        except (sqlite3.Error, OSError) as error:
            raise ReviewError(f"the review store {path} cannot be used: {error}") from error

    def submit(self, queued: QueuedAction) -> None:
        """Queue an action; `ReviewError` where it cannot be put on disk, and must be denied."""
        self._change(
            "INSERT INTO reviews (decision_id, state, queued_at, queued) VALUES (?, ?, ?, ?)",
            (queued.decision_id, ReviewState.WAITING, queued.queued_at.isoformat(), queued.model_dump_json()),
        )

    def get(self, decision_id: str) -> Review:
        """A review by its decision id; `UnknownReviewError` where there is none."""
        rows = self._read("SELECT state, queued, resolution FROM reviews WHERE decision_id = ?", (decision_id,))
        if not rows:
            raise UnknownReviewError(
                f"no queued action has the decision id {decision_id}; `stagekeeper review list` shows them"
            )
        return _review(*rows[0])

    def waiting(self) -> list[Review]:
        """The reviews that nobody has decided, oldest first; those past their time limit are not among them."""
        rows = self._read(
            "SELECT state, queued, resolution FROM reviews WHERE state = ? ORDER BY queued_at", (ReviewState.WAITING,)
        )
        reviews = [_review(*row) for row in rows]
        return [review for review in reviews if review.queued.expires_at > self._now()]

    def resolve(
        self,
        decision_id: str,
        resolution: Resolution,
        *,
        reviewer: str,
        rationale: str,
        record: Callable[[Review], None] = lambda _: None,
    ) -> Review:
        """Record a reviewer's resolution, once.

        `record` emits the event before the resolution is in force: where it raises, nothing is resolved, and the store
        cannot be written meanwhile. Raises `UnknownReviewError`, `ReviewResolvedError` where another reviewer was
        faster, `ApprovalExpiredError`.
        """
        queued = self.get(decision_id).queued
        at = self._now()
        if at >= queued.expires_at:
            raise ApprovalExpiredError(f"{decision_id} expired at {queued.expires_at.isoformat()}; ask for it anew")
        recorded = ReviewResolution(
            resolution=resolution, reviewer=reviewer, rationale=rationale, at=at, binding=queued.binding
        )
        state = ReviewState.APPROVED if resolution is Resolution.APPROVED else ReviewState.REJECTED
        resolved = Review(state=state, queued=queued, resolution=recorded)
        changed = self._change(
            "UPDATE reviews SET state = ?, resolution = ? WHERE decision_id = ? AND state = ?",
            (state, recorded.model_dump_json(), decision_id, ReviewState.WAITING),
            before=lambda: record(resolved),
        )
        if not changed:
            review = self.get(decision_id)
            first = review.resolution
            how = f"{first.resolution.value} by {first.reviewer}" if first is not None else review.state.value
            raise ReviewResolvedError(f"{decision_id} is {how} already, and that holds; the agent can ask anew")
        return resolved

    def redeem(self, decision_id: str, *, arguments_sha256: str, ruleset_sha256: str) -> Review:
        """Spend an approval, right before the action runs; `ReviewError` as in `require_redeemable`."""
        review = self.get(decision_id)
        require_redeemable(review, at=self._now(), arguments_sha256=arguments_sha256, ruleset_sha256=ruleset_sha256)
        spent = self._change(
            "UPDATE reviews SET state = ? WHERE decision_id = ? AND state = ?",
            (ReviewState.USED, decision_id, ReviewState.APPROVED),
        )
        if not spent:
            raise ApprovalUsedError(f"the approval of {decision_id} has been used; each holds for one execution")
        return review

    def wait_for_resolution(self, decision_id: str, timeout_s: float) -> Review:
        """Wait until a reviewer has decided; `ReviewPendingError` once `timeout_s` have passed."""
        deadline = time.monotonic() + timeout_s
        while (review := self.get(decision_id)).state is ReviewState.WAITING:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ReviewPendingError(f"{decision_id} still waits for a person: {review.queued.rule}")
            # The reviewer is another process, and SQLite tells nobody: the file must be looked at.
            self._closed.wait(min(_POLL_S, left))
        return review

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[str, str, str | None]]:
        with self._lock:
            try:
                return self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise ReviewError(f"the review store {self._path} cannot be read: {error}") from error

    def _change(self, query: str, values: tuple[object, ...], *, before: Callable[[], None] = lambda: None) -> int:
        """Change rows, after something that must have happened `before`; where that raises, nothing is changed."""
        with self._lock:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    changed = self._file.execute(query, values).rowcount
                    if changed:
                        before()
                    self._file.execute("COMMIT")
                finally:
                    if self._file.in_transaction:
                        self._file.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise ReviewError(f"the review store {self._path} cannot be written: {error}") from error
        return changed


def _review(state: str, queued: str, resolution: str | None) -> Review:
    return Review(
        state=ReviewState(state),
        queued=QueuedAction.model_validate_json(queued),
        resolution=None if resolution is None else ReviewResolution.model_validate_json(resolution),
    )
