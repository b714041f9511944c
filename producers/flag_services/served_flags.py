"""A flag as a flag service serves it: rules in order, the first that matches decides; and what they say of an action.

Rules of ours are known by their names and their conditions. Switches come first, then what single actions have, then
whatever somebody else wrote, which is never touched.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producers.boundary.canonical_json import digest
from producers.boundary.flagd_overlays import OverlayScope
from producers.boundary.policy_flags import ATTEMPT, DENYLIST, GOVERNANCE_ENABLED, MODE
from producers.boundary.stage_store import ActionName, StageConflictError, StageSetting
from producers.wire.receipt import rung_of
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from producers.boundary.policy_flags import Flag, FlagValue

Json = Any  # a rule, as the service has it

_ANYTHING: Final = OverlayScope()


class RuleKind(Enum):
    """Whose a rule is; the value is its name in the service."""

    SWITCH = "Stagekeeper: switch"
    ACTION = "Stagekeeper: action"
    OTHER = ""


class Condition(NamedTuple):
    """That an attribute is one of some values, or none of them."""

    attribute: str
    values: frozenset[str]
    negated: bool = False
    is_plain: bool = True  # False where it asks something else, which the values do not tell

    def holds(self, known: Mapping[str, str]) -> bool | None:
        """Whether it holds; None where that takes more than is known."""
        if not self.is_plain or self.attribute not in known:
            return None
        return (known[self.attribute] in self.values) is not self.negated


@dataclass(frozen=True, slots=True)
class ServedRule:
    """Conditions that must all hold, and what accounts get then."""

    kind: RuleKind
    conditions: tuple[Condition, ...]
    values: tuple[tuple[FlagValue | None, float], ...]  # each with its percentage; None is what no router can use
    native: Json  # as the service has it, without what it adds by itself
    id: str | None = None  # the service's own; None before it has it
    place: int = 0  # where the service sorts it, if it does

    @property
    def scope(self) -> dict[str, str]:
        """The one value of each attribute that a rule of ours asks for."""
        return {condition.attribute: next(iter(condition.values)) for condition in self.conditions}

    @property
    def action(self) -> ActionName | None:
        """The action that the rule is an entry for."""
        return ActionName(**self.scope) if self.kind is RuleKind.ACTION else None

    @property
    def decides_all(self) -> bool:
        """Whether no account is left to the rules that follow."""
        return sum(percent for _, percent in self.values) >= 100

    def applies(self, action: ActionName) -> bool | None:
        """Whether an action's calls match it; None where that takes more than the action."""
        truths = [condition.holds(action._asdict()) for condition in self.conditions]
        return False if False in truths else None if None in truths else True


@dataclass(frozen=True, slots=True)
class ServedFlag:
    """One flag of one environment."""

    key: str
    is_on: bool  # whether rules are looked at
    rules: tuple[ServedRule, ...]
    otherwise: tuple[FlagValue | None, ...]  # what may come where no rule decides, or the flag is off
    revision: str = ""  # the service's own
    native: Json = None

    def values(self, flag: Flag, action: ActionName, *, below_switches: bool = False) -> tuple[FlagValue, ...]:
        """The values that an action may have, each once; one where the action alone decides."""
        results: list[FlagValue | None] = []
        for rule in self.rules if self.is_on else ():
            applies = rule.applies(action)
            if applies is False or (below_switches and rule.kind is RuleKind.SWITCH):
                continue
            results += [value for value, percent in rule.values if percent > 0]
            if applies and rule.decides_all:
                break
        else:
            results += self.otherwise
        return tuple(dict.fromkeys(_usable(flag, value) for value in results))

    def entry(self, action: ActionName) -> ServedRule | None:
        """The entry of ours that an action has; the first one is obeyed."""
        return next((rule for rule in self.rules if rule.action == action), None)

    def switch(self, scope: OverlayScope) -> ServedRule | None:
        """The switch of ours with exactly this scope."""
        switches = (rule for rule in self.rules if rule.kind is RuleKind.SWITCH)
        return next((rule for rule in switches if OverlayScope(**rule.scope) == scope), None)

    @property
    def scopes(self) -> list[OverlayScope]:
        """What is covered by switches of ours."""
        return [OverlayScope(**rule.scope) for rule in self.rules if rule.kind is RuleKind.SWITCH and self.is_on]

    def with_rule(self, old: ServedRule | None, new: ServedRule | None) -> ServedFlag:
        """The flag with a rule in the place of another; a new one comes where its kind comes.

        Raises `StageConflictError` where the other is not there as it was.
        """
        rules = list(self.rules)
        if old is None and new is not None:
            switches = [place for place, rule in enumerate(rules) if rule.kind is RuleKind.SWITCH]
            rules.insert(0 if new.kind is RuleKind.SWITCH or not switches else switches[-1] + 1, new)
        elif old is not None:
            place = next((at for at, rule in enumerate(rules) if (rule.id, rule.native) == (old.id, old.native)), None)
            if place is None:
                raise StageConflictError(f"somebody else has changed a rule of {self.key} meanwhile; look at it again")
            rules[place : place + 1] = [] if new is None else [replace(new, id=old.id, place=old.place)]
        return replace(self, rules=tuple(rules))

    @property
    def version(self) -> str:
        """Digest of what decides; rules of ours that stand together exclude each other, so their order is nothing."""
        runs = itertools.groupby(self.rules, key=lambda rule: rule.kind)
        rules = [
            run if kind is RuleKind.OTHER else sorted(run, key=digest)
            for kind, run in ((kind, [rule.native for rule in rules]) for kind, rules in runs)
        ]
        return digest([self.key, self.is_on, [str(value) for value in self.otherwise], rules])


