"""Functions behind a router as people write and use them: methods, context, receipts, files, and tests of their own."""

# ruff: noqa: ARG005 - variants and undos take the action's arguments by name
from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
import typing
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Broken, Permit, flag_evaluator, flagd_file
from documents import ROOT

import stagekeeper as sk
from producers.boundary.router import Router
from producers.delivery.memory_emitter import MemoryEmitter
from producers.delivery.outbox import Outbox
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

READ: dict[str, Any] = {
    "workflow": "refunds",
    "system": "billing",
    "risk_class": "scoped_read",
    "reversibility": "automatic",
}
WRITE = READ | {"risk_class": "reversible_write"}


class Order(typing.NamedTuple):
    """A type that an annotation names."""

    number: str


class Session:
    """What a framework would inject: it cannot be written as JSON, nor copied."""

    def __reduce__(self) -> str:
        raise TypeError("a session cannot be copied")


def a_router(emitter: MemoryEmitter, *, authorizer: Any = None, **flags: Any) -> Router:
    return Router(
        authorizer=authorizer or Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(emitter, source="/test", key=b"k"),
        environment="production",
        agent="bot",
    )


@pytest.fixture
def emitter() -> MemoryEmitter:
    return MemoryEmitter()


def test_a_decorated_function_looks_like_the_one_that_it_stands_for(emitter: MemoryEmitter) -> None:
    def refund(order: Order, euros: int = 5) -> str:
        """Pay a customer back."""
        return f"{order.number} {euros}"

    routed = a_router(emitter).action(**WRITE)(refund)
    assert inspect.signature(routed) == inspect.signature(refund)
    assert typing.get_type_hints(routed) == {"order": Order, "euros": int, "return": str}
    assert (routed.__name__, routed.__doc__, routed.__module__) == ("refund", "Pay a customer back.", __name__)
    unwrapped = inspect.unwrap(routed)
    assert unwrapped is not refund
    assert unwrapped(Order("7")) == "7 5"
    emitter.assert_decided("refund", "allow")


def test_an_async_function_stays_one(emitter: MemoryEmitter) -> None:
    @a_router(emitter).action(**WRITE)
    async def refund(order: str) -> str:
        return order

    assert inspect.iscoroutinefunction(refund)
    assert inspect.iscoroutinefunction(inspect.unwrap(refund))
    assert asyncio.run(refund("7")) == "7"
    emitter.assert_executed("refund", "succeeded")


def test_methods_are_routed_and_their_instance_is_no_argument(emitter: MemoryEmitter) -> None:
    router = a_router(emitter)

    class Desk(Session):
        @router.action(**WRITE)
        def refund(self, order: str) -> str:
            return f"{type(self).__name__} {order}"

        @router.action(**WRITE)
        async def refund_later(self, order: str) -> str:
            return order

        @classmethod
        @router.action(**READ)
        def find(cls, order: str) -> str:
            return f"{cls.__name__} {order}"

        @staticmethod
        @router.action(**READ)
        def look(order: str) -> str:
            return order

    desk = Desk()
    assert desk.refund("7") == "Desk 7"
    assert asyncio.run(desk.refund_later(order="8")) == "8"
    assert (Desk.find("9"), Desk.look("10")) == ("Desk 9", "10")
    assert list(inspect.signature(desk.refund).parameters) == ["order"]
    emitter.assert_executed("refund", "succeeded")
    digests = [event.data.contract.arguments_hmac for event in emitter.of(sk.ActionDecided)]
    assert all(digests)
    assert len(set(digests)) == 4


def test_further_keywords_are_arguments_like_others(emitter: MemoryEmitter) -> None:
    @a_router(emitter).action(**WRITE, draft=lambda order, **more: ("draft", order, more))
    def refund(order: str, **more: Any) -> Any:
        return order, more

    assert refund("7", euros=5, why="late") == ("7", {"euros": 5, "why": "late"})
    refund("7", euros=6, why="late")
    first, second = (event.data.contract.arguments_hmac for event in emitter.of(sk.ActionDecided))
    assert first != second


def test_injected_context_is_passed_on_and_neither_digested_nor_stored(emitter: MemoryEmitter) -> None:
    session = Session()

    @a_router(emitter).action(**WRITE, exclude=("session",), undo=lambda _result, order, session: None)
    def refund(order: str, session: Session) -> Session:
        return session

    assert refund("7", session) is session
    assert refund("7", session=Session()) is not session
    first, second = (event.data.contract.arguments_hmac for event in emitter.of(sk.ActionDecided))
    assert first == second


@pytest.mark.parametrize(
    ("variant", "fault"),
    [
        (lambda order: order, "does not take euros"),
        (lambda order, euros, why: order, "needs why besides"),
        (lambda order, money: order, "does not take euros and needs money besides"),
        (lambda order, euros, /: order, "does not take order, euros"),
        (lambda *both: both, "does not take order, euros"),
    ],
)
def test_a_variant_that_could_not_be_called_is_refused_when_it_is_registered(
    emitter: MemoryEmitter, variant: Any, fault: str
) -> None:
    def refund(order: str, euros: int = 5) -> str:
        return order

    with pytest.raises(UsageError, match=fault):
        a_router(emitter).action(**WRITE, draft=variant)(refund)


