"""What was decided is what runs, and every refusal is on record, also of calls that cannot be decided."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Refuse, Shelf, flag_evaluator

from producers.boundary.action import Action, acting
from producers.boundary.canonical_json import digest
from producers.boundary.errors import InvalidCallError, RefusedError, ReviewRequiredError
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import ActionDecided, Resolution

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def build(shelf: Shelf, *, authorizer: Any = None, reviews: ReviewStore | None = None, **flags: Any) -> Router:
    return Router(
        authorizer=authorizer or Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(shelf, source="/test"),
        environment="production",
        agent="bot",
        reviews=reviews,
        approval_holds=timedelta(hours=1),
    )


def action(run: Callable[..., Any], **changed: Any) -> Action:
    spec: dict[str, Any] = {
        "tool": "pay",
        "workflow": "payments",
        "system": "bank",
        "environment": "production",
        "risk_class": RiskClass.EXTERNAL_EFFECT,
        "reversibility": Reversibility.AUTOMATIC,
        "run": run,
    }
    return Action(**spec | changed)


def decided(shelf: Shelf) -> list[ActionDecided]:
    return [event for event in shelf.events if isinstance(event, ActionDecided)]


@dataclass
class Order:
    lines: list[dict[str, int]]


class Changing(Permit):
    """Changes the caller's arguments while it is asked, as another thread might at any moment."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def authorize(self, contract: Any) -> Any:
        self.change()
        return super().authorize(contract)


def test_what_runs_is_the_copy_that_was_digested() -> None:
    order, rows, names = Order([{"euros": 1}]), [{"deep": [1, 2]}], {"a", "b"}

    def change() -> None:
        order.lines[0]["euros"] = 1_000_000
        rows[0]["deep"].append(3)
        rows.append({"deep": []})
        names.add("mallory")

    seen: list[object] = []
    shelf = Shelf()
    expected = {"order": Order([{"euros": 1}]), "rows": [{"deep": [1, 2]}], "names": {"a", "b"}}
    run = action(lambda order, rows, names: seen.append({"order": order, "rows": rows, "names": names}))
    build(shelf, authorizer=Changing(change)).call(run, order, rows, names)
    assert seen == [expected]
    assert decided(shelf)[0].data.contract.arguments_sha256 == digest(expected)


def test_a_block_gets_the_arguments_that_were_decided() -> None:
    lines = [1]
    router = build(Shelf(), authorizer=Changing(lambda: lines.append(2)))
    with router.attempt(action(lambda lines: lines), lines=lines) as permit:
        assert permit.arguments == {"lines": [1]}


