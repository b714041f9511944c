"""Leases that one process at a time holds, on a folder as on object storage, and the fences that they come with.

A lease is a number in the log of the table `leases`: its heartbeat. Taking, keeping and giving up each move it by one,
in a commit that is refused when it is not what the writer last saw. Whoever sees it stand still for `LEASE_S`, by its
own clock, takes the lease (no two clocks are compared), and at once where the holder is a process of the same machine
that has ended.

A holder that slept may not know that it lost its lease. So commits carry its fence, the heartbeat at which this tenure
began, as the table's highest epoch of that name; Delta refuses a lower one, or one that was overtaken. A new holder
raises the fence of a table before it reads there: from then on nothing of an earlier holder can come.
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

LOG: Final = logging.getLogger(__name__)

LEASE_S: Final = 15.0  # seconds without a heartbeat after which a lease may be taken from its holder

JUDGE: Final = "judge"
MAINTENANCE: Final = "maintenance"
ENACTOR: Final = "enactor"


class Heartbeat(NamedTuple):
    """The number in the log of `leases` that a lease is."""

    name: str

    @property
    def app_id(self) -> str:
        """The name under which it is stored; it is older than the word heartbeat."""
        return f"beat/{self.name}"


class Lease:
    """A lease (such as `JUDGE`) over a lake that exists, and this process's attempts to hold it; thread-safe.

    It may be taken after `lease_s` (the same for everybody) without a heartbeat, by a clock whose seconds only rise;
    the holder is for people to read. The lake is a handle of its own, opened unless given.
    """

    def __init__(
        self,
        root: str,
        name: str,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
        holder: str | None = None,
        lake: Lake | None = None,
    ) -> None:
        self._lake = lake or Lake.open_only(root, LEASES)
        self.name = name
        self._heartbeat = Heartbeat(name)
        self._lease_s = lease_s
        self._clock = clock
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()} {this_process()}".strip()
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._count: int | None = None
        self._moved_at = clock()
        self._last: Holder | None = None

    @property
    def fence(self) -> Fence | None:
        """The fence of this tenure, as far as is known without asking; None while the lease is not held."""
        return None if (epoch := self._epoch) is None else Fence(self.name, epoch)

    def held(self) -> bool:
        """Whether this process holds the lease; keeps it, or tries to get it. Ask at least four times a `lease_s`.

        Raises `LakeError` where the lake cannot be read or written, and the lease is not held.
        """
        with self._lock:
            now = self._clock()
            if self._epoch is None:
                return self._take(now)
            if now - self._moved_at < self._lease_s / 4:
                return True
            return self._keep(now)

    def release(self) -> None:
        """Give it up, so that nobody has to wait until it runs out; where that cannot be written, they do."""
        with self._lock:
            if self._epoch is None:
                return
            self._epoch = None
            try:
                self._move(self._clock(), holder=None)
            except FencedError:
                return  # somebody else has it already
            except LakeError as error:
                message = "the lease %s could not be given up (%s); another worker gets it after %.0f s"
                LOG.warning(message, self.name, error, self._lease_s)

    def _take(self, now: float) -> bool:
        count = self._lake.stored_offsets(LEASES, [self._heartbeat]).get(self._heartbeat)
        if count != self._count or count is None:
            self._count, self._moved_at = count, now
            self._last = holders(self._lake).get(self.name)
        if now - self._moved_at < self._lease_s and not self._is_free():
            return False
        try:
            self._move(now, holder=self._holder)
        except FencedError:
            return False  # somebody else was faster
        self._epoch = self._count
        return True

    def _keep(self, now: float) -> bool:
        try:
            self._move(now, holder=None, row=False)
        except FencedError:
            self._epoch, self._count = None, None
        except LakeError:
            # The store does not answer. Whoever can reach it takes over by then.
            if now - self._moved_at >= self._lease_s:
                self._epoch, self._count = None, None
                raise
        return self._epoch is not None

    def _move(self, now: float, *, holder: str | None, row: bool = True) -> None:
        """Move the heartbeat by one; a row says who has it now, unless that is known."""
        reached = (self._count or 0) + 1
        rows = holder_row(self.name, reached, holder, self._lease_s)
        advances = {self._heartbeat: Advance(self._count, reached)}
        self._lake.append(LEASES, rows if row else rows.clear(), advances=advances)
        self._count, self._moved_at = reached, now

    def _is_free(self) -> bool:
        """Whether the last holder gave it up, or is gone."""
        count, last = self._count, self._last
        if count is None or last is None:
            return True
        return last.epoch == count if last.holder is None else is_gone(last.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Holder(NamedTuple):
    """Who last took a lease, or gave it up."""

    holder: str | None  # host and process id; None where it was given up
    epoch: int  # the heartbeat then
    taken_at: datetime  # by the holder's clock
    process: str = ""  # its process (`this_process`); empty where it is not known


def holders(lake: Lake) -> dict[str, Holder]:
    """Who last took each lease, or gave it up; leases that nobody took yet are left out."""
    newest = lake.scan(LEASES).sort("epoch").group_by("name").last().collect()
    by_lease = {}
    for row in newest.iter_rows(named=True):
        holder, _, process = (row["holder"] or "").partition(" ")
        by_lease[row["name"]] = Holder(holder or None, row["epoch"], row["taken_at"], process)
    return by_lease


def holder_row(name: str, epoch: int, holder: str | None, lease_s: float = LEASE_S) -> pl.DataFrame:
    """A row of `leases`: who has a lease from now on; None gives it up."""
    return pl.DataFrame([[name, epoch, holder, datetime.now(UTC), lease_s]], schema=COLUMNS[LEASES], orient="row")


_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")
_DEAD: Final = "ZX"
_STATE, _BEGAN = 0, 19  # indices in `/proc/<pid>/stat` after the name, see proc(5)


def this_process() -> str:
    """A name for this process that no other has or will have; empty where the system does not tell (not Linux)."""
    machine, pid = _machine(), os.getpid()
    stat = _stat(pid)
    return "" if machine is None or stat is None else f"{machine}/{pid}/{stat[_BEGAN]}"


def is_gone(name: str) -> bool:
    """Whether the process of this name (`this_process`) has surely ended; False where nobody here can tell."""
    parts = name.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != _machine() or not parts[2].isdecimal():
        return False
    pid, began = int(parts[2]), parts[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and somebody else's
    stat = _stat(pid)  # may be hidden from us
    return stat is not None and (stat[_BEGAN] != began or stat[_STATE] in _DEAD)


def _machine() -> str | None:
    """This machine since its last start, and the process namespace."""
    try:
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.stat().st_ino}"
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