@pytest.mark.parametrize(
    "variant", [lambda order, euros: order, lambda euros, order, why="x": order, lambda **arguments: arguments["order"]]
)
def test_a_variant_may_name_what_it_takes_in_any_order(emitter: MemoryEmitter, variant: Any) -> None:
    routed = a_router(emitter, mode="draft_write").action(**WRITE, draft=variant, tool="refund")(
        lambda order, euros=5: "paid"
    )
    assert routed("7") == "7"


def test_what_ran_last_is_known_by_its_receipt(emitter: MemoryEmitter) -> None:
    router = a_router(emitter)
    taken_back: list[str] = []

    @router.action(**WRITE, undo=lambda result, order: taken_back.append(order))
    def refund(order: str) -> str:
        return order

    assert router.last is None
    refund("7")
    assert router.last is not None
    assert router.last.decision_id == emitter.events[0].subject
    elsewhere: list[object] = []
    thread = threading.Thread(target=lambda: elsewhere.append(router.last))
    thread.start()
    thread.join()
    assert elsewhere == [None], "each thread has its own"
    assert router.undo(router.last) is sk.UndoResult.UNDONE
    assert taken_back == ["7"]
    result = refund.perform("8")  # type: ignore[attr-defined]
    assert (result.value, result.receipt.tool) == ("8", "refund")
    router.report_impact(result.receipt, sk.Incident(severity=2))


def test_what_ran_last_is_a_tasks_own(emitter: MemoryEmitter) -> None:
    router = a_router(emitter)

    @router.action(**READ)
    async def find(order: str) -> str:
        await asyncio.sleep(0)
        return order

    async def one(order: str) -> tuple[str, str]:
        await find(order)
        assert router.last is not None
        (decided,) = [event for event in emitter.of(sk.ActionDecided) if event.subject == router.last.decision_id]
        return order, str(decided.data.contract.actor.account)

    async def all_of_them() -> list[tuple[str, str]]:
        async def task(order: str) -> tuple[str, str]:
            with sk.acting(account=order):
                return await one(order)

        return await asyncio.gather(*(task(str(number)) for number in range(5)))

    assert all(order == account for order, account in asyncio.run(all_of_them()))


def test_a_refusal_can_be_turned_into_what_a_framework_takes(emitter: MemoryEmitter) -> None:
    @a_router(emitter, mode="off").action(**WRITE, on_refusal=str)
    def refund(order: str) -> str:
        return order

    assert "refund is denied: mode_off [decision " in refund("7")
    emitter.assert_decided("refund", "deny")
    emitter.assert_nothing_ran()


def test_the_emitter_for_tests_says_what_was_recorded_instead(emitter: MemoryEmitter) -> None:
    @a_router(emitter).action(**READ)
    def find(order: str) -> str:
        return order

    find("7")
    for wrong, said in (
        (lambda: emitter.assert_decided("find", "deny"), "find was to be decided deny, and was allow"),
        (lambda: emitter.assert_executed("find"), "find was to have nothing, and has succeeded"),
        (emitter.assert_nothing_ran, r"1 action\(s\) ran"),
    ):
        with pytest.raises(AssertionError, match=said):
            wrong()
    emitter.clear()
    emitter.assert_nothing_ran()


def test_a_failing_authorizer_and_an_unknown_mode_are_logged(
    emitter: MemoryEmitter, caplog: pytest.LogCaptureFixture
) -> None:
    @a_router(emitter, authorizer=Broken(), mode="autonomus").action(**READ, on_refusal=str)
    def find(order: str) -> str:
        return order

    find("7")
    assert "the authorizer failed, and so refuses find" in caplog.text
    assert "the authorizer is away" in caplog.text
    assert "agent-action-mode: 'autonomus' is no value of this flag; its safe value applies" in caplog.text


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path / "home"))
    return {"source": "/test", "environment": "production", "flags": str(flagd_file(tmp_path / "flags.json"))}


def test_a_router_opens_by_paths_as_text_or_by_a_policy(files: dict[str, Any]) -> None:
    rules = str(ROOT / "examples" / "authorization.yaml")
    with (
        sk.open_router(authorization=rules, **files) as router,
        pytest.raises(sk.ActionDeniedError, match="not_authorized"),
    ):
        router.action(**WRITE)(Order)("7")
    with sk.open_router(policy=Permit(), **files) as router:
        assert router.action(**WRITE)(Order)("7") == Order("7")
    with (
        pytest.raises(UsageError, match="not both"),
        sk.open_router(policy=Permit(), authorization="a.yaml", **files),
    ):
        pass


@pytest.mark.slow
def test_a_router_is_left_soon_though_the_broker_is_away_and_says_where_records_are(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    caplog.set_level(logging.WARNING)
    with sk.open_router(policy=Permit(), **files) as router:
        for number in range(20):
            router.action(**WRITE, tool=f"t{number}")(Order)("7")
            router.action(**READ, tool=f"r{number}")(Order)("7")
        began = time.monotonic()
    assert time.monotonic() - began < 5, "what the promise says"
    assert "80 record(s) are safe on disk, in" in caplog.text
    with Outbox(Settings.load().outbox) as outbox:
        assert len(outbox) == 80
