"""Stages of actions in a flag service: rules of ours in the flag `agent-action-mode`, written, then read again."""

from __future__ import annotations

import difflib
import itertools
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from producers.boundary.policy_flags import ATTEMPT, DENYLIST, GOVERNANCE_ENABLED, MODE
from producers.boundary.stage_store import RUNGS, StageConflictError, StageSetting, StageStoreError
from producers.boundary.stage_writer import OverlayEdit, StageStep
from producers.boundary.targeting_entries import SWITCHES
from producers.flag_services.management_api import OutcomeUnknownError
from producers.flag_services.served_flags import RuleKind, ServedFlags, highest_attempt, setting_of
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.policy_flags import Flag, FlagValue
    from producers.boundary.stage_store import ActionName, StageChange
    from producers.flag_services.flag_service import EarlierFlag, FlagService
    from producers.flag_services.served_flags import ServedFlag, ServedRule

LOG: Final = logging.getLogger(__name__)

_TRIES: Final = 5  # how often what nobody has looked at is made for what somebody else just wrote


class _Edit(NamedTuple):
    """One rule in the place of another."""

    flag: Flag
    old: ServedRule | None
    new: ServedRule | None
    must_be_made: bool = True  # else the change holds without it, and the next one makes up for it

    def is_made(self, now: ServedFlag) -> bool:
        """Whether a flag has the new rule, or the old one no more."""
        if self.new is not None:
            return self.new.native in [rule.native for rule in now.rules]
        return self.old is None or self.old.id not in [rule.id for rule in now.rules]


