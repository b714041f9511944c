"""What the targeting of a flagd flag looks at, so that its answer is reused for every context alike in just that.

A rule is JSON with operators (JsonLogic and flagd's own). The attributes that it names are read off; where they cannot
be told, because a name is computed or an operator is not known here, the rule counts as looking at everything.
"""

from __future__ import annotations

from typing import Final

TARGETING_KEY: Final = "targetingKey"
"""The name under which rules see the targeting key."""

_PLAIN = frozenset(
    {"if", "?:", "and", "or", "!", "!!", "==", "===", "!=", "!==", "<", "<=", ">", ">=", "in", "cat", "substr"}
    | {"+", "-", "*", "/", "%", "min", "max", "merge", "starts_with", "ends_with", "sem_ver"}
)
"""Operators that see nothing but their arguments."""


class _UntellableError(Exception):
    """What a rule looks at cannot be read off it."""


def looked_at(targeting: object) -> frozenset[str] | None:
    """Names of the attributes that a flag's targeting looks at; None where it may look at any.

    `TARGETING_KEY` is among them where the targeting key is looked at, as every percentage may.
    """
    if targeting is None or targeting == {}:
        return frozenset()
    try:
        return frozenset(_names(targeting))
    except _UntellableError:
        return None


def _names(rule: object) -> set[str]:
    if isinstance(rule, list):
        return {name for part in rule for name in _names(part)}
    if not isinstance(rule, dict):
        return set()
    if len(rule) != 1:
        raise _UntellableError
    ((operator, arguments),) = rule.items()
    if operator == "var":
        return _named(arguments)
    if operator == "fractional":
        return {TARGETING_KEY} | _names(arguments)
    if operator not in _PLAIN:  # also those that give their arguments another context, as `map` does
        raise _UntellableError
    return _names(arguments)


def _named(arguments: object) -> set[str]:
    """The attribute that a variable names, and what the value in its place looks at."""
    name, *instead = arguments if isinstance(arguments, list) and arguments else [arguments]
    if not isinstance(name, str) or not name:
        raise _UntellableError
    if name == "$flagd.flagKey":
        return _names(instead)
    return {name, name.partition(".")[0]} | _names(instead)  # a dot may lead into what the first part names
