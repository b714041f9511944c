"""The rights that one worker of a lake holds: to judge, and to keep the lake small; and the keeping itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from analytics.lake.leases import JUDGE, MAINTENANCE, Lease
from analytics.lake.tables import Lake
from analytics.maintenance import Maintenance, compact

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from analytics.lake.tables import Fence
    from analytics.maintenance import RetentionPolicy

LOG: Final = logging.getLogger(__name__)


class Leases:
    """What this worker may do that only one may at a time. Safe to share between threads.

    Args:
        lake_root: Root of the lake.
        judges: Whether this worker wants to judge at all.
    """

    def __init__(self, lake_root: str, *, judges: bool) -> None:
        self._judge = Lease(lake_root, JUDGE) if judges else None
        self._keep = Lease(lake_root, MAINTENANCE)

    @property
    def to_judge(self) -> Fence | None:
        """The right to judge; None while somebody else has it."""
        return None if self._judge is None else self._judge.fence

    @property
    def to_keep(self) -> Fence | None:
        """The right to keep the lake; None while somebody else has it."""
        return self._keep.fence

    def beat(self) -> None:
        """Keep what is held, and try to get the rest; see `Lease.held`.

        Raises:
            LakeError: The lake cannot be read or written.
        """
        if self._judge is not None:
            self._judge.held()
        self._keep.held()

    def give_up(self) -> None:
        """Let others have them at once."""
        for claim in (self._judge, self._keep):
            if claim is not None:
                claim.release()


class MaintenanceRunner:
    """Keeps the lake while this worker has the right to. One thread at a time may use it.

    Args:
        lake_root: Root of the lake.
        gate_file: The gate file in force.
        policy: What is kept for how long.
        every_s: Seconds between two rounds of the slow part; 0 leaves it to others.
        now: The clock.
    """

    def __init__(
        self, lake_root: str, gate_file: Path, policy: RetentionPolicy, *, every_s: float, now: Callable[[], datetime]
    ) -> None:
        self._lake_root = lake_root
        self._gate_file = gate_file
        self._policy = policy
        self._every_s = every_s
        self._now = now
        self._kept_at: float | None = None

    def keep(self, fence: Fence | None) -> None:
        """Fold small files, and now and then roll up, take out and delete.

        Args:
            fence: The right to; without it nothing is done.

        Raises:
            FencedError: Somebody else has the right now.
            LakeError: Small files cannot be folded; the tables are as they were.
        """
        if fence is None:
            return
        lake = Lake.open(self._lake_root)
        compact(lake, fence=fence)
        at = time.monotonic()
        if not self._every_s or (self._kept_at is not None and at < self._kept_at + self._every_s):
            return
        self._kept_at = at
        for step in Maintenance(lake, self._policy, self._gate_file, fence=fence).run(self._now()):
            LOG.log(logging.WARNING if step.failed else logging.INFO, "maintenance: %s", step.to_dict())
