"""The enactor: every recommendation changes its stage once, whatever dies when, and nothing unsafe changes one."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest
from click.testing import CliRunner
from fakes import FakeIds, a_contract, a_decision
from lakes_of_events import NOON, EventLake
from stage_stores import FileStages, KilledError, MemoryStages

from analytics.backtest.recommendation_outcomes import of_history, recommendations
from analytics.enactment.enactments import EnactmentPhase, EnactmentStep, enactments
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.errors import FencedError
from analytics.lake.leases import ENACTOR
from analytics.lake.table_schemas import ENACTMENTS, SIGNALS
from analytics.lake.tables import Fence
from analytics.maintenance import Maintenance, RetentionPolicy
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import SignOffKind, record
from producers.boundary.stage_store import ActionName, StageChange
from producers.delivery.recorder import Recorder
from producers.errors import StagekeeperError
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.stage import Mode, Stage
from stagekeeper.commands import cli
from streams.control.enactor import Enactor, EnactorReport

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.events import PolicyChanged

pytestmark = pytest.mark.slow

ACTION: Final = ActionName("production", "refunds", "issue_refund")
GATES: Final = (
    "version: 1\nfreshness: 30m\ngates: [{name: g, unit: action, ladder: [draft_write, approval_gated], "
    "on_roll_back: apply, on_promote: ask, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
)
MOVE: Final = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}
SAYS: Final = {"actor": "maria", "reason": "because"}
ROLL_BACK, PROMOTE = "ROLL_BACK", "PROMOTE"


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


class Place:
    """A lake with an action at draft_write, a judge, a store, and enactors that come and go."""

    def __init__(self, folder: Path, gates: str = GATES, store: str = "memory") -> None:
        self.history = EventLake.at(folder)
        self.lake = self.history.lake
        self.gate_file = folder / "gates.yaml"
        self.gate_file.write_text(gates)
        self.judge = Judge(self.lake, self.gate_file, settle_s=0)
        modes = {ACTION: Mode.DRAFT_WRITE}
        self.store: Any = MemoryStages(modes) if store == "memory" else FileStages(folder / "flags", modes)
        self.told: list[PolicyChanged] = []
        self.broker_is_away = False
        self.now = at(10)
        self.seconds = 0.0
        self.tenure = 0
        self.enactor = self.restarted()
        self._ids = FakeIds("other")

    def restarted(self, **more: Any) -> Enactor:
        """An enactor of a new tenure."""
        self.tenure += 1
        self.enactor = Enactor(
            type(self.lake).open(self.lake.root),
            self.gate_file,
            self.store,
            self._publish,
            now=lambda: self.now,
            clock=lambda: self.seconds,
            **more,
        )
        return self.enactor

    def _publish(self, events: list[PolicyChanged]) -> None:
        if self.broker_is_away:
            raise StagekeeperError("the broker is away")
        self.told += events

    def look(self, *, after_s: float = 60.0) -> EnactorReport:
        """Look once more, by default when every pause is over."""
        self.seconds += after_s
        return self.enactor.look(Fence(ENACTOR, self.tenure))

    def judged(self, minute: float = 10.0, *, failed: bool = True, count: int = 60, **more: Any) -> None:
        """Actions of the last six minutes, judged at one."""
        for number in range(count):
            self.history.act(minute - 6 + number / 10, f"u{number}", failed=failed, **more)
        self.history.store()
        self.now = at(minute)
        self.judge.tick(self.now)

    def decided(self, source: str, stage: Stage, seconds: float, *, attempt: int = 1) -> None:
        """One decision so many seconds after ten past twelve, by the source's own clock."""
        recorder = Recorder(self.history.emitter, source=source, new_id=self._ids)
        decision = a_decision()
        if attempt > 1:
            flag = FlagEvaluation(key="agent-action-attempt", value=str(attempt), reason=FlagReason.TARGETING_MATCH)
            decision = decision.model_copy(update={"flags": (*decision.flags, flag)})
        recorder.decided(a_contract(), decision, stage=stage, decided_at=at(10) + timedelta(seconds=seconds))
        self.history.store()

    def approved(self, minutes: float = 60.0) -> None:
        gates, expires_at = GateFile.load(self.gate_file), self.now + timedelta(minutes=minutes)
        sign_off(self.lake, gates, SignOffKind.APPROVAL, **MOVE, **SAYS, now=self.now, expires_at=expires_at)

    @property
    def steps(self) -> list[EnactmentStep]:
        return [step for one in enactments(self.lake).values() for step in one.steps]

    @property
    def phases(self) -> list[EnactmentPhase]:
        return [step.phase for step in self.steps]

    @property
    def mode(self) -> Mode | None:
        return self.store.modes[ACTION]


