"""Run the enactor of a worker, and publish the policy changes that it makes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from polars.exceptions import PanicException

from analytics.lake.errors import FencedError
from analytics.lake.tables import Lake
from producers.errors import StagekeeperError
from producers.wire.events import HEADERS, EventRecord
from producers.wire.topics import POLICY_CHANGES
from streams.control.enactor import Enactor
from streams.control.enactor_faults import fault_of
from streams.control.enactor_report import EnactorReport
from streams.control.pauses import Pauses
from streams.publisher import Publisher, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics.lake.tables import Fence
    from producers.boundary.stage_store import StageStore
    from producers.wire.events import PolicyChanged
    from streams.control.router_statuses import RouterStatuses
    from streams.worker_config import WorkerConfig

LOG: Final = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5

_PATIENCE_S: Final = 2.0  # for the broker: what it does not take is published again, and no rollback waits for it


class EnactorRunner:
    """An enactor with its own lake handle, and a producer for what it has to tell. One thread at a time may use it."""

    def __init__(
        self,
        config: WorkerConfig,
        stages: StageStore,
        routers: RouterStatuses | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
            routers=routers,
        )
        self._pauses = Pauses(clock)
        self.report = EnactorReport()  # of the last look

    def run_once(self, fence: Fence) -> EnactorReport:
        """Look once; a failure is reported, and what was begun is finished at a later look.

        One that nobody expected is logged with its trace, and the next look, after a pause, begins anew.

        Raises:
            FencedError: Somebody else enacts now.
        """
        if not self._pauses.over(None, "look"):
            return self.report
        try:
            self.report = self._enactor.look(fence)
            self._pauses.forget()
        except FencedError:
            raise
        except StagekeeperError as error:
            self.report = replace(self.report, fault=str(error), is_failing=True)
        except (Exception, PanicException) as error:
            LOG.exception("the enactor failed at a look")
            self._enactor.begin_anew()
            self._pauses.failed(None, "look")
            self.report = replace(self.report, fault=fault_of(error), is_failing=True)
        return self.report

    def _publish(self, events: list[PolicyChanged]) -> None:
        records = map(EventRecord.from_event, events)
        self._publisher.publish([Record(record.key, record.value, HEADERS) for record in records])
