"""Decide for callers over HTTP by the same boundary as in process, once for each request, and take their reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic_core import to_json

from producers.boundary.action import acting
from producers.boundary.approvals import ReviewError, ReviewState, UnknownReviewError
from producers.boundary.canonical_json import canonical
from producers.boundary.errors import RefusedError
from producers.wire.decision import Decision
from producers.wire.receipt import Receipt
from stagekeeper.api.api_models import DecisionAnswer, ReportAnswer, ReviewStatus, RunPermit
from stagekeeper.api.contract_actions import ContractActions, asked_context
from stagekeeper.api.decision_log import LoggedDecision, RedeemedPermit, collected_records, deciding
from stagekeeper.api.made_decision import MadeDecision, Turns
from stagekeeper.api.problems import ProblemError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from producers.boundary.approvals import Review
    from producers.boundary.review_store import ReviewStore
    from producers.boundary.router import Router
    from producers.delivery.recorder import Recorder
    from producers.wire import events
    from producers.wire.events import EventRecord
    from stagekeeper.api.access_tokens import AccessToken
    from stagekeeper.api.api_models import DecisionRequest, ExecutionReport, UndoReport
    from stagekeeper.api.decision_log import DecisionLog, LoggedEmitter

_POLL_S: Final = 0.25  # how often the desk is read for a word that somebody waits for: reviewers are other processes
_REPORTED: Final = "INSERT INTO reports VALUES (?, ?, ?, ?)"
_TRACED: Final = timedelta(hours=1)  # how long a decision is found here by its trace; later it is in the lake
EXECUTION: Final = "execution"
UNDO: Final = "undo"


class DecisionService:
    """Decisions, redeemed approvals and reports of callers that a token names. For one event loop."""

    def __init__(
        self,
        router: Router,
        recorder: Recorder,
        emitter: LoggedEmitter,
        log: DecisionLog,
        reviews: ReviewStore,
        *,
        permit_s: float,  # how long a permit lets the action begin
        approval_holds: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._router = router
        self._recorder = recorder
        self._emitter = emitter
        self._log = log
        self._reviews = reviews
        self._permit_s = permit_s
        self._holds_s = approval_holds.total_seconds()
        self._now = now
        self._actions = ContractActions()
        self._turns = Turns()

    def digest(self, body: bytes) -> str:
        """Digest of a request, by which nobody without the receipt key can try out what was asked."""
        return hmac.digest(self._recorder.key or b"", body, "sha256").hex()

    async def decide(
        self, token: AccessToken, asked: DecisionRequest, *, key: str | None, sha256: str
    ) -> DecisionAnswer:
        """Decide a request; one with the same idempotency key is answered with the same decision while that is good.

        Once an execution was reported under the key, the answer carries no permit any more.

        `sha256` is the digest of what was asked, by which a key that is used for something else is known.
        Raises `ProblemError` where the request claims what is not its caller's, or the key was used for another one.
        """
        context = asked_context(asked, token)
        owner = owner_of(token)
        if key is None:
            return await self._decide(asked, context, None, sha256, owner)
        request = f"{owner}:{key}"
        async with self._turns.take(request):
            logged = self._log.of_request(request)
            if logged is not None:
                if logged.request_sha256 != sha256:
                    raise ProblemError(
                        409,
                        "idempotency_key_reused",
                        "this Idempotency-Key came with another request; draw a new one",
                    )
                if self._log.was_reported(request, EXECUTION):
                    made = _decided(logged)
                    return self._answer(made, await self._review(made), may_run=False)
                if self._now().timestamp() < logged.good_until and (answer := await self._again(logged)) is not None:
                    return answer
            return await self._decide(asked, context, request, sha256, owner)

    async def foresee(self, token: AccessToken, asked: DecisionRequest) -> tuple[str, str, bool]:
        """What would be decided now, off the record: outcome, reason, and whether it would run as asked."""
        action = self._actions.get(asked)
        with acting(**asked_context(asked, token)):
            decision = (await self._router.foresee_async(action)).decision
        runs = decision.expects_execution and decision.result.outcome == "allow"
        return decision.result.outcome, decision.result.reason, runs

    async def redeem(
        self, token: AccessToken, decision_id: str, asked: DecisionRequest, *, sha256: str
    ) -> DecisionAnswer:
        """Spend a person's approval on the very action that was queued; raises a `ReviewError` as in process.

        The same request (digest `sha256`) by the same token has the same permit while that is good, and not reported.
        """
        context = asked_context(asked, token)
        logged = self._own(token, decision_id)
        event = _decided(logged)
        async with self._turns.take(f"{decision_id} redeem"):
            spent = self._log.redeemed(decision_id)
            if (
                spent is None
                or (spent.token_id, spent.request_sha256) != (token.id, sha256)
                or self._now().timestamp() >= spent.good_until
                or self._log.report(decision_id, EXECUTION) is not None
            ):
                receipt = Receipt.from_token(event.receipt, self._recorder.key)
                with acting(**context):
                    permit = await self._router.redeem_async(receipt, self._actions.get(asked), **asked.arguments)
                until = self._now().timestamp() + self._permit_s
                made = permit.decision.model_dump_json().encode()
                spent = RedeemedPermit(decision_id, token.id, sha256, until, made)
                await self._emitter.append([], spent.write)
        answer = self._answer(event, await self._review(event))
        runs = RunPermit(runs="as_asked", expires_at=datetime.fromtimestamp(spent.good_until, UTC))
        decision = Decision.model_validate_json(spent.decision)
        return answer.model_copy(update={"permit": runs, "decision": decision})

    async def look(self, token: AccessToken, decision_id: str, wait_s: float) -> DecisionAnswer:
        """A decision as it stands; where a person has yet to speak, wait for that word at most so many seconds.

        It carries no permit: that is answered once, or redeemed.
        """
        event = _decided(self._own(token, decision_id))
        until = time.monotonic() + wait_s
        review = await self._review(event)
        while review is not None and review.state is ReviewState.WAITING and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(_POLL_S, left))
            review = await self._review(event)
        return self._answer(event, review)

    async def report_execution(self, token: AccessToken, decision_id: str, report: ExecutionReport) -> ReportAnswer:
        """Record how an action ran that was permitted; once."""
        logged = self._own(token, decision_id)
        if not logged.may_run:
            raise ProblemError(
                409,
                "nothing_was_permitted",
                f"decision {decision_id} let nothing run; where it was queued for review, redeem the approval first",
            )
        return await self._report(
            logged,
            EXECUTION,
            report,
            lambda receipt: self._recorder.executed(receipt, durable=True, **dict(report)),
        )

    async def report_undo(self, token: AccessToken, decision_id: str, report: UndoReport) -> ReportAnswer:
        """Record what came of taking an execution back; once, and after the execution."""
        logged = self._own(token, decision_id)
        if self._log.report(decision_id, EXECUTION) is None:
            raise ProblemError(
                409, "not_executed", f"no execution of decision {decision_id} is on record; report that first"
            )
        return await self._report(
            logged,
            UNDO,
            report,
            lambda receipt: self._recorder.undone(receipt, report.result, reason=report.reason, durable=True),
        )

    async def report_impact(
        self, token: AccessToken, decision_id: str, impact: events.Impact, key: str | None
    ) -> ReportAnswer:
        """Record what an action led to; a repetition by key or reference counts once."""
        return await self._impact(self._own(token, decision_id), impact, key)

    async def report_foreign_impact(
        self, token: AccessToken, receipt: Receipt, impact: events.Impact, key: str | None
    ) -> ReportAnswer:
        """As `report_impact`, of an action that may have been decided elsewhere, by its receipt.

        A token of an agent reports what its own decisions led to, as far as they were made here.
        """
        logged = self._log.get(receipt.decision_id)
        if logged is not None and token.agent is not None and logged.owner != owner_of(token):
            raise _not_yours(token, receipt.decision_id)
        if logged is None and token.agent is not None:
            raise _unknown(receipt.decision_id)
        return await self._impact(receipt if logged is None else logged, impact, key)

    def knows(self, decision_id: str) -> bool:
        """Whether a decision was made here."""
        return self._log.get(decision_id) is not None

    def receipt_of(self, decision_id: str) -> Receipt | None:
        """The receipt of a decision that was made here."""
        logged = self._log.get(decision_id)
        return None if logged is None else Receipt.from_token(_decided(logged).receipt, self._recorder.key)

    def receipts_of_trace(self, trace_id: str) -> list[Receipt]:
        """The receipts of the decisions that were made here within a trace, of late."""
        since = self._now() - _TRACED
        return [
            Receipt.from_token(MadeDecision.from_event(value).receipt, self._recorder.key)
            for value in self._log.containing(b'"traceparent":"00-' + trace_id.encode(), since)
        ]

    def require_not_anothers(self, token: AccessToken, decision_id: str, *, is_execution: bool) -> None:
        """Check that what is reported as an event is about nobody else's decision; raises `ProblemError`.

        What was decided here is reported on its own route, where it counts once.
        """
        logged = self._log.get(decision_id)
        if logged is None:
            return
        if token.agent is not None and logged.owner != owner_of(token):
            raise _not_yours(token, decision_id)
        if is_execution:
            raise ProblemError(
                409, "decided_here", f"decision {decision_id} was made here; report to /v1/decisions/{decision_id}"
            )

    async def accept(self, records: Sequence[EventRecord]) -> None:
        """Put events on disk that the service itself read, on their way to the broker; `OutboxError` where none is."""
        await self._emitter.append(records, lambda _: None)

    async def _impact(self, about: LoggedDecision | Receipt, impact: events.Impact, key: str | None) -> ReportAnswer:
        reference = key or getattr(impact, "reference", None)
        # What nothing tells from another impact counts for itself.
        name = f"impact:{impact.kind}:{reference or f'{self._now().timestamp()}:{id(impact)}'}"
        return await self._report(
            about, name, impact, lambda receipt: self._recorder.impact(receipt, impact, durable=True)
        )

    async def _decide(
        self, asked: DecisionRequest, context: dict[str, object], request: str | None, sha256: str, owner: str
    ) -> DecisionAnswer:
        made: list[MadeDecision] = []

        def row(record: EventRecord) -> LoggedDecision:
            one = MadeDecision.from_event(record.value)
            made.append(one)
            good_for_s = self._holds_s if one.is_queued else self._permit_s
            at, may_run = one.decided_at.timestamp(), int(one.decision.expects_execution)
            return LoggedDecision(
                record.key.decode(), request, sha256, owner, at, at + good_for_s, may_run, record.value
            )

        action = self._actions.get(asked)
        with acting(**context), deciding(row), contextlib.suppress(RefusedError):
            await self._router.decide_async(action, **asked.arguments)
        return self._answer(made[-1], await self._review(made[-1]))

    async def _again(self, logged: LoggedDecision) -> DecisionAnswer | None:
        """The answer to a retry; None where the service was killed before the action was queued."""
        event = _decided(logged)
        try:
            return self._answer(event, await self._review(event, must_exist=True))
        except UnknownReviewError:
            return None

    async def _review(self, made: MadeDecision, *, must_exist: bool = False) -> Review | None:
        if not made.is_queued:
            return None
        try:
            return await asyncio.to_thread(self._reviews.get, made.event["subject"])
        except ReviewError:  # there is none, or nobody can tell: nothing can be approved
            if must_exist:
                raise
            return None

    def _answer(self, made: MadeDecision, review: Review | None, *, may_run: bool = True) -> DecisionAnswer:
        event, decision, permit, status = made.event, made.decision, None, None
        result = decision.result
        if may_run and decision.expects_execution:
            runs = result.mode if result.outcome == "constrain" else "as_asked"
            until = made.decided_at + timedelta(seconds=self._permit_s)
            permit = RunPermit.model_validate({"runs": runs, "expires_at": until})
        if review is not None:
            word = review.resolution
            status = ReviewStatus(
                state=review.state,
                expires_at=review.queued.expires_at,
                resolution=word.resolution if word is not None else None,
                reviewer=word.reviewer if word is not None else None,
                rationale=word.rationale if word is not None else None,
            )
        # Everything in it was checked when the event was written.
        return DecisionAnswer.model_construct(
            decision_id=event["subject"],
            decided_at=made.decided_at,
            outcome=result.outcome,
            reason=result.reason,
            stage=Receipt.from_token(event["data"]["receipt"]).stage,
            permit=permit,
            review=status,
            decision=decision,
            receipt=event["data"]["receipt"],
        )

    def _own(self, token: AccessToken, decision_id: str) -> LoggedDecision:
        logged = self._log.get(decision_id)
        if logged is None:
            raise _unknown(decision_id)
        if logged.owner != owner_of(token):
            raise _not_yours(token, decision_id)
        return logged

    async def _report(
        self,
        about: LoggedDecision | Receipt,
        kind: str,
        report: ExecutionReport | UndoReport | events.Impact,
        record: Callable[[Receipt], None],
    ) -> ReportAnswer:
        decision_id, digest = about.decision_id, _sha256(report)
        async with self._turns.take(f"{decision_id} {kind}"):
            before = self._log.report(decision_id, kind)
            if before == digest:
                return ReportAnswer(decision_id=decision_id, recorded=False)
            if before is not None:
                raise ProblemError(
                    409,
                    "reported_otherwise",
                    f"the {kind} of decision {decision_id} is on record as something else",
                )
            if isinstance(about, Receipt):
                receipt = about
            else:
                receipt = Receipt.from_token(_decided(about).receipt, self._recorder.key)
            with collected_records() as records:
                record(receipt)
            row = (decision_id, kind, digest, self._now().timestamp())
            await self._emitter.append(records, functools.partial(_update, _REPORTED, row))
        return ReportAnswer(decision_id=decision_id, recorded=True)


def owner_of(token: AccessToken) -> str:
    """Whose decisions a token's are: another token of the same agent and service may report them."""
    return to_json([token.agent, token.service]).decode()


def _unknown(decision_id: str) -> ProblemError:
    return ProblemError(404, "unknown_decision", f"no decision {decision_id[:200]} was made by this service")


def _not_yours(token: AccessToken, decision_id: str) -> ProblemError:
    return ProblemError(
        403, "another_agent", f"decision {decision_id} is not one of agent {token.agent} by service {token.service}"
    )


def _decided(logged: LoggedDecision) -> MadeDecision:
    return MadeDecision.from_event(logged.value)


def _sha256(asked: object) -> str:
    return hashlib.sha256(canonical(asked)).hexdigest()


def _update(query: str, values: tuple[object, ...], file: sqlite3.Connection) -> None:
    file.execute(query, values)
