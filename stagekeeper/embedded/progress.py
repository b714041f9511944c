"""Progress lines of `stagekeeper up`: one for each step, and the status now and then."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

_ERASE_LINE = "\r\x1b[2K"


class ProgressPrinter:
    """Writes steps with the seconds since the start; on a terminal the live line, cut to its width, replaces itself."""

    def __init__(
        self,
        stream: TextIO,
        *,
        live_every_s: float = 15.0,
        width: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._width = width
        self._stream = stream
        self._terminal = stream.isatty()
        self._live_every_s = live_every_s
        self._began_s = time.monotonic()
        self._live_at_s = self._began_s
        self._live_shown = False

    def step(self, name: str, message: str) -> None:
        """Print a step that was reached: `[up   1.2 s] broker   embedded, at 127.0.0.1:9092`."""
        for line in message.splitlines() or [""]:
            self._write(f"[up {self._elapsed_s():5.1f} s] {name:<8} {line}\n")

    def live(self, message: str) -> None:
        """Print the status, now and then where the stream is no terminal."""
        if self._terminal:
            line = f"[up {self._elapsed_s():5.0f} s] {message}"
            self._stream.write(f"{_ERASE_LINE}{line[: self._width() - 1]}")
            self._stream.flush()
            self._live_shown = True
        elif time.monotonic() - self._live_at_s >= self._live_every_s:
            self._live_at_s = time.monotonic()
            self.step("status", message)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _write(self, text: str) -> None:
        self._stream.write(f"{_ERASE_LINE if self._live_shown else ''}{text}")
        self._stream.flush()
        self._live_shown = False
