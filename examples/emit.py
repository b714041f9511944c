"""A tool router in twenty lines: decide, execute, and say what happened. Needs a broker: `stagekeeper up`."""

# ruff: noqa: INP001, T201 - an example is a script, and it prints
from __future__ import annotations

import time

import stagekeeper as sk
from stagekeeper.settings import Settings

contract = sk.ActionContract(
    actor=sk.Actor(agent="support-agent", user="user-17"),
    intent="the customer was charged twice",
    target=sk.Target(environment="production", system="billing", record="invoice-4711"),
    tool="issue_refund",
    workflow="refunds",
    risk_class=sk.RiskClass.EXTERNAL_EFFECT,
    reversibility=sk.Reversibility.MANUAL,
)
flag = sk.FlagEvaluation(key="agent-action-mode", variant="autonomous", reason=sk.FlagReason.STATIC)
settings = Settings.load()
with sk.KafkaEmitter(settings.require_kafka()) as emitter:
    recorder = sk.Recorder(emitter, source="/routers/example", key=settings.signing_key)
    receipt = recorder.decided(contract, sk.Decision(result=sk.Allow(), flags=(flag,)), stage=sk.Stage.NARROW_AUTONOMY)
    began = time.perf_counter()
    # ... the refund itself happens here ...
    recorder.executed(receipt, sk.ExecutionStatus.SUCCEEDED, latency_ms=(time.perf_counter() - began) * 1000)
    recorder.undone(receipt, sk.UndoResult.UNDONE, reason="it was the bank's mistake")
print(f"delivered {emitter.stats.delivered} events about decision {receipt.decision_id}")
