"""A day of small commits through the pipeline and the real maintenance, compressed: files, bytes and the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from fakes import KEY, NOON, FakeClock, a_decided, a_receipt
from source_logs import FIRST, Letters

from analytics import maintenance
from analytics.lake import storage
from analytics.lake.leases import MAINTENANCE, Lease
from analytics.lake.table_schemas import EVENTS, SIGNALS, TABLES
from analytics.lake.tables import Lake
from analytics.maintenance import RetentionPolicy
from producers.wire.events import event_to_bytes
from streams.control import maintenance_runner
from streams.control.maintenance_runner import MaintenanceRunner
from streams.ingest.pipeline import Assignment, Pipeline
from streams.ingest.records import Batch, PartitionRecords
from streams.ingest.recovery import resume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A_BATCH = 40  # events
MAINTAINED_EVERY = 10  # batches
MOST_REWRITES = 4


class Day:
    """Batches that are committed one after the other, and what lay on disk meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root, self.lake, self.clock, self.offset = root, Lake.open(str(root)), FakeClock(), 0
        # Long after everything that is committed: each grace has passed at once.
        self.runner = MaintenanceRunner(
            str(root),
            root / "no gates.yaml",
            RetentionPolicy(),
            every_s=0,
            now=lambda: datetime.now(UTC) + timedelta(hours=1),
        )
        self.pipeline = Pipeline(self.lake, Letters(), key=KEY, now=self.clock)  # type: ignore[arg-type]
        self.pipeline.assign(Assignment(1, resume(self.lake, {FIRST: (0, 10**9)})))
        self.number = 1
        self.rows: dict[str, dict[str, int]] = {EVENTS: {}, SIGNALS: {}}  # of each file that there ever was, by path
        self.bytes: dict[str, dict[str, int]] = {EVENTS: {}, SIGNALS: {}}

    def commit(self) -> None:
        """Commit the events of a second."""
        records = PartitionRecords()
        for _ in range(A_BATCH):
            receipt = a_receipt(
                decision_id=f"d-{self.offset}", decided_at=NOON + timedelta(seconds=self.offset // A_BATCH)
            )
            value = event_to_bytes(a_decided(receipt, event_id=f"e-{self.offset}", key=KEY))
            records.add(self.offset, b"key", value, 1_700_000_000_000)
            self.offset += 1
        self.number += 1
        self.clock.advance(1)
        self.pipeline.commit(self.pipeline.fold(Batch(self.number, {FIRST: records})))

    def note(self) -> None:
        """Note the files that are new."""
        for table in self.bytes:
            for path in (self.root / table).glob("*.parquet"):
                if path.name not in self.bytes[table]:
                    self.bytes[table][path.name] = path.stat().st_size
                    self.rows[table][path.name] = pq.read_metadata(path).num_rows

    def on_disk(self, table: str) -> tuple[int, int]:
        """Files of the log, and of the data."""
        root = self.root / table
        return sum(1 for _ in (root / "_delta_log").iterdir()), sum(1 for _ in root.glob("*.parquet"))


def split(files: dict[str, int]) -> Iterator[int]:
    """What was added, and what was written when that was folded."""
    yield sum(count for name, count in files.items() if not name.startswith("level-"))
    yield sum(count for name, count in files.items() if name.startswith("level-"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batches", "fan_out", "checkpoint_every"),
    [
        pytest.param(100, 4, 10, id="small"),
        pytest.param(8_640, 32, 100, id="as configured", marks=pytest.mark.exhaustive),
    ],
)
def test_a_day_of_small_commits_leaves_few_files_and_a_short_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int, fan_out: int, checkpoint_every: int
) -> None:
    monkeypatch.setattr(maintenance, "COMPACT_FILES", fan_out)
    monkeypatch.setattr(maintenance_runner, "CHECKPOINT_EVERY", checkpoint_every)
    monkeypatch.setitem(storage._CONFIGURATION, "delta.checkpointInterval", str(checkpoint_every))  # noqa: SLF001
    day = Day(tmp_path / "lake")
    lease = Lease(day.lake.root, MAINTENANCE)
    most_log = most_data = 0
    for number in range(batches):
        day.commit()
        if number % MAINTAINED_EVERY == MAINTAINED_EVERY - 1:
            day.note()
            assert lease.held()
            day.runner.run_once(lease.fence)
            day.note()
            for table in TABLES:
                log, data = day.on_disk(table)
                most_log, most_data = max(most_log, log), max(most_data, data)
    # Commits since the last cleaning, and since the checkpoint before it; folds are commits, too.
    assert most_log <= 3 * checkpoint_every + 2 * MAINTAINED_EVERY
    # Levels that are not full, and what was folded since the last cleaning.
    assert most_data <= 4 * fan_out + 2 * checkpoint_every
    for table in (EVENTS, SIGNALS):
        added, folded = split(day.bytes[table])
        assert folded <= MOST_REWRITES * added
        added, folded = split(day.rows[table])
        assert folded <= MOST_REWRITES * added, "also where a small file is mostly footer"
    assert day.lake.version("rejects") == 0
    stored = day.lake.scan(EVENTS).select("offset").collect()["offset"]
    assert sorted(stored) == list(range(batches * A_BATCH))
    assert day.lake.scan(SIGNALS).select("decisions").collect().sum().item() == batches * A_BATCH
    again = resume(Lake.open(day.lake.root), {FIRST: (0, 10**9)})[FIRST]
    assert (again.start, again.events) == (batches * A_BATCH, batches * A_BATCH - 1)
    lease.release()
