"""The enactor killed, overtaken or refused anywhere: every change is made once and told once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest
from enactor_cases import ACTION, GATES, Place
from stage_stores import KilledError, kill

from analytics.enactment.enactments import EnactmentPhase
from analytics.lake.errors import FencedError, UnreadableLakeError
from analytics.lake.leases import ENACTOR
from analytics.lake.table_schemas import ENACTMENTS
from analytics.lake.tables import Fence
from producers.boundary.flag_history import KEPT, versions
from producers.boundary.stage_store import ActionName, StageChange
from producers.errors import StagekeeperError
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


@pytest.fixture(params=["memory", "flagd"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, store=request.param)


def killed(place: Place) -> None:
    with pytest.raises(KilledError):
        place.look()
    place.store.before = place.store.after = lambda: None
    place.restarted()


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
@pytest.mark.parametrize("later_edits", [0, KEPT + 1])
def test_killed_and_taken_back_by_a_person_it_is_not_repeated(place: Place, failed: bool, later_edits: int) -> None:
    place.judged(failed=failed)
    if not failed:
        place.approved()
    place.store.after = kill
    killed(place)
    place.store.set(ACTION, Mode.DRAFT_WRITE)
    for number in range(later_edits):
        place.store.set(ActionName("production", "support", f"tool-{number}"), Mode.OBSERVE)
    place.look()
    assert (place.mode, place.phases) == (Mode.DRAFT_WRITE, [EnactmentPhase.INTENDED, EnactmentPhase.SUPERSEDED])
    place.look()
    assert place.mode is Mode.DRAFT_WRITE


@pytest.mark.parametrize("later_edits", [0, KEPT + 1])
def test_killed_before_the_write_a_rollback_to_bytes_that_the_file_had_before_is_made(
    tmp_path: Path, later_edits: int
) -> None:
    place = Place(tmp_path, store="flagd")
    for mode in (Mode.SEARCH_ONLY, Mode.DRAFT_WRITE):
        place.store.set(ACTION, mode)
    place.judged()
    place.store.before = kill
    killed(place)
    for number in range(later_edits):
        place.store.set(ActionName("production", "support", f"tool-{number}"), Mode.OBSERVE)
    place.look()
    assert (place.mode, place.phases[-1]) == (Mode.SEARCH_ONLY, EnactmentPhase.APPLIED)


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
    place.acts_of(other, failed=False)
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


@pytest.fixture
def fleet(tmp_path: Path) -> Place:
    """Several actions that go wrong at once."""
    place = Place(tmp_path, store="flagd")
    for action in OTHERS:
        place.store.set(action, Mode.DRAFT_WRITE)
        place.acts_of(action, failed=True)
    place.judged()
    return place


OTHERS: Final = [ActionName("production", "refunds", f"tool-{number}") for number in range(3)]


def test_rollbacks_that_are_due_at_once_are_one_change_of_the_store_and_each_on_record(fleet: Place) -> None:
    before = len(versions(fleet.store.stages.path))
    report = fleet.look()
    assert report.fault is None
    assert {fleet.store.modes[action] for action in (ACTION, *OTHERS)} == {Mode.SEARCH_ONLY}
    assert len(versions(fleet.store.stages.path)) == before + 1
    assert len({step.version_after for step in fleet.steps}) == 1
    assert len({event.id for event in fleet.told}) == report.lives["applied"] == 4
    assert fleet.phases.count(EnactmentPhase.INTENDED) == fleet.phases.count(EnactmentPhase.APPLIED) == 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_amid_rollbacks_at_once_each_is_finished_once(fleet: Place, moment: str) -> None:
    setattr(fleet.store, moment, kill)
    killed(fleet)
    assert fleet.look().lives["applied"] == 4
    assert {fleet.store.modes[action] for action in (ACTION, *OTHERS)} == {Mode.SEARCH_ONLY}
    assert len({event.id for event in fleet.told}) == len(fleet.store.changes) == 4


@pytest.mark.parametrize("fault", ["read", "write"])
def test_one_that_cannot_be_rolled_back_holds_up_none_of_those_that_are_due_with_it(
    fleet: Place, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = fleet.store.stages
    name = {"read": "read", "write": "change_together"}[fault]
    really = getattr(stages, name)

    def odd(asked: Any, **more: Any) -> Any:
        named = [asked] if fault == "read" else [change.action for change in asked]
        if OTHERS[0] in named:
            raise ZeroDivisionError("nobody thought of it")
        return really(asked, **more)

    monkeypatch.setattr(stages, name, odd)
    report = fleet.look()
    monkeypatch.undo()
    assert {fleet.store.modes[action] for action in (ACTION, *OTHERS[1:])} == {Mode.SEARCH_ONLY}
    assert fleet.store.modes[OTHERS[0]] is Mode.DRAFT_WRITE
    assert f"ROLL_BACK of {OTHERS[0]}" in (report.fault or "")
    assert fleet.look().lives["applied"] == 4


def test_an_error_that_nobody_expected_holds_up_no_other_rollback_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    other = ActionName("production", "refunds", "other")
    place.store.set(other, Mode.DRAFT_WRITE)
    place.acts_of(other, failed=True)
    place.judged()
    read, broken = place.store.read, {other}

    def odd(action: ActionName) -> Any:
        if action in broken:
            raise ZeroDivisionError("nobody thought of it")
        return read(action)

    place.store.read = odd
    report = place.look()
    assert (place.mode, place.store.modes[other]) == (Mode.SEARCH_ONLY, Mode.DRAFT_WRITE)
    assert "ZeroDivisionError: nobody thought of it" in (report.fault or "")
    assert report.is_failing
    assert caplog.records[-1].exc_info is not None, "the trace is logged"
    broken.clear()
    report = place.look()
    assert (place.store.modes[other], report.fault, report.is_failing) == (Mode.SEARCH_ONLY, None, False)


def test_a_fault_goes_once_nobody_asks_for_what_failed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.store.broken = "the disk is full"
    for seconds in (0.5, 0.1, 0.5, 0.1):
        assert place.look(after_s=seconds).fault is not None, "it has not gone, only been left alone"
    place.gate_file.write_text(GATES.replace("on_roll_back: apply, ", ""))
    assert place.look().fault is None


def test_what_a_person_did_while_a_change_was_open_is_not_signed_by_the_enactor(tmp_path: Path) -> None:
    place = Place(tmp_path, store="flagd")
    place.judged()
    place.store.before = kill
    killed(place)
    place.store.set(ActionName("production", "support", "search"), Mode.OBSERVE)
    place.store.set(ACTION, Mode.SEARCH_ONLY)
    place.look()
    assert (place.phases, place.told) == ([EnactmentPhase.INTENDED, EnactmentPhase.SUPERSEDED], [])


@pytest.mark.parametrize("failed", [True, False])
def test_an_open_change_that_nothing_calls_for_is_not_looked_at_for_ever(tmp_path: Path, failed: bool) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"))
    place.judged(failed=failed)
    place.store.before = kill
    killed(place)
    place.gate_file.write_text(GATES.replace("on_roll_back: apply, on_promote: ask, ", ""))
    if not failed:
        place.judged(14, failed=True, count=200)
    reads, read = 0, place.store.read

    def counted(action: ActionName) -> Any:
        nonlocal reads
        reads += 1
        return read(action)

    place.store.read = counted
    for _ in range(20):
        place.look(after_s=0.5)
    assert 0 < reads < 10
    # A rollback may be called for again, and nothing missing promotes.
    assert place.phases[-1] is (EnactmentPhase.INTENDED if failed else EnactmentPhase.SUPERSEDED)


def test_a_row_that_cannot_be_read_is_named_and_nothing_is_carried_out(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    rows = place.lake.scan(ENACTMENTS).collect().with_columns(payload=pl.lit("{}"))
    place.lake.append(ENACTMENTS, rows.head(1))
    place.restarted()
    with pytest.raises(UnreadableLakeError, match=rows["recommendation_id"][0]):
        place.look()
