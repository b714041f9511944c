"""A flag provider that hangs, goes stale or was made before a fork: decisions are in time, and by the safe values."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import KEYS, Permit, Shelf, contract, in_child
from openfeature.event import ProviderEventDetails
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from producers.boundary.action import Action
from producers.boundary.decision_rules import decide_async
from producers.boundary.errors import ActionDeniedError
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import flag_context
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.wire.contract import Reversibility, RiskClass

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = flag_context(contract(account="acct-1"))
VALUES = {
    KEYS["enabled"]: True,
    KEYS["denylist"]: False,
    KEYS["mode"]: "autonomous",
    KEYS["approval"]: False,
    KEYS["threshold"]: 0.5,
}


class Remote(AbstractProvider):
    """Answers each flag by a call that may hang."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def get_metadata(self) -> Metadata:
        return Metadata(name="remote")

    def _resolve(self, flag_key: str, default_value: Any, evaluation_context: Any = None) -> FlagResolutionDetails[Any]:
        self.asked += 1
        self.answers.wait(30)
        return FlagResolutionDetails(value=VALUES[flag_key], variant="v", reason=Reason.STATIC)

    resolve_boolean_details = _resolve
    resolve_string_details = _resolve
    resolve_integer_details = _resolve
    resolve_float_details = _resolve
    resolve_object_details = _resolve


@pytest.fixture
def provider() -> Iterator[Remote]:
    made = Remote()
    yield made
    made.answers.set()


def test_a_provider_that_hangs_gives_the_safe_values_at_the_deadline_of_all_flags(provider: Remote) -> None:
    held = FlagEvaluator(provider, deadline_s=0.02)
    provider.answers.clear()
    values = held.evaluate(CONTEXT)
    assert (values.enabled, values.denied, values.mode) == (False, True, "search_only")
    assert all("no answer within 20 ms" in (record.error or "") for record in values.evaluations)
    assert provider.asked <= 1, "the five are asked in a row"
    provider.answers.set()
    assert held.evaluate(CONTEXT).mode == "autonomous", "what was safe is not remembered"


