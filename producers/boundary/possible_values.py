"""What a flag of a flagd file may answer for one action, when nothing but the action is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from openfeature.contrib.tools.flagd.core.targeting.targeting import targeting as evaluate
from openfeature.evaluation_context import EvaluationContext

from producers.boundary.policy_flags import DENYLIST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from producers.boundary.policy_flags import Flag, FlagValue
    from producers.boundary.stage_store import ActionName

Json = Any  # a rule, or what it gives

_OPEN: Final = object()  # more than the action decides
_PURE: Final = {"==", "===", "!=", "!==", "!", "!!", "in", "starts_with", "ends_with"}


def possible_values(flags: Mapping[str, Json], flag: Flag, action: ActionName, rule: Json) -> tuple[FlagValue, ...]:
    """The values that a flag may have for an action under a targeting, each once; one where the action alone decides.

    A flag that is missing, disabled or broken has its safe value, as for a router.
    """
    return values_where(flags, flag, action._asdict(), rule)


def values_where(flags: Mapping[str, Json], flag: Flag, known: Mapping[str, str], rule: Json) -> tuple[FlagValue, ...]:
    """As `possible_values`, where some attributes are known, the tool among them, and all others may be anything."""
    stated = flags.get(flag.key)
    if not isinstance(stated, dict) or stated.get("state") != "ENABLED" or not isinstance(stated.get("variants"), dict):
        return (flag.safe,)
    variants: dict[str, Json] = stated["variants"]
    results = _results(rule, known) if rule else [None]
    if _OPEN in results:
        results = [*variants, None]
    names = [_variant(result) if result is not None else stated.get("defaultVariant") for result in results]
    return tuple(dict.fromkeys(_accepted(flag, variants.get(_variant(name)), known["tool"]) for name in names))


def _variant(result: Json) -> str:
    return str(result).lower() if isinstance(result, bool) else str(result)


def _accepted(flag: Flag, value: Json, tool: str) -> FlagValue:
    if flag is DENYLIST and isinstance(value, list) and all(isinstance(listed, str) for listed in value):
        return tool in value
    return value if type(value) is type(flag.safe) and flag.accepts(value) else flag.safe


def _results(rule: Json, known: Mapping[str, str]) -> list[Json]:
    """Everything that a rule may give; `_OPEN` stands for what cannot be told."""
    if isinstance(rule, list):
        return _folded(rule, known)
    if not isinstance(rule, dict):
        return [rule]
    operator, operands = next(iter(rule.items())) if len(rule) == 1 else ("", [])
    arguments = operands if isinstance(operands, list) else [operands]
    match operator:
        case "if":
            results = _branches(arguments, known)
        case "and" | "or":
            results = _joined(operator, arguments, known)
        case "fractional":
            shares = [part for part in arguments if isinstance(part, list) and part and part[1:] != [0]]
            results = [part[0] if isinstance(part[0], str) else _OPEN for part in shares] or [_OPEN]
        case "var" if len(arguments) == 1:
            results = [known.get(str(arguments[0]), _OPEN)]
        case _ if operator in _PURE and (folded := _folded(arguments, known)[0]) is not _OPEN:
            results = [_evaluated({operator: folded}, known)]
        case _:
            results = [_OPEN]
    return results


def _folded(arguments: Sequence[Json], known: Mapping[str, str]) -> list[Json]:
    """The arguments as one list of values, or `_OPEN`."""
    results = [_results(argument, known) for argument in arguments]
    is_told = all(len(each) == 1 and each[0] is not _OPEN for each in results)
    return [[each[0] for each in results]] if is_told else [_OPEN]


def _branches(arguments: list[Json], known: Mapping[str, str]) -> list[Json]:
    results: list[Json] = []
    for condition, value in zip(arguments[::2], arguments[1::2], strict=False):
        truths = _truths(condition, known)
        if True in truths:
            results += _results(value, known)
        if False not in truths:
            return results
    return results + (_results(arguments[-1], known) if len(arguments) % 2 else [None])


def _joined(operator: str, arguments: list[Json], known: Mapping[str, str]) -> list[Json]:
    """The truth of several conditions; as the value of a flag, nobody writes it."""
    truths = [_truths(argument, known) for argument in arguments]
    decisive = operator == "or"  # the truth of one that settles it
    if {decisive} in truths:
        return [decisive]
    return [not decisive] if all(each == {not decisive} for each in truths) else [_OPEN]


def _truths(condition: Json, known: Mapping[str, str]) -> set[bool]:
    results = _results(condition, known)
    if _OPEN in results:
        return {True, False}
    return {bool(_evaluated({"!!": [result]}, known)) for result in results}


def _evaluated(rule: dict[str, Json], known: Mapping[str, str]) -> Json:
    return evaluate("", rule, EvaluationContext(attributes=dict(known)))
