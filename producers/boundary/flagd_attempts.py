"""Attempts of actions in a flagd file: entries in the flag `agent-action-attempt`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.boundary.flag_edit import FlagText, edit_flags
from producers.boundary.new_flags import new_flag
from producers.boundary.policy_flags import ATTEMPT
from producers.boundary.possible_values import possible_values
from producers.boundary.stage_store import RUNGS
from producers.boundary.targeting_entries import Layers, shared
from producers.wire.receipt import rung_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from producers.boundary.stage_store import ActionName


def attempt_in_force(flags: FlagText, action: ActionName) -> int:
    """Which attempt of an action it is; the highest that it may be where more than the action decides."""
    stated = flags.flags.get(ATTEMPT.key)
    if not isinstance(stated, dict):
        return 1
    layers = Layers.from_flag(ATTEMPT.key, stated)
    return _highest(possible_values(flags.flags, ATTEMPT, action, layers.actions.get(action, layers.rest)))


def with_rung(flags: FlagText, action: ActionName, share: int | None) -> FlagText:
    """The file in which the accounts of a roll-out are at its rung, and the others at none; no share ends it."""
    number = attempt_in_force(flags, action)
    stated = flags.flags.get(ATTEMPT.key)
    entry = None
    if isinstance(stated, dict) and stated.get("state") == "ENABLED" and isinstance(stated.get("variants"), dict):
        entry = Layers.from_flag(ATTEMPT.key, stated).actions.get(action)
    if share is None and (entry is None or rung_of(str(entry)) == (number, None)):
        return flags
    flags, none = flags.with_flag(ATTEMPT, new_flag(ATTEMPT, owner="stagekeeper")).with_variant(ATTEMPT, str(number))
    if share is None:
        return flags.edited(flags.targeting(ATTEMPT).with_action(action, none))
    flags, rung = flags.with_variant(ATTEMPT, f"{number}.{RUNGS.index(share) + 1}")
    return flags.edited(flags.targeting(ATTEMPT).with_action(action, shared(rung, none, share)))


def start_attempt(
    path: Path, action: ActionName, *, earlier: int = 1, before_write: Callable[[int, int, str], None]
) -> int:
    """Put an action's next attempt into force, after `earlier`, the highest that is on record elsewhere; its number.

    `before_write` gets the number before, the new one and the new SHA-256 before the file has it: no attempt begins off
    the record. What it raises leaves the file as it is; `FlagFileError` says that it cannot be read or written.
    """
    numbers: list[int] = []

    def edit(flags: FlagText) -> FlagText:
        flags = flags.with_flag(ATTEMPT, new_flag(ATTEMPT, owner="stagekeeper"))
        stated = flags.usable(ATTEMPT)
        layers = Layers.from_flag(ATTEMPT.key, stated)
        # What a targeting of somebody's own says of the action is not known: the next number is one that nobody used.
        ours = possible_values(flags.flags, ATTEMPT, action, layers.actions.get(action))
        before = _highest([*ours, *(stated["variants"].values() if layers.rest else ())])
        numbers[:] = before, max(before, earlier) + 1
        flags, variant = flags.with_variant(ATTEMPT, str(numbers[1]))
        return flags.edited(flags.targeting(ATTEMPT).with_action(action, variant))

    edit_flags(path, [ATTEMPT], edit, before_write=lambda sha256: before_write(numbers[0], numbers[1], sha256))
    return numbers[1]


def _highest(values: Iterable[object]) -> int:
    return max((rung_of(str(value)) or (1, None))[0] for value in values)
