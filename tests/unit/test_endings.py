"""An ask is not an execution: what has not run is no success, and what was called off or refused is no failure."""

# ruff: noqa: PLW0108 - plain functions that return what would run later
from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pydantic
import pytest
from boundary_cases import Permit, Shelf, flag_evaluator

from analytics.signals.definitions import COUNTERS, contradictions, wrong_counts
from analytics.signals.event_kinds import INCREMENTS, EventKind, kinds_moving
from producers.boundary.action import Action
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import ActionExecuted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def build(shelf: Shelf) -> Router:
    return Router(
        authorizer=Permit(), flags=flag_evaluator(), recorder=Recorder(shelf, source="/test"), environment="production"
    )


def action(run: Callable[..., Any]) -> Action:
    return Action(
        tool="send",
        workflow="mail",
        system="smtp",
        environment="production",
        risk_class=RiskClass.REVERSIBLE_WRITE,
        reversibility=Reversibility.AUTOMATIC,
        run=run,
    )


def endings(shelf: Shelf) -> list[tuple[str, str | None]]:
    return [
        (event.data.status.value, event.data.error_type) for event in shelf.events if isinstance(event, ActionExecuted)
    ]


async def work() -> str:
    return "done"


def generates() -> Any:
    yield 1


async def generates_async() -> Any:
    yield 1


class Awaited:
    def __await__(self) -> Any:
        return work().__await__()


class Lazy:
    def __iter__(self) -> Any:
        return self

    def __next__(self) -> int:
        raise StopIteration


LATER: dict[str, Callable[[], Any]] = {
    "coroutine": lambda: work(),
    "coroutines": lambda: [work(), work()],
    "coroutine in a dict": lambda: {"first": work()},
    "generator": lambda: generates(),
    "async generator": lambda: generates_async(),
    "awaitable": lambda: Awaited(),
    "map": lambda: map(str, [1]),
    "filter": lambda: filter(None, [1]),
    "zip": lambda: zip([1], [2], strict=True),
    "chain": lambda: itertools.chain([1]),
    "iterator of one's own": lambda: Lazy(),
    "future": lambda: Future(),
    "futures": lambda: (Future(), Future()),
    "generator in a list": lambda: [generates()],
}


@pytest.mark.parametrize("kind", LATER)
def test_what_has_not_run_yet_is_not_recorded_as_succeeded(kind: str) -> None:
    shelf = Shelf()
    with pytest.raises(UsageError, match="did not run"):
        build(shelf).call(action(LATER[kind]))
    assert endings(shelf) == [("failed", "UsageError")]


@pytest.mark.parametrize("kind", sorted(set(LATER) - {"coroutine", "awaitable"}))
async def test_what_async_code_has_not_run_yet_is_not_recorded_as_succeeded(kind: str) -> None:
    async def run() -> Any:
        return LATER[kind]()

    shelf = Shelf()
    with pytest.raises(UsageError, match="did not run"):
        await build(shelf).call_async(action(run))
    with pytest.raises(UsageError, match="did not run"):
        await build(shelf).call_async(action(LATER[kind]))
    assert {status for status, _ in endings(shelf)} == {"failed"}


async def test_what_can_be_awaited_is_awaited_before_it_counts() -> None:
    shelf = Shelf()
    with ThreadPoolExecutor(1) as pool:
        for run in (lambda: work(), Awaited, lambda: asyncio.ensure_future(work())):
            assert await build(shelf).call_async(action(run)) == "done"
        loop = asyncio.get_running_loop()
        assert await build(shelf).call_async(action(lambda: loop.run_in_executor(pool, str, 7))) == "7"
    assert endings(shelf) == [("succeeded", None)] * 4


class CallsGenerator:
    def __call__(self) -> Any:
        yield 1


@pytest.mark.parametrize(
    "run",
    [generates, generates_async, functools.partial(generates), CallsGenerator()],
    ids=lambda run: type(run).__name__,
)
def test_a_generator_is_refused_when_it_is_registered(run: Any) -> None:
    with pytest.raises(UsageError, match="generator"):
        action(run)


@pytest.mark.parametrize("result", [None, 1, "a", [1, "b"], {"rows": [1]}, (1,), {1}, range(3), object()])
def test_what_has_run_is_a_success(result: object) -> None:
    shelf = Shelf()
    assert build(shelf).call(action(lambda: result)) is result
    assert endings(shelf) == [("succeeded", None)]


def test_an_open_file_is_a_result() -> None:
    shelf = Shelf()
    build(shelf).call(action(lambda: open(__file__, encoding="utf-8"))).close()  # noqa: PTH123, SIM115
    assert endings(shelf) == [("succeeded", None)]


async def hang(reached: asyncio.Event) -> None:
    reached.set()
    await asyncio.Event().wait()


async def with_timeout(call: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.01):
        await call


async def with_named_timeout(call: Awaitable[Any]) -> None:
    async with asyncio.timeout(None) as deadline:
        deadline.reschedule(asyncio.get_running_loop().time() + 0.01)
        await call


async def with_wait_for(call: Awaitable[Any]) -> None:
    await asyncio.wait_for(call, 0.01)