@pytest.fixture(params=["memory", "flagd"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, store=request.param)


def test_a_rollback_is_carried_out_once_on_record_and_told_once(place: Place) -> None:
    place.judged()
    before = place.store.read(ACTION).version
    report = place.look()
    after = place.store.read(ACTION).version
    assert (place.mode, report.fault) == (Mode.SEARCH_ONLY, None)
    for _ in range(3):
        place.look()
    place.restarted()
    place.look()
    (change,) = place.store.changes
    assert change == StageChange(ACTION, Mode.SEARCH_ONLY, before)
    intended, applied = place.steps
    (verdict,) = latest_verdicts(place.lake)
    assert (intended.phase, applied.phase) == (EnactmentPhase.INTENDED, EnactmentPhase.APPLIED)
    assert (intended.version_before, intended.version_after, applied.version_after) == (before, after, after)
    assert intended.recommendation_id == verdict.verdict_id == intended.verdict_id
    event = place.told[0]
    assert (event.data.before, event.data.after) == ("draft_write", "search_only")
    assert (event.data.recommendation_id, event.data.environment) == (verdict.verdict_id, "production")
    assert "limit 10 %" in event.data.reason
    assert {told.id for told in place.told} == {event.id}, "told again after a restart, and the same event"
    assert report.seconds_to_apply == (0.0,)


def test_a_promotion_waits_for_a_person_and_is_carried_out_at_the_next_look(place: Place) -> None:
    place.judged(failed=False)
    report = place.look()
    assert (place.mode, report.lives["open"], place.phases) == (Mode.DRAFT_WRITE, 1, [])
    place.approved()
    place.look(after_s=0.1)
    assert place.mode is Mode.APPROVED_EXTERNAL
    assert place.steps[-1].signoff_id is not None
    assert place.told[0].data.signoff_id == place.steps[-1].signoff_id
    place.store.set(ACTION, Mode.DRAFT_WRITE)
    place.look()
    assert place.mode is Mode.DRAFT_WRITE, "a person took it back, and it is carried out once"


def test_an_accepted_promotion_whose_evidence_turned_to_harm_is_not_carried_out(place: Place) -> None:
    place.judged(failed=False)
    place.approved()
    place.judged(14, failed=True, count=200)
    place.look()
    assert place.mode is Mode.SEARCH_ONLY
    assert {step.verdict.value for step in place.steps} == {ROLL_BACK}


@pytest.mark.parametrize(("minutes", "mode"), [(20, Mode.APPROVED_EXTERNAL), (35, Mode.DRAFT_WRITE)])
def test_a_promotion_takes_fresh_evidence(place: Place, minutes: float, mode: Mode) -> None:
    place.judged(failed=False)
    place.approved()
    place.now = at(10 + minutes)
    place.look()
    assert place.mode is mode


def test_a_rollback_may_rest_on_evidence_that_is_stale_by_now_but_not_on_what_was_stale_when_it_was_judged(
    tmp_path: Path,
) -> None:
    fresh, stale = Place(tmp_path / "fresh"), Place(tmp_path / "stale")
    fresh.judged()
    fresh.now = at(300)
    fresh.look()
    assert fresh.mode is Mode.SEARCH_ONLY
    for number in range(60):
        stale.history.act(4 + number / 10, f"u{number}", failed=True)
    stale.history.store()
    stale.judge.tick(at(300))
    stale.now = at(300)
    stale.look()
    assert latest_verdicts(stale.lake)[0].verdict == ROLL_BACK
    assert stale.mode is Mode.DRAFT_WRITE, "an import of what happened long ago moves nothing now"


@pytest.mark.parametrize("failed", [True, False])
def test_where_the_gate_only_recommends_nothing_is_changed(tmp_path: Path, failed: bool) -> None:
    gates = GATES.replace("on_roll_back: apply, on_promote: ask, ", "")
    place = Place(tmp_path, gates)
    place.judged(failed=failed)
    place.look()
    assert (place.mode, place.phases) == (Mode.DRAFT_WRITE, [])


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.gate_file.write_text(GATES.replace("{name: g,", "{name: g, dry_run: true,"))
    place.look()
    assert place.mode is Mode.DRAFT_WRITE


def test_while_the_gate_file_is_edited_nothing_moves_until_the_worker_has_judged_under_it(place: Place) -> None:
    place.judged()
    place.gate_file.write_text(GATES.replace("limit: 0.1", "limit: 0.2"))
    place.look()
    assert place.mode is Mode.DRAFT_WRITE
    place.gate_file.write_text("version: 1\ngates: [{")
    assert "gates.yaml" in (place.look().fault or "")
    place.gate_file.write_text(GATES.replace("limit: 0.1", "limit: 0.2"))
    place.judge.tick(at(10.5))
    assert place.look().fault is None
    assert place.mode is Mode.SEARCH_ONLY


def test_after_a_rollback_the_action_stays_until_a_person_begins_a_new_attempt(tmp_path: Path) -> None:
    gates = GATES.replace("ask", "apply").replace("[draft_write, approval_gated]", "[search_only, draft_write]")
    place = Place(tmp_path, gates)
    place.judged()
    place.look()
    assert place.mode is Mode.SEARCH_ONLY
    place.judged(20, failed=False, stage=Stage.SEARCH_ONLY)
    place.look()
    assert place.mode is Mode.SEARCH_ONLY, "rolled back, and no new attempt"


def test_a_verdict_of_another_attempt_than_the_stores_moves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.store.attempt = 2
    place.look()
    assert place.mode is Mode.DRAFT_WRITE
    place.store.attempt = 1
    place.look()
    assert place.mode is Mode.SEARCH_ONLY


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.SEARCH_ONLY, Mode.APPROVED_EXTERNAL, Mode.AUTONOMOUS])
def test_an_action_that_a_person_has_moved_meanwhile_is_left_where_it_is(place: Place, mode: Mode) -> None:
    place.judged()
    place.store.set(ACTION, mode)
    place.look()
    assert (place.mode, place.phases) == (mode, [])


