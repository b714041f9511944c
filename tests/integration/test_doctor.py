"""The doctor against real brokers and workers: it finds what was broken, and says nothing is where nothing is."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient, NewTopic
from workers import Spoken, WorkerProcess, await_drained, await_that

from analytics.lake.table_schemas import VERDICTS
from producers.wire.topics import DECISIONS, OUTCOMES
from stagekeeper.commands import cli
from stagekeeper.doctor.check_result import CheckResult, CheckState
from stagekeeper.doctor.flow_checks import check_broker
from stagekeeper.doctor.run import run_checks
from stagekeeper.embedded.status import row_count
from stagekeeper.settings import Settings
from streams.broker import EmbeddedBroker, ensure_topics
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GATES = Path(__file__).parents[2] / "examples" / "gates.yaml"


def checks(settings: Settings, *workers: str, wait: Callable[[float], None] = time.sleep) -> dict[str, CheckResult]:
    found = run_checks(settings, workers=workers, watch_s=2.5, now=lambda: datetime.now(UTC), wait=wait)
    return {result.check: result for result in found}


def faults(found: dict[str, CheckResult]) -> dict[str, CheckState]:
    return {check: result.state for check, result in found.items() if result.state is not CheckState.PASS}


def test_a_healthy_whole_passes_and_each_thing_that_breaks_is_named(
    either_broker: Broker, lake_root: str, tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path, kafka_bootstrap_servers=either_broker.address, lake_root=lake_root, gate_file=GATES
    )
    worker = WorkerProcess(tmp_path, either_broker, lake_root, environment={"STAGEKEEPER_GATE_FILE": str(GATES)})
    try:
        web = str(worker.await_ready()["web"])
        spoken = Spoken(either_broker)
        spoken.say(200)
        lake = await_drained(either_broker, lake_root)
        # Rows, not a version: a judge's tenure begins with an empty commit.
        await_that(lambda: row_count(lake, VERDICTS) > 0, "the first verdicts")
        await_drained(either_broker, lake_root)  # what the judge published of them, too
        found = checks(settings, web)
        assert faults(found) == {"key": CheckState.WARN}, found
        assert "the lake covers all" in found["lag"].evidence
        assert "1 read the log" in found["worker"].evidence

        def speak(seconds: float) -> None:
            time.sleep(seconds)  # the time between two looks
            spoken.say(300)

        worker.process.send_signal(signal.SIGSTOP)
        spoken.say(100)
        # Past the newest commit by more than the doctor calls a stall.
        await_that(lambda: (datetime.now(UTC) - lake.committed_at("signals")).total_seconds() > 10, "ten seconds")
        found = checks(settings, web, wait=speak)
        assert found["lag"].state is CheckState.FAIL
        assert "it grows by" in found["lag"].evidence
        if isinstance(either_broker, EmbeddedBroker):  # elsewhere its session is over: nobody reads at all
            assert found["commits"].state is CheckState.FAIL, found
            assert found["worker"].state is CheckState.WARN
            assert f"{web} does not answer" in found["worker"].evidence
        else:
            assert found["worker"].state is CheckState.FAIL

        worker.kill()
        found = checks(settings)
        assert found["worker"].state is CheckState.FAIL, found
        assert "0 read the log" in found["worker"].evidence
        assert found["lag"].state is CheckState.WARN
        assert found["commits"].state is CheckState.UNKNOWN
        assert found["freshness"].state is CheckState.UNKNOWN
    finally:
        worker.process.send_signal(signal.SIGCONT)
        worker.kill()


def test_the_command_tells_by_its_exit_code_and_in_json(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    environment = {
        "STAGEKEEPER_HOME": str(tmp_path),
        "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": own_broker.address,
        "STAGEKEEPER_GATE_FILE": str(GATES),
    }
    said = CliRunner().invoke(cli, ["doctor", "--watch", "0s", "--json"], env=environment)
    assert said.exit_code == 1
    document = json.loads(said.stdout)
    states = {result["check"]: result["state"] for result in document["checks"]}
    assert (states["broker"], states["topics"], states["lake"], states["worker"]) == ("pass", "pass", "fail", "fail")
    assert document["counts"]["fail"] == list(states.values()).count("fail")
    assert not (tmp_path / "lake").exists()
    said = CliRunner().invoke(cli, ["doctor", "--watch", "0s"], env=environment)
    assert said.exit_code == 1
    assert "→ Start one: `stagekeeper worker`." in said.output
    assert CliRunner().invoke(cli, ["doctor", "--worker", "nonsense"], env=environment).exit_code != 0


@pytest.fixture
def bare_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker without topics."""
    started = EmbeddedBroker.start(tmp_path / "bare", port=available_port())
    yield started
    started.stop()


def test_missing_topics_are_named_and_not_created(bare_broker: EmbeddedBroker) -> None:
    for _ in range(2):
        results, inspected = check_broker(bare_broker.address, {})
        states = {result.check: result for result in results}
        assert states["broker"].state is CheckState.PASS
        assert states["topics"].state is CheckState.FAIL
        assert f"these do not exist: {DECISIONS}, {OUTCOMES}" in states["topics"].evidence
        assert inspected is not None
        assert inspected.cluster_id == bare_broker.cluster_id


def test_unusable_topics_are_named(bare_broker: EmbeddedBroker) -> None:
    client = AdminClient({"bootstrap.servers": bare_broker.address})
    for created in client.create_topics([NewTopic(DECISIONS, 1)]).values():
        created.result()
    with pytest.raises(Exception, match="has 1 partitions, 4 are needed"):
        ensure_topics(bare_broker.address)
    results, _ = check_broker(bare_broker.address, {})
    assert results[-1].state is CheckState.FAIL
    assert f"{DECISIONS} has 1 partitions, 4 are needed" in results[-1].evidence


def test_a_broker_that_is_away_is_named_and_the_rest_is_still_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.broker._ANSWER_TIMEOUT_S", 0.5)  # nobody will answer
    settings = Settings(home=tmp_path, kafka_bootstrap_servers="127.0.0.1:1", gate_file=GATES)
    found = checks(settings, wait=lambda _: None)
    assert found["broker"].state is CheckState.FAIL
    assert "no Kafka broker answers at 127.0.0.1:1" in found["broker"].evidence
    assert "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS" in found["broker"].fix
    assert "topics" not in found
    assert found["lag"].state is CheckState.UNKNOWN
    assert found["gate file"].state is CheckState.PASS
    assert checks(settings.model_copy(update={"kafka_bootstrap_servers": None}), wait=lambda _: None)[
        "broker"
    ].evidence.startswith("no Kafka broker is known")
