"""Run the enactor of a worker, and publish the policy changes that it makes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from analytics.lake.errors import FencedError
from analytics.lake.tables import Lake
from producers.errors import StagekeeperError
from producers.wire.events import HEADERS, EventRecord
from producers.wire.topics import POLICY_CHANGES
from streams.control.enactor import Enactor, EnactorReport
from streams.publisher import Publisher, Record

if TYPE_CHECKING:
    from analytics.lake.tables import Fence
    from producers.boundary.stage_store import StageStore
    from producers.wire.events import PolicyChanged
    from streams.worker_config import WorkerConfig

LOOK_EVERY_S: Final = 0.5

_PATIENCE_S: Final = 2.0  # for the broker: what it does not take is published again, and no rollback waits for it


class EnactorRunner:
    """An enactor with its own lake handle, and a producer for what it has to tell. One thread at a time may use it."""

    def __init__(self, config: WorkerConfig, stages: StageStore) -> None:
        self._publisher = Publisher(
            config.bootstrap_servers,
            POLICY_CHANGES,
            client_id="stagekeeper-enactor",
            settings=config.kafka,
            patience_s=_PATIENCE_S,
        )
        self._enactor = Enactor(
            Lake.open(config.lake_root),
            config.gate_file,
            stages,
            self._publish,
            now=config.now,
            freshness_s=config.freshness_s,
            effect_deadline_s=config.effect_deadline_s,
        )
        self.report = EnactorReport()  # of the last look

    def run_once(self, fence: Fence) -> EnactorReport:
        """Look once; a failure of the lake is reported, and what was begun is finished at a later look.

        Raises:
            FencedError: Somebody else enacts now.
        """
        try:
            self.report = self._enactor.look(fence)
        except FencedError:
            raise
        except StagekeeperError as error:
            self.report = replace(self.report, fault=str(error))
        return self.report

    def _publish(self, events: list[PolicyChanged]) -> None:
        records = map(EventRecord.from_event, events)
        self._publisher.publish([Record(record.key, record.value, HEADERS) for record in records])
