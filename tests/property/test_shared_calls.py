"""What a router reuses decides as if it had been worked out anew."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from producers.boundary.action import Action, CallContext, acting
from producers.boundary.canonical_json import digest
from producers.boundary.decision_rules import decide
from producers.boundary.errors import RefusedError
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import ActionDecided
from producers.wire.receipt import Receipt, epoch_of

FEW = st.none() | st.sampled_from(["a", "b"])
CIRCUMSTANCES = st.fixed_dictionaries(
    {
        "confidence": st.none() | st.sampled_from([0.1, 0.5, 0.9]),
        "cohort": st.sampled_from(["all", "eu"]),
        "tool_call": st.none() | st.text("xyz", min_size=1, max_size=5),
        "conversation": FEW,
        "source_coverage": st.none() | st.just(0.5),
        **dict.fromkeys(["record", "intent"], FEW),
        # Few contexts, so that answers are often the same and only something else differs.
        **dict.fromkeys(["model", "prompt_version"], st.sampled_from([None, None, None, "a"])),
        **dict.fromkeys(["user", "account"], st.sampled_from([None, None, None, "a"])),
    }
)
ACTIONS = [
    Action(
        tool=f"tool-{number}",
        workflow="w",
        system="s",
        environment="production",
        risk_class=risk,
        reversibility=reversibility,
        run=lambda: None,
        variants=variants,
    )
    for number, (risk, reversibility, variants) in enumerate(
        [
            (RiskClass.SEARCH, Reversibility.AUTOMATIC, {}),
            (RiskClass.REVERSIBLE_WRITE, Reversibility.MANUAL, {"draft": lambda: None}),
            (RiskClass.REVERSIBLE_WRITE, Reversibility.MANUAL, {}),
            (RiskClass.EXTERNAL_EFFECT, Reversibility.NONE, {}),
        ]
    )
]
CALLS = st.lists(st.tuples(st.sampled_from(ACTIONS), CIRCUMSTANCES), min_size=2, max_size=12)


@pytest.mark.slow
@given(
    calls=CALLS,
    flags=st.fixed_dictionaries(
        {"mode": st.sampled_from(["autonomous", "draft_write", "search_only"]), "approval": st.booleans()}
    ),
)
@settings(max_examples=examples(150), deadline=None)
def test_reuse_never_shows(calls: Any, flags: Any) -> None:
    shelf, held = Shelf(), flag_evaluator(**flags)
    router = Router(
        authorizer=Permit(), flags=held, recorder=Recorder(shelf, source="/t"), environment="production", agent="bot"
    )
    for action, known in calls:
        before = len(shelf.events)
        with acting(**known), suppress(RefusedError):
            router.call(action)
        event = shelf.events[before]
        assert isinstance(event, ActionDecided)
        contract, decision = event.data.contract, event.data.decision
        assert contract == action.contract(CallContext(agent="bot", **known)).model_copy(
            update={"arguments_sha256": digest({})}
        )
        fresh = decide(contract, Permit(), held, variants=frozenset(action.variants))
        assert decision.model_copy(update={"decide_ms": None}) == fresh.decision
        receipt = Receipt.from_token(event.data.receipt)
        assert (receipt.stage, receipt.cohort, receipt.tool) == (fresh.stage, known["cohort"], action.tool)
        assert receipt.epoch == epoch_of(
            fresh.stage, model=known["model"], prompt_version=known["prompt_version"], flags=decision.flags
        )
