"""What the enactor cannot do at this moment, by name: failures, and refusals that leave harm where it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Collection

LOG: Final = logging.getLogger(__name__)

_EXPECTED: Final = (StagekeeperError, KafkaException)  # they say by themselves what is wrong


class HarmStaysError(StagekeeperError):
    """A rollback that the gate leaves to the enactor is not due, and the action stays above where it should be."""


class EnactorFaults:
    """Faults by name. One that is new is logged, with its trace where nobody expected it."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}
        self._refusals: set[str] = set()

    def note(self, name: str, error: BaseException, what: str = "") -> None:
        """Something could not be done; `what` goes before the reason."""
        message = f"{what}{fault_of(error)}"
        if self._messages.get(name) != message:
            LOG.error("%s", message, exc_info=None if isinstance(error, _EXPECTED) else error)
        self._messages[name] = message
        (self._refusals.add if isinstance(error, HarmStaysError) else self._refusals.discard)(name)

    def clear(self, name: str) -> None:
        """It is done."""
        self._messages.pop(name, None)

    def keep(self, names: Collection[str]) -> None:
        """Nobody asks for anything but these any more."""
        self._messages = {name: message for name, message in self._messages.items() if name in names}

    @property
    def text(self) -> str | None:
        """All of them in one line; None where there is none."""
        return "; ".join(self._messages.values()) or None

    @property
    def is_failing(self) -> bool:
        """Whether one of them is a failure, and no refusal."""
        return not self._refusals.issuperset(self._messages)


def fault_of(error: BaseException) -> str:
    """An error in a sentence for whoever watches."""
    if isinstance(error, _EXPECTED):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}. The log has the trace; it is tried again"
