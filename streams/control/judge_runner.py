"""Run the judge of a worker, and publish what it recommends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl
from confluent_kafka import KafkaException

from analytics.judging.judge import Judge
from analytics.lake.errors import FencedError
from analytics.lake.storage import reading
from analytics.lake.table_schemas import COLUMNS, JUDGE_HEARTBEATS, VERDICTS
from analytics.lake.tables import Fence, Lake
from producers.errors import StagekeeperError
from producers.wire.events import HEADERS, EventRecord, StageRecommended
from producers.wire.topics import RECOMMENDATIONS
from streams.lag import Backlog
from streams.publisher import Publisher, Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from streams.broker import KafkaSettings

DEFAULT_INTERVAL_S: Final = 1.0  # seconds between two looks while no gate file can be read


@dataclass(frozen=True)
class JudgeRun:
    """What came of one run of the judge."""

    fault: str | None  # why nothing could be judged or published; None where all went well
    next_in_s: float  # when to look again


class JudgeRunner:
    """A judge with its own lake handle, and a producer for what it recommends. One thread at a time may use it.

    The gate file may be missing or broken; it is looked at again at every run.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        log_id: str,
        lake_root: str,
        gate_file: Path,
        *,
        now: Callable[[], datetime],
        settings: KafkaSettings | None = None,
    ) -> None:
        self._now = now
        self._lake = Lake.open(lake_root)
        self._gate_file = gate_file
        self._fence: Fence | None = None
        self._judge = Judge(self._lake, gate_file)
        self._unpublished: list[StageRecommended] = []
        self._backlog = Backlog(bootstrap_servers, log_id, settings)
        self._publisher = Publisher(
            bootstrap_servers, RECOMMENDATIONS, client_id="stagekeeper-judge", settings=settings
        )

    def run_once(self, fence: Fence) -> JudgeRun:
        """Judge what changed and publish what is news. A new fence begins a tenure with what the ledger says by then.

        A failure of the lake or the broker is reported and tried again at the next run; nothing is promoted by it. What
        could not be published stays in the ledger and is published with the next success.

        Raises:
            FencedError: Somebody else judges now.
        """
        try:
            if fence != self._fence:
                # From here on nothing of an earlier holder can come, so what is read below is the last word.
                for table in (VERDICTS, JUDGE_HEARTBEATS):
                    self._lake.append(table, pl.DataFrame(schema=COLUMNS[table]), fence=fence)
                self._judge, self._unpublished = Judge(self._lake, self._gate_file, fence=fence), []
                self._fence = fence
            with reading(self._lake.root):
                self._unpublished += self._judge.tick(self._now(), caught_up=self._backlog.caught_up(self._lake))
            records = map(EventRecord.from_event, self._unpublished)
            self._publisher.publish([Record(record.key, record.value, HEADERS) for record in records])
        except FencedError:
            self._fence = None
            raise
        except StagekeeperError as error:
            return JudgeRun(str(error), self._interval_s)
        except KafkaException as error:
            return JudgeRun(f"the broker does not answer: {error.args[0].str()}", self._interval_s)
        self._unpublished = []
        return JudgeRun(
            self._judge.gate_error or self._judge.history_fault, 0.0 if self._judge.has_more else self._interval_s
        )

    @property
    def _interval_s(self) -> float:
        gates = self._judge.gates
        return DEFAULT_INTERVAL_S if gates is None else gates.interval_s
