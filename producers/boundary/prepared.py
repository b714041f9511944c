"""What calls of one action under the same circumstances share, worked out and checked once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from producers.boundary.decide import authorized, weigh
from producers.boundary.flags import context_of
from producers.wire.forms import BLANK_SHA256, DecisionForm

if TYPE_CHECKING:
    from producers.boundary.action import Action, Circumstances
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import Answers
    from producers.wire.contract import ActionContract
    from producers.wire.decision import Authorization, Outcome

_KEPT = 10_000
"""Combinations of action and circumstances that are kept; the oldest go first."""


class Prepared:
    """One action under one set of circumstances.

    Nothing that decides is kept here beyond its cause: authorization is asked for every call (a steady one for each of
    its policies), flags are looked up for every call, and the weighed result is reused only for the same answers.
    """

    def __init__(self, action: Action, known: Circumstances, *, steady: bool) -> None:
        self.action = action
        self._steady = steady
        self._said: tuple[Authorization, str] | None = None
        self._contract = action.contract(BLANK_SHA256, known)
        self.context = context_of(self._contract)
        self._cohort = known.cohort
        self._variants = frozenset(action.variants)
        self._weighed: tuple[Authorization, str, Answers, DecisionForm] | None = None

    def authorized(self, authorizer: Authorizer, arguments_sha256: str) -> tuple[Authorization, str]:
        """What the authorizer says of one call; a steady one is asked once for each of its policies."""
        if not self._steady:
            return authorized(self.contract(arguments_sha256), authorizer)
        said = self._said
        if said is None or said[1] != authorizer.sha256:
            said = self._said = authorized(self._contract, authorizer)
        return said

    def contract(self, arguments_sha256: str) -> ActionContract:
        """The contract of one call."""
        return self._contract.model_copy(update={"arguments_sha256": arguments_sha256})

    def form(self, authorization: Authorization, authorizer_sha256: str, answers: Answers) -> DecisionForm:
        """The decision that follows from the answers, with its event filled in."""
        weighed = self._weighed
        if (
            weighed is not None
            and weighed[2] is answers
            and weighed[1] == authorizer_sha256
            and (weighed[0] is authorization or weighed[0] == authorization)
        ):
            return weighed[3]
        decided = weigh(self._contract, authorization, authorizer_sha256, answers, self._variants)
        form = DecisionForm(self._contract, decided.decision, stage=decided.stage, cohort=self._cohort)
        self._weighed = (authorization, authorizer_sha256, answers, form)
        return form

    def refused(self, form: DecisionForm, result: Outcome) -> DecisionForm:
        """The same decision with another, lesser result."""
        decision = form.decision.model_copy(update={"result": result})
        return DecisionForm(self._contract, decision, stage=form.stage, cohort=self._cohort)


class Preparations:
    """The prepared actions of one router. Safe to use from many threads.

    Args:
        steady: Whether the router's authorizer is a `SteadyAuthorizer`.
    """

    def __init__(self, *, steady: bool) -> None:
        self._steady = steady
        self._lock = Lock()
        self._known: dict[tuple[int, Circumstances], Prepared] = {}

    def of(self, action: Action, known: Circumstances) -> Prepared:
        """The preparation of an action under these circumstances."""
        key = (id(action), known)
        prepared = self._known.get(key)
        # An action that is kept here is alive, so its id is its own.
        if prepared is not None:
            return prepared
        prepared = Prepared(action, known, steady=self._steady)
        with self._lock:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = prepared
        return prepared
