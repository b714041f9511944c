"""Pauses between two attempts at the same thing: short after a refusal, and longer with each failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.stage_store import ActionName

_REFUSED_S: Final = 1.0  # after the first refusal, and twice as long after each further one
_FAILED_S: Final = 0.5  # after the first failure, likewise
_LONGEST_S: Final = 15.0
_LONGEST_FAILURE_S: Final = 5.0  # a store that is back is found within this long


class Pauses:
    """When to try what next, by action and purpose. A failure of one thing holds up nothing else."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[tuple[ActionName | None, str], tuple[float, float]] = {}

    def over(self, action: ActionName | None, purpose: str) -> bool:
        """Whether it may be tried again."""
        return self._clock() >= self.until_s(action, purpose)

    def until_s(self, action: ActionName | None, purpose: str) -> float:
        """When it may be tried again, by the clock; 0 where it was not tried yet."""
        return self._until.get((action, purpose), (0.0, 0.0))[0]

    def refused(self, action: ActionName | None, purpose: str) -> None:
        """Nothing was to be done."""
        self._wait_longer(action, purpose, _REFUSED_S, _LONGEST_S)

    def failed(self, action: ActionName | None, purpose: str) -> None:
        """It could not be done."""
        self._wait_longer(action, purpose, _FAILED_S, _LONGEST_FAILURE_S)

    def wait(self, action: ActionName | None, purpose: str, pause_s: float) -> None:
        """Not before so many seconds."""
        self._until[action, purpose] = (self._clock() + pause_s, pause_s)

    def forget(self, action: ActionName | None = None) -> None:
        """Try again at once: something is new about an action, or about all."""
        if action is None:
            self._until = {key: until for key, until in self._until.items() if key == (None, "events")}
        else:
            self._until = {key: until for key, until in self._until.items() if key[0] != action}

    def _wait_longer(self, action: ActionName | None, purpose: str, first_s: float, longest_s: float) -> None:
        _, last_s = self._until.get((action, purpose), (0.0, 0.0))
        self.wait(action, purpose, min(max(2 * last_s, first_s), longest_s))
