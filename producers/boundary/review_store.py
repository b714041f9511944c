"""Queued actions and their reviews, in one SQLite file or one database that routers and reviewers share.

With a key each row carries an HMAC over everything in it: what was shown, who said what and when, its state. A row that
was written or changed without the key is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from producers.boundary.approvals import (
    AlteredReviewError,
    ApprovalExpiredError,
    QueuedAction,
    Review,
    ReviewError,
    ReviewPendingError,
    ReviewResolution,
    ReviewResolvedError,
    ReviewState,
    UnknownReviewError,
    approval_used,
    pending_message,
    require_approver,
    require_redeemable,
)
from producers.boundary.review_clock import ClockMark, ReviewClock
from producers.boundary.review_database import SqliteReviews
from producers.boundary.reviewers import Reviewer
from producers.wire.events import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.review_database import ReviewDatabase
    from producers.wire.contract import ArgumentsDigest

LOG = logging.getLogger(__name__)

_SELECT = "SELECT decision_id, state, queued, resolution, seal FROM reviews "
_POLL_S = 0.2  # how often the file is read for a resolution that somebody waits for


class ReviewStore:
    """Queued actions in one SQLite file or one database, safe to use from many threads and processes."""

    def __init__(
        self,
        place: Path | ReviewDatabase,  # the path of an SQLite file, or where else the rows are
        *,
        key: bytes | None = None,  # protects the rows, the one that signs receipts; None leaves them unprotected
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database: ReviewDatabase = SqliteReviews(place) if isinstance(place, Path) else place
        self.name = self._database.name  # where it is, for messages
        self._key = key
        self._clock = ReviewClock(now)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._used: set[str] = set()  # by this process, so that a row that is put back is not used again

    @property
    def is_protected(self) -> bool:
        """Whether rows that were written or changed without the key are refused."""
        return self._key is not None

    def moment(self) -> datetime:
        """The moment that time limits are held against; it does not go back where a clock is set back."""
        mark = self._clock.read(self._mark())
        self._change(
            "INSERT INTO clock (id, moment, boot, uptime_s) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "moment = excluded.moment, boot = excluded.boot, uptime_s = excluded.uptime_s",
            (mark.moment.isoformat(), mark.boot, mark.uptime_s),
        )
        return mark.moment

    def submit(self, queued: QueuedAction) -> None:
        """Queue an action; `ReviewError` where it cannot be put on disk, and must be denied."""
        row = _Row.from_review(Review(state=ReviewState.WAITING, queued=queued), self._key)
        self._change(
            "INSERT INTO reviews (queued_at, decision_id, state, queued, resolution, seal) VALUES (?, ?, ?, ?, ?, ?)",
            (queued.queued_at.isoformat(), *row),
        )

    def get(self, decision_id: str) -> Review:
        """A review by its decision id; `UnknownReviewError` where there is none, `AlteredReviewError`."""
        return self._row(decision_id).to_review(self._key)

    def waiting(self, refused: Callable[[ReviewError], None] = lambda error: LOG.warning("%s", error)) -> list[Review]:
        """The reviews that nobody has decided, oldest first; those past their time limit are not among them.

        Rows that cannot be trusted are not, either: `refused` is told of each.
        """
        reviews = []
        for row in self._read(f"{_SELECT}WHERE state = ? ORDER BY queued_at", (ReviewState.WAITING,)):
            try:
                reviews.append(_Row(*row).to_review(self._key))
            except ReviewError as error:
                refused(error)
        moment = self._clock.read(self._mark()).moment
        return [review for review in reviews if review.queued.expires_at > moment]

    def resolve(
        self,
        decision_id: str,
        resolution: Resolution,
        *,
        reviewer: Reviewer | str,  # a mere name is one that nobody has checked
        rationale: str,
        record: Callable[[Review], None] = lambda _: None,
    ) -> Review:
        """Record a reviewer's word, once; the review waits on where more persons must approve.

        `record` emits the event of the word that settles it, before that is in force: where it raises, nothing is
        resolved, and the store cannot be written meanwhile. Raises `UnknownReviewError`, `AlteredReviewError`,
        `ReviewResolvedError` where another reviewer was faster, `ApprovalExpiredError`, and what `require_approver`
        raises for an approval.
        """
        if isinstance(reviewer, str):
            reviewer = Reviewer(reviewer)
        while True:
            row = self._row(decision_id)
            spoken = self._spoken(row.to_review(self._key), resolution, reviewer, rationale)
            settled = spoken.state is not ReviewState.WAITING
            if self._replace(row, spoken, before=(lambda: record(spoken)) if settled else (lambda: None)):  # noqa: B023
                return spoken
            # Somebody else has spoken since the row was read: it is read anew.

    def redeem(self, decision_id: str, arguments: ArgumentsDigest, *, ruleset_sha256: str) -> Review:
        """Spend an approval, right before the action runs; `ReviewError` as in `require_redeemable`."""
        row = self._row(decision_id)
        review = row.to_review(self._key)
        require_redeemable(review, at=self.moment(), arguments=arguments, ruleset_sha256=ruleset_sha256)
        with self._lock:
            if decision_id in self._used:
                raise approval_used(decision_id)
        if not self._replace(row, review.model_copy(update={"state": ReviewState.USED})):
            raise approval_used(decision_id)
        with self._lock:
            self._used.add(decision_id)
        return review

    def give_back(self, decision_id: str) -> None:
        """Let a spent approval hold again: the action did not run; `ReviewError` where it cannot be written."""
        row = self._row(decision_id)
        review = row.to_review(self._key)
        if review.state is ReviewState.USED:
            self._replace(row, review.model_copy(update={"state": ReviewState.APPROVED}))
            with self._lock:
                self._used.discard(decision_id)

    def wait_for_resolution(self, decision_id: str, timeout_s: float) -> Review:
        """Wait until reviewers have decided; `ReviewPendingError` once `timeout_s` have passed."""
        deadline = time.monotonic() + timeout_s
        while (review := self.get(decision_id)).state is ReviewState.WAITING:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ReviewPendingError(pending_message(review))
            # The reviewer is another process, and SQLite tells nobody: the file must be looked at.
            self._closed.wait(min(_POLL_S, left))
        return review

    def close(self) -> None:
        """Close it."""
        self._closed.set()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spoken(self, review: Review, resolution: Resolution, reviewer: Reviewer, rationale: str) -> Review:
        """The review after one more word."""
        queued, at = review.queued, self.moment()
        if review.state is not ReviewState.WAITING:
            raise ReviewResolvedError(_how_resolved(review))
        if at >= queued.expires_at:
            expiry = queued.expires_at.isoformat()
            raise ApprovalExpiredError(f"{queued.decision_id} expired at {expiry}; ask for it anew")
        if resolution is Resolution.APPROVED:
            require_approver(review, reviewer)
        word = ReviewResolution(
            resolution=resolution,
            reviewer=reviewer.name,
            authenticated=reviewer.authenticated,
            rationale=rationale,
            at=at,
            binding=queued.binding,
        )
        spoken = review.model_copy(update={"words": (*review.words, word)})
        if resolution is Resolution.REJECTED:
            state = ReviewState.REJECTED
        else:
            state = ReviewState.WAITING if spoken.missing_approvals else ReviewState.APPROVED
        return spoken.model_copy(update={"state": state})

    def _row(self, decision_id: str) -> _Row:
        rows = self._read(f"{_SELECT}WHERE decision_id = ?", (decision_id,))
        if not rows:
            raise UnknownReviewError(
                f"no queued action has the decision id {decision_id}; `stagekeeper review list` shows them"
            )
        return _Row(*rows[0])

    def _mark(self) -> ClockMark | None:
        rows = self._read("SELECT moment, boot, uptime_s FROM clock", ())
        try:
            return ClockMark(datetime.fromisoformat(rows[0][0]), rows[0][1], rows[0][2]) if rows else None
        except (TypeError, ValueError) as error:
            raise ReviewError(f"the clock of the review store {self.name} cannot be read: {error}") from error

    def _replace(self, row: _Row, review: Review, *, before: Callable[[], None] = lambda: None) -> int:
        """Put a review in the place of the row that was read; 0 where that has changed since."""
        new = _Row.from_review(review, self._key)
        return self._change(
            "UPDATE reviews SET state = ?, resolution = ?, seal = ? "
            "WHERE decision_id = ? AND state = ? AND queued = ? AND resolution IS ?",
            (new.state, new.resolution, new.seal, row.decision_id, row.state, row.queued, row.resolution),
            before=before,
        )

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._database.read(query, values)

    def _change(self, query: str, values: tuple[object, ...], *, before: Callable[[], None] = lambda: None) -> int:
        return self._database.change(query, values, before)


class _Row(NamedTuple):
    decision_id: str
    state: str
    queued: str  # JSON
    resolution: str | None  # JSON: the list of what was said; one object in rows of older versions
    seal: str | None

    @classmethod
    def from_review(cls, review: Review, key: bytes | None) -> Self:
        words = json.dumps([word.model_dump(mode="json") for word in review.words]) if review.words else None
        row = cls(review.queued.decision_id, review.state.value, review.queued.model_dump_json(), words, None)
        return row if key is None else row._replace(seal=row.seal_with(key))

    def seal_with(self, key: bytes) -> str:
        """HMAC-SHA256 over all other columns."""
        sealed = json.dumps(["stagekeeper.review", *self[:-1]]).encode()
        return hmac.new(key, sealed, hashlib.sha256).hexdigest()

    def to_review(self, key: bytes | None) -> Review:
        if not all(isinstance(value, str | None) for value in self):  # SQLite takes any type in any column
            raise AlteredReviewError(f"the row of {self.decision_id!r} holds something else than text")
        if key is not None and self.seal is None:
            raise AlteredReviewError(
                f"the row of {self.decision_id} was written without STAGEKEEPER_RECEIPT_KEY, so nobody can tell by "
                "whom: give routers and reviewers the same key, and ask for the action anew"
            )
        if key is None and self.seal is not None:
            raise AlteredReviewError(
                f"the row of {self.decision_id} is protected by a key, and this process has none: set "
                "STAGEKEEPER_RECEIPT_KEY to the routers' key"
            )
        if key is not None and not hmac.compare_digest(str(self.seal).encode(), self.seal_with(key).encode()):
            raise AlteredReviewError(
                f"the row of {self.decision_id} is not as a holder of this STAGEKEEPER_RECEIPT_KEY wrote it: it was "
                "altered, or the key is another one. Nothing runs by it; ask for the action anew"
            )
        try:
            spoken = json.loads(self.resolution or "[]")
            spoken = spoken if isinstance(spoken, list) else [spoken]
            words = tuple(ReviewResolution.model_validate(word) for word in spoken)
            queued = QueuedAction.model_validate_json(self.queued)
            review = Review(state=ReviewState(self.state), queued=queued, words=words)
        except (ValueError, TypeError) as error:
            raise AlteredReviewError(f"the row of {self.decision_id} cannot be read: {error}") from error
        if queued.decision_id != self.decision_id:
            raise AlteredReviewError(f"the row of {self.decision_id} is about {queued.decision_id}")
        return review


def _how_resolved(review: Review) -> str:
    queued, last = review.queued, review.words[-1] if review.words else None
    how = f"{last.resolution.value} by {last.reviewer}" if last is not None else review.state.value
    return f"{queued.decision_id} is {how} already, and that holds; the agent can ask anew"
