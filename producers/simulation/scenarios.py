"""Scenarios to simulate: for each, what is wrong in it and the verdicts that it deserves.

They refer to the limits of the demonstration's gate file: denials 10 % (blocks a promotion), errors 5 %, undos 3 %,
missing outcomes 5 %, incidents 1 %, latency p95 1,500 ms, a severe incident at once, 200 actions before a promotion.
"""

from __future__ import annotations

from dataclasses import dataclass

from producers.errors import UsageError
from producers.simulation.behaviour import Behaviour, Phase, SimulatedAction
from producers.strict_yaml import suggest
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.events import VerdictName
from producers.wire.stage import Stage

PROMOTE, HOLD, ROLL_BACK = VerdictName.PROMOTE, VerdictName.HOLD, VerdictName.ROLL_BACK

_GOES_WRONG_AFTER_S = 15.0  # of the present, so that a demonstration of a minute or two shows what follows
HEALTHY = Behaviour()  # clearly inside every limit


class UnknownScenarioError(UsageError):
    """No scenario has that name."""


@dataclass(frozen=True)
class Scenario:
    """A mix of actions."""

    name: str  # what it is asked for by
    wrong: str  # what is wrong in it, in one sentence
    actions: tuple[SimulatedAction, ...]  # the actions, with the verdict that each deserves


def scenario(name: str) -> Scenario:
    """The scenario of that name; `UnknownScenarioError` offers the nearest one."""
    if name not in SCENARIOS:
        raise UnknownScenarioError(f"there is no scenario `{name}`: {suggest(name, list(SCENARIOS))}")
    return SCENARIOS[name]


def _refund(*phases: Phase, weight: float = 1.0) -> SimulatedAction:
    return SimulatedAction(
        workflow="refunds",
        tool="issue_refund",
        system="billing",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.MANUAL,
        intent="the customer was charged twice",
        phases=phases,
        weight=weight,
    )


_SUPPORT_SEARCH = SimulatedAction(
    workflow="support",
    tool="kb_search",
    system="knowledge-base",
    risk_class=RiskClass.SEARCH,
    reversibility=Reversibility.AUTOMATIC,
    intent="look for an article that answers the question",
    phases=(Phase(Stage.SEARCH_ONLY, HEALTHY.having(latency_ms=120, cost_usd=0.0005, undone=0.0), PROMOTE, "healthy"),),
    weight=1.6,
)
_CRM_LOOKUP = SimulatedAction(
    workflow="support",
    tool="crm_lookup",
    system="crm",
    risk_class=RiskClass.SCOPED_READ,
    reversibility=Reversibility.AUTOMATIC,
    intent="find the customer's open orders",
    phases=(
        Phase(
            Stage.SEARCH_ONLY,
            HEALTHY.having(latency_ms=900, latency_sigma=0.65, undone=0.0),
            ROLL_BACK,
            "slow: a fifth of the calls take longer than 1.5 s",
        ),
    ),
)
_DRAFT_REPLY = SimulatedAction(
    workflow="support",
    tool="draft_reply",
    system="helpdesk",
    risk_class=RiskClass.REVERSIBLE_WRITE,
    reversibility=Reversibility.AUTOMATIC,
    intent="prepare an answer for the agent on duty",
    phases=(
        Phase(Stage.DRAFT_WRITE, HEALTHY.having(latency_ms=420, cost_usd=0.012, constrained=0.03), PROMOTE, "healthy"),
    ),
    weight=1.4,
)
_ESCALATE = SimulatedAction(
    workflow="support",
    tool="escalate_ticket",
    system="helpdesk",
    risk_class=RiskClass.REVERSIBLE_WRITE,
    reversibility=Reversibility.MANUAL,
    intent="hand the case to the second line",
    phases=(Phase(Stage.DRAFT_WRITE, HEALTHY, HOLD, "sparse: too few actions to tell"),),
    weight=0.03,
)
_SEND_EMAIL = SimulatedAction(
    workflow="outreach",
    tool="send_email",
    system="mail",
    risk_class=RiskClass.EXTERNAL_EFFECT,
    reversibility=Reversibility.NONE,
    intent="tell the customer when the parcel arrives",
    phases=(
        Phase(
            Stage.APPROVAL_GATED,
            HEALTHY.having(queued=0.97, review_wait_s=40.0, undone=0.0),
            PROMOTE,
            "healthy: reviewers agree, and nothing had to be taken back",
        ),
    ),
    weight=1.3,
)
_SEND_SMS = SimulatedAction(
    workflow="outreach",
    tool="send_sms",
    system="sms-gateway",
    risk_class=RiskClass.EXTERNAL_EFFECT,
    reversibility=Reversibility.NONE,
    intent="remind the customer of the appointment",
    phases=(Phase(Stage.NARROW_AUTONOMY, HEALTHY.having(failed=0.14), ROLL_BACK, "fails in one call of seven"),),
)
_ADJUST_CREDIT = SimulatedAction(
    workflow="refunds",
    tool="adjust_credit",
    system="billing",
    risk_class=RiskClass.REVERSIBLE_WRITE,
    reversibility=Reversibility.MANUAL,
    intent="grant the credit that was promised",
    phases=(
        Phase(
            Stage.APPROVAL_GATED,
            HEALTHY.having(denied=0.24, queued=0.5, review_wait_s=60.0),
            HOLD,
            "denied too often: the agent asks for what policy refuses",
        ),
    ),
)
_CLOSE_ACCOUNT = SimulatedAction(
    workflow="accounts",
    tool="close_account",
    system="accounts",
    risk_class=RiskClass.IRREVERSIBLE,
    reversibility=Reversibility.NONE,
    intent="the customer asks to leave",
    phases=(
        Phase(Stage.OBSERVE_ONLY, HEALTHY.having(denied=0.3), HOLD, "observed only: nothing ran, so nothing is proven"),
    ),
    weight=0.6,
)
_UPDATE_ADDRESS = SimulatedAction(
    workflow="accounts",
    tool="update_address",
    system="accounts",
    risk_class=RiskClass.REVERSIBLE_WRITE,
    reversibility=Reversibility.AUTOMATIC,
    intent="the customer has moved",
    phases=(
        Phase(Stage.PROGRESSIVE_EXPANSION, HEALTHY, HOLD, "healthy, and already on the highest stage"),
        Phase(
            Stage.PROGRESSIVE_EXPANSION,
            HEALTHY.having(failed=0.3, severe_incident=0.25),
            ROLL_BACK,
            "a release goes wrong while one watches: it takes part in incidents of severity 1",
            live_after_s=_GOES_WRONG_AFTER_S,
        ),
    ),
    weight=1.2,
)
_ROTATE_KEY = SimulatedAction(
    workflow="platform",
    tool="rotate_api_key",
    system="secrets",
    risk_class=RiskClass.ADMIN_ACTION,
    reversibility=Reversibility.EXPENSIVE,
    intent="the key is due for rotation",
    phases=(
        Phase(
            Stage.NARROW_AUTONOMY,
            HEALTHY.having(latency_ms=700, latency_sigma=0.3, severe_incident=0.02),
            ROLL_BACK,
            "took part in incidents of severity 1",
        ),
    ),
    weight=0.5,
)
_ROLLS_BACK_LATE = Phase(
    Stage.NARROW_AUTONOMY,
    HEALTHY.having(undone=0.10, undo_failed=0.01, undo_after_s=30 * 60.0),
    ROLL_BACK,
    "one in nine is taken back, half an hour later",
)

