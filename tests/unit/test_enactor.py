"""The enactor: what is carried out, once, and what is not: nothing unsafe changes a stage."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from enactor_cases import ACTION, GATES, ROLL_BACK, SAYS, STORES, Place, at

from analytics.enactment import standing_calls
from analytics.enactment.due_changes import Done
from analytics.enactment.enactments import EnactmentPhase, enactments
from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import SIGNALS
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import SignOffKind, record
from producers.boundary.flagd_overlays import EMERGENCIES, OverlayScope
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.stage import Mode, Stage

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


@pytest.fixture(params=STORES)
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
    assert "stale already" in (stale.look().fault or "")
    assert latest_verdicts(stale.lake)[0].verdict == ROLL_BACK
    assert stale.mode is Mode.DRAFT_WRITE, "an import of what happened long ago moves nothing now"
    # The watermark moves on by another cell: what is imported is as old as it was.
    stale.history.act(300, "u0", cohort="eu")
    stale.history.store()
    stale.judge.tick(at(301))
    stale.now = at(301)
    assert "stale already" in (stale.look().fault or "")
    # The cell decides again, and its row of the ledger is not written anew within ten seconds.
    stale.history.act(301, "u0", failed=True)
    stale.history.store()
    stale.judge.tick(at(301.1))
    stale.now = at(301.1)
    assert latest_verdicts(stale.lake)[0].judged_at == at(301)
    stale.look()
    assert stale.mode is Mode.SEARCH_ONLY


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
    assert "another attempt" in (place.look().fault or "")
    place.store.attempt = 1
    place.look()
    assert place.mode is Mode.SEARCH_ONLY


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.SEARCH_ONLY, Mode.APPROVED_EXTERNAL, Mode.AUTONOMOUS])
def test_an_action_that_a_person_has_moved_meanwhile_is_left_where_it_is(place: Place, mode: Mode) -> None:
    place.judged()
    place.store.set(ACTION, mode)
    place.look()
    assert (place.mode, place.phases) == (mode, [])


@pytest.mark.parametrize(("mode", "ladder"), [(Mode.FALLBACK, "search_only"), (Mode.OFF, "observe_only")])
@pytest.mark.parametrize("failed", [True, False])
def test_what_a_person_has_stopped_is_moved_neither_up_nor_down(
    place: Place, mode: Mode, ladder: str, failed: bool
) -> None:
    above = {"search_only": "draft_write", "observe_only": "search_only"}[ladder]
    gates = GATES.replace("ask", "apply").replace("draft_write, approval_gated", f"{ladder}, {above}")
    place.gate_file.write_text(gates)
    place.store.set(ACTION, Mode.OBSERVE if mode is Mode.OFF else Mode.SEARCH_ONLY)
    place.judged(failed=failed, stage=Stage(ladder))
    place.store.set(ACTION, mode)
    place.look()
    assert (place.mode, place.phases) == (mode, [])


@pytest.mark.parametrize(
    ("flag", "stopping"), [("agent-action-governance-enabled", "off"), ("agent-action-denylist", "denied")]
)
@pytest.mark.parametrize("failed", [True, False])
def test_while_every_action_is_denied_nothing_is_promoted_and_harm_is_rolled_back(
    tmp_path: Path, flag: str, stopping: str, failed: bool
) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"), store="flagd")
    place.judged(failed=failed)
    path = place.store.stages.path
    flags = json.loads(path.read_text())
    flags["flags"][flag]["defaultVariant"] = stopping
    path.write_text(json.dumps(flags))
    place.look()
    assert place.mode is (Mode.SEARCH_ONLY if failed else Mode.DRAFT_WRITE)


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
        ((Mode.SEARCH_ONLY, Mode.DRAFT_WRITE), Mode.SEARCH_ONLY),  # a part is there already
        ((Mode.DRAFT_WRITE, Mode.FALLBACK), None),  # a person has stopped a part
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


def test_a_rollback_that_nobody_can_carry_out_is_a_fault_until_the_harm_is_over(tmp_path: Path) -> None:
    place = Place(tmp_path, store="flagd")
    place.judged()
    path = place.store.stages.path
    flags = json.loads(path.read_text())
    mode = flags["flags"]["agent-action-mode"]
    flags["$evaluators"] = {"stages": mode["targeting"]}
    mode["targeting"] = {"$ref": "stages"}
    path.write_text(json.dumps(flags))
    for _ in range(2):
        fault = place.look().fault or ""
        assert "ROLL_BACK of production/refunds/issue_refund cannot be carried out: The destination is not" in fault
    assert place.phases == []
    EMERGENCIES.add(path, OverlayScope(tool=ACTION.tool))
    assert place.look().fault is None, "it falls back, and does no harm"
    EMERGENCIES.remove(path, OverlayScope(tool=ACTION.tool), before_write=lambda _: None)
    assert place.look().fault is not None
    mode["targeting"] = flags["$evaluators"]["stages"]
    path.write_text(json.dumps(flags))
    assert (place.look().fault, place.mode) == (None, Mode.SEARCH_ONLY)


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


def test_counts_that_were_exchanged_change_nothing(place: Place) -> None:
    place.judged()
    rows = place.lake.scan(SIGNALS).collect().with_columns(pl.col("failed") * 0)
    path = next(place.gate_file.parent.glob("lake/signals/*.parquet"))
    rows.write_parquet(path)
    assert place.look().fault is not None
    assert place.mode is Mode.DRAFT_WRITE


def test_a_rollback_whose_first_reading_fails_is_carried_out_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.look()
    place.judged()
    with monkeypatch.context() as patched:
        patched.setattr(standing_calls, "_last", refused)
        with pytest.raises(LakeError):
            place.look()
    place.look()
    assert place.mode is Mode.SEARCH_ONLY


@pytest.mark.parametrize("failed", [True, False])
def test_another_crossing_of_an_epoch_is_another_rollback_and_no_other_promotion(tmp_path: Path, failed: bool) -> None:
    place = Place(tmp_path, GATES.replace("ask", "apply"))
    place.judged(failed=failed)
    place.look()
    done = Done(enactments(place.lake).values())
    step = place.steps[-1]
    assert done.covers(step.key, step.recommendation_id)
    assert done.covers(step.key, "another crossing") is not failed


def refused(*_: Any) -> Any:
    raise LakeError("the bucket does not answer")
