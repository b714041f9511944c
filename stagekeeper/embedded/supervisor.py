"""A supervisor of child processes: restarts those that should run, and ends all of them in time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from streams.children import Child, ChildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

STEADY_S: Final = 60.0  # a child that lived this long (seconds) had started well: its next restart is quick again


def restart_delay_s(ends_in_a_row: int) -> float:
    """Seconds to wait before a restart: 1, 2, 4, ... up to 30, by how many times in a row it ended early."""
    return min(30.0, 2.0 ** (min(max(ends_in_a_row, 1), 10) - 1))


@dataclass(frozen=True)
class Program:
    """How a child is started, each time."""

    name: str
    command: tuple[str, ...]  # program and arguments; no secrets, they are visible to all
    log: Path  # file that takes its output
    environment: Mapping[str, str] = field(repr=False)  # variables on top of this process's own; secrets go here


class Supervisor:
    """Starts programs, restarts those that should run, and stops all of them; `say` takes one line for people."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: dict[str, Child] = {}

    def start(self, program: Program) -> Child:
        """Start a program, with a new log the first time; raises `ChildError` where the operating system refused.

        From the thread that stays: children end with the thread that started them.
        """
        if program.name not in self._children:
            program.log.unlink(missing_ok=True)
        child = Child.start(program.name, program.command, log=program.log, environment=program.environment)
        self._children[program.name] = child
        return child

    async def keep(self, program: Program) -> None:
        """Restart a program that was started here whenever it ends, until this is cancelled."""
        early_ends = 0
        while True:
            began_s = time.monotonic()
            child = self._children[program.name]
            await ended(child)
            early_ends = 1 if time.monotonic() - began_s >= STEADY_S else early_ends + 1
            delay_s = restart_delay_s(early_ends)
            self._say(f"{child.reason()}; restarting in {delay_s:.0f} s")
            await asyncio.sleep(delay_s)
            self.start(program)

    async def repeat(
        self, program: Program, every_s: float, *, unremarkable: frozenset[int], ran: asyncio.Event | None = None
    ) -> None:
        """Run a program to its end, again and again with `every_s` seconds in between, until this is cancelled.

        Any other exit code than the unremarkable ones is printed. `ran` is set when a run has ended.
        """
        while True:
            child = self.start(program)
            await ended(child)
            if child.process.returncode not in unremarkable:
                self._say(f"{child.reason()}; next try in {every_s:.0f} s")
            if ran is not None:
                ran.set()
            await asyncio.sleep(every_s)

    def stop_all(self, grace_s: float) -> list[str]:
        """Ask every child to end, wait `grace_s` seconds in all, kill what is left, and give the names of those."""
        deadline_s = time.monotonic() + grace_s
        for child in self._children.values():
            child.ask_to_stop()
        return [name for name, child in self._children.items() if not child.reap(deadline_s - time.monotonic())]


async def ended(child: Child) -> None:
    """Return when a child has ended."""
    await asyncio.to_thread(child.process.wait)


async def await_ready(child: Child, ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Return once a child says that it is ready: neither a file that appears nor a port that answers can be waited for.

    Raises `ChildError`, with the reason and the place of the log, where it ended first or took longer than
    `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not await asyncio.to_thread(ready):
        if not child.running:
            raise ChildError(child.reason())
        if time.monotonic() > deadline_s:
            raise ChildError(f"{child.name} was not ready in {timeout_s:.0f} s (log: {child.log})")
        await asyncio.sleep(0.1)
