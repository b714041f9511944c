"""The enactor: carries out what the ledger calls for in the store of stages, once, and shows that it is in force.

One process at a time enacts, under the lease `enactor`; every row that it writes carries the fence. A change is three
steps: the row `intended`, while the store is locked and before it is written; the row `applied`; the event
`policy.changed`, whose id follows from the recommendation. Wherever it is killed, the next one finds in the rows and in
the store how far the change is, and finishes it.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException
from polars.exceptions import PanicException

from analytics.enactment.action_facts import ActionFacts
from analytics.enactment.due_changes import (
    Done,
    DueChange,
    Known,
    NotDue,
    gate_of,
    promotion_due,
    rollback_due,
    stages_of,
)
from analytics.enactment.enactments import Enactment, EnactmentPhase, EnactmentStep, append, enactments
from analytics.enactment.standing_calls import StandingCalls
from analytics.gates.gate_file import GateFile
from analytics.lake.errors import FencedError
from analytics.lake.storage import reading
from analytics.lake.table_schemas import SIGNOFFS
from analytics.verdicts.gate_check import gate_check
from analytics.verdicts.history_check import check_history
from analytics.verdicts.signoffs import SignOff, SignOffKind, in_force
from producers.boundary.stage_store import (
    ActionName,
    ChangesTogether,
    StageChange,
    StageConflictError,
    StageSetting,
    StageStore,
    StageStoreError,
)
from producers.errors import StagekeeperError
from producers.strict_yaml import ConfigurationFileError, read_file
from producers.wire.events import VerdictName
from streams.control.enactor_faults import EnactorFaults, HarmStaysError
from streams.control.enactor_proofs import Proofs
from streams.control.enactor_report import EnactorReport
from streams.control.pauses import Pauses
from streams.control.policy_change_news import PolicyChangeNews

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from analytics.lake.tables import Fence, Lake
    from producers.wire.events import PolicyChanged
    from streams.control.router_statuses import RouterStatuses

LOG: Final = logging.getLogger(__name__)

EFFECT_DEADLINE_S: Final = 10.0

_TOGETHER: Final = 2  # from so many rollbacks on that are due at one look they are made in one step
_CONFLICTS: Final = 3  # how often one look tries again where somebody else writes the store


class Enactor:
    """Carries out recommendations on a lake's handle of its own. One thread at a time may use it.

    `publish` hands over policy changes and returns once they are acknowledged, or raises a `StagekeeperError`.
    """

    def __init__(
        self,
        lake: Lake,
        gate_file: Path,
        store: StageStore,
        publish: Callable[[list[PolicyChanged]], None],
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        freshness_s: float = math.inf,
        effect_deadline_s: float = EFFECT_DEADLINE_S,
        routers: RouterStatuses | None = None,
    ) -> None:
        self._lake, self._store = lake, store
        self._gate_file = gate_file
        self._now, self._clock = now, clock
        self._freshness_s = freshness_s
        self._fence: Fence | None = None
        self._pauses = Pauses(clock)
        deadline = timedelta(seconds=effect_deadline_s)
        self._proofs = Proofs(lake, store, self._pauses, routers, now=now, deadline=deadline)
        self._calls = StandingCalls(lake)
        self._past: dict[str, Enactment] = {}
        self._news = PolicyChangeNews(publish)
        self._gates: GateFile | None = None
        self._gate_text: bytes | None = None
        self._signoffs_version = -1
        self._signoffs: list[SignOff] = []
        self._faults = EnactorFaults()

    def look(self, fence: Fence) -> EnactorReport:
        """Carry out what is due: rollbacks, then promotions, then proofs and events. What fails is tried again.

        Raises:
            FencedError: Somebody else enacts now; nothing more was changed.
            LakeError: The lake cannot be read or written; what was begun is finished at a later look.
        """
        try:
            with reading(self._lake.root):
                self._begin(fence)
                gates = self._read_gates()
                self._take_news()
                names = {"gates", "events", "proofs"}
                for word in (VerdictName.ROLL_BACK, VerdictName.PROMOTE):
                    names |= self._carry_out(word, gates)
                self._faults.keep(names)
                self._prove()
            self._tell()
            return EnactorReport.of_past(self._past.values(), self._calls.by_cell.values(), self._faults)
        except FencedError:
            self._fence = None
            raise

    def begin_anew(self) -> None:
        """Forget what is known, after an error that may have come amid something; the next look reads it."""
        self._fence = None

    def _carry_out(self, word: VerdictName, gates: GateFile | None) -> set[str]:
        """Finish what was begun and begin what is due, each but in its pauses; what all that is called."""
        begun = [one for one in self._past.values() if not one.is_settled and one.last.verdict is word]
        for one in begun:
            if self._pauses.over(one.last.action, word):
                self._guarded(one.last.action, word, functools.partial(self._resume, one))
        asked = [] if gates is None else self._asked(word, gates)
        ready = [action for action in asked if self._pauses.over(action, word)]
        if ready and gates is not None:
            moved, facts = self._together(ready, word, gates)
            for action in ready:
                if action not in moved:
                    self._guarded(action, word, functools.partial(self._enact, action, word, gates, facts))
        for action in {one.last.action for one in begun}.difference(asked):
            if self._pauses.over(action, word):
                self._pauses.refused(action, word)
        return {_name(word, action) for action in (*asked, *(one.last.action for one in begun))}

    def _begin(self, fence: Fence) -> None:
        if fence == self._fence:
            return
        # From here on nothing of an earlier holder can come, so what is read below is the last word.
        append(self._lake, [], fence=fence)
        self._past = enactments(self._lake)
        self._calls = StandingCalls(self._lake)
        self._news.load(self._lake, self._past.values(), now=self._now())
        self._pauses.forget()
        self._faults.keep(())
        self._fence = fence

    def _read_gates(self) -> GateFile | None:
        try:
            text = read_file(self._gate_file, name="the gate file")
            if text != self._gate_text:
                self._pauses.forget()
                self._gate_text, self._gates = text, None
                self._gates = GateFile.parse(text, path=self._gate_file)
            self._faults.clear("gates")
        except ConfigurationFileError as error:
            self._gates, self._gate_text = None, None  # nothing is carried out under a file that nobody can read
            self._faults.note("gates", error)
        return self._gates

    def _take_news(self) -> None:
        for action in self._calls.refresh():
            self._pauses.forget(action)
        version = self._lake.version(SIGNOFFS)
        if version != self._signoffs_version:
            self._pauses.forget()
            self._signoffs_version = version
        self._signoffs = in_force(self._lake, now=self._now()) if version else []

    def _asked(self, word: VerdictName, gates: GateFile) -> list[ActionName]:
        """The actions of which a cell calls for that, as far as the gate lets it be carried out and it was not yet."""
        approved = {
            (signoff.action, signoff.to_stage) for signoff in self._signoffs if signoff.kind is SignOffKind.APPROVAL
        }
        done = Done(one for one in self._past.values() if one.is_settled)
        wanted: dict[ActionName, None] = {}
        for call in self._calls.by_cell.values():
            if call.verdict != word or (gate := gate_of(gates, call.cell, call.risk_class)) is None:
                continue
            does = gate.on_roll_back if word is VerdictName.ROLL_BACK else gate.on_promote
            if does == "recommend" or (does == "ask" and (tuple(call.action), call.to_stage) not in approved):
                continue
            if not done.covers(call.key, call.crossed):
                wanted[call.action] = None
        return list(wanted)

    def _guarded(self, action: ActionName, word: VerdictName, work: Callable[[], bool | None]) -> None:
        """Work on one action; what fails is left alone for a while, longer each time, and holds up no other action."""
        name = _name(word, action)
        try:
            with reading(self._lake.root):
                done = work()
        except FencedError:
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 - whatever it is, other rollbacks wait for nobody
            self._pauses.failed(action, word)
            self._faults.note(name, error, f"{name} cannot be carried out: ")
            return
        if done is not None:
            self._faults.clear(name)
        if done:
            self._pauses.forget(action)
        elif done is False:
            self._pauses.refused(action, word)

    def _prove(self) -> None:
        """Look for the effect of the latest changes, at once: the next rollback waits for no more than that."""
        try:
            with reading(self._lake.root):
                if steps := self._proofs.steps(self._past.values()):
                    self._append(steps)
        except FencedError:
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 - the next change is proven at the next look
            self._faults.note("proofs", error, "whether a change is in force is not known: ")
        else:
            self._faults.clear("proofs")

    def _resume(self, one: Enactment) -> bool | None:
        """Find out how far a change is that was intended, and finish its record where the store has it.

        None leaves it as it is: it was not written, and whether it is due still is asked anew.
        """
        step, setting = one.last, self._store.read(one.last.action)
        was_written = setting.version == step.version_after or self._store.had(
            step.version_after, after=step.replaced_before
        )
        is_promotion = step.verdict is VerdictName.PROMOTE
        if was_written and setting.mode is step.mode_after:
            note = "the store had it already: whoever wrote it was stopped before the record"
            self._applied([step], setting.version, note)
            return True
        # It may have been written and taken back: on that doubt nothing is promoted.
        in_doubt = is_promotion and setting.version != step.version_before
        if was_written or setting.mode is not step.mode_before or in_doubt:
            note = f"the store was changed by somebody else meanwhile, to {setting.mode or 'several modes'}"
        elif is_promotion and all(call.key != step.key for call in self._calls.by_cell.values()):
            note = "the ledger does not call for it any more"  # a rollback stays open: its latch may speak again
        else:
            return None
        self._append([step.followed_by(EnactmentPhase.SUPERSEDED, at=self._now(), note=note)])
        return True

    def _enact(self, action: ActionName, word: VerdictName, gates: GateFile, facts: ActionFacts | None) -> bool:
        facts = facts or self._facts([action], word)
        for left in reversed(range(_CONFLICTS)):
            setting = self._store.read(action)
            if isinstance(due := self._due(word, setting, gates, facts), NotDue):
                if due.leaves_harm:
                    raise HarmStaysError(due.message)
                LOG.debug("%s of %s is not carried out: %s", word, action, due.message)
                return False
            try:
                self._change([(due, setting)], facts)
            except StageConflictError:
                if not left:
                    raise
            else:
                break
        return True

    def _together(
        self, actions: list[ActionName], word: VerdictName, gates: GateFile
    ) -> tuple[set[ActionName], ActionFacts | None]:
        """Read about all, and roll back in one step what can be; whom that does not help is tried alone."""
        facts, dues = None, list[tuple[DueChange, StageSetting]]()
        try:
            with reading(self._lake.root):
                facts = self._facts(actions, word)
                if word is VerdictName.ROLL_BACK and len(actions) > 1 and isinstance(self._store, ChangesTogether):
                    for action in actions:
                        setting = self._store.read(action)
                        if isinstance(due := self._due(word, setting, gates, facts), DueChange):
                            dues.append((due, setting))
                if len(dues) < _TOGETHER:
                    return set(), facts
                self._change(dues, facts)
        except FencedError:
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 - what is at fault is named when it is tried alone
            LOG.warning("%d actions cannot be seen to together, and are one by one: %s", len(actions), error)
            return set(), facts
        for _, setting in dues:
            self._faults.clear(_name(word, setting.action))
            self._pauses.forget(setting.action)
        return {setting.action for _, setting in dues}, facts

    def _facts(self, actions: list[ActionName], word: VerdictName) -> ActionFacts:
        wanted = set(actions)
        calls = [call for call in self._calls.by_cell.values() if call.action in wanted and call.verdict == word]
        return ActionFacts.load(self._lake, calls)

    def _due(self, word: VerdictName, setting: StageSetting, gates: GateFile, facts: ActionFacts) -> DueChange | NotDue:
        calls = [call for call in self._calls.of(setting.action) if call.verdict == word]
        here = [call for call in calls if call.cell.stage in stages_of(setting)]
        if not here:
            return NotDue("moved")
        known = Known(
            facts.documents.get(setting.action, []),
            setting,
            [one for one in self._past.values() if one.last.action == setting.action],
            [signoff for signoff in self._signoffs if signoff.action == tuple(setting.action)],
            facts.newest,
        )
        if word is VerdictName.ROLL_BACK:
            return rollback_due(known, gates, facts.crossings)
        action = setting.action._asdict()
        answer = gate_check(
            self._lake, gates, **action, to_stage=here[0].to_stage, now=self._now(), freshness_s=self._freshness_s
        )
        return promotion_due(known, gates, answer)

    def _change(self, dues: list[tuple[DueChange, StageSetting]], facts: ActionFacts) -> None:
        """Change what is due, on record before and after."""
        rollbacks = [due.document for due, _ in dues if due.document.verdict is VerdictName.ROLL_BACK]
        if rollbacks:  # of a promotion the gate has asked
            check_history(self._lake, rollbacks)
        now, intended = self._now(), list[EnactmentStep]()

        def keep(version_after: str) -> None:
            before = self._store.newest_replaced()
            versions = {"store": self._store.name, "version_after": version_after, "replaced_before": before}
            intended[:] = [due.intended(setting, facts.crossings, at=now, **versions) for due, setting in dues]
            self._append(intended)

        changes = [StageChange(setting.action, due.to, setting.version) for due, setting in dues]
        if len(changes) > 1 and isinstance(self._store, ChangesTogether):
            after = self._store.change_together(changes, before_write=keep)[0]
        else:
            after = self._store.change(changes[0], before_write=keep)
        if not intended:
            raise StageStoreError(f"{self._store.name} has changed {changes[0].action} off the record")
        self._applied(intended, after.version)

    def _applied(self, steps: list[EnactmentStep], version: str, note: str = "") -> None:
        now = self._now()
        steps = [step.followed_by(EnactmentPhase.APPLIED, at=now, version_after=version, note=note) for step in steps]
        self._append(steps)
        self._news.untold += steps
        for step in steps:
            LOG.warning("%s goes from %s to %s: %s", step.action, step.stage, step.to_stage, step.reason)

    def _append(self, steps: list[EnactmentStep]) -> None:
        append(self._lake, steps, fence=self._fence)
        for step in steps:
            before = self._past.get(step.recommendation_id)
            self._past[step.recommendation_id] = Enactment((*(() if before is None else before.steps), step))

    def _tell(self) -> None:
        if not self._news.untold or not self._pauses.over(None, "events"):
            return
        try:
            self._news.publish()
        except (StagekeeperError, KafkaException) as error:
            self._pauses.failed(None, "events")
            self._faults.note("events", error, "policy changes are not published yet: ")
            return
        self._faults.clear("events")


def _name(word: VerdictName, action: ActionName) -> str:
    return f"{word} of {action}"