@dataclass(frozen=True)
class ServiceStages:
    """A store of stages and what lies above them, in any flag service."""

    service: FlagService

    @property
    def name(self) -> str:
        """The service and the environment."""
        return self.service.name

    def read(self, action: ActionName) -> StageSetting:
        """What is in force for an action, below any emergency."""
        return setting_of(self._load(), action)

    def settings(self, others: Iterable[ActionName] = ()) -> list[StageSetting]:
        """What is in force for every action that has an entry of ours, and for others."""
        flags = self._load()
        return [setting_of(flags, action) for action in sorted({*_actions(flags[MODE.key]), *others})]

    def newest_replaced(self) -> str:
        """Name of the version of the mode's flag that another took the place of last; empty where there is none."""
        return next((one.name for one in self._earlier()), "")

    def had(self, version: str, *, after: str = "") -> bool:
        """Whether another version of the mode's flag took the place of this one, after what `newest_replaced` named."""
        later = itertools.takewhile(lambda one: one.name > after, self._earlier())
        return any(one.flag.version == version for one in later)

    def _earlier(self) -> Iterator[EarlierFlag]:
        mode = self.service.load(MODE)
        return iter(()) if mode is None else self.service.earlier(mode)

    def steps(self) -> Iterator[StageStep]:
        """The changes that the service remembers, newest first."""
        after = self.service.load(MODE)
        for until, before, _ in () if after is None else self.service.earlier(after):
            for action in sorted({*_actions(before), *_actions(after)}):
                step = StageStep(until, setting_of({MODE.key: before}, action), setting_of({MODE.key: after}, action))
                if (step.before.modes, step.before.share) != (step.after.modes, step.after.share):
                    yield step
            after = before

    def preview(self, change: StageChange) -> str:
        """What a change would do to the rules, as a unified diff."""
        flags = self._expected(change)
        after = _edited(flags, self._edits(flags, change))
        return "".join(
            line
            for key, flag in flags.items()
            for line in difflib.unified_diff(_lines(flag), _lines(after[key]), fromfile=key, tofile=key)
        )

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:
        """Put a mode into force, and show by reading it again that it is.

        Where somebody else writes in the same moment so that the action has something else than it should, what is
        left of the change is taken back, and it is a conflict.
        """
        flags = self._expected(change)
        edits = self._edits(flags, change)
        if edits:
            before_write(setting_of(_edited(flags, edits), change.action).version)
        return self._made(flags, edits, change.action)

    def cover(self, overlay: Overlay, scope: OverlayScope) -> OverlayEdit:
        """Put a switch into force at once, where it is not there."""
        return self._switched(overlay, scope, on=True, before_write=lambda _version: None)

    def uncover(self, overlay: Overlay, scope: OverlayScope, *, before_write: Callable[[str], None]) -> OverlayEdit:
        """Take exactly this switch away, where it is there."""
        return self._switched(overlay, scope, on=False, before_write=before_write)

    def start_attempt(self, action: ActionName, *, earlier: int, before_write: Callable[[int, int, str], None]) -> int:
        """Put an action's next attempt into force; its number."""
        flags = self._load()
        attempt = self._usable(flags, ATTEMPT)
        entry = attempt.entry(action)
        # What rules of somebody else's say of the action may not be known: the next number is one that nobody used.
        used = [value for rule in attempt.rules for value, _ in rule.values if rule == entry or rule.action is None]
        before = highest_attempt([*used, setting_of(flags, action).attempt])
        number = max(before, earlier) + 1
        edits = self._entry(attempt, ATTEMPT, action, {str(number): 100})
        before_write(before, number, _edited(flags, edits)[ATTEMPT.key].version)  # type: ignore[union-attr]
        self._made(flags, edits, action)
        return number

    def close(self) -> None:
        """Let the service's connections go."""
        self.service.close()

    def _load(self) -> ServedFlags:
        return {flag.key: self.service.load(flag) for flag in (MODE, ATTEMPT, DENYLIST, GOVERNANCE_ENABLED)}

    def _expected(self, change: StageChange) -> ServedFlags:
        flags = self._load()
        if setting_of(flags, change.action).version != change.expected_version:
            raise StageConflictError(f"{self.name} has changed meanwhile; look at it again")
        return flags

    def _usable(self, flags: ServedFlags, flag: Flag) -> ServedFlag:
        served = flags[flag.key]
        if served is None:
            raise StageStoreError(
                f"{self.name} has no flag {flag.key}, so {flag.safe!r} applies to every action; make it with "
                "`stagekeeper flags init`"
            )
        if not served.is_on:
            raise StageStoreError(f"{flag.key} is off in {self.name}, so rules in it do nothing; switch it on there")
        return served

    def _edits(self, flags: ServedFlags, change: StageChange) -> list[_Edit]:
        """The rules that a change needs: the mode first, which alone decides what may run."""
        mode, action, share = self._usable(flags, MODE), change.action, change.share
        before = setting_of(flags, action)
        if share is None and change.to is Mode.EXPANDED and before.share is not None:
            share = 100  # the roll-out is complete
        if share not in {None, 100} and not self.service.same_accounts:
            raise StageStoreError(
                f"{self.name} chooses other accounts in each flag, so nothing could tell at which rung an account is. "
                "Move the action as a whole, or name the accounts in a rule of your own."
            )
        shares: dict[FlagValue, int] = {change.to.value: 100}
        if share not in {None, 100}:
            shares = {change.to.value: share or 0, Mode.AUTONOMOUS.value: 100 - (share or 0)}
        edits = self._entry(mode, MODE, action, shares)
        attempt = flags[ATTEMPT.key]
        entry = None if attempt is None else attempt.entry(action)
        number = str(before.attempt)
        if share is not None:
            rung = f"{number}.{RUNGS.index(share) + 1}"
            rungs: dict[FlagValue, int] = {rung: share, number: 100 - share}
            edits += self._entry(self._usable(flags, ATTEMPT), ATTEMPT, action, rungs)
        # Whoever has left the roll-out is at none of its rungs; what is complete stays at the last.
        elif attempt is not None and entry is not None and change.to is not Mode.EXPANDED:
            edits += self._entry(attempt, ATTEMPT, action, {number: 100}, must_be_made=False)
        return [edit for edit in edits if edit.old is None or edit.new is None or edit.old.native != edit.new.native]

    def _entry(
        self,
        served: ServedFlag,
        flag: Flag,
        action: ActionName,
        shares: dict[FlagValue, int],
        *,
        must_be_made: bool = True,
    ) -> list[_Edit]:
        """The entry of an action, alone: a write that was made after all may have left another one."""
        old, others = served.entry(action), [rule for rule in served.rules if rule.action == action][1:]
        new = self.service.rule(served, RuleKind.ACTION, action._asdict(), shares, old)
        return [_Edit(flag, old, new, must_be_made), *(_Edit(flag, other, None, must_be_made) for other in others)]

    def _switched(
        self, overlay: Overlay, scope: OverlayScope, *, on: bool, before_write: Callable[[str], None]
    ) -> OverlayEdit:
        flag = overlay.flag
        for left in reversed(range(_TRIES)):
            served = self.service.load(flag)
            flags = {flag.key: served}
            served = self._usable(flags, flag)
            old = served.switch(scope)
            if (old is not None) is on:
                return OverlayEdit(changed=False, version=served.version)
            new = None
            if on:
                new = self.service.rule(served, RuleKind.SWITCH, scope.values, {SWITCHES[flag.key].value: 100})
            edit = _Edit(flag, old, new)
            before_write(served.with_rule(old, new).version)
            try:
                self._put(edit, served)
            except StageConflictError:
                if not left:
                    raise
                continue
            now = self._usable({flag.key: self.service.load(flag)}, flag)
            if on and now.rules[0].kind is not RuleKind.SWITCH and now.switch(scope) is not None:
                raise StageStoreError(
                    f"{scope} is switched, but users or rules that stand before that in {flag.key} in {self.name} are "
                    "not: remove them there"
                )
            if (now.switch(scope) is not None) is on:
                return OverlayEdit(changed=True, version=now.version)
        raise StageConflictError(f"somebody else keeps changing {flag.key} in {self.name}; look at it again")

    def _put(self, edit: _Edit, served: ServedFlag) -> None:
        """Make one edit; where nothing says whether it was made, what is there says so."""
        for left in reversed(range(_TRIES)):
            try:
                self.service.put(served, edit.old, edit.new)
            except OutcomeUnknownError:
                now = self.service.load(edit.flag)
                if now is None:
                    raise
                if edit.is_made(now):
                    return
                if now.version != served.version:
                    raise StageConflictError(f"{edit.flag.key} in {self.name} has changed meanwhile") from None
                if not left:
                    raise
            else:
                return

    def _made(self, flags: ServedFlags, edits: list[_Edit], action: ActionName) -> StageSetting:
        expected = setting_of(_edited(flags, edits), action)
        done: list[_Edit] = []
        try:
            for edit in edits:
                served = self.service.load(edit.flag) if done else flags[edit.flag.key]
                try:
                    self._put(edit, self._usable({edit.flag.key: served}, edit.flag))
                except (StageStoreError, StageConflictError) as error:
                    if edit.must_be_made:
                        raise
                    LOG.error("%s of %s stays as it was in %s: %s", edit.flag.key, action, self.name, error)  # noqa: TRY400
                else:
                    done.append(edit)
        except (StageStoreError, StageConflictError) as error:
            self._take_back(done, error)
            raise
        now = setting_of(self._load(), action) if edits else expected
        if replace(now, version="") == replace(expected, version=""):
            return now
        conflict = StageConflictError(f"somebody else has changed {action} in {self.name} in the same moment")
        self._take_back(done, conflict)
        raise conflict

    def _take_back(self, done: list[_Edit], why: Exception) -> None:
        """Undo what of ours is there still; what somebody else wrote over it stays."""
        for edit in reversed(done):
            try:
                served = self.service.load(edit.flag)
                if served is None or not edit.is_made(served):
                    continue
                made = None if edit.new is None else next(one for one in served.rules if one.native == edit.new.native)
                self._put(_Edit(edit.flag, made, edit.old), served)
            except (StageStoreError, StageConflictError) as error:
                why.add_note(f"{edit.flag.key} in {self.name} could not be put back: {error}")


def _edited(flags: ServedFlags, edits: list[_Edit]) -> ServedFlags:
    after = dict(flags)
    for edit in edits:
        served = after[edit.flag.key]
        after[edit.flag.key] = None if served is None else served.with_rule(edit.old, edit.new)
    return after


def _actions(flag: ServedFlag | None) -> list[ActionName]:
    return [] if flag is None else list(dict.fromkeys(rule.action for rule in flag.rules if rule.action is not None))


def _lines(flag: ServedFlag | None) -> list[str]:
    rules = [] if flag is None else [rule.native for rule in flag.rules]
    return json.dumps(rules, indent=2, ensure_ascii=False, sort_keys=True).splitlines(keepends=True)
