"""The review desk: actions that wait for a person, on disk, each with what a reviewer needs; approvals that bind.

An approval holds for one execution of exactly what was shown: the contract and the arguments (by their digests), the
ruleset under which it was queued, and a time limit. It is checked again right before the action runs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from producers.boundary.canonical_json import digest
from producers.errors import StagekeeperError
from producers.wire.contract import ActionContract
from producers.wire.events import Resolution
from producers.wire.model import Moment, Name, Sha256, Text, WireModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

_TABLES = """
CREATE TABLE IF NOT EXISTS reviews (
    decision_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    queued_at TEXT NOT NULL,
    queued TEXT NOT NULL,
    resolution TEXT
)
"""

_LOOK_S = 0.2
"""How often the file is looked at for a word that somebody waits for."""


class ReviewState(StrEnum):
    """Where a queued action stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    USED = "used"


class QueuedAction(WireModel):
    """One action that waits for a person, with everything that person needs to decide."""

    decision_id: Name
    receipt: str
    """Token of the receipt; it resumes the action in any process."""
    contract: ActionContract
    arguments: dict[str, Any]
    """What the action would be called with; redacted fields are blanked."""
    consequence: Text | None
    """What happens when it runs."""
    rule: Name
    """Which rule sent it here."""
    ruleset_sha256: Sha256
    queued_at: Moment
    expires_at: Moment
    """An approval after this moment, or used after it, is refused."""

    @property
    def binding(self) -> str:
        """What an approval binds to: SHA-256 over the canonical contract (with its arguments' digest) and ruleset."""
        return digest([self.contract, self.ruleset_sha256, self.expires_at])


class ReviewResolution(WireModel):
    """A person's word."""

    resolution: Resolution
    reviewer: Annotated[str, Field(min_length=1, max_length=200)]
    rationale: Annotated[str, Field(min_length=1, max_length=4_000)]
    at: Moment
    binding: Sha256
    """What the reviewer saw and spoke about."""


class Review(WireModel):
    """A queued action and where it stands."""

    state: ReviewState
    queued: QueuedAction
    resolution: ReviewResolution | None = None


class ReviewError(StagekeeperError):
    """A review cannot be used as asked."""


class UnknownReviewError(ReviewError):
    """No action with this decision id waits or waited here."""

    exit_code = 2


class ReviewPendingError(ReviewError):
    """Nobody has decided yet."""


class ReviewRejectedError(ReviewError):
    """A person said no; the message carries the rationale."""


class ReviewResolvedError(ReviewError):
    """Somebody has decided already."""


class ApprovalExpiredError(ReviewError):
    """The time limit has passed."""


class ApprovalMismatchError(ReviewError):
    """What would run, or the policy it would run under, is not what was approved."""


class ApprovalUsedError(ReviewError):
    """The approval has been used; each holds for one execution."""


