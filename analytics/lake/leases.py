"""Leases that one process at a time holds, on a folder as on object storage.

A right is a number in the log of the table `claims`: its beat. Whoever takes the right, keeps it or gives it up moves
the beat by one, in a commit that is refused when the beat is not what the writer last saw. A holder moves it all the
time; whoever sees it stand still for a lease, by its own clock, takes the right. No two clocks are compared. A holder
that surely is gone (a process of the same machine that has ended) is not waited for.

A holder that slept through its lease may not know that it lost its right. So what a right is for carries its fence: the
beat at which this tenure began goes into the commit as the table's highest epoch of that name, and Delta refuses a
commit whose epoch is lower, or that another one overtook. A new holder raises the fence of a table before it reads
there: from then on nothing of an earlier holder can come.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import polars as pl

from analytics.lake.commits import Advance, Fence
from analytics.lake.errors import FencedError, LakeError
from analytics.lake.table_schemas import COLUMNS, LEASES
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LOG: Final = logging.getLogger(__name__)

LEASE_S: Final = 15.0
"""Seconds without a beat after which a right may be taken from its holder."""

JUDGE: Final = "judge"
MAINTENANCE: Final = "maintenance"
RIGHTS: Final = (JUDGE, MAINTENANCE)
"""What can be claimed."""

_BEATS_A_LEASE: Final = 4


class _Beat(NamedTuple):
    """What the log of `claims` says about a right."""

    name: str

    @property
    def app_id(self) -> str:
        return f"beat/{self.name}"


class Lease:
    """A right over a lake, and this process's attempts to hold it. Safe to share between threads.

    Args:
        root: Root of the lake, which exists.
        name: What is claimed, one of `RIGHTS`.
        lease_s: Seconds without a beat after which the right may be taken; the same for everybody.
        clock: Seconds that only rise.
        holder: Who asks, for people to read.
    """

    def __init__(
        self,
        root: str,
        name: str,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
        holder: str | None = None,
    ) -> None:
        self._lake = Lake.open_only(root, LEASES)
        self._name = name
        self._beat_of = _Beat(name)
        self._lease_s = lease_s
        self._clock = clock
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()} {this_process()}".strip()
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._beat: int | None = None
        self._moved_at = clock()
        self._last: Holder | None = None

    @property
    def fence(self) -> Fence | None:
        """The fence of this tenure, as far as is known without asking; None while the right is not held."""
        epoch = self._epoch
        return None if epoch is None else Fence(self._name, epoch)

    def held(self) -> bool:
        """Whether this process has the right; keeps it, or tries to get it. Ask often: at least four times a lease.

        Raises:
            LakeError: The lake cannot be read or written, and the right is not held.
        """
        with self._lock:
            now = self._clock()
            if self._epoch is None:
                return self._take(now)
            if now - self._moved_at < self._lease_s / _BEATS_A_LEASE:
                return True
            return self._keep(now)

    def release(self) -> None:
        """Give it up, so that nobody has to wait for the lease to run out; where that cannot be told, it does."""
        with self._lock:
            if self._epoch is None:
                return
            self._epoch = None
            try:
                self._move(self._clock(), holder=None)
            except FencedError:
                return  # somebody else has it already
            except LakeError as error:
                LOG.warning(
                    "the right to %s could not be given up (%s); another worker gets it after %.0f s",
                    self._name,
                    error,
                    self._lease_s,
                )

    def _take(self, now: float) -> bool:
        beat = self._lake.stored_offsets(LEASES, [self._beat_of]).get(self._beat_of)
        if beat != self._beat or beat is None:
            self._beat, self._moved_at, self._last = beat, now, holders(self._lake).get(self._name)
        if now - self._moved_at < self._lease_s and not self._is_free():
            return False
        try:
            self._move(now, holder=self._holder)
        except FencedError:
            return False  # somebody else was faster
        self._epoch = self._beat
        return True

    def _keep(self, now: float) -> bool:
        try:
            self._move(now, holder=self._holder, quietly=True)
        except FencedError:
            self._epoch, self._beat = None, None
        except LakeError:
            # The store does not answer. Whoever can reach it takes over by then.
            if now - self._moved_at >= self._lease_s:
                self._epoch, self._beat = None, None
                raise
        return self._epoch is not None

    def _move(self, now: float, *, holder: str | None, quietly: bool = False) -> None:
        """Move the beat by one; a row says who has it now, unless that is known."""
        reached = (self._beat or 0) + 1
        row = {
            "name": self._name,
            "epoch": reached,
            "holder": holder,
            "taken_at": datetime.now(UTC),
            "lease_s": self._lease_s,
        }
        rows = pl.DataFrame([] if quietly else [row], schema=COLUMNS[LEASES], orient="row")
        self._lake.append(LEASES, rows, advances={self._beat_of: Advance(self._beat, reached)})
        self._beat, self._moved_at = reached, now

    def _is_free(self) -> bool:
        """Whether the last holder gave it up, or is gone."""
        beat, last = self._beat, self._last
        if beat is None or last is None:
            return True
        return last.epoch == beat if last.holder is None else is_gone(last.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Holder(NamedTuple):
    """Who last took a right, or gave it up.

    Attributes:
        holder: Host and process id; None where it was given up.
        epoch: Its beat then.
        taken_at: When, by the holder's clock.
        process: Its process (`analytics.lake.leases`); empty where it is not known.
    """

    holder: str | None
    epoch: int
    taken_at: datetime
    process: str = ""


def holders(lake: Lake) -> dict[str, Holder]:
    """Who last took each right, or gave it up; rights that nobody took yet are left out."""
    last = lake.scan(LEASES).sort("epoch").group_by("name").last().collect()
    found = {}
    for row in last.iter_rows(named=True):
        holder, _, process = (row["holder"] or "").partition(" ")
        found[row["name"]] = Holder(holder or None, row["epoch"], row["taken_at"], process)
    return found


_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")
_DEAD: Final = "ZX"
_STATE, _BEGAN = 0, 19
"""Places in `/proc/<pid>/stat` after the name, see proc(5)."""


def this_process() -> str:
    """A name for this process that no other has or will have; empty where the system does not tell (not Linux)."""
    where, pid = _where(), os.getpid()
    said = _stat(pid)
    return "" if where is None or said is None else f"{where}/{pid}/{said[_BEGAN]}"


def is_gone(name: str) -> bool:
    """Whether the process of this name (`this_process`) has surely ended; False where nobody here can tell."""
    parts = name.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != _where() or not parts[2].isdecimal():
        return False
    pid, began = int(parts[2]), parts[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and somebody else's
    said = _stat(pid)  # may be hidden from us
    return said is not None and (said[_BEGAN] != began or said[_STATE] in _DEAD)


def _where() -> str | None:
    """This machine since its last start, and the namespace."""
    try:
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.stat().st_ino}"
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