def test_a_person_who_writes_at_the_same_moment_has_the_last_word(place: Place) -> None:
    place.judged()
    read, moved = place.store.read, False

    def meanwhile(action: ActionName) -> Any:
        nonlocal moved
        setting = read(action)
        if not moved:
            moved = True
            place.store.set(ACTION, Mode.OBSERVE)
        return setting

    place.store.read = meanwhile
    place.look()
    assert (place.mode, place.phases) == (Mode.OBSERVE, [])


@pytest.mark.parametrize(
    ("modes", "after"),
    [
        ((Mode.DRAFT_WRITE, Mode.AUTONOMOUS), Mode.SEARCH_ONLY),
        ((Mode.DRAFT_WRITE, Mode.OBSERVE), None),  # for a part it would be upwards
        ((Mode.EXPANDED, Mode.AUTONOMOUS), None),  # none is at the stage that was judged
    ],
)
def test_under_a_percentage_the_whole_action_goes_back_unless_that_is_upwards_for_a_part(
    tmp_path: Path, modes: tuple[Mode, ...], after: Mode | None
) -> None:
    place = Place(tmp_path)
    place.judged()
    read = place.store.read
    place.store.read = lambda action: dataclasses.replace(read(action), mode=None, modes=modes)
    place.look()
    assert [change.to for change in place.store.changes] == ([] if after is None else [after])


def test_a_ruling_in_force_stops_a_rollback(place: Place) -> None:
    place.judged()
    (document,) = latest_verdicts(place.lake)
    expires_at = place.now + timedelta(hours=1)
    who = {"to_stage": "approval_gated", "cohort": None, **SAYS}
    record(place.lake, SignOffKind.OVERRIDE, [document], **who, now=place.now, expires_at=expires_at)
    place.look()
    assert place.mode is Mode.DRAFT_WRITE
    place.now = expires_at + timedelta(seconds=1)
    place.look()
    assert place.mode is Mode.SEARCH_ONLY, "it has expired"


