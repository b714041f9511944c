"""Entries of ours in the targeting of a flag, in front of whatever targeting was there, which is never touched.

The outer layer switches, and only some flags have it: `{"if": [{"or": [conditions]}, variant, rest]}`. Below it is what
single actions have: `{"if": [condition, variant, condition, variant, ..., rest]}`, a condition for each action.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from producers.boundary import json_text
from producers.boundary.policy_flags import DENYLIST, MODE
from producers.boundary.stage_store import ActionName
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.boundary.json_text import Span
    from producers.boundary.policy_flags import FlagValue

Json = Any  # a rule, as JSON has it


class Switch(NamedTuple):
    """How the outer layer of a flag is known from what somebody else wrote."""

    value: FlagValue  # that of its variant
    word: str | None = None  # a text, which holds by itself, in front of each condition


SWITCHES: Final = {DENYLIST.key: Switch(True), MODE.key: Switch(Mode.FALLBACK.value, "emergency")}  # noqa: FBT003
"""The flags that have an outer layer."""


# Of what accounts are told apart by: without it each flag would choose others.
_ACCOUNT: Final = {"cat": ["stagekeeper-roll-out", {"var": "targetingKey"}]}


@dataclass(frozen=True, slots=True)
class Layers:
    """What a targeting says: what is switched, what single actions have, and the rest."""

    switched: list[dict[str, str]] = field(default_factory=list)  # the values that an action must have
    actions: dict[ActionName, Json] = field(default_factory=dict)  # the variant of each, or a rule that gives it
    rest: Json = None

    @classmethod
    def from_flag(cls, key: str, flag: Mapping[str, Json]) -> Self:
        """Read the targeting of a flag; what is not ours is the rest."""
        rule, switched = flag.get("targeting"), []
        match rule:
            case {"if": [{"or": [_, *_] as conditions}, str(variant), rest]}:
                values = [_switched_by(condition, SWITCHES.get(key)) for condition in conditions]
                if None not in values and _is(flag.get("variants", {}).get(variant), SWITCHES[key].value):
                    switched, rule = [one for one in values if one is not None], rest
        actions: dict[ActionName, Json] = {}
        match rule:
            case {"if": [*parts]}:
                names = _actions_first(parts)
                for name, variant in zip(names, parts[1::2], strict=False):
                    actions.setdefault(name, variant)  # the first one is obeyed
                left = parts[2 * len(names) :]
                rule = {"if": left} if len(left) > 1 else next(iter(left), None)
        return cls(switched, actions, rule or None)

    def differing(self, other: Layers) -> int:
        """How many entries are not the same in both."""
        names = self.actions.keys() | other.actions.keys()
        switches = [one for one in self.switched if one not in other.switched]
        switches += [one for one in other.switched if one not in self.switched]
        return len(switches) + len([name for name in names if self.actions.get(name) != other.actions.get(name)])


class Targeting:
    """The targeting of one flag, in the text of a flag file that is valid; what it gives is another text."""

    def __init__(self, text: str, key: str) -> None:
        self._text = text
        self._key = key
        top = json_text.members(text, json_text.top_of(text))
        self._flag = json_text.members(text, top["flags"].value.start)[key].value
        self._members = json_text.members(text, self._flag.start)
        self._layers = Layers.from_flag(key, self._value(self._flag))
        targeting = self._members.get("targeting")
        # One that is empty or null says nothing, and gives way.
        self._rule = targeting.value if targeting is not None and self._value(targeting.value) else None

    def with_action(self, action: ActionName, variant: Json) -> str:
        """The text in which an action has a variant, or what a rule gives."""
        below = self._rule
        if below is not None and self._layers.switched:
            below = json_text.items(self._text, self._if_array(below))[2]
        condition = condition_of(action._asdict())
        if below is None or not self._layers.actions:
            return self._wrapped(below, [condition, variant])
        array = self._if_array(below)
        names = _actions_first([self._value(part) for part in json_text.items(self._text, array)])
        if action in names:
            place = json_text.items(self._text, array)[2 * names.index(action) + 1]
            return json_text.replaced(self._text, place, _dumps(variant))
        return json_text.with_first(self._text, array, f"{_dumps(condition)}, {_dumps(variant)}")

    def with_switch(self, values: Mapping[str, str], variant: str) -> str:
        """The text in which a variant is given where the values hold, whatever else the flag says."""
        condition = condition_of(values, word=SWITCHES[self._key].word)
        if self._rule is not None and self._layers.switched:
            return json_text.with_last(self._text, self._or_array(self._rule), _dumps(condition))
        return self._wrapped(self._rule, [{"or": [condition]}, variant])

    def without_switch(self, values: Mapping[str, str]) -> str:
        """The text without a condition that is there, and without the layer where it was the last."""
        place = self._layers.switched.index(dict(values))
        rule = self._members["targeting"].value
        if len(self._layers.switched) > 1:
            return json_text.without_item(self._text, self._or_array(rule), place)
        rest = json_text.items(self._text, self._if_array(rule))[2]
        if self._value(rest) is None:
            return json_text.without_member(self._text, self._flag.start, "targeting")
        return json_text.replaced(self._text, rule, self._text[rest.start : rest.end])

    def _wrapped(self, rule: Span | None, entry: list[Json]) -> str:
        """The text with an entry in front of a rule, on lines of their own where the flag has lines."""
        text = self._text
        lead = json_text.space_before(text, next(iter(self._members.values())).start)
        inner = f"{lead}  " if "\n" in lead else ""
        rest = "null" if rule is None else text[rule.start : rule.end]
        first = ", ".join(map(_dumps, entry))
        wrapped = f'{{"if": [{inner}{first},{inner or " "}{rest}{lead if inner else ""}]}}'
        if rule is not None:
            return json_text.replaced(text, rule, wrapped)
        if "targeting" in self._members:
            return json_text.replaced(text, self._members["targeting"].value, wrapped)
        return json_text.with_member(text, self._flag.start, "targeting", wrapped)

    def _if_array(self, rule: Span) -> int:
        return json_text.members(self._text, rule.start)["if"].value.start

    def _or_array(self, rule: Span) -> int:
        first = json_text.items(self._text, self._if_array(rule))[0]
        return json_text.members(self._text, first.start)["or"].value.start

    def _value(self, span: Span) -> Json:
        return json.loads(self._text[span.start : span.end])


def condition_of(values: Mapping[str, str], *, word: str | None = None) -> Json:
    """The condition that all values hold."""
    return {"and": [*([] if word is None else [word]), *({"==": [{"var": name}, values[name]]} for name in values)]}


def shared(variant: str, otherwise: str, share: int) -> Json:
    """What gives a share of accounts, in percent, a variant, in every flag the same accounts, and more as it grows."""
    if share == 100:
        return variant
    return {"fractional": [_ACCOUNT, [variant, share], [otherwise, 100 - share]]}


def share_of(rule: Json) -> int | None:
    """The percentage of accounts that a rule of `shared` gives its first variant; None where it is none."""
    match rule:
        case {"fractional": [account, [str(), int(share)], [str(), int(rest)]]} if account == _ACCOUNT:
            return share if share + rest == 100 else None
    return None


def variant_of(flag: Mapping[str, Json], value: FlagValue) -> str | None:
    """The variant of a flag that has a value."""
    return next((name for name, held in flag["variants"].items() if _is(held, value)), None)


def _is(held: Json, value: FlagValue) -> bool:
    return type(held) is type(value) and held == value  # 1 is not True


def _switched_by(condition: Json, switch: Switch | None) -> dict[str, str] | None:
    """The values that a condition of the outer layer asks for; None where it is none of ours."""
    match condition:
        case {"and": [*parts]} if len(condition) == 1 and switch is not None:
            if switch.word is not None:
                return _values_of(parts[1:]) if parts[:1] == [switch.word] else None
            return _values_of(parts) or None
    return None


def _values_of(parts: list[Json]) -> dict[str, str] | None:
    values: dict[str, str] = {}
    for part in parts:
        match part:
            case {"==": [{"var": str(name)}, str(value)]} if name not in values and len(part) == 1:
                values[name] = value
            case _:
                return None
    return values


def _actions_first(parts: list[Json]) -> list[ActionName]:
    """The actions of the pairs, of a condition and its variant, that come first in the arguments of an `if`."""
    names: list[ActionName] = []
    for condition in parts[: len(parts) // 2 * 2 : 2]:
        match condition:
            case {"and": [_, _, _] as asked} if len(condition) == 1:
                values = _values_of(asked)
                if values is None or tuple(values) != ActionName._fields:
                    break
                names.append(ActionName(**values))
            case _:
                break
    return names


def _dumps(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