SCENARIOS: dict[str, Scenario] = {
    entry.name: entry
    for entry in (
        Scenario(
            "healthy",
            "Nothing is wrong: every signal is clearly inside its limit.",
            (_refund(Phase(Stage.APPROVAL_GATED, HEALTHY, PROMOTE, "healthy")), _SUPPORT_SEARCH, _DRAFT_REPLY),
        ),
        Scenario(
            "denied-too-often",
            "Nearly a quarter of the requests are refused: the action must not be promoted.",
            (_ADJUST_CREDIT,),
        ),
        Scenario("slow", "A fifth of the calls take longer than the latency limit.", (_CRM_LOOKUP,)),
        Scenario(
            "rolls-back-late",
            "Executions look fine, and one in nine is taken back half an hour later.",
            (_refund(_ROLLS_BACK_LATE),),
        ),
        Scenario("incident", "Some executions take part in incidents of severity 1.", (_ROTATE_KEY,)),
        Scenario(
            "sparse",
            "Healthy, but there is far too little of it beside the rest of the traffic.",
            (_ESCALATE, _SUPPORT_SEARCH),
        ),
        Scenario(
            "drifting-after-promotion",
            "Healthy until it is promoted after 1,000 decisions, healthy for 300 more, then every fourth call fails.",
            (
                _refund(
                    Phase(Stage.APPROVAL_GATED, HEALTHY, PROMOTE, "healthy before its promotion"),
                    Phase(Stage.NARROW_AUTONOMY, HEALTHY, None, "healthy after its promotion", after=1_000),
                    Phase(
                        Stage.NARROW_AUTONOMY,
                        HEALTHY.having(failed=0.25, undone=0.08),
                        ROLL_BACK,
                        "fails in one call of four since it was promoted",
                        after=1_300,
                    ),
                ),
            ),
        ),
        Scenario(
            "demo",
            "A company's agents on an ordinary day: five workflows on all six stages, healthy and not.",
            (
                _SUPPORT_SEARCH,
                _CRM_LOOKUP,
                _DRAFT_REPLY,
                _ESCALATE,
                _SEND_EMAIL,
                _SEND_SMS,
                _refund(_ROLLS_BACK_LATE),
                _ADJUST_CREDIT,
                _CLOSE_ACCOUNT,
                _UPDATE_ADDRESS,
                _ROTATE_KEY,
            ),
        ),
    )
}
