"""The decision: a fixed order of questions, each of which can only narrow what the one before it left open."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producers.boundary.flags import (
    APPROVAL_REQUIRED,
    CONFIDENCE_THRESHOLD,
    DENYLIST,
    GOVERNANCE_ENABLED,
    MODE,
    Flag,
    FlagValue,
    context_of,
)
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.decision import (
    Allow,
    Authorization,
    Constrain,
    Decision,
    Deny,
    FallBack,
    FlagEvaluation,
    Outcome,
    QueueForReview,
)
from producers.wire.stage import STAGE_OF_MODE, Mode, Stage

if TYPE_CHECKING:
    from producers.boundary.authorization import Authorizer
    from producers.boundary.policy import Policy
    from producers.wire.contract import ActionContract

READS = frozenset({RiskClass.SEARCH, RiskClass.SCOPED_READ})
"""What the search-only stage lets through unchanged."""

REVIEWED_RISKS = frozenset(
    {RiskClass.SENSITIVE_READ, RiskClass.EXTERNAL_EFFECT, RiskClass.ADMIN_ACTION, RiskClass.IRREVERSIBLE}
)
"""Risk classes that a person approves while `agent-action-approval-required` is on."""

REVIEWED_REVERSIBILITIES = frozenset({Reversibility.EXPENSIVE, Reversibility.NONE})
"""Reversibilities that a person approves while `agent-action-approval-required` is on."""


@dataclass(frozen=True)
class Decided:
    """A decision and the stage at which it counts."""

    decision: Decision
    stage: Stage


class _Evaluations:
    """Asks flags on behalf of one contract, and remembers what was answered."""

    def __init__(self, policy: Policy, contract: ActionContract) -> None:
        self._policy = policy
        self._context = context_of(contract)
        self.records: list[FlagEvaluation] = []

    def ask(self, flag: Flag) -> FlagValue:
        value, record = self._policy.evaluate(flag, self._context)
        self.records.append(record)
        return value


def decide(
    contract: ActionContract, authorizer: Authorizer, policy: Policy, *, variants: frozenset[str] = frozenset()
) -> Decided:
    """Decide one action.

    The order is: hard authorization, the master switch, the denylist, the mode, approval. All flags are evaluated and
    recorded whatever the outcome, so that the record shows the whole policy and decisions of one policy share an epoch.

    Args:
        contract: What is asked.
        authorizer: Who holds the last word; an exception from it is a refusal.
        policy: The flags.
        variants: Names of the lesser variants that can run in the action's place (`draft`, `search_only`).
    """
    authorization = _authorize(contract, authorizer)
    flags = _Evaluations(policy, contract)
    enabled = flags.ask(GOVERNANCE_ENABLED) is True
    denied = flags.ask(DENYLIST) is not False
    mode = _mode(flags.ask(MODE))
    approval = flags.ask(APPROVAL_REQUIRED) is not False
    threshold = flags.ask(CONFIDENCE_THRESHOLD)

    result: Outcome
    if not authorization.permitted:
        result = Deny(reason="not_authorized")
    elif not enabled:
        result = Deny(reason="governance_disabled")
    elif denied:
        result = Deny(reason="on_denylist")
    else:
        result = _by_mode(contract, mode, variants)
        if isinstance(result, Allow) and (rule := _review_rule(contract, mode, threshold, approval=approval)):
            result = QueueForReview(reason=rule)
    decision = Decision(
        result=result,
        enforced=mode is not Mode.OBSERVE,
        authorization=authorization,
        flags=tuple(flags.records),
        ruleset_sha256=ruleset_of(authorizer, policy),
    )
    return Decided(decision, STAGE_OF_MODE[mode])


def ruleset_of(authorizer: Authorizer, policy: Policy) -> str:
    """SHA-256 over everything that decides: the authorization policy and the flags' rules."""
    return hashlib.sha256(f"{authorizer.sha256}\x00{policy.sha256}".encode()).hexdigest()


def _authorize(contract: ActionContract, authorizer: Authorizer) -> Authorization:
    try:
        return authorizer.authorize(contract)
    except Exception as error:  # noqa: BLE001 - whatever an external authorizer raises, the answer must be no
        return Authorization(permitted=False, rule="authorizer-failed", reason=type(error).__name__)


def _mode(value: FlagValue) -> Mode:
    try:
        return Mode(str(value))
    except ValueError:
        return Mode(str(MODE.safe))


def _by_mode(contract: ActionContract, mode: Mode, variants: frozenset[str]) -> Outcome:
    if mode is Mode.OFF:
        return Deny(reason="mode_off")
    if mode is Mode.FALLBACK:
        return FallBack(mode=contract.fallback.mode.value, reason="mode_fallback")
    if contract.risk_class in READS:
        return Allow(reason="read_within_mode")
    if mode is Mode.SEARCH_ONLY:
        return Constrain(mode="search_only", reason="mode_search_only", runs="search_only" in variants)
    if mode is Mode.DRAFT_WRITE:
        lesser = "draft" if "draft" in variants else "search_only"
        return Constrain(mode=lesser, reason="mode_draft_write", runs=lesser in variants)
    return Allow()


def _review_rule(contract: ActionContract, mode: Mode, threshold: FlagValue, *, approval: bool) -> str | None:
    if mode is Mode.APPROVED_EXTERNAL and contract.risk_class not in READS | {RiskClass.REVERSIBLE_WRITE}:
        return "mode_approved_external"
    if not approval:
        return None
    if contract.risk_class in REVIEWED_RISKS:
        return f"risk_class_{contract.risk_class.value}"
    if contract.reversibility in REVIEWED_REVERSIBILITIES:
        return f"reversibility_{contract.reversibility.value}"
    confidence = contract.evidence.confidence
    if confidence is not None and confidence < float(threshold):
        return "confidence_below_threshold"
    return None