def test_a_provider_that_keeps_hanging_is_left_alone_but_for_a_probe(
    provider: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    moment = [0.0]
    held = FlagEvaluator(provider, deadline_s=0.01, clock=lambda: moment[0])
    provider.answers.clear()
    for _ in range(20):
        assert held.evaluate(CONTEXT).denied is True
    assert not held.ready
    assert provider.asked <= 3
    assert [record.getMessage() for record in caplog.records if "remote" in record.getMessage()] == [
        "the flag provider remote does not answer in time: safe values are in force until it does"
    ]
    moment[0] += 5.1
    for _ in range(20):
        assert held.evaluate(CONTEXT).denied is True
    assert provider.asked <= 4, "one probe"
    provider.answers.set()
    assert held.evaluate(CONTEXT).denied is True, "not before the next one"
    moment[0] += 5.1
    waited = threading.Event()
    while held.evaluate(CONTEXT).denied:  # each second that a probe takes too long on a busy machine
        waited.wait(0.01)
        moment[0] += 5.1
    assert (held.evaluate(CONTEXT).mode, [held.ready]) == ("autonomous", [True])


def test_calls_that_hang_do_not_take_the_threads_of_all_others(provider: Remote) -> None:
    held = FlagEvaluator(provider, deadline_s=0.01)
    provider.answers.clear()
    before = threading.active_count()
    for number in range(50):
        held.evaluate(flag_context(contract(account=f"acct-{number}")))
    assert threading.active_count() - before <= 16


async def test_in_async_code_a_provider_that_hangs_does_not_hold_up_the_event_loop(provider: Remote) -> None:
    router = Router(
        authorizer=Permit(),
        flags=FlagEvaluator(provider, deadline_s=30),
        recorder=Recorder(Shelf(), source="/t"),
        environment="production",
        agent="bot",
    )

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    async def write() -> str:
        return "ran"

    provider.answers.clear()
    waiting = asyncio.create_task(write())
    await asyncio.sleep(0)
    provider.answers.set()  # nobody could, if the loop stood still
    assert await waiting == "ran"


async def test_an_approval_is_redeemed_without_holding_up_the_event_loop(provider: Remote) -> None:
    held = FlagEvaluator(provider, deadline_s=30)
    provider.answers.clear()
    waiting = asyncio.create_task(decide_async(contract(), Permit(), held))
    await asyncio.sleep(0)
    provider.answers.set()
    assert (await waiting).decision.result.outcome == "allow"


async def test_an_attempt_in_async_code_does_not_hold_up_the_event_loop(provider: Remote) -> None:
    router = Router(
        authorizer=Permit(),
        flags=FlagEvaluator(provider, deadline_s=30),
        recorder=Recorder(Shelf(), source="/t"),
        environment="production",
        agent="bot",
    )
    action = router.register(
        Action(
            tool="t",
            workflow="w",
            system="s",
            environment="production",
            risk_class=RiskClass.SEARCH,
            reversibility=Reversibility.AUTOMATIC,
            run=lambda: None,
        )
    )

    async def attempt() -> str | None:
        async with router.attempt_async(action) as permit:
            return permit.constrained_to
        return "nothing ran"

    provider.answers.clear()
    waiting = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    provider.answers.set()
    assert await waiting is None


async def test_in_async_code_the_deadline_holds(provider: Remote) -> None:
    router = Router(
        authorizer=Permit(),
        flags=FlagEvaluator(provider, deadline_s=0.01),
        recorder=Recorder(Shelf(), source="/t"),
        environment="production",
        agent="bot",
    )

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    async def write() -> str:
        return "ran"

    provider.answers.clear()
    for _ in range(5):
        with pytest.raises(ActionDeniedError, match="governance_disabled"):
            await write()


def _await_stale(held: FlagEvaluator, *, ready: bool) -> None:
    waited = threading.Event()
    for _ in range(500):
        if held.ready is ready:
            return
        waited.wait(0.01)
    raise AssertionError("it never came to be")


def test_a_provider_that_is_stale_gives_the_safe_values(provider: Remote) -> None:
    held = FlagEvaluator(provider)
    assert held.evaluate(CONTEXT).mode == "autonomous"
    provider.emit_provider_stale(ProviderEventDetails())
    _await_stale(held, ready=False)
    for _ in range(500):
        if held.evaluate(CONTEXT).denied:
            break
        threading.Event().wait(0.01)
    values = held.evaluate(CONTEXT)
    assert values.denied is True
    assert "stale" in (values.evaluations[0].error or "")
    provider.emit_provider_ready(ProviderEventDetails())
    for _ in range(500):
        if held.evaluate(CONTEXT).mode == "autonomous":
            break
        threading.Event().wait(0.01)
    assert held.evaluate(CONTEXT).mode == "autonomous"


def test_a_stale_provider_is_believed_for_so_long_where_that_is_configured(provider: Remote) -> None:
    moment = [0.0]
    held = FlagEvaluator(provider, stale_s=60, clock=lambda: moment[0])
    provider.emit_provider_stale(ProviderEventDetails())
    moment[0] = 59.0
    assert held.evaluate(CONTEXT).mode == "autonomous"
    moment[0] = 120.0
    assert held.evaluate(CONTEXT).denied is True
    assert held.ready is False


def test_after_a_fork_a_provider_that_its_parent_made_decides_nothing(provider: Remote) -> None:
    held = FlagEvaluator(provider)
    assert held.evaluate(CONTEXT).mode == "autonomous"

    def child() -> str:
        values = held.evaluate(CONTEXT)
        return f"{values.denied} {held.ready} {values.evaluations[0].error}"

    answer = in_child(child)
    assert answer.startswith("True False PROVIDER_NOT_READY: made before the fork")
    assert held.evaluate(CONTEXT).mode == "autonomous", "the parent goes on"


def test_after_a_fork_a_provider_is_made_anew_where_the_evaluator_knows_how() -> None:
    made: list[Remote] = []

    def make() -> Remote:
        made.append(Remote())
        return made[-1]

    held = FlagEvaluator(make, deadline_s=30)
    assert held.evaluate(CONTEXT).mode == "autonomous"

    def child() -> str:
        return f"{held.evaluate(CONTEXT).mode} {held.ready} {len(made)}"

    assert in_child(child) == "autonomous True 2"
