"""Calls of a flag provider that may hang: on threads of their own, which no fork has, and behind a circuit breaker."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

_THREADS = 16  # calls at once; further ones wait for their turn, within their own deadlines
_IDLE_S = 10.0  # a thread that has nothing to do for so long ends
_FAILURES = 3  # so many calls in a row without an answer open the circuit
_PAUSE_S = 5.0  # how long an open circuit lets nothing through, then one call


class ProviderCalls:
    """Runs calls on daemon threads: one that never returns holds up neither its caller nor the process's end."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Begin a call, in the caller's context."""
        future: Future[Result] = Future()
        context = contextvars.copy_context()
        with self._turn:
            self._waiting.append((future, lambda: context.run(call)))
            if len(self._waiting) > self._idle and self._threads < _THREADS:
                try:
                    threading.Thread(target=self._work, name="stagekeeper-flag-calls", daemon=True).start()
                    self._threads += 1
                except RuntimeError:  # no thread can be started (any more): what waits is not answered in time
                    LOG.exception("no thread can be started to ask for flags")
            self._turn.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._turn:
                self._idle += 1
                worth_it = self._turn.wait_for(lambda: self._waiting, _IDLE_S)
                self._idle -= 1
                if not worth_it:
                    self._threads -= 1
                    return
                future, call = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - the caller's to judge
                    future.set_exception(error)
            del future, call  # an idle thread keeps nothing alive


class CircuitBreaker:
    """Keeps calls from a provider that does not answer, but for a probe now and then."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._probe_at = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls go through."""
        return self._failures < _FAILURES

    def admit(self) -> bool:
        """Whether a call may be made; where the circuit is open, one in each pause."""
        with self._lock:
            if self.closed:
                return True
            now = self._clock()
            if now < self._probe_at:
                return False
            self._probe_at = now + _PAUSE_S
            return True

    def succeed(self) -> None:
        """Note that a call was answered in time."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def fail(self) -> None:
        """Note that a call was not answered in time."""
        with self._lock:
            self._failures += 1
            self._probe_at = self._clock() + _PAUSE_S
            opened = self._failures == _FAILURES
        if opened:
            LOG.error(
                "the flag provider %s does not answer in time: safe values are in force until it does", self._name
            )


class _Forked(Protocol):
    def begin_anew(self) -> None: ...


_FORKED: weakref.WeakSet[_Forked] = weakref.WeakSet()


def after_fork(held: _Forked) -> None:
    """Have `begin_anew` called in every child of this process, before anything else happens there."""
    _FORKED.add(held)


def _begin_anew() -> None:
    for held in list(_FORKED):
        held.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
