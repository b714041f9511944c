from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from producers.errors import SettingsError, UsageError
from producers.simulation.scenarios import SCENARIOS
from producers.simulation.simulator import TrafficPlan
from stagekeeper.commands.options import Duration
from stagekeeper.commands.simulate import command, plan_of

if TYPE_CHECKING:
    from pathlib import Path

HOUR = timedelta(hours=1)


def test_the_list_names_every_scenario_what_is_wrong_and_the_verdicts() -> None:
    text = CliRunner().invoke(command, ["--list"]).output
    listed = json.loads(CliRunner().invoke(command, ["--list", "--json"]).output)
    assert [made["name"] for made in listed] == list(SCENARIOS)
    for made in listed:
        assert made["wrong"] in text
        assert made["actions"]


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({"events": 100}, TrafficPlan(events=100, history=timedelta(hours=2), history_events=100)),
        (
            {"events": 100, "rate": 20.0},
            TrafficPlan(events=100, history=timedelta(hours=2), history_events=100, pace=20.0),
        ),
        ({"events": 100, "rate": 0.0, "backfill": HOUR}, TrafficPlan(events=100, history=HOUR, history_events=100)),
        ({}, TrafficPlan(rate=50.0)),
        ({"rate": 5.0}, TrafficPlan(rate=5.0)),
        ({"rate": 5.0, "backfill": HOUR}, TrafficPlan(rate=5.0, history=HOUR, history_events=18_000)),
        ({"backfill": HOUR, "backfill_events": 7}, TrafficPlan(rate=50.0, history=HOUR, history_events=7)),
    ],
)
def test_what_is_asked_for_becomes_a_plan(options: dict[str, object], plan: TrafficPlan) -> None:
    asked = {"rate": None, "events": None, "backfill": None, "backfill_events": None, **options}
    assert plan_of(**asked) == plan  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate": 0.0}, "no end without --events"),
        ({"backfill_events": 5}, "needs --backfill DURATION"),
        ({"events": 5, "backfill_events": 5}, "belongs to a live run"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object], named: str) -> None:
    asked = {"rate": None, "events": None, "backfill": None, "backfill_events": None, **options}
    with pytest.raises(UsageError, match=named):
        plan_of(**asked)  # type: ignore[arg-type]


def test_without_a_broker_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {"STAGEKEEPER_HOME": str(tmp_path), "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": None}
    result = CliRunner().invoke(command, ["--events", "5"], env=environment)
    assert isinstance(result.exception, SettingsError)
    assert "stagekeeper up" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("10m", 600), ("2h", 7_200), ("1d", 86_400), ("0.5h", 1_800), (" 3s ", 3)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "-5s", "5 m", "2w"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="for example 45s"):
        Duration().convert(text, None, None)
