from __future__ import annotations

from typing import Any

import pytest
from boundary_cases import Broken, Permit, Refuse, contract, flag_evaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from producers.boundary.decision_rules import READS, decide
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.stage import Mode

ANYTHING = st.one_of(st.none(), st.booleans(), st.text(max_size=12), st.floats(allow_nan=False), st.integers())
FLAGS = st.fixed_dictionaries(
    {
        "enabled": st.one_of(st.just(True), ANYTHING),
        "denylist": st.one_of(st.just(False), ANYTHING),
        "mode": st.one_of(st.sampled_from([mode.value for mode in Mode]), ANYTHING),
        "approval": ANYTHING,
        "threshold": ANYTHING,
    }
)
CONTRACTS = st.builds(
    contract,
    risk_class=st.sampled_from([risk.value for risk in RiskClass]),
    reversibility=st.sampled_from([kind.value for kind in Reversibility]),
    confidence=st.one_of(st.none(), st.floats(0, 1)),
)


@given(
    asked=CONTRACTS,
    flags=FLAGS,
    authorizer=st.sampled_from([Refuse(), Broken()]),
    variants=st.frozensets(st.sampled_from(["draft", "search_only"])),
)
@settings(max_examples=examples(300), deadline=None)
def test_no_flag_value_widens_what_authorization_refuses(
    asked: Any, flags: dict[str, Any], authorizer: Any, variants: frozenset[str]
) -> None:
    decision = decide(asked, authorizer, flag_evaluator(**flags), variants=variants).decision
    assert decision.result.outcome == "deny"
    assert not decision.expects_execution


@pytest.mark.slow
@given(asked=CONTRACTS, flags=FLAGS)
@settings(max_examples=examples(300), deadline=None)
def test_only_a_known_mode_under_an_open_switch_runs_a_write_as_asked(asked: Any, flags: dict[str, Any]) -> None:
    decision = decide(asked, Permit(), flag_evaluator(**flags)).decision
    if decision.result.outcome == "allow" and decision.enforced and asked.risk_class not in READS:
        assert flags["enabled"] is True
        assert flags["denylist"] is False
        assert flags["mode"] in {"approved_external", "autonomous", "expanded"}
