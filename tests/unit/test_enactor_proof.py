"""Whether a change is in force, by the decisions that follow; and the life of its recommendation."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from click.testing import CliRunner
from enactor_cases import ACTION, GATES, ROLL_BACK, STORES, Place, at

from analytics.backtest.recommendation_outcomes import of_history, recommendations
from analytics.enactment.effect import effect_of
from analytics.enactment.enactments import EnactmentPhase
from analytics.maintenance import Maintenance, RetentionPolicy
from producers.wire.stage import Mode, Stage
from stagekeeper.commands import cli
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


@pytest.fixture(params=STORES)
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, store=request.param)


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
    assert place.phases.count(EnactmentPhase.NOT_IN_FORCE) == report.lives["not in force"] == 1
    assert "/routers/b" in caplog.text
    place.decided("/routers/b", Stage.SEARCH_ONLY, 20)
    report = place.look()
    assert (place.phases[-1], report.lives["not in force"]) == (EnactmentPhase.IN_FORCE, 0)


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


def test_a_person_who_moved_it_is_no_alarm(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    place.store.set(ACTION, Mode.AUTONOMOUS)
    place.decided("/routers/b", Stage.NARROW_AUTONOMY, 11)
    place.look()
    assert place.phases[-1] is EnactmentPhase.SUPERSEDED
    assert EnactmentPhase.NOT_IN_FORCE not in place.phases


def test_what_is_decided_in_an_emergency_proves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    read = place.store.read
    place.store.read = lambda action: dataclasses.replace(read(action), emergency=True)
    place.history.ingest = LocalIngest(now=lambda: place.now)
    place.decided("/tests", Stage.SEARCH_ONLY, 1)
    place.now = at(11)
    place.look()
    place.store.read = read
    place.look()
    assert place.phases[-1] is EnactmentPhase.APPLIED, "it fell back then, whatever the stage below"
    place.decided("/tests", Stage.SEARCH_ONLY, 61)
    place.look()
    assert place.phases[-1] is EnactmentPhase.IN_FORCE


def test_under_a_percentage_only_who_had_the_old_stage_proves_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    step = place.steps[-1].model_copy(update={"mode_before": None})

    def proven(*decided: tuple[str | None, Stage]) -> bool:
        rows = [
            {
                **ACTION._asdict(),
                "source": "/tests",
                "user": user,
                "stage": stage.value,
                "decided_at": moment,
                "ingested_at": moment,
            }
            for second, (user, stage) in enumerate(decided, start=-1)
            for moment in [step.at + timedelta(seconds=second)]
        ]
        decisions = pl.DataFrame(rows, schema_overrides={"user": pl.String})
        return effect_of(decisions, step, now=at(11), deadline=timedelta(seconds=10)).is_in_force

    old, new = Stage.DRAFT_WRITE, Stage.SEARCH_ONLY
    assert not proven(("high", old), ("low", new), ("low", new))
    assert not proven((None, old), (None, new), (None, new))
    assert proven(("high", old), ("low", new), ("high", new))


def test_one_that_is_late_for_days_is_watched_until_it_obeys(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.judged()
    place.look()
    place.decided("/routers/b", Stage.DRAFT_WRITE, 11)
    assert place.look().lives["not in force"] == 1
    place.now = at(10) + timedelta(days=3)
    assert place.look(after_s=1000).lives["not in force"] == 1, "nobody was heard"
    place.decided("/routers/b", Stage.SEARCH_ONLY, timedelta(days=3).total_seconds() - 5)
    assert place.look(after_s=1000).lives["not in force"] == 0
    assert place.phases[-1] is EnactmentPhase.IN_FORCE


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
