"""A router that decides nothing tells what it holds, through a real broker, at once after an edit of the flag file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import Consumer, TopicPartition
from stage_stores import flag_file
from workers import await_that

import stagekeeper as sk
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.events import RouterStatus, event_from_bytes
from producers.wire.stage import Mode
from producers.wire.topics import ROUTERS
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from streams.broker import EmbeddedBroker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ACTION: Final = ActionName("production", "refunds", "issue_refund")
SOURCE: Final = "/routers/idle"


def test_an_idle_router_tells_the_version_that_it_holds(broker: EmbeddedBroker, tmp_path: Path) -> None:
    flags = flag_file(tmp_path / "flags", {ACTION: Mode.DRAFT_WRITE})
    (tmp_path / "authorization.yaml").write_text("version: 1\nrules: []\n")
    settings = Settings(home=tmp_path / "home", kafka_bootstrap_servers=broker.address)
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "idle", "enable.auto.commit": False})
    place = TopicPartition(ROUTERS, 0)
    place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
    consumer.assign([place])
    told: list[RouterStatus] = []

    def holds(version: str) -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            event = event_from_bytes(message.value() or b"")
            assert isinstance(event, RouterStatus)
            assert message.key() == event.source.encode()
            told.extend([event] if event.source == SOURCE else [])
        return bool(told) and told[-1].data.flags_sha256 == version

    stages = FlagdStages(flags)
    before = stages.read(ACTION).version
    files = {"flags": flags, "authorization": tmp_path / "authorization.yaml"}
    try:
        with sk.open_router(source=SOURCE, environment="production", settings=settings, **files):
            await_that(lambda: holds(before), "the first status", every_s=0.0)
            after = stages.change(StageChange(ACTION, Mode.SEARCH_ONLY, before), before_write=lambda _: None).version
            await_that(lambda: holds(after), "the status after the edit", every_s=0.0)
    finally:
        consumer.close()
    assert told[-1].data.since is not None
    assert told[-1].data.since > told[0].time
