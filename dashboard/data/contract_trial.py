"""A contract tried on the rules in force: which decision it would get, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from producers.boundary.policy_flags import FLAGS
from producers.wire.contract import ActionContract, Actor, Evidence, Reversibility, RiskClass, Target

if TYPE_CHECKING:
    from producers.boundary.decision_rules import StagedDecision

_DECIDES = {  # which step a reason comes from, by the reason's beginning; else the mode does
    "not_authorized": "Hard authorization",
    "authorization_": "Hard authorization",
    "governance_disabled": FLAGS[0].key,
    "on_denylist": FLAGS[1].key,
    "risk_class_": FLAGS[3].key,
    "reversibility_": FLAGS[3].key,
    "confidence_": FLAGS[4].key,
}


@dataclass(frozen=True, slots=True)
class TrialStep:
    """One step of a decision."""

    name: str
    says: str
    decides: bool
    asked: bool = True  # whether the steps before left anything to decide


def contract_of(
    environment: str,
    workflow: str,
    tool: str,
    *,
    agent: str,
    account: str,
    risk: str,
    reversibility: str,
    confidence: float,
) -> ActionContract:
    """A contract of a few fields; raises pydantic's `ValidationError` where one cannot be."""
    return ActionContract(
        actor=Actor(agent=agent, account=account or None),
        intent="Tried at the page; nothing runs.",
        target=Target(environment=environment, system="console"),
        tool=tool,
        workflow=workflow,
        risk_class=RiskClass(risk),
        reversibility=Reversibility(reversibility),
        evidence=Evidence(confidence=confidence),
    )


def outcome_in_words(staged: StagedDecision) -> str:
    """The decision in a few words."""
    result = staged.decision.result
    words = result.outcome.replace("_", " ").capitalize()
    mode = getattr(result, "mode", None)
    observed = "" if staged.decision.enforced else " (observed only: the action would run)"
    return f"{words} to {mode.replace('_', ' ')}{observed}" if mode else f"{words}{observed}"


def steps_of(staged: StagedDecision) -> list[TrialStep]:
    """What each rule said, in the order in which they narrow the decision."""
    decision = staged.decision
    reason = decision.result.reason or ""
    deciding = next((name for start, name in _DECIDES.items() if reason.startswith(start)), FLAGS[2].key)
    authorization = decision.authorization
    said = "permitted" if authorization is None or authorization.permitted else "refused"
    if authorization is not None:
        said += f" by {authorization.rule}" + (f": {authorization.reason}" if authorization.reason else "")
    steps = [("Hard authorization", said)]
    for flag in decision.flags:
        value = flag.variant or flag.value or ""
        fault = f"; {flag.error}" if flag.error else ""
        steps.append((flag.key, f"{value} ({flag.reason.value}){fault}"))
    found: list[TrialStep] = []
    for name, says in steps:
        asked = not any(step.decides for step in found)
        found.append(TrialStep(name, says, decides=name == deciding, asked=asked))
    return found
