from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from boundary_cases import Permit, Refuse, Shelf, flag_evaluator

from producers.boundary.action import acting
from producers.boundary.errors import (
    ActionConstrainedError,
    ActionDeniedError,
    ActionFellBackError,
    ActionObservedError,
    RefusedError,
    ReviewRequiredError,
)
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.decision import Deny
from producers.wire.events import ActionDecided, ActionExecuted, ActionUndone, Incident, UndoResult


def build(shelf: Shelf, authorizer: Any = None, **flags: Any) -> Router:
    return Router(
        authorizer=authorizer or Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(shelf, source="/test"),
        environment="production",
        agent="support-bot",
    )


def refunds(router: Router, ran: list[Any], **changed: Any) -> Any:
    spec: dict[str, Any] = {
        "workflow": "refunds",
        "system": "billing",
        "risk_class": "reversible_write",
        "reversibility": "automatic",
    }

    def refund(order: str, amount: int = 5) -> str:
        ran.append((order, amount))
        if amount < 0:
            raise ValueError("negative")
        if amount > 1000:
            raise TimeoutError("slow")
        return f"refunded {order}"

    return router.action(**{**spec, **changed})(refund)


def test_an_allowed_action_runs_once_with_decision_before_outcome() -> None:
    shelf, ran = Shelf(), []
    assert refunds(build(shelf), ran)("o-1", amount=7) == "refunded o-1"
    assert ran == [("o-1", 7)]
    decided, executed = shelf.events
    assert isinstance(decided, ActionDecided)
    assert isinstance(executed, ActionExecuted)
    assert executed.subject == decided.subject
    assert decided.data.receipt == executed.data.receipt
    assert decided.data.contract.actor.agent == "support-bot"
    assert decided.data.decision.decide_ms is not None
    assert executed.data.latency_ms is not None
    assert shelf.kept == shelf.events, "a write keeps its decision and its outcome on disk"


def test_a_read_is_not_held_up_by_the_disk() -> None:
    shelf, ran = Shelf(full=True), []
    refunds(build(shelf), ran, risk_class="search")("o-1")
    assert ran
    assert shelf.kept == []
    assert len(shelf.events) == 2


def test_a_write_whose_decision_cannot_be_kept_is_denied_and_says_why() -> None:
    shelf, ran = Shelf(full=True), []
    with pytest.raises(ActionDeniedError, match="cannot be kept on disk"):
        refunds(build(shelf), ran)("o-1")
    assert ran == []
    (decided,) = shelf.events
    assert isinstance(decided, ActionDecided)
    assert decided.data.decision.result.reason == "record_not_durable"


@pytest.mark.parametrize(
    ("flags", "changed", "refusal"),
    [
        ({"denylist": True}, {}, ActionDeniedError),
        ({"mode": "search_only"}, {}, ActionConstrainedError),
        ({"mode": "observe"}, {}, ActionObservedError),
        ({"mode": "fallback"}, {}, ActionFellBackError),
        ({"approval": True}, {"risk_class": "external_effect"}, ReviewRequiredError),
    ],
)
def test_what_may_not_run_does_not_and_the_refusal_names_the_decision(
    flags: dict[str, Any], changed: dict[str, Any], refusal: type[RefusedError]
) -> None:
    shelf, ran = Shelf(), []
    with pytest.raises(refusal) as caught:
        refunds(build(shelf, **flags), ran, **changed)("o-1")
    assert ran == []
    (decided,) = shelf.events
    assert decided.subject == caught.value.receipt.decision_id
    assert decided.subject in str(caught.value)


def test_authorization_is_asked_before_any_flag() -> None:
    shelf, ran = Shelf(), []
    with pytest.raises(ActionDeniedError, match="not_authorized"):
        refunds(build(shelf, Refuse()), ran)("o-1")
    assert ran == []


def test_a_constrained_action_runs_its_variant_and_the_record_has_both() -> None:
    shelf, ran, drafts = Shelf(), [], []

    def draft(order: str, amount: int) -> str:
        drafts.append(order)
        return "a draft"

    routed = refunds(build(shelf, mode="draft_write"), ran, draft=draft)
    assert routed("o-1") == "a draft"
    assert (ran, drafts) == ([], ["o-1"])
    decided, _ = shelf.events
    assert isinstance(decided, ActionDecided)
    assert decided.data.contract.tool == "refund"
    assert decided.data.decision.result.model_dump()["mode"] == "draft"


