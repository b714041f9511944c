"""What calls of one action under the same circumstances share, worked out and checked once."""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING

from pydantic import ValidationError

from producers.boundary.action import Circumstances
from producers.boundary.decision_rules import authorized, weigh
from producers.boundary.flags import flag_context
from producers.wire.forms import BLANK_SHA256, SILENT, DecisionForm, DecisionPart, Said

if TYPE_CHECKING:
    from producers.boundary.action import Action
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import FlagEvaluator, FlagValues
    from producers.wire.contract import ActionContract
    from producers.wire.decision import Authorization, Outcome

_KEPT = 2_000
"""Combinations of action and circumstances that are kept; the oldest go first."""


_STANDING = attrgetter(
    *(item.name for item in fields(Circumstances) if item.name not in {"intent", "conversation", "tool_call"})
)
"""What is known of a call but for what is `Said` about it alone."""


class Prepared:
    """One action under one set of circumstances.

    Nothing that decides is kept here beyond its cause: authorization is asked for every call (a steady one for each of
    its policies), flags are looked up for every call, and the weighed result is reused only for the same answers.
    """

    def __init__(self, action: Action, known: Circumstances, parts: Parts, *, steady: bool) -> None:
        self.action = action
        self._steady = steady
        self._authorized: tuple[Authorization, str] | None = None
        self._contract = action.contract(BLANK_SHA256, replace(known, intent=None, conversation=None, tool_call=None))
        self.context = flag_context(self._contract)
        self._known = known
        self._parts = parts
        self._variants = frozenset(action.variants)
        self._weighed: tuple[Authorization, str, FlagValues, DecisionForm] | None = None
        self._answers: FlagValues | None = None
        self._said_before: tuple[tuple[str | None, ...], Said] = ((None, None, None), SILENT)

    def said(self, known: Circumstances) -> Said:
        """What the agent says about one call.

        Raises:
            UsageError: It does not fit a contract, for example because an id is too long.
        """
        asked = (known.intent, known.conversation, known.tool_call)
        before, said = self._said_before
        if asked == before:
            return said
        intent, conversation, tool_call = asked
        try:
            said = Said(intent=intent or "", conversation=conversation, tool_call=tool_call)
        except ValidationError:
            self.action.contract(BLANK_SHA256, known)  # says what is wrong
            raise
        self._said_before = (asked, said)
        return said

    def authorized(self, authorizer: Authorizer, arguments_sha256: str, said: Said) -> tuple[Authorization, str]:
        """What the authorizer says of one call; a steady one is asked once for each of its policies."""
        if not self._steady:
            return authorized(self.contract(arguments_sha256, said), authorizer)
        answer = self._authorized
        if answer is None or answer[1] != authorizer.sha256:
            answer = self._authorized = authorized(self._contract, authorizer)
        return answer

    def answers(self, flags: FlagEvaluator) -> FlagValues:
        """Every flag's value, from the rules that are in force now."""
        answers = self._answers
        if answers is None or answers.rules is not flags.rules():
            answers = self._answers = flags.evaluate(self.context)
        return answers

    def contract(self, arguments_sha256: str, said: Said) -> ActionContract:
        """The contract of one call."""
        return self._contract.model_copy(update={"arguments_sha256": arguments_sha256, **dict(said)})

    def form(self, authorization: Authorization, authorizer_sha256: str, answers: FlagValues) -> DecisionForm:
        """The decision that follows from the answers, with its event filled in."""
        weighed = self._weighed
        if (
            weighed is not None
            and weighed[2] is answers
            and weighed[1] == authorizer_sha256
            and (weighed[0] is authorization or weighed[0] == authorization)
        ):
            return weighed[3]
        form = DecisionForm(self._contract, self._parts.of(self, authorization, authorizer_sha256, answers))
        self._weighed = (authorization, authorizer_sha256, answers, form)
        return form

    def decided(self, authorization: Authorization, authorizer_sha256: str, answers: FlagValues) -> DecisionPart:
        """Weigh the answers."""
        decided = weigh(self._contract, authorization, authorizer_sha256, answers, self._variants)
        return DecisionPart(self._contract, decided.decision, stage=decided.stage, cohort=self._known.cohort)

    @property
    def shape(self) -> tuple[object, ...]:
        """Everything that can tell the decisions on two calls of one action apart, but for the answers they rest on."""
        known = self._known
        return known.confidence, known.cohort, known.model, known.prompt_version

    def refused(self, form: DecisionForm, result: Outcome) -> DecisionForm:
        """The same decision with another, lesser result."""
        decision = form.decision.model_copy(update={"result": result})
        return DecisionForm(
            self._contract, DecisionPart(self._contract, decision, stage=form.stage, cohort=self._known.cohort)
        )


class Parts:
    """Decisions that calls under different circumstances share. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[tuple[object, ...], tuple[Action, FlagValues, DecisionPart]] = {}

    def of(
        self, prepared: Prepared, authorization: Authorization, authorizer_sha256: str, answers: FlagValues
    ) -> DecisionPart:
        """The decision on one call."""
        key = (id(prepared.action), id(answers), authorizer_sha256, authorization, *prepared.shape)
        found = self._known.get(key)
        if found is not None:  # what is kept here is alive, so its id is its own
            return found[2]
        part = prepared.decided(authorization, authorizer_sha256, answers)
        with self._lock:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = (prepared.action, answers, part)
        return part


class Preparations:
    """The prepared actions of one router. Safe to use from many threads.

    Args:
        steady: Whether the router's authorizer is a `SteadyAuthorizer`.
    """

    def __init__(self, *, steady: bool) -> None:
        self._steady = steady
        self._parts = Parts()
        self._lock = Lock()
        self._known: dict[tuple[int, tuple[object, ...]], Prepared] = {}

    def of(self, action: Action, known: Circumstances) -> Prepared:
        """The preparation of an action under these circumstances."""
        key = (id(action), _STANDING(known))
        prepared = self._known.get(key)
        # An action that is kept here is alive, so its id is its own.
        if prepared is not None:
            return prepared
        prepared = Prepared(action, known, self._parts, steady=self._steady)
        with self._lock:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = prepared
        return prepared