async def task_within_timeout(call: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.ensure_future(call)


async def wait_for_within_timeout(call: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.wait_for(call, 60)


async def wait_for_a_helper(call: Awaitable[Any]) -> None:
    async def helper() -> None:
        await call

    await asyncio.wait_for(helper(), 0.01)


async def within_a_generator(call: Awaitable[Any]) -> None:
    async def rows() -> Any:
        async with asyncio.timeout(0.01):
            yield await call

    async for _ in rows():
        pass


async def through_a_generator(call: Awaitable[Any]) -> None:
    async def rows() -> Any:
        yield await call

    async with asyncio.timeout(0.01):
        async for _ in rows():
            pass


DEADLINES = [
    within_a_generator,
    through_a_generator,
    with_timeout,
    with_named_timeout,
    with_wait_for,
    task_within_timeout,
    wait_for_within_timeout,
    wait_for_a_helper,
]


@pytest.mark.parametrize("deadline", DEADLINES)
async def test_a_deadline_around_the_call_is_a_timeout(deadline: Any) -> None:
    shelf = Shelf()
    with pytest.raises(TimeoutError):
        await deadline(build(shelf).call_async(action(lambda: hang(asyncio.Event()))))
    assert endings(shelf)[0][0] == "timed_out"


@pytest.mark.parametrize("deadline", DEADLINES)
async def test_a_deadline_within_the_action_is_a_timeout(deadline: Any) -> None:
    shelf = Shelf()
    with pytest.raises(TimeoutError):
        await build(shelf).call_async(action(lambda: deadline(hang(asyncio.Event()))))
    assert endings(shelf) == [("timed_out", "TimeoutError")]


async def plainly(call: Awaitable[Any]) -> None:
    await call


async def long_timeout(call: Awaitable[Any]) -> None:
    async with asyncio.timeout(60):
        await call


async def long_wait_for(call: Awaitable[Any]) -> None:
    await asyncio.wait_for(call, 60)


async def in_group(call: Awaitable[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(plainly(call))


@pytest.mark.parametrize("around", [plainly, long_timeout, long_wait_for, in_group])
@pytest.mark.parametrize("within", [plainly, long_timeout, long_wait_for])
async def test_who_calls_the_work_off_cancels_it(around: Any, within: Any) -> None:
    shelf, reached = Shelf(), asyncio.Event()
    router = build(shelf)
    task = asyncio.create_task(around(router.call_async(action(lambda: within(hang(reached))))))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endings(shelf) == [("cancelled", "CancelledError")]
    executed = shelf.events[-1]
    assert isinstance(executed, ActionExecuted)
    assert executed.data.latency_ms is None, "it says nothing of how long the action takes"


async def test_other_work_that_was_cancelled_is_a_failure_of_the_action() -> None:
    async def run() -> None:
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    shelf = Shelf()
    with pytest.raises(asyncio.CancelledError):
        await build(shelf).call_async(action(run))
    assert endings(shelf) == [("failed", "CancelledError")]


def test_a_person_who_interrupts_the_program_cancels() -> None:
    def run() -> None:
        raise KeyboardInterrupt

    shelf = Shelf()
    with pytest.raises(KeyboardInterrupt):
        build(shelf).call(action(run))
    assert endings(shelf) == [("cancelled", "KeyboardInterrupt")]


class Amount(pydantic.BaseModel):
    euros: int


@pydantic.validate_call
def validated(euros: int) -> int:
    return euros


def parses(order: Any) -> Amount:
    return Amount.model_validate(order)


def answers(order: Any) -> Amount:
    return Amount.model_validate(json.loads('{"euros": "broken upstream"}') | {"order": order})


def fails(order: Any) -> None:
    raise TypeError(order)


@pytest.mark.parametrize(
    ("run", "argument", "status"),
    [
        (validated, "many", "refused"),
        (parses, {"euros": "many"}, "refused"),
        (parses, {"dollars": 1}, "refused"),
        (parses, "no order", "refused"),
        (answers, "o-1", "failed"),
        (fails, "o-1", "failed"),
    ],
)
def test_arguments_that_the_action_does_not_take_are_refused_and_other_mistakes_are_failures(
    run: Any, argument: object, status: str
) -> None:
    shelf = Shelf()
    with contextlib.suppress(pydantic.ValidationError, TypeError):
        build(shelf).call(action(run), argument)
    assert [ending for ending, _ in endings(shelf)] == [status]


@pytest.mark.parametrize("kind", [EventKind.CANCELLED, EventKind.REFUSED])
def test_what_was_called_off_or_refused_moves_no_guardrail(kind: EventKind) -> None:
    moved = dict(zip(COUNTERS, INCREMENTS[EventKind.ALLOWED] + INCREMENTS[kind], strict=True))
    assert {name for name, count in moved.items() if count} == {"decisions", "allowed"}, "nothing is expected any more"
    assert kind in kinds_moving("expected", by=-1), "nor for its user"
    alone = dict(zip(COUNTERS, INCREMENTS[kind], strict=True))
    assert contradictions(alone) == [], "its decision may come later"
    wrong = wrong_counts({name: INCREMENTS[kind][[i]] for i, name in enumerate(COUNTERS)})
    assert not any(where.any() for _, where in wrong)