class ReviewDesk:
    """Queued actions in one SQLite file that routers and reviewers share. Safe to use from many threads and processes.

    Args:
        path: The file; its folder is created.
        now: The clock.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        except (sqlite3.Error, OSError) as error:
            raise ReviewError(f"the review desk {path} cannot be used: {error}") from error
        try:
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            self._file.execute(_TABLES)
        except sqlite3.Error as error:
            self._file.close()
            raise ReviewError(f"the review desk {path} cannot be used: {error}") from error

    def submit(self, queued: QueuedAction) -> None:
        """Queue an action.

        Raises:
            ReviewError: It cannot be put on disk; the action must be denied.
        """
        self._change(
            "INSERT INTO reviews (decision_id, state, queued_at, queued) VALUES (?, ?, ?, ?)",
            (queued.decision_id, ReviewState.WAITING, queued.queued_at.isoformat(), queued.model_dump_json()),
        )

    def get(self, decision_id: str) -> Review:
        """A review by its decision id.

        Raises:
            UnknownReviewError: There is none.
        """
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
        """Write down a person's word, once.

        Args:
            decision_id: The action.
            resolution: The word.
            reviewer: Who speaks.
            rationale: Why.
            record: Puts the word on record before it is in force; where it raises, nobody has spoken. The desk cannot
                be written meanwhile.

        Raises:
            UnknownReviewError: There is no such review.
            ReviewResolvedError: Somebody was faster.
            ApprovalExpiredError: The time limit has passed.
        """
        queued = self.get(decision_id).queued
        at = self._now()
        if at >= queued.expires_at:
            raise ApprovalExpiredError(f"{decision_id} expired at {queued.expires_at.isoformat()}; ask for it anew")
        word = ReviewResolution(
            resolution=resolution, reviewer=reviewer, rationale=rationale, at=at, binding=queued.binding
        )
        state = ReviewState.APPROVED if resolution is Resolution.APPROVED else ReviewState.REJECTED
        resolved = Review(state=state, queued=queued, resolution=word)
        changed = self._change(
            "UPDATE reviews SET state = ?, resolution = ? WHERE decision_id = ? AND state = ?",
            (state, word.model_dump_json(), decision_id, ReviewState.WAITING),
            before=lambda: record(resolved),
        )
        if not changed:
            review = self.get(decision_id)
            said = review.resolution
            who = f"{said.resolution.value} by {said.reviewer}" if said is not None else review.state.value
            raise ReviewResolvedError(f"{decision_id} is {who} already, and a word holds; the agent can ask anew")
        return resolved

    def redeem(self, decision_id: str, *, arguments_sha256: str, ruleset_sha256: str) -> Review:
        """Use an approval, right before the action runs: every condition is checked, then it is spent.

        Raises:
            ReviewPendingError: Nobody has decided yet.
            ReviewRejectedError: A person said no.
            ApprovalExpiredError: It is too late.
            ApprovalMismatchError: The arguments or the ruleset are not those that were approved.
            ApprovalUsedError: It was used before.
        """
        review = self.get(decision_id)
        queued, word = review.queued, review.resolution
        if review.state is ReviewState.USED:
            raise ApprovalUsedError(f"the approval of {decision_id} has been used; each holds for one execution")
        if word is None:
            raise ReviewPendingError(f"{decision_id} still waits for a person: {queued.rule}")
        if word.resolution is Resolution.REJECTED:
            raise ReviewRejectedError(f"{decision_id} was rejected by {word.reviewer}: {word.rationale}")
        if self._now() >= queued.expires_at:
            raise ApprovalExpiredError(f"the approval of {decision_id} expired at {queued.expires_at.isoformat()}")
        if word.binding != queued.binding:
            raise ApprovalMismatchError(f"what is queued as {decision_id} is not what {word.reviewer} approved")
        if arguments_sha256 != queued.contract.arguments_sha256:
            raise ApprovalMismatchError(f"the arguments of {decision_id} are not those that {word.reviewer} approved")
        if ruleset_sha256 != queued.ruleset_sha256:
            raise ApprovalMismatchError(f"the ruleset has changed since {word.reviewer} approved {decision_id}")
        spent = self._change(
            "UPDATE reviews SET state = ? WHERE decision_id = ? AND state = ?",
            (ReviewState.USED, decision_id, ReviewState.APPROVED),
        )
        if not spent:
            raise ApprovalUsedError(f"the approval of {decision_id} has been used; each holds for one execution")
        return review

    def await_word(self, decision_id: str, timeout_s: float) -> Review:
        """Wait until a person has spoken, at most so many seconds.

        Raises:
            ReviewPendingError: Nobody has.
            UnknownReviewError: There is no such review.
        """
        ends = time.monotonic() + timeout_s
        while (review := self.get(decision_id)).state is ReviewState.WAITING:
            left = ends - time.monotonic()
            if left <= 0:
                raise ReviewPendingError(f"{decision_id} still waits for a person: {review.queued.rule}")
            # The reviewer is another process, and SQLite tells nobody: the file must be looked at.
            self._closed.wait(min(_LOOK_S, left))
        return review

    async def await_word_async(self, decision_id: str, timeout_s: float) -> Review:
        """As `await_word`, without holding up the event loop."""
        return await asyncio.to_thread(self.await_word, decision_id, timeout_s)

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[str, str, str | None]]:
        with self._lock:
            try:
                return self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise ReviewError(f"the review desk {self._path} cannot be read: {error}") from error

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
                raise ReviewError(f"the review desk {self._path} cannot be written: {error}") from error
        return changed


def _review(state: str, queued: str, resolution: str | None) -> Review:
    return Review(
        state=ReviewState(state),
        queued=QueuedAction.model_validate_json(queued),
        resolution=None if resolution is None else ReviewResolution.model_validate_json(resolution),
    )
