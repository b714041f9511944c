"""Flags from providers that behave as FeatBit's and Unleash's do; their servers are not started here.

FeatBit's provider passes on scalar attributes only and shows neither version nor ruleset. Unleash's names no variant
for a boolean, and reasons of its own. What they have in common with every provider is the interface; what sets them
apart is imitated below.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import KEYS, Permit, contract
from openfeature.event import ProviderEventDetails
from openfeature.exception import FlagNotFoundError, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS, flag_context
from producers.wire.decision import FlagReason

if TYPE_CHECKING:
    from openfeature.evaluation_context import EvaluationContext

VALUES: dict[str, Any] = {
    KEYS["enabled"]: True,
    KEYS["denylist"]: False,
    KEYS["mode"]: "autonomous",
    KEYS["approval"]: False,
    KEYS["threshold"]: 0.5,
}


class Remote(AbstractProvider, ABC):
    """What both have in common: values from somewhere else."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.values = VALUES | {KEYS[name]: value for name, value in values.items()}
        self.contexts: list[EvaluationContext] = []

    def get_metadata(self) -> Metadata:
        return Metadata(name=type(self).__name__.lower())

    @abstractmethod
    def answer(self, key: str, context: EvaluationContext | None) -> FlagResolutionDetails[Any]: ...

    def _resolve(
        self, flag_key: str, default_value: Any, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Any]:
        assert evaluation_context is not None
        self.contexts.append(evaluation_context)
        if flag_key not in self.values:
            raise FlagNotFoundError(flag_key)
        return self.answer(flag_key, evaluation_context)

    resolve_boolean_details = _resolve
    resolve_string_details = _resolve
    resolve_integer_details = _resolve
    resolve_float_details = _resolve
    resolve_object_details = _resolve


class FeatBit(Remote):
    """Drops what is not a scalar; its user is the targeting key."""

    def answer(self, key: str, context: EvaluationContext | None) -> FlagResolutionDetails[Any]:
        assert context is not None
        scalars = {
            name: value for name, value in context.attributes.items() if isinstance(value, str | int | float | bool)
        }
        value = self.values[key]
        if key == KEYS["denylist"] and scalars.get("tool") == "update_ticket" and scalars.get("account") == "acct-1":
            value = True
        return FlagResolutionDetails(value=value, variant=str(value).lower(), reason=Reason.TARGETING_MATCH)


class Unleash(Remote):
    """Names no variant for booleans, and a reason that is none of the convention's."""

    def answer(self, key: str, context: EvaluationContext | None) -> FlagResolutionDetails[Any]:
        value = self.values[key]
        variant = None if isinstance(value, bool) else str(value)
        return FlagResolutionDetails(value=value, variant=variant, reason="STRATEGY")


@pytest.mark.parametrize("kind", [FeatBit, Unleash])
def test_a_decision_needs_nothing_that_these_providers_lack(kind: type[Remote]) -> None:
    decision = decide(contract(account="acct-2"), Permit(), FlagEvaluator(kind())).decision
    assert decision.result.outcome == "allow"
    assert [flag.key for flag in decision.flags] == [flag.key for flag in FLAGS]
    assert decision.ruleset_sha256 is not None


def test_a_boolean_without_a_variant_is_recorded_by_its_value() -> None:
    enabled, denylist, mode, *_ = decide(contract(), Permit(), FlagEvaluator(Unleash())).decision.flags
    assert (enabled.variant, enabled.value, enabled.reason) == (None, "true", FlagReason.UNKNOWN)
    assert (denylist.variant, denylist.value) == (None, "false")
    assert (mode.variant, mode.value) == ("autonomous", None)


def test_every_attribute_that_flags_are_targeted_by_is_a_scalar() -> None:
    provider = FeatBit()
    asked = contract(account="acct-1", confidence=0.5)
    assert FlagEvaluator(provider).evaluate(flag_context(asked)).denied is True, "one tool for one account"
    assert FlagEvaluator(provider).evaluate(flag_context(contract(account="acct-2"))).denied is False
    for context in provider.contexts:
        assert context.targeting_key
        assert all(isinstance(value, str | int | float | bool) for value in context.attributes.values())


@pytest.mark.parametrize("kind", [FeatBit, Unleash])
def test_a_change_that_the_provider_announces_is_in_force_and_has_another_digest(kind: type[Remote]) -> None:
    provider = kind()
    held = FlagEvaluator(provider, clock=lambda: 0.0)
    before = held.evaluate(flag_context(contract()))
    provider.values[KEYS["mode"]] = "off"
    provider.emit_provider_configuration_changed(ProviderEventDetails())
    for _ in range(500):
        if held.evaluate(flag_context(contract())) is not before:
            break
        threading.Event().wait(0.01)
    after = held.evaluate(flag_context(contract()))
    assert after.mode == "off"
    assert after.ruleset_sha256 != before.ruleset_sha256


@pytest.mark.parametrize("kind", [FeatBit, Unleash])
def test_a_change_that_nobody_announces_is_in_force_after_a_second(kind: type[Remote]) -> None:
    provider, moment = kind(), [0.0]
    held = FlagEvaluator(provider, clock=lambda: moment[0])
    assert held.evaluate(flag_context(contract())).mode == "autonomous"
    provider.values[KEYS["mode"]] = "off"
    moment[0] = 1.1
    assert held.evaluate(flag_context(contract())).mode == "off"


@pytest.mark.parametrize("kind", [FeatBit, Unleash])
def test_numbers_as_text_are_not_believed(kind: type[Remote]) -> None:
    answers = FlagEvaluator(kind(threshold="0.1")).evaluate(flag_context(contract()))
    assert answers.confidence_threshold == 0.8
    assert answers.evaluations[4].reason is FlagReason.ERROR


class Away(FeatBit):
    """Its server cannot be reached."""

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        raise ProviderNotReadyError("no answer")


def test_a_provider_whose_server_is_away_gives_the_safe_values() -> None:
    decision = decide(contract(), Permit(), FlagEvaluator(Away())).decision
    assert (decision.result.outcome, decision.result.reason) == ("deny", "governance_disabled")
    assert all(flag.reason is FlagReason.ERROR for flag in decision.flags)
