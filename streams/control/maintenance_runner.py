"""The leases of one worker, to judge and to maintain the lake, and the maintenance that it does under one of them."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from analytics.audit.sealing import Anchor, KnownHeads, Sealer
from analytics.lake.chain import AlteredHistoryError
from analytics.lake.leases import ENACTOR, JUDGE, MAINTENANCE, Lease
from analytics.lake.storage import CHECKPOINT_EVERY
from analytics.lake.table_schemas import TABLES
from analytics.lake.tables import Fence, Lake
from analytics.maintenance import Maintenance, RetentionPolicy, compact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from analytics.audit.signed_note import Signer
    from analytics.maintenance import Step

LOG: Final = logging.getLogger(__name__)


class Leases:
    """The leases that this worker holds or tries to get. Safe to share between threads."""

    def __init__(self, lake_root: str, *, judges: bool, enacts: bool = False) -> None:
        names = {JUDGE: judges, ENACTOR: enacts, MAINTENANCE: True}
        self._leases = {name: Lease(lake_root, name) for name, wanted in names.items() if wanted}

    @property
    def judge(self) -> Fence | None:
        """Proof of the lease to judge; None while somebody else holds it."""
        return self._fence(JUDGE)

    @property
    def enactor(self) -> Fence | None:
        """Proof of the lease to enact; None while somebody else holds it."""
        return self._fence(ENACTOR)

    @property
    def maintenance(self) -> Fence | None:
        """Proof of the lease to maintain the lake; None while somebody else holds it."""
        return self._fence(MAINTENANCE)

    def _fence(self, name: str) -> Fence | None:
        lease = self._leases.get(name)
        return None if lease is None else lease.fence

    def refresh(self) -> None:
        """Keep what is held, and try to get the rest (`Lease.held`); raises `LakeError` where the lake fails."""
        for lease in self._leases.values():
            lease.held()

    def release(self) -> None:
        """Let others have them at once."""
        for lease in self._leases.values():
            lease.release()


@dataclass
class MaintenanceRunner:
    """Maintains the lake while this worker holds the lease for it. One thread at a time may use it."""

    lake_root: str
    gate_file: Path
    policy: RetentionPolicy
    every_s: float  # between two rounds of the slow part; 0 leaves it to others
    now: Callable[[], datetime]
    seal_every_s: float = 0.0  # between two seals of the transparency logs; 0 leaves them to others
    signers: Sequence[Signer] = ()
    _last_seal_s: float = -math.inf
    _sealed: KnownHeads = field(default_factory=KnownHeads)
    _last_round_s: float | None = None
    _cleaned: dict[str, int] = field(default_factory=dict)  # by table, the version at which it was cleaned last

    def run_once(self, fence: Fence | None) -> None:
        """Fold small files, and delete what a hundred commits left behind; the rest once `every_s` has passed.

        Nothing without the lease.

        Raises:
            FencedError: Somebody else holds the lease now.
            LakeError: Small files cannot be folded; the tables are as they were.
        """
        if fence is None:
            return
        lake = Lake.open(self.lake_root)
        compact(lake, fence=fence)
        maintenance = Maintenance(lake, self.policy, self.gate_file, fence=fence)
        versions = {table: lake.version(table) for table in TABLES}
        grown = [table for table in TABLES if versions[table] >= self._cleaned.get(table, 0) + CHECKPOINT_EVERY]
        self._say(maintenance.clean(self.now(), grown))
        self._cleaned.update({table: versions[table] for table in grown})
        self._seal(lake, fence)
        now_s = time.monotonic()
        if not self.every_s or (self._last_round_s is not None and now_s < self._last_round_s + self.every_s):
            return
        self._last_round_s = now_s
        self._say(maintenance.run(self.now()))

    def _seal(self, lake: Lake, fence: Fence) -> None:
        if not self.seal_every_s or time.monotonic() < self._last_seal_s + self.seal_every_s:
            return
        self._last_seal_s = time.monotonic()
        try:
            anchor = Anchor.of_lake(lake.root)
            Sealer(lake, self.signers, anchor, now=self.now, fence=fence, known=self._sealed).run()
        except AlteredHistoryError as error:
            LOG.error("nothing is sealed any more: %s", error)  # noqa: TRY400 - the sentence says all

    @staticmethod
    def _say(steps: Iterable[Step]) -> None:
        for step in steps:
            LOG.log(logging.WARNING if step.failed else logging.INFO, "maintenance: %s", step.to_dict())