ServedFlags = dict[str, "ServedFlag | None"]
"""Flags by key; None for one that the service does not have."""


def kind_of(name: str | None, conditions: Sequence[Condition]) -> RuleKind:
    """Whose a rule is. One that somebody has changed so that it is none of ours any more is his."""
    attributes = [condition.attribute for condition in conditions]
    is_ours = len(set(attributes)) == len(attributes) and all(
        condition.is_plain and not condition.negated and len(condition.values) == 1 for condition in conditions
    )
    if is_ours and name == RuleKind.ACTION.value and set(attributes) == set(ActionName._fields):
        return RuleKind.ACTION
    if is_ours and name == RuleKind.SWITCH.value and set(attributes) <= set(OverlayScope._fields):
        return RuleKind.SWITCH
    return RuleKind.OTHER


def setting_of(flags: ServedFlags, action: ActionName) -> StageSetting:
    """What the flags say about an action, below any emergency; the version is that of the mode's flag."""
    mode = flags[MODE.key]
    values: tuple[FlagValue, ...]
    if mode is None:
        values, entry = (MODE.safe,), None
    else:
        values, entry = mode.values(MODE, action, below_switches=True), mode.entry(action)
    modes = tuple(Mode(str(value)) for value in values)
    share = None if entry is None else _share_of(entry)
    return StageSetting(
        action=action,
        mode=modes[0] if len(modes) == 1 else None,
        attempt=highest_attempt(_values(flags.get(ATTEMPT.key), ATTEMPT, action)),
        version="" if mode is None else mode.version,
        modes=modes if share is None else (Mode.EXPANDED, Mode.AUTONOMOUS),
        by_entry=entry is not None,
        share=share,
        emergency=mode is not None and any(scope.covers(action) for scope in mode.scopes),
        denied=_values(flags.get(GOVERNANCE_ENABLED.key), GOVERNANCE_ENABLED, action) == (False,)
        or _values(flags.get(DENYLIST.key), DENYLIST, action) == (True,),
    )


def highest_attempt(values: Iterable[FlagValue | None]) -> int:
    """The highest attempt among values of the flag."""
    return max(((rung_of(str(value)) or (1, None))[0] for value in values), default=1)


def _values(served: ServedFlag | None, flag: Flag, action: ActionName) -> tuple[FlagValue, ...]:
    return (flag.safe,) if served is None else served.values(flag, action)


def _usable(flag: Flag, value: FlagValue | None) -> FlagValue:
    return value if type(value) is type(flag.safe) and flag.accepts(value) else flag.safe


def _share_of(entry: ServedRule) -> int | None:
    shares = dict(entry.values)
    if shares.keys() != {Mode.EXPANDED.value, Mode.AUTONOMOUS.value} or not entry.decides_all:
        return None
    return round(shares[Mode.EXPANDED.value])