def test_of_several_cohorts_the_worst_counts(tmp_path: Path) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"))
    place.judged(failed=False, cohort="west")
    place.judged(failed=True, cohort="east")
    place.look()
    assert place.mode is Mode.SEARCH_ONLY
    waiting = Place(tmp_path / "waiting", GATES.replace("ask", "apply"))
    waiting.judged(failed=False, cohort="west")
    waiting.judged(failed=False, cohort="east", count=3)
    waiting.look()
    assert waiting.mode is Mode.DRAFT_WRITE, "east has not shown enough"
    waiting.judged(12, failed=False, cohort="east", count=60)
    waiting.look()
    assert waiting.mode is Mode.APPROVED_EXTERNAL


def test_a_verdict_of_a_lake_that_was_altered_or_put_back_changes_nothing(place: Place) -> None:
    place.judged()
    head = next(place.gate_file.parent.glob("lake.head.json"))
    head.write_text(head.read_text().replace('"sha256":"', '"sha256":"f'))
    assert "not the one that was judged" in (place.look().fault or "")
    assert (place.mode, place.phases) == (Mode.DRAFT_WRITE, [])


def killed(place: Place) -> None:
    with pytest.raises(KilledError):
        place.look()
    place.store.before = place.store.after = lambda: None
    place.restarted()


def kill() -> None:
    raise KilledError


@pytest.mark.parametrize("failed", [True, False])
def test_killed_between_intended_and_write_it_is_carried_out_by_the_next(place: Place, failed: bool) -> None:
    place.judged(failed=failed)
    if not failed:
        place.approved()
    place.store.before = kill
    killed(place)
    assert (place.phases, place.mode, place.told) == ([EnactmentPhase.INTENDED], Mode.DRAFT_WRITE, [])
    place.look()
    assert len(place.store.changes) == 1
    assert place.phases == [EnactmentPhase.INTENDED, EnactmentPhase.INTENDED, EnactmentPhase.APPLIED]
    assert len({event.id for event in place.told}) == 1


@pytest.mark.parametrize("others_edit", [False, True])
@pytest.mark.parametrize("failed", [True, False])
def test_killed_between_write_and_applied_the_record_is_completed_and_the_change_not_repeated(
    place: Place, failed: bool, others_edit: bool
) -> None:
    place.judged(failed=failed)
    if not failed:
        place.approved()
    place.store.after = kill
    killed(place)
    mode = place.mode
    assert mode is not Mode.DRAFT_WRITE
    if others_edit:
        place.store.set(ActionName("production", "support", "search"), Mode.OBSERVE)
    place.look()
    assert (place.phases, place.mode) == ([EnactmentPhase.INTENDED, EnactmentPhase.APPLIED], mode)
    assert len(place.store.changes) == 1
    assert "had it already" in place.steps[-1].note
    assert len(place.told) == 1


@pytest.mark.parametrize("failed", [True, False])
def test_killed_and_taken_back_by_a_person_it_is_not_repeated(place: Place, failed: bool) -> None:
    place.judged(failed=failed)
    if not failed:
        place.approved()
    place.store.after = kill
    killed(place)
    place.store.set(ACTION, Mode.DRAFT_WRITE)
    place.look()
    assert (place.mode, place.phases) == (Mode.DRAFT_WRITE, [EnactmentPhase.INTENDED, EnactmentPhase.SUPERSEDED])
    place.look()
    assert place.mode is Mode.DRAFT_WRITE


def test_killed_between_applied_and_event_the_next_one_tells_it(place: Place) -> None:
    place.judged()
    place.broker_is_away = True
    assert "not published yet" in (place.look().fault or "")
    assert (place.mode, place.told) == (Mode.SEARCH_ONLY, [])
    place.broker_is_away = False
    place.restarted()
    assert place.look().fault is None
    (event,) = place.told
    # It comes back through Kafka, and is not told again.
    place.history.emitter.events.append(event)
    place.history.store()
    place.restarted()
    place.look()
    assert place.told == [event]


def test_of_two_enactors_the_earlier_can_change_nothing_any_more(place: Place) -> None:
    earlier = place.enactor
    place.look()
    place.judged()
    later = place.restarted()
    later.look(Fence(ENACTOR, 2))
    changes = list(place.store.changes)
    assert len(changes) == 1
    place.store.set(ACTION, Mode.DRAFT_WRITE)
    with pytest.raises(FencedError):
        earlier.look(Fence(ENACTOR, 1))
    assert (place.mode, place.store.changes) == (Mode.DRAFT_WRITE, changes)


