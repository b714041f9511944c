"""What routers tell of the rules that they decide by, and what it shows about a change of stage."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest
from enactor_cases import ACTION, Place, at
from fakes import FakeEmitter
from lakes_of_events import NOON
from stage_stores import flag_file

from analytics.enactment.effect import Holding, effect_of
from analytics.enactment.enactments import EnactmentPhase, EnactmentStep
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.flags import FlagEvaluator
from producers.boundary.stage_store import ActionName, StageChange
from producers.boundary.status_reporter import TELLS_EVERY_S, StatusReporter
from producers.wire.events import RouterStatus, event_to_bytes
from producers.wire.examples import EXAMPLES
from producers.wire.stage import Mode, Stage
from streams.control.router_statuses import RouterStatuses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE: Final = timedelta(seconds=10)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def flags(tmp_path: Path) -> Iterator[FlagEvaluator]:
    evaluator = FlagEvaluator.from_file(flag_file(tmp_path / "flags", {ACTION: Mode.DRAFT_WRITE}))
    yield evaluator
    evaluator.close()


def test_a_router_tells_at_once_that_it_holds_other_rules_and_else_every_few_seconds(
    flags: FlagEvaluator, tmp_path: Path
) -> None:
    emitter, clock = FakeEmitter(), Clock()
    now = [NOON]
    reporter = StatusReporter(
        flags, emitter, source="/routers/a", environment="production", now=lambda: now[0], clock=clock
    )
    told: list[RouterStatus] = emitter.events  # type: ignore[assignment]
    reporter.tell_if_due()
    reporter.tell_if_due()
    assert [(one.source, one.subject, one.data.ready) for one in told] == [("/routers/a", "/routers/a", True)]
    stages = FlagdStages(tmp_path / "flags" / "flags.json")
    assert told[0].data.flags_sha256 == stages.read(ACTION).version
    assert told[0].data.since == NOON
    clock.seconds, now[0] = TELLS_EVERY_S, at(1)
    reporter.tell_if_due()
    assert (len(told), told[1].data.since) == (2, NOON), "the same rules, since then"
    changed = stages.change(
        StageChange(ACTION, Mode.SEARCH_ONLY, stages.read(ACTION).version), before_write=lambda _: None
    )
    clock.seconds, now[0] = TELLS_EVERY_S + 0.1, at(2)
    while flags.sha256 != changed.version:
        flags._file.confirm(1.0)  # type: ignore[union-attr]  # noqa: SLF001 - looks at the file now
    reporter.tell_if_due()
    assert (told[2].data.flags_sha256, told[2].data.since) == (changed.version, at(2))
    assert told[2].data.confirmed_at is not None


def test_a_router_whose_rules_cannot_be_used_says_that_safe_values_are_in_force(
    flags: FlagEvaluator, tmp_path: Path
) -> None:
    (tmp_path / "flags" / "flags.json").write_text("{")
    while flags.ready:
        flags._file.confirm(1.0)  # type: ignore[union-attr]  # noqa: SLF001 - looks at the file now
    emitter = FakeEmitter()
    StatusReporter(flags, emitter, source="/routers/a", environment="production").tell_if_due()
    (told,) = emitter.events
    assert isinstance(told, RouterStatus)
    assert (told.data.ready, told.data.flags_sha256) == (False, None)


def a_status(source: str, version: str | None, minute: float, *, recordnumber: str | None = None, **more: Any) -> bytes:
    example = EXAMPLES[RouterStatus]
    assert isinstance(example, RouterStatus)
    data = example.data.model_copy(update={"flags_sha256": version, "since": at(minute), **more})
    envelope = {"source": source, "time": at(minute), "recordnumber": recordnumber}
    return event_to_bytes(example.model_copy(update={**envelope, "data": data}))


def test_of_each_source_the_latest_status_counts_and_what_is_none_is_said(caplog: pytest.LogCaptureFixture) -> None:
    now = [at(0)]
    routers = RouterStatuses(lambda: now[0])
    routers.take(a_status("/routers/a", "a" * 64, 2))
    routers.take(a_status("/routers/a", "b" * 64, 1))
    routers.take(a_status("/routers/b", None, 1, environment="staging"))
    routers.take(a_status("/services/everywhere", None, 1, environment=None))
    routers.take(b"nothing")
    assert "not a router's status" in caplog.text
    one, everywhere = routers.heard("production")
    assert (one.data.flags_sha256, everywhere.source) == ("a" * 64, "/services/everywhere")
    assert [row["silent"] for row in routers.as_list()] == [False, False, False]
    now[0] = at(0) + timedelta(seconds=3 * TELLS_EVERY_S + 0.1)
    assert [row["silent"] for row in routers.as_list()] == [True, True, True]
    now[0] = at(61)
    assert routers.as_list() == []


def test_a_clock_that_is_ahead_deafens_nobody(caplog: pytest.LogCaptureFixture) -> None:
    routers = RouterStatuses(lambda: at(0))
    routers.take(a_status("/routers/a", "a" * 64, 2 * 24 * 60))
    assert routers.heard() == []
    assert "/routers/a" in caplog.text
    assert "ahead of this clock" in caplog.text
    routers.take(a_status("/routers/a", "b" * 64, 0))
    routers.take(a_status("/routers/b", "a" * 64, 4, recordnumber="1a.1"))
    routers.take(a_status("/routers/b", "b" * 64, 0, recordnumber="1a.2"))  # its clock was set back
    routers.take(a_status("/routers/b", "a" * 64, 4, recordnumber="1a.1"))
    assert [one.data.flags_sha256 for one in routers.heard()] == ["b" * 64] * 2


def test_instances_of_a_source_are_told_apart_and_one_that_has_ended_is_not_missed() -> None:
    now = [at(0)]
    routers = RouterStatuses(lambda: now[0])
    routers.take(a_status("/routers/a", "a" * 64, 0, recordnumber="1a.7"))
    routers.take(a_status("/routers/a", "b" * 64, 0, recordnumber="2b.1"))
    assert [row["flags_sha256"] for row in routers.as_list()] == ["a" * 64, "b" * 64]
    now[0] = at(0) + timedelta(seconds=12)
    routers.take(a_status("/routers/a", "b" * 64, 0.2, recordnumber="2b.2"))
    now[0] = at(0) + timedelta(seconds=3 * TELLS_EVERY_S + 0.1)
    assert [(row["flags_sha256"], row["silent"]) for row in routers.as_list()] == [("b" * 64, False)]
    now[0] = at(1)
    assert [(row["flags_sha256"], row["silent"]) for row in routers.as_list()] == [("b" * 64, True)]


def test_a_router_numbers_what_it_tells_and_each_life_of_it_anew(flags: FlagEvaluator) -> None:
    emitter, clock = FakeEmitter(), Clock()
    for _ in range(2):
        reporter = StatusReporter(flags, emitter, source="/routers/a", environment="production", clock=clock)
        reporter.tell_if_due()
        clock.seconds += TELLS_EVERY_S
        reporter.tell_if_due()
    told = [str(event.recordnumber).split(".") for event in emitter.events]
    assert [number for _, number in told] == ["1", "2", "1", "2"]
    assert len({incarnation for incarnation, _ in told}) == 2


def holding(source: str, seconds: float, *, obeys: bool | None, silent: bool = False) -> Holding:
    moment = at(10) + timedelta(seconds=seconds)
    return Holding(source, obeys, moment, moment, moment, silent)


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> EnactmentStep:
    place = Place(tmp_path_factory.mktemp("place"))
    place.judged()
    place.look()
    return place.steps[-1]


@pytest.mark.parametrize(
    ("decided", "told", "seen"),
    [
        ([], [(0.8, True)], ("heard", 0.8)),
        ([], [(0.8, True), (5.0, False)], ("waiting", None)),
        ([], [(0.8, True), (11.0, False)], ("late", None)),
        ([], [(0.8, None)], ("nothing", None)),
        ([("old", -5.0)], [(0.8, True)], ("heard", 0.8)),  # it decided before, and is idle since
        ([("old", -5.0)], [(0.8, None)], ("waiting", None)),
        ([("old", 12.0)], [(0.8, True)], ("late", None)),  # it holds the new rules, and decides by the old stage
        ([("old", 12.0)], [(13.0, True)], ("heard", 13.0)),
        ([("new", 2.0)], [(1.0, False)], ("heard", 2.0)),  # somebody else's targeting
        ([("new", 2.0)], [(12.0, False)], ("late", None)),
        ([("old", -5.0)], [(-3.0, "silent")], ("silent", None)),
        ([("old", 12.0)], [(-3.0, "silent")], ("late", None)),
        ([], [(-3.0, "silent")], ("silent", None)),
    ],
)
def test_of_decisions_and_statuses_the_newer_shows_by_which_stage_a_source_decides(
    change: EnactmentStep, decided: list[tuple[str, float]], told: list[tuple[float, Any]], seen: tuple[str, Any]
) -> None:
    stages = {"old": Stage.DRAFT_WRITE.value, "new": Stage.SEARCH_ONLY.value}
    rows = [
        {
            **ACTION._asdict(),
            "source": "/routers/0",
            "user": "u",
            "stage": stages[stage],
            **dict.fromkeys(("decided_at", "ingested_at"), change.at + timedelta(seconds=seconds)),
        }
        for stage, seconds in decided
    ]
    schema = {**dict.fromkeys((*ActionName._fields, "source", "user", "stage"), pl.String)}
    moments = dict.fromkeys(("decided_at", "ingested_at"), pl.Datetime("us", "UTC"))
    frame = pl.DataFrame(rows, schema={**schema, **moments})
    holdings = [
        holding(f"/routers/{number}", seconds, obeys=None if obeys == "silent" else obeys, silent=obeys == "silent")
        for number, (seconds, obeys) in enumerate(told)
    ]
    effect = effect_of(frame, change, now=at(10.5), deadline=DEADLINE, holdings=holdings)
    last = f"/routers/{len(told) - 1}"
    states = {name for name in ("heard", "waiting", "late", "silent") if last in getattr(effect, name)}
    assert states == ({seen[0]} - {"nothing"})
    if seen[1] is not None:
        assert effect.began_at == change.at + timedelta(seconds=seen[1])


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([True, False], "late"),
        ([False, True], "late"),
        ([True, None], None),
        ([None, True], None),
        ([True] * 2, "heard"),
    ],
)
def test_a_source_obeys_once_all_its_instances_do(
    change: EnactmentStep, told: list[bool | None], state: str | None
) -> None:
    schema = dict.fromkeys((*ActionName._fields, "source", "user", "stage"), pl.String())
    moments = dict.fromkeys(("decided_at", "ingested_at"), pl.Datetime("us", "UTC"))
    holdings = [holding("/routers/a", 11 + number, obeys=obeys) for number, obeys in enumerate(told)]
    frame = pl.DataFrame(schema={**schema, **moments})
    effect = effect_of(frame, change, now=at(10.5), deadline=DEADLINE, holdings=holdings)
    states = [name for name in ("heard", "waiting", "late", "silent") if getattr(effect, name)]
    assert states == ([] if state is None else [state])


def test_idle_routers_prove_a_change_and_one_that_holds_the_old_rules_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path, store="flagd")
    old = place.store.read(ACTION).version
    place.now = at(0)
    routers = RouterStatuses(lambda: place.now)
    place.restarted(routers=routers)
    place.judged()
    place.look()
    new = place.store.read(ACTION).version
    place.now = at(10) + timedelta(seconds=12)
    for source, version, seconds in (("/routers/a", new, 0.8), ("/routers/b", old, 11), ("/routers/far", "f" * 64, 11)):
        routers.take(a_status(source, version, 10 + seconds / 60))
    place.decided("/tests", Stage.SEARCH_ONLY, 0.5)
    report = place.look()
    assert (place.phases[-1], place.steps[-1].sources) == (EnactmentPhase.NOT_IN_FORCE, ("/routers/b",))
    assert report.lives["not in force"] == 1
    # Another edit of the file, which is not about this action: whoever has it has the change.
    place.store.set(ActionName("production", "support", "search"), Mode.OBSERVE)
    newer = place.store.read(ACTION).version
    place.store.set(ActionName("production", "support", "search"), Mode.SEARCH_ONLY)
    place.now = at(10) + timedelta(seconds=20)
    routers.take(a_status("/routers/b", newer, 10.3))
    place.look()
    step = place.steps[-1]
    assert step.phase is EnactmentPhase.IN_FORCE
    assert (step.sources, step.in_force_at) == (("/routers/a", "/routers/b", "/tests"), at(10.3))
    assert step.routers == "3 of 3 routers"


def test_a_router_that_tells_nothing_any_more_is_silent_and_not_waited_for(tmp_path: Path) -> None:
    place = Place(tmp_path, store="flagd")
    place.now = at(0)
    routers = RouterStatuses(lambda: place.now)
    place.restarted(routers=routers)
    place.decided("/routers/b", Stage.DRAFT_WRITE, -60)
    place.now = at(9)
    routers.take(a_status("/routers/b", place.store.read(ACTION).version, 9))
    place.judged()
    place.look()
    place.decided("/tests", Stage.SEARCH_ONLY, 0.5)
    place.look()
    step = place.steps[-1]
    assert (step.phase, step.silent) == (EnactmentPhase.IN_FORCE, ("/routers/b",))
    assert step.routers == "1 of 2 routers (silent: /routers/b)"


def test_an_enactor_that_has_just_begun_to_listen_waits_until_every_router_has_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.now = at(10)
    place.restarted(routers=RouterStatuses(lambda: place.now))
    place.judged()
    place.decided("/tests", Stage.SEARCH_ONLY, 0.5)
    place.look()
    place.now = at(10) + timedelta(seconds=9)
    place.look()
    assert place.phases[-1] is EnactmentPhase.APPLIED
    place.now = at(10) + timedelta(seconds=10)
    place.look()
    assert place.phases[-1] is EnactmentPhase.IN_FORCE