def test_arguments_that_change_after_the_approval_was_checked_do_not_run(tmp_path: Path) -> None:
    seen: list[Any] = []
    store = ReviewStore(tmp_path / "reviews.db")
    lines = [{"euros": 1}]

    class Spending(ReviewStore):
        def redeem(self, *args: Any, **kwargs: Any) -> Any:
            review = super().redeem(*args, **kwargs)
            lines[0]["euros"] = 1_000_000
            return review

    router = build(Shelf(), reviews=Spending(tmp_path / "reviews.db"), approval=True)
    known = router.register(action(lambda lines: seen.append([dict(line) for line in lines])))
    with pytest.raises(ReviewRequiredError) as caught:
        router.call(known, lines)
    store.resolve(caught.value.receipt.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")
    router.resume(caught.value.receipt, lines)
    assert seen == [[{"euros": 1}]]


def test_arguments_that_other_threads_change_all_the_time_run_as_digested() -> None:
    rows: list[Any] = [{"n": 0}]
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            rows[0]["n"] += 1
            rows[0][str(rows[0]["n"] % 50)] = [rows[0]["n"]]

    shelf, seen = Shelf(), []
    router, known = build(shelf), action(lambda rows: seen.append(digest({"rows": rows})))
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            router.call(known, rows)
    finally:
        stop.set()
        thread.join()
    assert seen == [event.data.contract.arguments_sha256 for event in decided(shelf)]


def test_a_second_action_of_one_name_is_an_error_that_names_both() -> None:
    def pay() -> None: ...
    def steal() -> None: ...

    router = build(Shelf())
    router.register(action(pay))
    router.register(action(pay))  # the same again, as a module that is loaded once more
    with pytest.raises(UsageError, match=r"locals>\.pay .*already.*locals>\.steal"):
        router.register(action(steal))
    with pytest.raises(UsageError, match="already"):
        router.action(workflow="payments", system="bank", risk_class="search", reversibility="automatic", tool="pay")(
            steal
        )
    router.register(action(steal, workflow="others"))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Unreadable:
    def __deepcopy__(self, memo: object) -> None:
        raise ConnectionError("a client")


@dataclass
class Holds:
    value: object


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    "value",
    [
        nested(100_000),
        {"deep": nested(2_000)},
        HOLDS_ITSELF,
        float("nan"),
        [float("inf")],
        "\ud800",
        {"\udfff": 1},
        10**5_000,
        {1: "a"},
        object(),
        Unreadable(),
        Holds(Unreadable()),
        Holds(threading.Lock()),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_arguments_that_cannot_be_digested_are_denied_on_record(value: object) -> None:
    shelf = Shelf()
    ran: list[object] = []
    router, known = build(shelf), action(ran.append)
    with pytest.raises(InvalidCallError) as caught:
        router.call(action(lambda value: ran.append(value)), value)  # noqa: PLW0108 - named
    with pytest.raises(InvalidCallError):
        await router.call_async(action(lambda value: ran.append(value)), value)  # noqa: PLW0108
    with pytest.raises(InvalidCallError), router.attempt(known, value=value):
        ran.append(value)
    assert ran == []
    said = [event.data.decision.result.model_dump() for event in decided(shelf)]
    assert said == [{"outcome": "deny", "reason": "arguments_not_digestible"}] * 3 == said
    assert caught.value.receipt.decision_id == decided(shelf)[0].subject
    assert len(shelf.events) == 3


@pytest.mark.parametrize(
    ("known", "recorded"),
    [
        ({"intent": "x" * 5_000}, {"intent": "x" * 4_000}),
        ({"intent": "a\ud800b"}, {"intent": "a?b"}),
        ({"tool_call": "t" * 300}, {"tool_call": "t" * 200}),
        ({"conversation": "a\x00b"}, {"conversation": "a?b"}),
        ({"conversation": 17}, {"conversation": None}),
        ({"user": "u\n" * 300}, {}),
        ({"account": ["a"]}, {}),
        ({"confidence": 7.0}, {}),
        ({"confidence": float("nan")}, {}),
        ({"agent": "a\n"}, {}),
        ({"cohort": "c" * 201}, {}),
    ],
)
def test_a_context_that_fits_no_contract_is_denied_on_record(known: Any, recorded: Any) -> None:
    shelf, ran = Shelf(), []
    with acting(**known), pytest.raises(InvalidCallError):
        build(shelf).call(action(lambda: ran.append(1)))
    (event,) = decided(shelf)
    assert event.data.decision.result.reason == "context_not_valid"
    assert ran == []
    contract = event.data.contract.model_dump()
    assert {name: contract[name] for name in recorded} == recorded


async def test_arguments_that_do_not_fit_are_denied_on_record() -> None:
    shelf = Shelf()
    router, known = build(shelf), action(lambda euros: euros)
    for args, kwargs in (((), {}), ((1, 2), {}), ((), {"dollars": 1})):
        with pytest.raises(InvalidCallError, match="pay: "):
            router.call(known, *args, **kwargs)
        with pytest.raises(InvalidCallError):
            await router.call_async(known, *args, **kwargs)
    assert {event.data.decision.result.reason for event in decided(shelf)} == {"arguments_not_accepted"}
    assert len(shelf.events) == 6


def test_what_policy_refuses_stays_its_refusal() -> None:
    shelf = Shelf()
    with pytest.raises(RefusedError):
        build(shelf, authorizer=Refuse()).call(action(lambda value: value), float("nan"))
    assert decided(shelf)[0].data.decision.result.reason == "not_authorized"


@pytest.mark.parametrize("changed", [{"tool": "x" * 201}, {"workflow": ""}, {"system": "a\nb"}, {"tool_version": "\n"}])
def test_an_action_whose_calls_could_not_be_recorded_cannot_be_made(changed: Any) -> None:
    with pytest.raises(UsageError, match="no contract"):
        action(lambda: None, **changed)