def test_one_that_lost_its_lease_while_it_wrote_writes_nothing(place: Place) -> None:
    place.look()
    place.judged()
    place.lake.append(ENACTMENTS, place.lake.scan(ENACTMENTS).collect(), fence=Fence(ENACTOR, 2))
    with pytest.raises(FencedError):
        place.look()
    assert (place.mode, place.store.changes) == (Mode.DRAFT_WRITE, [])


def test_a_store_that_cannot_be_written_is_tried_again_and_holds_up_nothing_else(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.store.broken = "the disk is full"
    assert "cannot be carried out: the disk is full" in (place.look().fault or "")
    tried = place.phases
    place.look(after_s=0.1)
    assert place.phases == tried, "it is left alone for a moment"
    place.store.broken = None
    assert place.look(after_s=5.0).fault is None
    assert place.mode is Mode.SEARCH_ONLY


def test_a_flag_file_that_is_gone_is_named_and_changed_once_it_is_back(tmp_path: Path) -> None:
    place = Place(tmp_path, store="flagd")
    place.judged()
    path = place.store.stages.path
    path.rename(path.with_suffix(".away"))
    assert "cannot be read" in (place.look().fault or "")
    path.with_suffix(".away").rename(path)
    assert place.look().fault is None
    assert place.mode is Mode.SEARCH_ONLY


def test_rollbacks_come_before_promotions_and_do_not_wait_for_one_that_fails(tmp_path: Path) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"))
    other = ActionName("production", "refunds", "other")
    place.store.set(other, Mode.DRAFT_WRITE)
    contract = a_contract(tool="other")
    for number in range(60):
        receipt = place.history.recorder.decided(
            contract, a_decision(), stage=Stage.DRAFT_WRITE, decided_at=at(4 + number / 10)
        )
        place.history.recorder.executed(receipt, "succeeded", latency_ms=1.0, at=at(4.1 + number / 10))
    place.judged()
    asked: list[StageChange] = []
    change = place.store.change

    def noted(one: StageChange, **more: Any) -> Any:
        asked.append(one)
        if one.to is not Mode.SEARCH_ONLY:
            raise StagekeeperError("the disk is full")
        return change(one, **more)

    place.store.change = noted
    report = place.look()
    assert [one.to for one in asked] == [Mode.SEARCH_ONLY, Mode.APPROVED_EXTERNAL]
    assert "PROMOTE of production/refunds/other" in (report.fault or "")
    assert place.mode is Mode.SEARCH_ONLY


def test_it_is_in_force_once_every_source_decides_by_it(place: Place) -> None:
    place.decided("/routers/b", Stage.DRAFT_WRITE, -60)
    place.judged()
    place.look()
    place.decided("/tests", Stage.SEARCH_ONLY, 1)
    place.look()
    assert place.phases[-1] is EnactmentPhase.APPLIED, "the other source has not decided since"
    place.decided("/routers/b", Stage.OBSERVE_ONLY, 3)
    place.look()
    step = place.steps[-1]
    assert (step.phase, step.sources) == (EnactmentPhase.IN_FORCE, ("/routers/b", "/tests"))
    assert step.in_force_at == at(10) + timedelta(seconds=3)


def test_a_source_that_decides_by_the_old_stage_after_the_deadline_is_named_until_it_obeys(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.judged()
    place.look()
    place.decided("/tests", Stage.SEARCH_ONLY, 1)
    place.decided("/routers/b", Stage.DRAFT_WRITE, 9)
    place.look()
    assert place.phases[-1] is EnactmentPhase.APPLIED
    place.decided("/routers/b", Stage.DRAFT_WRITE, 11)
    for _ in range(3):
        report = place.look()
    assert (place.phases[-1], place.steps[-1].sources) == (EnactmentPhase.NOT_IN_FORCE, ("/routers/b",))
    assert place.phases.count(EnactmentPhase.NOT_IN_FORCE) == report.lives["not_in_force"] == 1
    assert "/routers/b" in caplog.text
    place.decided("/routers/b", Stage.SEARCH_ONLY, 20)
    report = place.look()
    assert (place.phases[-1], report.lives["not_in_force"]) == (EnactmentPhase.IN_FORCE, 0)


@pytest.mark.parametrize("ahead_s", [-400, 400])
def test_clocks_that_are_apart_accuse_nobody_and_prove_all_the_same(place: Place, ahead_s: float) -> None:
    place.decided("/routers/b", Stage.DRAFT_WRITE, ahead_s - 1)
    place.judged()
    place.look()
    place.decided("/tests", Stage.SEARCH_ONLY, 1)
    place.now = at(10) + timedelta(seconds=2)
    place.look()
    assert EnactmentPhase.IN_FORCE not in place.phases
    place.decided("/routers/b", Stage.SEARCH_ONLY, ahead_s + 1)
    place.look()
    assert place.phases[-1] is EnactmentPhase.IN_FORCE


def test_a_person_who_moves_it_before_it_is_in_force_ends_the_wait(place: Place) -> None:
    place.judged()
    place.look()
    place.store.set(ACTION, Mode.OBSERVE)
    place.look()
    assert place.phases[-1] is EnactmentPhase.SUPERSEDED


def test_counts_that_were_exchanged_change_nothing(place: Place) -> None:
    place.judged()
    rows = place.lake.scan(SIGNALS).collect().with_columns(pl.col("failed") * 0)
    path = next(place.gate_file.parent.glob("lake/signals/*.parquet"))
    rows.write_parquet(path)
    assert place.look().fault is not None
    assert place.mode is Mode.DRAFT_WRITE


def listed(place: Place, *words: str) -> list[dict[str, Any]]:
    said = CliRunner().invoke(cli, ["recommendations", "list", "--json", "--lake", place.lake.root, *words])
    assert said.exit_code == 0, said.output
    rows: list[dict[str, Any]] = json.loads(said.stdout)
    return rows


def lives(place: Place, days: float = 0.0) -> list[str]:
    return [one.life for one in recommendations(place.lake, now=place.now + timedelta(days=days))]


def test_the_life_of_a_promotion_from_open_to_in_force(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged(failed=False)
    assert (lives(place), lives(place, days=8)) == (["open"], ["expired"])
    place.approved()
    assert lives(place) == ["accepted"]
    place.now = at(11)
    place.look()
    assert lives(place) == ["applied"]
    place.decided("/tests", Stage.APPROVAL_GATED, 64)
    place.look()
    (one,) = listed(place, "--all")
    assert (one["life"], one["applied_at"], one["in_force_at"]) == (
        "in force",
        "2026-03-14T12:11:00Z",
        "2026-03-14T12:11:04Z",
    )
    assert (one["seconds_to_apply"], one["seconds_to_force"], one["sources"]) == (60.0, 4.0, ["/tests"])
    assert listed(place) == []


def test_what_is_not_in_force_is_listed_with_who_decides_by_the_old_stage(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    place.decided("/routers/b", Stage.DRAFT_WRITE, 11)
    place.look()
    (one,) = listed(place)
    assert (one["life"], one["sources"], one["in_force_at"]) == ("not in force", ["/routers/b"], None)
    text = CliRunner().invoke(cli, ["recommendations", "list", "--lake", place.lake.root]).output
    assert "still decided by the old stage by /routers/b" in text


def test_what_is_carried_out_by_itself_is_nobodys_answer(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    place.history.emitter.events += place.told
    place.history.store()
    assert lives(place) == ["applied"]
    agreement = of_history(place.lake)["agreement"][ROLL_BACK]
    assert (agreement["accepted"], agreement["open"]) == (0, 1)


def test_one_change_carries_out_the_recommendations_of_all_cohorts(tmp_path: Path) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"))
    for cohort in ("east", "west"):
        place.judged(failed=False, cohort=cohort)
    place.look()
    assert len(place.store.changes) == 1
    assert lives(place) == ["applied", "applied"]


def test_verdicts_that_were_carried_out_stay_in_the_ledger(place: Place) -> None:
    place.judged()
    place.look()
    maintenance = Maintenance(place.lake, RetentionPolicy(), place.gate_file)
    assert {step.verdict_id for step in place.steps} <= maintenance._lasting()  # noqa: SLF001 - to retain it would take a ledger of months