@pytest.mark.parametrize(
    ("amount", "status", "error"), [(-1, "failed", "ValueError"), (2000, "timed_out", "TimeoutError")]
)
def test_a_failure_is_recorded_by_type_and_reaches_the_caller(amount: int, status: str, error: str) -> None:
    shelf, ran = Shelf(), []
    with pytest.raises((ValueError, TimeoutError)):
        refunds(build(shelf), ran)("o-1", amount)
    executed = shelf.events[1]
    assert isinstance(executed, ActionExecuted)
    assert (executed.data.status.value, executed.data.error_type) == (status, error)


def test_arguments_are_digested_and_never_leave() -> None:
    shelf, ran = Shelf(), []
    routed = refunds(build(shelf), ran)
    routed("secret-order", 3)
    routed(order="secret-order", amount=3)
    routed("secret-order", 4)
    digests = [event.data.contract.arguments_sha256 for event in shelf.events if isinstance(event, ActionDecided)]
    assert digests[0] == digests[1] != digests[2]
    assert all("secret-order" not in event.model_dump_json() for event in shelf.events)


def test_wrong_arguments_are_misuse_denied_on_record() -> None:
    shelf, ran = Shelf(), []
    with pytest.raises(UsageError, match="refund: missing a required argument"):
        refunds(build(shelf), ran)()
    (denied,) = shelf.events
    assert isinstance(denied, ActionDecided)
    assert denied.data.decision.result == Deny(reason="arguments_not_accepted")
    assert ran == []


def test_who_acts_is_said_around_the_call() -> None:
    shelf, ran = Shelf(), []
    routed = refunds(build(shelf), ran)
    with acting(user="u-1", account="acct-1", intent="the customer asked", confidence=0.9, cohort="eu"):
        routed("o-1")
    decided = shelf.events[0]
    assert isinstance(decided, ActionDecided)
    assert decided.data.contract.actor.user == "u-1"
    assert decided.data.contract.evidence.confidence == 0.9
    with pytest.raises(UsageError, match="does not know usr"), acting(usr="u"):
        pass


def test_an_execution_is_taken_back_once_by_its_undo() -> None:
    shelf, ran, undone = Shelf(), [], []
    router = build(shelf)
    refunds(router, ran, undo=lambda result, order, amount: undone.append((result, order, amount)))("o-1", 2)
    receipt = _receipt(shelf)
    assert router.undo(receipt) is UndoResult.UNDONE
    assert undone == [("refunded o-1", "o-1", 2)]
    with pytest.raises(UsageError, match="no execution of decision"):
        router.undo(receipt)
    last = shelf.events[-1]
    assert isinstance(last, ActionUndone)
    assert last.data.result is UndoResult.UNDONE


def test_an_undo_that_fails_and_one_that_is_missing_are_recorded() -> None:
    shelf, ran = Shelf(), []
    router = build(shelf)
    refunds(router, ran, undo=lambda *_, **__: 1 / 0)("o-1")
    assert router.undo(_receipt(shelf)) is UndoResult.FAILED
    shelf.events.clear()
    router = build(shelf)
    refunds(router, ran)("o-2")
    assert router.undo(_receipt(shelf)) is UndoResult.NOT_UNDOABLE


def test_impact_is_reported_with_the_receipt_alone() -> None:
    shelf, ran = Shelf(), []
    router = build(shelf)
    refunds(router, ran)("o-1")
    router.report_impact(_receipt(shelf), Incident(severity=2))
    assert shelf.events[-1].subject == shelf.events[0].subject
    assert shelf.kept[-1] is shelf.events[-1], "it is on disk"


async def test_async_actions_are_routed_awaited_and_measured() -> None:
    shelf = Shelf()
    router = build(shelf)

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    async def send(text: str) -> str:
        await asyncio.sleep(0)
        return text.upper()

    with acting(user="u-2"):
        assert await asyncio.gather(send("a"), send("b")) == ["A", "B"]
    decided = [event for event in shelf.events if isinstance(event, ActionDecided)]
    assert [event.data.contract.actor.user for event in decided] == ["u-2", "u-2"]
    assert sum(isinstance(event, ActionExecuted) for event in shelf.events) == 2


async def test_a_cancelled_action_has_its_outcome_on_record() -> None:
    shelf = Shelf()
    router = build(shelf)
    started = asyncio.Event()

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    executed = shelf.events[-1]
    assert isinstance(executed, ActionExecuted)
    assert executed.data.error_type == "CancelledError"


def test_the_wrapped_function_is_not_within_reach() -> None:
    shelf = Shelf()
    routed = refunds(build(shelf), [])
    assert inspect.unwrap(routed)("o-1") == routed("o-1")
    assert len(shelf.events) == 4, "whatever a framework unwraps is decided, too"


def _receipt(shelf: Shelf) -> Any:
    from producers.wire.receipt import Receipt  # noqa: PLC0415 - only here

    return Receipt.from_token(shelf.events[0].data.receipt)  # type: ignore[union-attr]
