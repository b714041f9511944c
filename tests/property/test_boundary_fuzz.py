"""Whatever contracts, flags, providers, authorizers and disks do: nothing runs that authorization refuses, and nothing
runs off the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import KEYS, Shelf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from openfeature.exception import FlagNotFoundError, ParseError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from producers.boundary.action import Action, acting
from producers.boundary.decision_rules import READS
from producers.boundary.errors import RefusedError
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import StagekeeperError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.decision import Authorization
from producers.wire.events import ActionDecided, ActionExecuted
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.wire.contract import ActionContract

GARBAGE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers()))
FAILURES = st.sampled_from([RuntimeError("x"), FlagNotFoundError("x"), ParseError("x"), TimeoutError(), KeyError("x")])
PLAUSIBLE = {
    KEYS["enabled"]: st.just(True),
    KEYS["denylist"]: st.just(False) | st.lists(st.sampled_from(["t", "other"]), max_size=2),
    KEYS["mode"]: st.sampled_from([mode.value for mode in Mode]),
    KEYS["approval"]: st.booleans(),
    KEYS["threshold"]: st.floats(0, 1),
}
ANSWERS = st.fixed_dictionaries({key: st.one_of(value, value, GARBAGE, FAILURES) for key, value in PLAUSIBLE.items()})
VERDICTS = st.one_of(
    st.just(Authorization(permitted=True, rule="yes")),
    st.just(Authorization(permitted=True, rule="yes")),
    st.just(Authorization(permitted=False, rule="no")),
    st.sampled_from([ConnectionError("away"), ValueError("bad"), "yes", True, None, {"permitted": True}]),
)
NAMES = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
CALLS = st.fixed_dictionaries(
    {
        "risk": st.sampled_from(RiskClass),
        "reversibility": st.sampled_from(Reversibility),
        "variants": st.frozensets(st.sampled_from(["draft", "search_only"])),
        "known": st.fixed_dictionaries(
            {"user": NAMES, "account": NAMES, "confidence": st.none() | st.floats(-0.5, 1.5), "cohort": st.just("all")}
        ),
        "arguments": st.dictionaries(st.text(min_size=1, max_size=6), GARBAGE, max_size=2),
        "answers": ANSWERS,
        "verdict": VERDICTS,
        "disk_full": st.booleans(),
        "announced": st.booleans(),
    }
)


class Moody(AbstractProvider):
    """FlagValues with whatever it is told to, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}

    def get_metadata(self) -> Metadata:
        return Metadata(name="moody")

    def _resolve(self, flag_key: str, default_value: Any, evaluation_context: Any = None) -> FlagResolutionDetails[Any]:
        answer = self.answers[flag_key]
        if isinstance(answer, Exception):
            raise answer
        return FlagResolutionDetails(value=answer, variant="v", reason=Reason.STATIC)

    resolve_boolean_details = _resolve
    resolve_string_details = _resolve
    resolve_integer_details = _resolve
    resolve_float_details = _resolve
    resolve_object_details = _resolve


class EventLake:
    """An authorizer that says what it is told to, and remembers of which contract."""

    sha256 = "4" * 64

    def __init__(self) -> None:
        self.verdict: Any = None
        self.asked: list[ActionContract] = []

    def authorize(self, contract: ActionContract) -> Any:
        self.asked.append(contract)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def ticking() -> Iterator[float]:
    """A clock by which every look at it is two seconds after the one before, so that no answer is reused."""
    moment = 0.0
    while True:
        moment += 2.0
        yield moment


@pytest.mark.slow
@given(calls=st.lists(CALLS, min_size=1, max_size=6))
@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_runs_that_authorization_refuses_and_nothing_runs_off_the_record(calls: list[dict[str, Any]]) -> None:
    provider, authorizer, shelf = Moody(), EventLake(), Shelf()
    clock = ticking()
    router = Router(
        authorizer=authorizer,
        flags=FlagEvaluator(provider, clock=lambda: next(clock)),
        recorder=Recorder(shelf, source="/fuzz"),
        environment="production",
    )
    for call in calls:
        ran: list[str] = []

        def running(what: str, ran: list[str] = ran) -> Any:
            return lambda **_arguments: ran.append(f"{what} after {len(shelf.events)} events")

        action = Action(
            tool="t",
            workflow="w",
            system="s",
            environment="production",
            risk_class=call["risk"],
            reversibility=call["reversibility"],
            run=running("run"),
            variants={name: running(name) for name in call["variants"]},
        )
        provider.answers, authorizer.verdict, shelf.full = call["answers"], call["verdict"], call["disk_full"]
        before, kept = len(shelf.events), len(shelf.kept)
        refused = False
        try:
            with acting(**call["known"]), router.attempt(action, **call["arguments"]) as permit:
                name = permit.constrained_to
                (action.run if name is None else action.variants[name])()
        except RefusedError:
            refused = True
        except StagekeeperError:  # no contract can be made of it, or no digest: nothing was decided
            assert len(shelf.events) == before
            assert ran == []
            continue
        recorded = shelf.events[before:]
        decided = recorded[0]
        assert isinstance(decided, ActionDecided), "a decision for each action"
        assert len(ran) == (not refused), "one execution for each permit"
        assert sum(isinstance(event, ActionExecuted) for event in recorded) == len(ran)
        if not ran:
            continue
        verdict = call["verdict"]
        assert isinstance(verdict, Authorization)
        assert verdict.permitted
        assert authorizer.asked[-1] == decided.data.contract, "authorization saw what is on record"
        assert decided.data.decision.expects_execution
        assert call["answers"][KEYS["enabled"]] is True
        denied = call["answers"][KEYS["denylist"]]
        assert denied is False or (isinstance(denied, list) and all(isinstance(tool, str) for tool in denied))
        assert denied is False or "t" not in denied, "a list denies the tools that it names"
        assert ran[0].endswith(f"after {before + 1} events"), "the decision is on record before the action runs"
        if call["risk"] not in READS:
            assert decided in shelf.kept[kept:], "and on disk, where it changes the world"
