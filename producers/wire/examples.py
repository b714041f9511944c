"""One example of each event, made from the models: the published documents quote them, and tests validate them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from producers.wire.contract import (
    ActionContract,
    Actor,
    Evidence,
    Fallback,
    FallbackMode,
    Reversibility,
    RiskClass,
    Scope,
    Target,
)
from producers.wire.decision import Allow, Authorization, Decision, FlagEvaluation, FlagReason
from producers.wire.events import (
    ActionDecided,
    ActionDecidedData,
    ActionExecuted,
    ActionExecutedData,
    ActionImpact,
    ActionImpactData,
    ActionUndone,
    ActionUndoneData,
    Event,
    ExecutionStatus,
    PolicyChanged,
    PolicyChangedData,
    Quality,
    Reason,
    Resolution,
    ReviewResolved,
    ReviewResolvedData,
    StageRecommended,
    StageRecommendedData,
    UndoResult,
    VerdictName,
    schema_id,
)
from producers.wire.receipt import Receipt, epoch_of
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUTER: Final = "/routers/support-eu-1"
_DECIDED_AT: Final = datetime(2026, 3, 2, 9, 30, 12, 250_000, tzinfo=UTC)
_RULESET: Final = "5d1f0b6f3a0e4f7f8a3f0f4e1c9d6b7a2e8c4d5f6a7b8c9d0e1f2a3b4c5d6e7f"
_GATE: Final = "9b2d7c4e1f3a5b6c8d0e2f4a6b8c0d1e3f5a7b9c1d2e4f6a8b0c3d5e7f9a1b2c"

_FLAG = FlagEvaluation(
    key="agent-action-mode", variant="autonomous", reason=FlagReason.TARGETING_MATCH, provider="flagd"
)

RECEIPT: Final = Receipt(
    decision_id="0195f3a2-6c1e-7d10-9a5b-3f2c8e4d1b07",
    decided_at=_DECIDED_AT,
    environment="production",
    workflow="refunds",
    tool="issue_refund",
    stage=Stage.NARROW_AUTONOMY,
    epoch=epoch_of(
        Stage.NARROW_AUTONOMY, model="large-2026-02", prompt_version="14", tool_version="2.3.0", flags=[_FLAG]
    ),
)
"""The receipt that the examples carry."""

SIGNING_KEY: Final = b"an example key, not a secret"  # the key of the published test vector

_TOKEN = RECEIPT.token()

_CONTRACT = ActionContract(
    actor=Actor(agent="support-agent", user="user-8841", model="large-2026-02", prompt_version="14"),
    intent="Refund order 10017, which arrived broken.",
    target=Target(environment="production", system="billing", record="order-10017"),
    tool="issue_refund",
    tool_version="2.3.0",
    workflow="refunds",
    risk_class=RiskClass.EXTERNAL_EFFECT,
    reversibility=Reversibility.MANUAL,
    scope=Scope(region="eu", traffic_ratio=0.1),
    evidence=Evidence(confidence=0.93, source_coverage=1.0),
    fallback=Fallback(mode=FallbackMode.HUMAN_HANDOFF, note="A colleague will look at the refund today."),
)


def _moment(hour: int, minute: int, second: int) -> datetime:
    return _DECIDED_AT.replace(hour=hour, minute=minute, second=second, microsecond=0)


_EVENTS: Final[tuple[Event, ...]] = (
    ActionDecided(
        id="01-decided",
        source=_ROUTER,
        time=_DECIDED_AT,
        subject=RECEIPT.decision_id,
        dataschema=schema_id(ActionDecided),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        data=ActionDecidedData(
            receipt=_TOKEN,
            contract=_CONTRACT,
            decision=Decision(
                result=Allow(),
                authorization=Authorization(permitted=True, rule="refunds-under-100"),
                flags=(_FLAG,),
                ruleset_sha256=_RULESET,
                decide_ms=0.41,
            ),
        ),
    ),
    ActionExecuted(
        id="02-executed",
        source=_ROUTER,
        time=_moment(9, 30, 13),
        subject=RECEIPT.decision_id,
        dataschema=schema_id(ActionExecuted),
        data=ActionExecutedData(
            receipt=_TOKEN,
            status=ExecutionStatus.FAILED,
            latency_ms=412.5,
            cost_usd=0.0031,
            error_type="PaymentGatewayError",
        ),
    ),
    ActionUndone(
        id="03-undone",
        source="/services/refund-reversal",
        time=_moment(11, 4, 0),
        subject=RECEIPT.decision_id,
        dataschema=schema_id(ActionUndone),
        data=ActionUndoneData(receipt=_TOKEN, result=UndoResult.UNDONE, reason="Refunded twice."),
    ),
    ActionImpact(
        id="04-impact",
        source="/services/quality-review",
        time=_moment(12, 0, 0),
        subject=RECEIPT.decision_id,
        dataschema=schema_id(ActionImpact),
        data=ActionImpactData(receipt=_TOKEN, impact=Quality(passed=False, score=0.35, evaluator="refund-rubric-3")),
    ),
    ReviewResolved(
        id="05-review",
        source="/services/review-desk",
        time=_moment(9, 41, 30),
        subject=RECEIPT.decision_id,
        dataschema=schema_id(ReviewResolved),
        data=ReviewResolvedData(
            receipt=_TOKEN,
            resolution=Resolution.APPROVED,
            reviewer="reviewer-12",
            rationale="The photo shows the damage; the amount matches the order.",
            wait_ms=677_750.0,
        ),
    ),
    PolicyChanged(
        id="06-policy",
        source="/services/flag-store",
        time=_moment(8, 0, 0),
        subject="agent-action-mode",
        dataschema=schema_id(PolicyChanged),
        data=PolicyChangedData(
            flag_key="agent-action-mode",
            changed_by="operator-3",
            reason="Two weeks without an undo.",
            before="approved_external",
            after="autonomous",
            environment="production",
            workflow="refunds",
            tool="issue_refund",
            ruleset_sha256=_RULESET,
        ),
    ),
    StageRecommended(
        id="07-recommended",
        source="/stagekeeper/judge",
        time=_moment(12, 0, 5),
        subject=RECEIPT.cell.key,
        dataschema=schema_id(StageRecommended),
        data=StageRecommendedData(
            verdict_id="3f6c2a90",
            environment=RECEIPT.environment,
            workflow=RECEIPT.workflow,
            tool=RECEIPT.tool,
            stage=RECEIPT.stage,
            cohort=RECEIPT.cohort,
            epoch=RECEIPT.epoch,
            verdict=VerdictName.ROLL_BACK,
            to_stage=Stage.SEARCH_ONLY,
            reasons=(
                Reason(
                    code="harm",
                    message="undo 4.1 % (12 of 291), limit 2 %, lower bound 2.3 %: roll back",
                    signal="undo",
                ),
            ),
            gate_sha256=_GATE,
            lake_version=1874,
            watermark=_moment(12, 0, 0),
        ),
    ),
)

EXAMPLES: Final[Mapping[type[Event], Event]] = {type(event): event for event in _EVENTS}
"""One example for each class of event, in the order of an action's life. Its ids are readable; real ones are UUIDs."""
