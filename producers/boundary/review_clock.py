"""A clock for time limits: it does not go back where the machine's clock is set back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere only the latest moment seen is a floor


@dataclass(frozen=True, slots=True)
class ClockMark:
    """The latest moment that was seen, and how long the machine had been up by then."""

    moment: datetime
    boot: str  # names the start of the machine; empty where it has no name
    uptime_s: float


class ReviewClock:
    """Tells moments that are at least as late as any it told before, and as much later as time has passed since.

    The machine's uptime says how much has passed; nobody can set it. Marks may come from other processes, by a file.
    """

    def __init__(self, now: Callable[[], datetime], uptime_s: Callable[[], float] | None = None) -> None:
        self._now = now
        self._uptime_s = uptime_s or machine_uptime_s
        self._boot = _boot_id()
        self._own: ClockMark | None = None  # of this process, which needs no name of a boot

    def read(self, mark: ClockMark | None) -> ClockMark:
        """The moment it is, no earlier than a mark from the past lets it be."""
        uptime_s = self._uptime_s()
        moments = [self._now().astimezone(UTC)]
        if self._own is not None:
            moments.append(_since(self._own, uptime_s))
        if mark is not None:
            same_boot = bool(self._boot) and mark.boot == self._boot
            moments.append(_since(mark, uptime_s) if same_boot else mark.moment)
        self._own = ClockMark(max(moments), self._boot, uptime_s)
        return self._own


def machine_uptime_s() -> float:
    """Seconds since the machine's start, its sleep included where the system counts that."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _since(mark: ClockMark, uptime_s: float) -> datetime:
    return mark.moment + timedelta(seconds=max(0.0, uptime_s - mark.uptime_s))


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
