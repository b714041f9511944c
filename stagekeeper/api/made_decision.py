"""A decision as its event says it, and turns for those who are about the same one."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic_core import from_json

from producers.wire.decision import Decision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class MadeDecision(NamedTuple):
    """A decision as its event says it; only what is looked at is read into a model (benchmarks/service.py)."""

    event: dict[str, Any]
    decision: Decision
    decided_at: datetime

    @classmethod
    def from_event(cls, value: bytes) -> Self:
        """Read the event of a decision."""
        event = from_json(value)
        return cls(event, Decision.model_validate(event["data"]["decision"]), datetime.fromisoformat(event["time"]))

    @property
    def receipt(self) -> str:
        """Its token."""
        return str(self.event["data"]["receipt"])

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a person."""
        return self.decision.enforced and self.decision.result.outcome == "queue_for_review"


class Turns:
    """Lets those who are about the same thing take turns. For one event loop."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[None]:
        """Wait until nobody else is about this."""
        lock, users = self._locks.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[name]
