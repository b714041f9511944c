"""What a form writes ahead is what the models write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.delivery.kafka_emitter import DeliveryStats
from producers.delivery.recorder import Recorder
from producers.wire.contract import ActionContract, Actor, Evidence, Reversibility, RiskClass, Scope, Target
from producers.wire.decision import Allow, Authorization, Constrain, Decision, Deny, FlagEvaluation, FlagReason
from producers.wire.events import ActionDecided, ActionExecuted, Encoded, ExecutionStatus, encoded, of_bytes
from producers.wire.forms import BLANK_SHA256, Asked, DecisionForm, DecisionPart, Said
from producers.wire.receipt import Receipt
from producers.wire.stage import Stage

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
MAYBE = st.none() | NAMES
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.just(
    f'"arguments_sha256":"{BLANK_SHA256}" \\" "intent":"" "decide_ms":1'
)
CONTRACTS = st.builds(
    ActionContract,
    actor=st.builds(
        Actor, agent=NAMES | st.just('a"intent":""b'), user=MAYBE, account=MAYBE, model=MAYBE, prompt_version=MAYBE
    ),
    intent=TEXTS,
    target=st.builds(Target, environment=NAMES, system=NAMES, record=MAYBE),
    tool=NAMES,
    tool_version=MAYBE,
    workflow=NAMES,
    risk_class=st.sampled_from(RiskClass),
    reversibility=st.sampled_from(Reversibility),
    scope=st.builds(Scope, account=MAYBE, region=MAYBE),
    evidence=st.builds(Evidence, confidence=st.none() | st.floats(0, 1)),
    arguments_sha256=st.just(BLANK_SHA256),
    conversation=MAYBE,
    tool_call=MAYBE,
)
DECISIONS = st.builds(
    Decision,
    result=st.one_of(
        st.builds(Allow, reason=NAMES),
        st.builds(Deny, reason=NAMES),
        st.builds(Constrain, mode=NAMES, reason=NAMES, runs=st.booleans()),
    ),
    enforced=st.booleans(),
    authorization=st.builds(Authorization, permitted=st.booleans(), rule=NAMES, reason=st.none() | TEXTS),
    flags=st.lists(
        st.builds(
            FlagEvaluation, key=NAMES, variant=MAYBE, value=st.none() | TEXTS, reason=st.sampled_from(FlagReason)
        ),
        max_size=3,
    ).map(tuple),
    ruleset_sha256=st.none() | st.just("c" * 64),
)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
KEYS = st.none() | st.binary(min_size=1, max_size=40)
TRACES = st.none() | st.just("00-" + "a" * 32 + "-" + "b" * 16 + "-01")


class Raw:
    """Takes events that are written already."""

    def __init__(self) -> None:
        self.records: list[Encoded] = []
        self.stats = DeliveryStats()

    def emit(self, event: Any) -> None:
        self.records.append(encoded(event))

    def emit_encoded(self, record: Encoded) -> None:
        self.records.append(record)

    def flush(self, timeout_s: float) -> int:
        return 0


@given(
    contract=CONTRACTS,
    decision=DECISIONS,
    at=MOMENTS,
    ident=NAMES,
    source=NAMES,
    key=KEYS,
    trace=TRACES,
    decide_ms=st.floats(0, 1e9),
    zone=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
@settings(deadline=None)
def test_a_filled_form_is_the_event_that_the_models_make(
    *, contract: Any, decision: Any, at: Any, ident: str, source: str, key: Any, trace: Any, decide_ms: float, zone: Any
) -> None:
    stage, sha256 = Stage.NARROW_AUTONOMY, "d" * 64
    written, made = Raw(), Raw()
    said = {"intent": contract.intent, "conversation": contract.conversation, "tool_call": contract.tool_call}
    silent = contract.model_copy(update={"intent": "", "conversation": None, "tool_call": None})
    form = DecisionForm(silent, DecisionPart(silent, decision, stage=stage, cohort="eu"))
    fast = Recorder(written, source=source, key=key, now=lambda: at.astimezone(zone), new_id=lambda: ident)
    slow = Recorder(made, source=source, key=key, now=lambda: at, new_id=lambda: ident)
    issued = fast.filled(form, Asked(sha256, decide_ms, Said(**said), trace))
    receipt = slow.decided(
        contract.model_copy(update={"arguments_sha256": sha256}),
        decision.model_copy(update={"decide_ms": decide_ms}),
        stage=stage,
        cohort="eu",
        traceparent=trace,
    )
    assert issued.receipt == receipt
    assert Receipt.of_token(issued.token, key) == receipt
    (one,), (other,) = written.records, made.records
    assert one[:2] == other[:2]
    assert of_bytes(one.value) == of_bytes(other.value)
    assert isinstance(of_bytes(one.value), ActionDecided)


@given(
    at=MOMENTS,
    ident=NAMES,
    source=NAMES,
    key=KEYS,
    trace=TRACES,
    status=st.sampled_from(ExecutionStatus),
    latency_ms=st.floats(0, 1e9),
    error=MAYBE,
)
@settings(deadline=None)
def test_a_written_outcome_is_the_event_that_the_models_make(
    *, at: Any, ident: str, source: str, key: Any, trace: Any, status: Any, latency_ms: float, error: Any
) -> None:
    receipt = Receipt(
        decision_id=ident,
        decided_at=at,
        environment="production",
        workflow="w",
        tool="t",
        stage=Stage.DRAFT_WRITE,
        epoch="e",
    )
    written, made = Raw(), Raw()
    fast = Recorder(written, source=source, key=key, now=lambda: at, new_id=lambda: ident)
    slow = Recorder(made, source=source, key=key, now=lambda: at, new_id=lambda: ident)
    fast.ran(ident, receipt.token(key), status, latency_ms=latency_ms, error_type=error, traceparent=trace)
    slow.executed(receipt, status, latency_ms=latency_ms, error_type=error, traceparent=trace)
    (one,), (other,) = written.records, made.records
    assert one[:2] == other[:2]
    assert of_bytes(one.value) == of_bytes(other.value)
    assert isinstance(of_bytes(one.value), ActionExecuted)
