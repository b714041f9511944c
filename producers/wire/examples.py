"""One example of each event, made from the models: the published documents quote them, and tests validate them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from producers.wire import contract, events
from producers.wire.decision import Allow, Authorization, Decision, FlagEvaluation, FlagReason
from producers.wire.receipt import Receipt, epoch_of
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUTER: Final = "/routers/support-eu-1"
_DECIDED_AT: Final = datetime(2026, 3, 2, 9, 30, 12, 250_000, tzinfo=UTC)
_RULESET: Final = "5d1f0b6f3a0e4f7f8a3f0f4e1c9d6b7a2e8c4d5f6a7b8c9d0e1f2a3b4c5d6e7f"
_FLAGS: Final = "c4a1d7e90b3f52688e2d4f6a1c3b5d7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c"
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
SIGNING_KEY: Final = b"an example key, not a secret"  # the key of the published test vector
_TOKEN = RECEIPT.token()

_CONTRACT = contract.ActionContract(
    actor=contract.Actor(agent="support-agent", user="user-8841", model="large-2026-02", prompt_version="14"),
    intent="Refund order 10017, which arrived broken.",
    target=contract.Target(environment="production", system="billing", record="order-10017"),
    tool="issue_refund",
    tool_version="2.3.0",
    workflow="refunds",
    risk_class=contract.RiskClass.EXTERNAL_EFFECT,
    reversibility=contract.Reversibility.MANUAL,
    scope=contract.Scope(region="eu", traffic_ratio=0.1),
    evidence=contract.Evidence(confidence=0.93, source_coverage=1.0),
    fallback=contract.Fallback(
        mode=contract.FallbackMode.HUMAN_HANDOFF, note="A colleague will look at the refund today."
    ),
)


def _moment(hour: int, minute: int, second: int) -> datetime:
    return _DECIDED_AT.replace(hour=hour, minute=minute, second=second, microsecond=0)


_EVENTS: Final[tuple[events.Event, ...]] = (
    events.ActionDecided(
        id="01-decided",
        source=_ROUTER,
        time=_DECIDED_AT,
        subject=RECEIPT.decision_id,
        dataschema=events.schema_id(events.ActionDecided),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        data=events.ActionDecidedData(
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
    events.ActionExecuted(
        id="02-executed",
        source=_ROUTER,
        time=_moment(9, 30, 13),
        subject=RECEIPT.decision_id,
        dataschema=events.schema_id(events.ActionExecuted),
        data=events.ActionExecutedData(
            receipt=_TOKEN,
            status=events.ExecutionStatus.FAILED,
            latency_ms=412.5,
            cost_usd=0.0031,
            error_type="PaymentGatewayError",
        ),
    ),
    events.ActionUndone(
        id="03-undone",
        source="/services/refund-reversal",
        time=_moment(11, 4, 0),
        subject=RECEIPT.decision_id,
        dataschema=events.schema_id(events.ActionUndone),
        data=events.ActionUndoneData(receipt=_TOKEN, result=events.UndoResult.UNDONE, reason="Refunded twice."),
    ),
    events.ActionImpact(
        id="04-impact",
        source="/services/quality-review",
        time=_moment(12, 0, 0),
        subject=RECEIPT.decision_id,
        dataschema=events.schema_id(events.ActionImpact),
        data=events.ActionImpactData(
            receipt=_TOKEN, impact=events.Quality(passed=False, score=0.35, evaluator="refund-rubric-3")
        ),
    ),
    events.ReviewResolved(
        id="05-review",
        source="/services/review-desk",
        time=_moment(9, 41, 30),
        subject=RECEIPT.decision_id,
        dataschema=events.schema_id(events.ReviewResolved),
        data=events.ReviewResolvedData(
            receipt=_TOKEN,
            resolution=events.Resolution.APPROVED,
            reviewer="reviewer-12",
            rationale="The photo shows the damage; the amount matches the order.",
            wait_ms=677_750.0,
        ),
    ),
    events.PolicyChanged(
        id="06-policy",
        source="/services/flag-store",
        time=_moment(8, 0, 0),
        subject="agent-action-mode",
        dataschema=events.schema_id(events.PolicyChanged),
        data=events.PolicyChangedData(
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
    events.StageRecommended(
        id="07-recommended",
        source="/stagekeeper/judge",
        time=_moment(12, 0, 5),
        subject=RECEIPT.cell.key,
        dataschema=events.schema_id(events.StageRecommended),
        data=events.StageRecommendedData(
            verdict_id="3f6c2a90",
            environment=RECEIPT.environment,
            workflow=RECEIPT.workflow,
            tool=RECEIPT.tool,
            stage=RECEIPT.stage,
            cohort=RECEIPT.cohort,
            epoch=RECEIPT.epoch,
            verdict=events.VerdictName.ROLL_BACK,
            to_stage=Stage.SEARCH_ONLY,
            reasons=(
                events.Reason(
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
    events.RouterStatus(
        id="08-status",
        source=_ROUTER,
        time=_moment(12, 0, 11),
        subject=_ROUTER,
        dataschema=events.schema_id(events.RouterStatus),
        data=events.RouterStatusData(
            environment=RECEIPT.environment,
            provider="flagd",
            ready=True,
            flags_sha256=_FLAGS,
            since=_moment(12, 0, 7),
            confirmed_at=_moment(12, 0, 11),
            tells_every_s=5.0,
        ),
    ),
)

EXAMPLES: Final[Mapping[type[events.Event], events.Event]] = {type(event): event for event in _EVENTS}
"""One example for each class of event, in the order of an action's life. Its ids are readable; real ones are UUIDs."""
