"""Decide an action by fixed rules in a fixed order, each of which can only narrow what the one before left open."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producers.boundary.policy_flags import flag_context
from producers.wire.contract import ActionContract, FallbackMode, Reversibility, RiskClass
from producers.wire.decision import Allow, Authorization, Constrain, Decision, Deny, FallBack, Outcome, QueueForReview
from producers.wire.stage import STAGE_OF_MODE, Mode, Stage

if TYPE_CHECKING:
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import FlagEvaluator, FlagValues

LOG = logging.getLogger(__name__)

READS = frozenset({RiskClass.SEARCH, RiskClass.SCOPED_READ})  # what the search-only stage lets through unchanged

# What a person approves while `agent-action-approval-required` is on
REVIEWED_RISKS = frozenset(
    {RiskClass.SENSITIVE_READ, RiskClass.EXTERNAL_EFFECT, RiskClass.ADMIN_ACTION, RiskClass.IRREVERSIBLE}
)
REVIEWED_REVERSIBILITIES = frozenset({Reversibility.EXPENSIVE, Reversibility.NONE})


@dataclass(frozen=True)
class StagedDecision:
    """A decision and the stage at which it counts."""

    decision: Decision
    stage: Stage


def decide(
    contract: ActionContract, authorizer: Authorizer, flags: FlagEvaluator, *, variants: frozenset[str] = frozenset()
) -> StagedDecision:
    """Decide one action by authorization, the master switch, the denylist, the mode and approval, in this order.

    All flags are evaluated and recorded whatever the outcome, so that the record shows the whole policy and decisions
    of one policy share an epoch. `variants` are those that can run in the action's place (`draft`, `search_only`).
    """
    authorization, authorizer_sha256 = authorize(contract, authorizer)
    return apply_rules(contract, authorization, authorizer_sha256, flags.evaluate(flag_context(contract)), variants)


async def decide_async(
    contract: ActionContract, authorizer: Authorizer, flags: FlagEvaluator, *, variants: frozenset[str] = frozenset()
) -> StagedDecision:
    """As `decide`, without holding up the event loop where the flags' provider hangs."""
    authorization, authorizer_sha256 = authorize(contract, authorizer)
    values = await flags.evaluate_async(flag_context(contract))
    return apply_rules(contract, authorization, authorizer_sha256, values, variants)


def apply_rules(
    contract: ActionContract,
    authorization: Authorization,
    authorizer_sha256: str,
    values: FlagValues,
    variants: frozenset[str],
) -> StagedDecision:
    """What follows from what authorization and flags have answered; pure, and blind to the arguments' digest."""
    result: Outcome
    if not authorization.permitted:
        result = Deny(reason="not_authorized")
    elif not values.enabled:
        result = Deny(reason="governance_disabled")
    elif values.denied:
        result = Deny(reason="on_denylist")
    else:
        result = _by_mode(contract, values.mode, variants)
        if isinstance(result, Allow) and (rule := _review_rule(contract, values)):
            result = QueueForReview(reason=rule)
        elif isinstance(result, Allow) and authorization.approvers is not None:
            result = QueueForReview(reason="authorization_needs_approvers")
    decision = Decision(
        result=result,
        enforced=values.mode is not Mode.OBSERVE,
        authorization=authorization,
        flags=values.evaluations,
        ruleset_sha256=ruleset_of(authorizer_sha256, values.ruleset_sha256),
    )
    return StagedDecision(decision, STAGE_OF_MODE[values.mode])


def ruleset_of(authorizer_sha256: str, flags_sha256: str) -> str:
    """SHA-256 over everything that decides: the authorization policy and the flags' rules."""
    return hashlib.sha256(f"{authorizer_sha256}\x00{flags_sha256}".encode()).hexdigest()


def authorize(contract: ActionContract, authorizer: Authorizer) -> tuple[Authorization, str]:
    """What the authorizer says, and the digest of the policy it says it by; whatever it raises is a refusal."""
    try:
        sha256 = authorizer.sha256
        answer: object = authorizer.authorize(contract)
        if isinstance(answer, Authorization):
            return answer, sha256
        why = f"answered with a {type(answer).__name__}"
    except Exception as error:  # whatever an external authorizer raises, the answer must be no
        LOG.exception("the authorizer failed, and so refuses %s", contract.tool)
        why = type(error).__name__
    else:
        LOG.error("the authorizer %s, and so refuses %s", why, contract.tool)
    return Authorization(permitted=False, rule="authorizer-failed", reason=why), "unknown"


def _by_mode(contract: ActionContract, mode: Mode, variants: frozenset[str]) -> Outcome:
    if mode is Mode.OFF:
        return Deny(reason="mode_off")
    if mode is Mode.FALLBACK:
        fallback = contract.fallback.mode
        if fallback is FallbackMode.SEARCH_ONLY and contract.risk_class in READS:
            result: Outcome = Allow(reason="fallback_search_only")  # what the action does is the fallback
        else:
            result = FallBack(mode=fallback.value, reason="mode_fallback")
        return result
    if contract.risk_class in READS:
        return Allow(reason="read_within_mode")
    if mode is Mode.SEARCH_ONLY:
        return Constrain(mode="search_only", reason="mode_search_only", runs="search_only" in variants)
    if mode is Mode.DRAFT_WRITE:
        lesser = "draft" if "draft" in variants else "search_only"
        return Constrain(mode=lesser, reason="mode_draft_write", runs=lesser in variants)
    return Allow()


def _review_rule(contract: ActionContract, values: FlagValues) -> str | None:
    if values.mode is Mode.APPROVED_EXTERNAL and contract.risk_class not in READS | {RiskClass.REVERSIBLE_WRITE}:
        return "mode_approved_external"
    if not values.approval_required:
        return None
    if contract.risk_class in REVIEWED_RISKS:
        return f"risk_class_{contract.risk_class.value}"
    if contract.reversibility in REVIEWED_REVERSIBILITIES:
        return f"reversibility_{contract.reversibility.value}"
    confidence = contract.evidence.confidence
    if confidence is not None and confidence < values.confidence_threshold:
        return "confidence_below_threshold"
    return None
