from __future__ import annotations

import sqlite3
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator

from producers.boundary.action import Action
from producers.boundary.approvals import (
    ApprovalExpiredError,
    ApprovalMismatchError,
    ApprovalUsedError,
    ReviewError,
    ReviewPendingError,
    ReviewRejectedError,
    ReviewResolvedError,
    UnknownReviewError,
)
from producers.boundary.errors import ActionDeniedError, ReviewRequiredError
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import ActionDecided, ActionExecuted, Resolution
from producers.wire.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


class Setting:
    """One review store, and routers in front of it as separate processes would have them."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.path = folder / "reviews.db"
        self._open = ExitStack()
        self.store = self._another_store()
        self.shelf = Shelf()
        self.ran: list[Any] = []
        self.action = Action(
            tool="wire_money",
            workflow="payments",
            system="bank",
            environment="production",
            risk_class=RiskClass.EXTERNAL_EFFECT,
            reversibility=Reversibility.EXPENSIVE,
            run=self._run,
            redact=frozenset({"iban"}),
            consequence="money leaves the account",
        )

    def _another_store(self) -> ReviewStore:
        return self._open.enter_context(ReviewStore(self.path, now=self.clock))

    def close(self) -> None:
        self._open.close()

    def _run(self, amount: int, iban: str) -> str:
        self.ran.append((amount, iban))
        return "sent"

    def router(self, **flags: Any) -> Router:
        router = Router(
            authorizer=Permit(),
            flags=flag_evaluator(**{"approval": True, **flags}),
            recorder=Recorder(self.shelf, source="/test", now=self.clock),
            environment="production",
            reviews=self._another_store(),
            approval_holds=timedelta(hours=1),
        )
        router.register(self.action)
        return router

    def queue(self) -> Receipt:
        with pytest.raises(ReviewRequiredError) as caught:
            self.router().call(self.action, 100, iban="DE00")
        return caught.value.receipt

    def approve(self, receipt: Receipt) -> None:
        self.store.resolve(receipt.decision_id, Resolution.APPROVED, reviewer="ada", rationale="as agreed")


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.close()


def test_a_reviewer_sees_what_is_asked_and_no_redacted_value(setting: Setting) -> None:
    receipt = setting.queue()
    (review,) = setting.store.waiting()
    queued = review.queued
    assert queued.decision_id == receipt.decision_id
    assert queued.arguments == {"amount": 100, "iban": "[redacted]"}
    assert (queued.consequence, queued.rule) == ("money leaves the account", "risk_class_external_effect")
    assert b"DE00" not in setting.path.read_bytes()
    assert setting.shelf.kept, "the decision is on disk before anybody can approve it"


def test_an_approved_action_runs_in_another_process_exactly_once(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    token = receipt.token()
    assert setting.router().resume(Receipt.from_token(token), 100, "DE00") == "sent"
    assert setting.ran == [(100, "DE00")]
    executed = setting.shelf.events[-1]
    assert isinstance(executed, ActionExecuted)
    assert executed.subject == receipt.decision_id
    assert sum(isinstance(event, ActionDecided) for event in setting.shelf.events) == 1
    with pytest.raises(ApprovalUsedError):
        setting.router().resume(receipt, 100, "DE00")
    assert len(setting.ran) == 1


def test_nothing_runs_before_a_person_has_spoken(setting: Setting) -> None:
    receipt = setting.queue()
    with pytest.raises(ReviewPendingError):
        setting.router().resume(receipt, 100, "DE00")
    assert setting.ran == []


def test_a_rejection_comes_back_with_its_rationale(setting: Setting) -> None:
    receipt = setting.queue()
    setting.store.resolve(receipt.decision_id, Resolution.REJECTED, reviewer="ada", rationale="wrong account")
    with pytest.raises(ReviewRejectedError, match="ada: wrong account"):
        setting.router().resume(receipt, 100, "DE00")
    assert setting.ran == []


@pytest.mark.parametrize("arguments", [(101, "DE00"), (100, "DE01")])
def test_a_changed_argument_is_refused_even_a_redacted_one(setting: Setting, arguments: tuple[int, str]) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    with pytest.raises(ApprovalMismatchError, match="arguments"):
        setting.router().resume(receipt, *arguments)
    assert setting.ran == []
    assert setting.router().resume(receipt, 100, "DE00") == "sent", "a refusal spends nothing"


def test_a_changed_ruleset_is_refused(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    with pytest.raises(ApprovalMismatchError, match="ruleset has changed"):
        setting.router(threshold=0.6).resume(receipt, 100, "DE00")


def test_what_was_switched_off_after_the_approval_stays_off(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    with pytest.raises(ActionDeniedError, match="refused by now: on_denylist"):
        setting.router(denylist=True).resume(receipt, 100, "DE00")
    assert setting.ran == []


def test_an_approval_expires(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    setting.clock.moment += timedelta(hours=1)
    with pytest.raises(ApprovalExpiredError):
        setting.router().resume(receipt, 100, "DE00")


def test_what_was_changed_in_the_desk_after_the_approval_is_refused(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    queued = setting.store.get(receipt.decision_id).queued
    longer = queued.model_copy(update={"expires_at": queued.expires_at + timedelta(days=365)})
    with closing(sqlite3.connect(setting.path)) as file, file:
        file.execute("UPDATE reviews SET queued = ?", (longer.model_dump_json(),))
    setting.clock.moment += timedelta(hours=2)
    with pytest.raises(ApprovalMismatchError, match="is not what ada approved"):
        setting.router().resume(receipt, 100, iban="DE00")
    assert setting.ran == []


def test_an_expired_request_cannot_be_approved_and_is_not_listed(setting: Setting) -> None:
    receipt = setting.queue()
    setting.clock.moment += timedelta(hours=2)
    assert setting.store.waiting() == []
    with pytest.raises(ApprovalExpiredError):
        setting.approve(receipt)


def test_the_second_reviewer_is_told_who_was_first(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    with pytest.raises(ReviewResolvedError, match="approved by ada already"):
        setting.store.resolve(receipt.decision_id, Resolution.REJECTED, reviewer="bob", rationale="no")


def test_of_many_that_redeem_at_once_one_wins(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            outcomes.append(setting.router().resume(receipt, 100, "DE00"))
        except ApprovalUsedError:
            outcomes.append("used")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["sent"] + ["used"] * 7
    assert len(setting.ran) == 1


def test_an_approval_is_for_one_action_only(setting: Setting) -> None:
    receipt = setting.queue()
    setting.approve(receipt)
    router = setting.router()
    router.register(replace(setting.action, tool="close_account"))
    bent = receipt.model_copy(update={"tool": "close_account"})
    with pytest.raises(ApprovalMismatchError, match="is about wire_money"):
        router.resume(bent, 100, "DE00")


def test_an_action_that_is_not_registered_cannot_be_resumed(setting: Setting) -> None:
    receipt = setting.queue()
    with pytest.raises(UsageError, match="no action close_account"):
        setting.router().resume(receipt.model_copy(update={"tool": "close_account"}), 100, "DE00")


def test_a_review_that_never_was_is_named(setting: Setting) -> None:
    with pytest.raises(UnknownReviewError, match="stagekeeper review list"):
        setting.store.get("nobody")


def test_a_router_without_a_desk_cannot_resume(setting: Setting) -> None:
    receipt = setting.queue()
    router = Router(
        authorizer=Permit(),
        flags=flag_evaluator(approval=True),
        recorder=Recorder(setting.shelf, source="/t"),
        environment="production",
    )
    with pytest.raises(UsageError, match="no review store"):
        router.resume(receipt, 100, "DE00")


def test_a_damaged_desk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reviews.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ReviewError, match=r"reviews\.db cannot be used"):
        ReviewStore(path)
