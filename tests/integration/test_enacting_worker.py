"""A worker that enacts: from outcomes on the broker to a changed flag file, and the event that tells of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl
import pytest
from fakes import a_contract, a_decision
from stage_stores import flag_file
from webhook_receiver import SECRET, Receiver
from workers import PATIENCE_S, WorkerProcess, await_that, metrics

from analytics.enactment.enactments import SOURCE
from analytics.lake.table_schemas import EVENTS
from analytics.lake.tables import Lake
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.stage_store import ActionName
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.recorder import Recorder
from producers.wire.events import ExecutionStatus
from producers.wire.stage import Mode, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streams.broker import EmbeddedBroker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ACTION: Final = ActionName("production", "refunds", "issue_refund")
GATES: Final = (
    "version: 1\ninterval: 500ms\ngates: [{name: g, unit: action, on_roll_back: apply, "
    "signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def act(broker: EmbeddedBroker, stage: Stage, count: int) -> None:
    emitter = KafkaEmitter(broker.address, client_id="router")
    recorder = Recorder(emitter, source="/routers/a")
    for _ in range(count):
        receipt = recorder.decided(a_contract(), a_decision(), stage=stage, decided_at=datetime.now(UTC))
        recorder.executed(receipt, ExecutionStatus.FAILED, latency_ms=1.0, at=receipt.decided_at + timedelta(seconds=1))
    assert emitter.close(PATIENCE_S) == 0


def test_harm_changes_the_flag_file_is_told_and_is_in_force(
    own_broker: EmbeddedBroker, lake_root: str, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    (tmp_path / "webhooks.yaml").write_text(
        "version: 1\npage: https://stagekeeper.example.com/\nendpoints:\n"
        f"  - {{name: people, url: '{receiver.url}', secret_env: HOOK_SECRET, allow_private: true}}\n"
    )
    flags = flag_file(tmp_path / "flags", {ACTION: Mode.DRAFT_WRITE})
    environment = {
        "STAGEKEEPER_GATE_FILE": str(tmp_path / "gates.yaml"),
        "STAGEKEEPER_FLAG_FILE": str(flags),
        "STAGEKEEPER_WEBHOOKS_FILE": str(tmp_path / "webhooks.yaml"),
        "HOOK_SECRET": SECRET,
    }
    worker = WorkerProcess(tmp_path, own_broker, lake_root, "", "--enact", environment=environment)
    try:
        assert worker.await_ready()["enacts"] is True
        await_that(lambda: 'webhooks_waiting{endpoint="people"}' in metrics(worker), "the receiver to be known")
        act(own_broker, Stage.DRAFT_WRITE, 60)
        stages = FlagdStages(flags)
        await_that(lambda: stages.read(ACTION).mode is Mode.SEARCH_ONLY, "the rollback")
        lake = Lake.existing(lake_root)
        assert lake is not None

        def told() -> pl.DataFrame:
            return lake.scan(EVENTS).filter(pl.col("source") == SOURCE).collect()

        await_that(lambda: told().height == 1, "the policy change")
        act(own_broker, Stage.SEARCH_ONLY, 1)
        await_that(lambda: metrics(worker).get('recommendations{life="in force"}') == 1.0, "the proof")
        seen = metrics(worker)
        assert (seen["enacting"], seen["enactor_fault"], seen["changes_not_in_force"]) == (1.0, 0.0, 0.0)
        assert seen["verdict_to_applied_seconds_count"] == 1.0
        assert told().height == 1
        await_that(lambda: metrics(worker).get('cells{verdict="ROLL_BACK"}') == 1.0, "the metrics of the cell")
        seen = metrics(worker)
        assert seen["applied_to_in_force_seconds_count"] == 1.0
        assert [name for name in seen if name.startswith("cell_verdict") and 'stage="draft_write"' in name]
        await_that(lambda: len(receiver.taken) >= 3, "people to be told")
        assert receiver.lives == ["open", "applied", "in_force"]
        assert [body["data"]["verdict"] for body in receiver.verified()] == ["ROLL_BACK"] * 3
        assert receiver.taken[0]["data"]["link"].startswith("https://stagekeeper.example.com/action?environment=")
    finally:
        worker.kill()
