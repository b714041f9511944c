"""Where a router could be led past its own record, or take back what never happened."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator
from pydantic import BaseModel, SecretStr

from producers.boundary.action import Action, acting
from producers.boundary.approvals import ApprovalMismatchError, ReviewPendingError, ReviewState
from producers.boundary.canonical_json import REDACTED, ArgumentError, canonical, digest, redacted
from producers.boundary.errors import ActionDeniedError, ReviewRequiredError
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.decision import Authorization
from producers.wire.events import ActionDecided, ActionExecuted, ActionUndone, Resolution, UndoResult
from producers.wire.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.wire.contract import ActionContract


def router(shelf: Shelf, authorizer: Any = None, reviews: ReviewStore | None = None, **flags: Any) -> Router:
    return Router(
        authorizer=authorizer or Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(shelf, source="/test"),
        environment="production",
        reviews=reviews,
        approval_holds=timedelta(hours=1),
    )


def action(run: Callable[..., Any], **changed: Any) -> Action:
    spec: dict[str, Any] = {
        "tool": "refund",
        "workflow": "refunds",
        "system": "billing",
        "environment": "production",
        "risk_class": RiskClass.REVERSIBLE_WRITE,
        "reversibility": Reversibility.AUTOMATIC,
        "run": run,
    }
    return Action(**spec | changed)


def receipt_of(shelf: Shelf) -> Receipt:
    decided = shelf.events[0]
    assert isinstance(decided, ActionDecided)
    return Receipt.from_token(decided.data.receipt)


def generates() -> Any:
    yield 1


async def generates_async() -> Any:
    yield 1


def by_position(row: int, /) -> int:
    return row


async def awaits() -> str:
    return "awaited"


@pytest.mark.parametrize("run", [generates, generates_async])
def test_a_generator_would_run_after_its_record_and_is_refused(run: Any) -> None:
    with pytest.raises(UsageError, match="generator"):
        action(run)


def test_a_plain_action_has_no_async_variant() -> None:
    with pytest.raises(UsageError, match="variant draft is async"):
        action(lambda: None, variants={"draft": awaits})


def test_an_async_action_is_not_called_as_a_plain_one() -> None:
    shelf = Shelf()
    with pytest.raises(UsageError, match="use call_async"):
        router(shelf).call(action(awaits))
    assert shelf.events == [], "nothing was decided"


def test_a_coroutine_that_nobody_awaited_is_a_failure_and_not_a_success() -> None:
    shelf = Shelf()
    with pytest.raises(UsageError, match="did not run"):
        router(shelf).call(action(lambda: awaits()))  # noqa: PLW0108 - a plain function that makes a coroutine
    executed = shelf.events[-1]
    assert isinstance(executed, ActionExecuted)
    assert executed.data.status.value == "failed"


@pytest.mark.parametrize("run", [lambda *rows: rows, by_position])
def test_arguments_without_a_name_are_refused_before_anything_is_decided(run: Any) -> None:
    shelf = Shelf()
    with pytest.raises(UsageError, match="cannot be passed by name"):
        router(shelf).call(action(run))
    assert shelf.events == []


@pytest.mark.parametrize(
    ("args", "kwargs"), [((1, 2, 3), {}), ((1,), {"first": 2}), ((), {}), ((1,), {"third": 3}), ((1, 2), {"second": 2})]
)
def test_what_python_would_not_bind_is_not_bound(args: Any, kwargs: Any) -> None:
    def run(first: int, second: int = 2) -> None: ...

    with pytest.raises(UsageError, match="refund: "):
        action(run).bind(args, kwargs)


def test_keyword_only_arguments_and_defaults_are_bound() -> None:
    def run(first: int, second: int = 2, *, third: int, fourth: int = 4) -> None: ...

    assert action(run).bind((1,), {"third": 3}) == {"first": 1, "second": 2, "third": 3, "fourth": 4}


def test_circumstances_that_fit_no_contract_are_misuse_with_a_name() -> None:
    shelf = Shelf()
    with acting(confidence=1.5), pytest.raises(UsageError, match=r"evidence\.confidence|confidence"):
        router(shelf).call(action(lambda: None))
    assert [event.type for event in shelf.events] == ["stagekeeper.action.decided.v1"], "denied on record, and no more"


async def test_an_async_undo_is_awaited_before_it_counts() -> None:
    shelf = Shelf()
    undone: list[str] = []

    async def take_back(result: str, **_: Any) -> None:
        undone.append(result)

    held = router(shelf)
    held.call(action(lambda: "done", undo=take_back))
    with pytest.raises(UsageError, match="use undo_async"):
        held.undo(receipt_of(shelf))
    assert undone == []
    assert await held.undo_async(receipt_of(shelf)) is UndoResult.UNDONE
    assert undone == ["done"]


async def test_a_plain_undo_that_makes_a_coroutine_has_not_undone_anything() -> None:
    shelf = Shelf()
    held = router(shelf)
    held.call(action(lambda: "done", undo=lambda _result: awaits()))
    assert held.undo(receipt_of(shelf)) is UndoResult.FAILED
    held.call(action(lambda: "done", undo=lambda _result: awaits()))
    last = [event for event in shelf.events if isinstance(event, ActionDecided)][-1]
    assert await held.undo_async(Receipt.from_token(last.data.receipt)) is UndoResult.UNDONE


def test_a_draft_is_not_taken_back_by_the_undo_of_the_real_thing() -> None:
    shelf = Shelf()
    undone: list[str] = []
    held = router(shelf, mode="draft_write")
    held.call(action(lambda: "real", variants={"draft": lambda: "draft"}, undo=undone.append))
    assert held.undo(receipt_of(shelf)) is UndoResult.NOT_UNDOABLE
    assert undone == []
    said = shelf.events[-1]
    assert isinstance(said, ActionUndone)
    assert "lesser variant draft" in (said.data.reason or "")


def test_what_a_block_did_can_be_taken_back() -> None:
    shelf = Shelf()
    undone: list[int] = []
    held = router(shelf)
    known = action(lambda: None, undo=lambda _result, amount: undone.append(amount))
    with held.attempt(known, amount=5) as permit:
        pass
    assert held.undo(permit.receipt) is UndoResult.UNDONE
    assert undone == [5]
    assert shelf.kept == shelf.events, "undos are kept on disk, too"


def test_a_review_that_cannot_be_queued_denies_and_names_the_decision(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.db")
    store.close()
    shelf = Shelf()
    with pytest.raises(ActionDeniedError, match="cannot be queued") as caught:
        router(shelf, reviews=store, approval=True).call(action(lambda: None, risk_class=RiskClass.EXTERNAL_EFFECT))
    assert caught.value.receipt == receipt_of(shelf)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tool_version": "2"}, "tool version"),
        ({"risk_class": RiskClass.IRREVERSIBLE}, "risk class"),
        ({"system": "bank"}, "system"),
    ],
)
def test_an_approval_is_not_for_an_action_that_has_become_another(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    store, shelf, ran = ReviewStore(tmp_path / "reviews.db"), Shelf(), []
    known = action(lambda: ran.append(1), risk_class=RiskClass.EXTERNAL_EFFECT)
    held = router(shelf, reviews=store, approval=True)
    with pytest.raises(ReviewRequiredError) as caught:
        held.call(known)
    receipt = caught.value.receipt
    store.resolve(receipt.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")
    later = router(shelf, reviews=store, approval=True)
    later.register(replace(known, **changed))
    with pytest.raises(ApprovalMismatchError, match=said):
        later.resume(receipt)
    held.register(known)
    with pytest.raises(ApprovalMismatchError, match="not the one that was given out"):
        held.resume(receipt.model_copy(update={"cohort": "vip"}))
    held.resume(receipt)
    assert ran == [1]


async def test_a_plain_action_is_resumed_from_async_code(tmp_path: Path) -> None:
    store, shelf = ReviewStore(tmp_path / "reviews.db"), Shelf()
    held = router(shelf, reviews=store, approval=True)
    known = held.register(action(lambda: "sent", risk_class=RiskClass.EXTERNAL_EFFECT))
    with pytest.raises(ReviewRequiredError) as caught:
        held.call(known)
    with pytest.raises(ReviewPendingError):
        await held.await_review_async(caught.value.receipt, 0.01)
    store.resolve(caught.value.receipt.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")
    assert (await held.await_review_async(caught.value.receipt, 5)).state is ReviewState.APPROVED
    assert await held.resume_async(caught.value.receipt) == "sent"


def test_a_router_waits_for_the_word_of_another_process(tmp_path: Path) -> None:
    shelf = Shelf()
    held = router(shelf, reviews=ReviewStore(tmp_path / "reviews.db"), approval=True)
    with pytest.raises(ReviewRequiredError) as caught:
        held.call(action(lambda: None, risk_class=RiskClass.EXTERNAL_EFFECT))
    receipt = caught.value.receipt
    elsewhere = ReviewStore(tmp_path / "reviews.db")
    speaking = threading.Timer(
        0.05, elsewhere.resolve, (receipt.decision_id, Resolution.REJECTED), {"reviewer": "ada", "rationale": "no"}
    )
    speaking.start()
    review = held.await_review(receipt, 20)
    speaking.join()
    assert review.resolution is not None
    assert review.resolution.rationale == "no"


class Strange:
    """FlagValues with something that is no answer."""

    sha256 = "3" * 64

    def authorize(self, contract: Any) -> Any:
        return {"permitted": True}


class Nameless:
    """Cannot even say by which policy it answers."""

    @property
    def sha256(self) -> str:
        raise ConnectionError("away")

    def authorize(self, contract: Any) -> Authorization:
        return Authorization(permitted=True, rule="all")


@pytest.mark.parametrize("authorizer", [Strange(), Nameless()])
def test_an_authorizer_that_makes_no_sense_is_a_refusal_on_record(authorizer: Any) -> None:
    shelf = Shelf()
    with pytest.raises(ActionDeniedError, match="not_authorized"):
        router(shelf, authorizer).call(action(lambda: None))
    assert len(shelf.events) == 1


class Card(BaseModel):
    number: SecretStr
    owner: str


@dataclass
class Order:
    ident: int
    card: Card


def test_secrets_count_in_the_digest_and_are_never_shown() -> None:
    def order(number: str) -> dict[str, object]:
        return {"order": Order(7, Card(number=SecretStr(number), owner="ada"))}

    assert digest(order("4111")) != digest(order("4222"))
    shown = canonical(redacted(order("4111"), ())).decode()
    assert "4111" not in shown
    assert "secret_sha256" not in shown, "a card's number is soon found by its digest"
    assert "ada" in shown
    assert b"4111" not in canonical(order("4111"))


def test_named_fields_are_blanked_at_any_depth() -> None:
    order = {"card": "4111", "lines": [{"card": "4222", "item": "book"}, ({"card": "4333"},)], "by": {"card": "4444"}}
    shown = redacted({"order": order, "card": ["4555"]}, {"card"})
    lines = [{"card": REDACTED, "item": "book"}, [{"card": REDACTED}]]
    assert shown == {"order": {"card": REDACTED, "lines": lines, "by": {"card": REDACTED}}, "card": REDACTED}


def test_the_latency_is_that_of_the_action_alone() -> None:
    clock, shelf = SimpleNamespace(now=50.0), Shelf()

    class Slow(Permit):
        def authorize(self, contract: ActionContract) -> Authorization:
            clock.now += 2.0
            return super().authorize(contract)

    router = Router(
        authorizer=Slow(),
        flags=flag_evaluator(),
        recorder=Recorder(shelf, source="/t"),
        environment="production",
        clock=lambda: clock.now,
    )

    def work() -> None:
        clock.now += 0.25

    router.action(workflow="w", system="s", risk_class="search", reversibility="automatic")(work)()
    decided, executed = shelf.events
    assert isinstance(decided, ActionDecided)
    assert isinstance(executed, ActionExecuted)
    assert decided.data.decision.decide_ms == 2_000.0
    assert executed.data.latency_ms == 250.0


@pytest.mark.parametrize("value", [{1: "a"}, {"deep": [{None: 1}]}, object(), float("nan")])
def test_what_has_no_single_way_to_be_written_is_refused(value: object) -> None:
    with pytest.raises(ArgumentError):
        canonical(value)


def test_what_is_only_in_memory_goes_to_the_disk_when_the_router_ends_without_a_broker(tmp_path: Path) -> None:
    emitter = OutboxEmitter(
        lambda hook: KafkaEmitter("127.0.0.1:1", message_timeout_s=300, on_undeliverable=hook),
        Outbox(tmp_path / "outbox.db"),
    )
    held = Router(
        authorizer=Permit(), flags=flag_evaluator(), recorder=Recorder(emitter, source="/t"), environment="production"
    )
    for _ in range(20):
        held.call(action(lambda: None, risk_class=RiskClass.SEARCH))
    assert emitter.stats.emitted == 40
    emitter.close(0.1)
    assert emitter.lost == 0
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert len(outbox) == 40
