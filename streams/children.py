"""Start and stop child processes, each in its own process group with its own log, none outliving its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from producers.errors import StagekeeperError
from streams import child_launcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class ChildError(StagekeeperError):
    """A child process could not start, or ended when it should not have."""


@dataclass(frozen=True)
class Child:
    """A running child process."""

    name: str  # what people call it
    process: subprocess.Popen[bytes]  # its id is also the id of its process group
    log: Path
    stop_signal: signal.Signals  # asks it to end

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Self:
        """Start a command, and append its stdout and stderr to `log`.

        Its arguments are visible to every user of the machine: no secrets. It dies with the thread that calls this
        (Linux), so call it from one that stays. `environment` comes on top of this process's own.

        Raises:
            ChildError: The operating system refused.
        """
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", child_launcher.__file__, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    process_group=0,  # a Ctrl-C in the terminal reaches the parent only, which stops all in order
                )
        except OSError as error:
            raise ChildError(f"{name} cannot be started: {error}") from error
        return cls(name, process, log, stop_signal)

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        """Ask it to end, without waiting."""
        self._signal(self.stop_signal)

    def stop(self, grace_s: float) -> bool:
        """Ask it to end, and `reap` it."""
        self.ask_to_stop()
        return self.reap(grace_s)

    def reap(self, grace_s: float) -> bool:
        """Wait up to `grace_s` seconds, then kill its whole process group; whether it ended by itself."""
        try:
            self.process.wait(max(grace_s, 0.0))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
            return False
        return True

    def reason(self) -> str:
        """How it ended: its exit status or signal, where its log is, and the last line of that."""
        status = self.process.poll()
        if status is None:
            return f"{self.name} is running"
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        last = self._last_line()
        return f"{self.name} ended with {how}{f': {last}' if last else ''} (log: {self.log})"

    def _last_line(self) -> str:
        try:
            text = self.log.read_bytes()[-4_000:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return next(iter(reversed(text.strip().splitlines())), "").strip()

    def _signal(self, number: signal.Signals) -> None:
        # Until it has been waited for, its id cannot belong to another process: the poll comes first.
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
                os.killpg(self.process.pid, number)
