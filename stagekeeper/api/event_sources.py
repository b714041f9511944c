"""Whose a source of events is: who first sends under it over HTTP, and nobody else; and how far its numbers may run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from stagekeeper.api.decision_service import owner_of
from stagekeeper.api.problems import ProblemError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from producers.wire.events import CloudEvent, EventRecord
    from stagekeeper.api.access_tokens import AccessToken
    from stagekeeper.api.decision_log import DecisionLog, LoggedEmitter

OWN_SOURCES: Final = "/stagekeeper/"  # how the sources of our own processes begin
MOST_AHEAD: Final = 1_000_000  # how far a record number may lie above the highest one of its incarnation
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS sources (source TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
    (
        "CREATE TABLE IF NOT EXISTS source_numbers (source TEXT NOT NULL, incarnation TEXT NOT NULL, "
        "highest INTEGER NOT NULL, PRIMARY KEY (source, incarnation)) WITHOUT ROWID"
    ),
)
_OWNER: Final = "SELECT owner FROM sources WHERE source = ?"
_HIGHEST: Final = "SELECT highest FROM source_numbers WHERE source = ? AND incarnation = ?"
_OWN: Final = "INSERT OR IGNORE INTO sources VALUES (?, ?)"
_COUNT: Final = "INSERT OR REPLACE INTO source_numbers VALUES (?, ?, ?)"


class EventSources:
    """The sources under which events came in, in the service's file. For one event loop."""

    def __init__(self, log: DecisionLog, emitter: LoggedEmitter, *, own: str) -> None:
        self._log = log
        self._emitter = emitter
        self._own = own  # the source under which the service itself records
        self._turn = asyncio.Lock()  # whoever is first under a source is on disk before the next one is looked at
        log.outbox.put_all((), _create)

    async def accept(self, token: AccessToken, events: Sequence[CloudEvent], records: Sequence[EventRecord]) -> None:
        """Put events of other routers on disk, on their way to the broker; `OutboxError` where none of them is.

        Raises `ProblemError` where one comes under another's source, or its number is far above those before it.
        """
        owner = owner_of(token)
        async with self._turn:
            numbers: dict[tuple[str, str], int] = {}
            sources = sorted({event.source for event in events})
            for source in sources:
                self._require_own(source, owner)
            for event in events:
                self._count(event, numbers)

            def write(file: sqlite3.Connection) -> None:
                file.executemany(_OWN, [(source, owner) for source in sources])
                file.executemany(_COUNT, [(*name, highest) for name, highest in numbers.items()])

            await self._emitter.append(records, write)

    def _require_own(self, source: str, owner: str) -> None:
        if source == self._own or source.startswith(OWN_SOURCES):
            raise ProblemError(403, "reserved_source", f"nobody else records as {source}; name the router's own source")
        rows = self._log.read(_OWNER, source)
        if rows and rows[0][0] != owner:
            raise ProblemError(
                403,
                "another_source",
                f"another agent or service sends events as {source}; give each router a source of its own",
            )

    def _count(self, event: CloudEvent, numbers: dict[tuple[str, str], int]) -> None:
        if event.recordnumber is None:
            return
        incarnation, _, text = event.recordnumber.partition(".")
        name, number = (event.source, incarnation), int(text)
        before = numbers.get(name)
        if before is None:
            rows = self._log.read(_HIGHEST, *name)
            before = rows[0][0] if rows else 0
        if number > before + MOST_AHEAD:
            raise ProblemError(
                422,
                "number_too_high",
                f"recordnumber {event.recordnumber} of {event.source} lies more than {MOST_AHEAD:,} above the highest "
                f"one that came, {before}; a recorder counts from 1, and begins another incarnation with each process",
            )
        numbers[name] = max(before, number)


def _create(file: sqlite3.Connection) -> None:
    for table in _TABLES:
        file.execute(table)
