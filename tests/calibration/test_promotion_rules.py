"""The rules of the benchmark by small cases, its scenarios by their truth, and the decisions it calls wrong."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import promotion_rules
import pytest
from promotion_rules import (
    ARGO_LONG,
    ARGO_SHORT,
    FLAGGER,
    NORMAL_300,
    PEEKED,
    ROW_OF_20,
    RULES,
    SHARE_95,
    THRESHOLD,
    TOLD,
)
from rule_scenarios import SCENARIOS, Played, Scenario
from rule_trials import Reported, against_truth, decided_elsewhere, exact_interval, on_their_own_terms
from rules_page import picture, tables, with_tables
from simulated import NEVER
from timed_streams import Actions, Crossings

from analytics.gates.gate_file import GateFile

if TYPE_CHECKING:
    from promotion_rules import Rule

ROOT = Path(__file__).parents[2]
BY_NAME = {rule.name: rule for rule in RULES}
SHARE_80 = BY_NAME["At least 80 % of at least 10 fine"]
RECENT = BY_NAME["Over 90 % of the last 50, none of the last 20 failed"]
ROW_OF_5 = BY_NAME["5 fine in a row"]
BAYES = BY_NAME["95 % of a Bayesian posterior, at every action from the 50th"]
MIXTURE = BY_NAME["mSPRT with the observed variance, from action 30"]


def decided(rule: Rule, failed_at: tuple[int, ...], outcomes: int, rate: float = np.nan) -> tuple[int, int]:
    """The outcome of the rollback and of the promotion of one stream; which outcomes failed is counted from 1."""
    failures = np.zeros((1, outcomes), dtype=np.int64)
    failures[0, np.array(failed_at, dtype=np.int64) - 1] = 1
    down, up = rule.decide(failures.cumsum(axis=1), rate)
    return int(down[0]), int(up[0])


@pytest.mark.parametrize(
    ("rule", "failed_at", "rolled_back", "promoted"),
    [
        (SHARE_95, (), NEVER, 20),
        (SHARE_95, (3,), NEVER, 20),
        (SHARE_95, (3, 7), NEVER, 40),
        (SHARE_80, (1, 2), NEVER, 10),
        (SHARE_80, (1, 2, 3), NEVER, 15),
        (ROW_OF_20, (5,), NEVER, 25),
        (ROW_OF_5, (1, 3, 6), NEVER, 11),
        (RECENT, (), NEVER, 50),
        (RECENT, (1, 2, 3, 4, 5), NEVER, 51),
        (RECENT, (45,), NEVER, 65),
        (ARGO_SHORT, (), NEVER, 100),
        (ARGO_SHORT, (1, 21, 41, 61), 80, NEVER),
        (ARGO_LONG, (1, 2, 3, 101, 102, 103, 201, 202, 203, 301, 302, 303), 400, NEVER),
        (FLAGGER, (), NEVER, 1_000),
        (MIXTURE, (), NEVER, 30),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (PEEKED, (), NEVER, 149),
                (PEEKED, (1, 2, 3, 4), 50, 456),
                (BAYES, (), NEVER, 148),
                (BAYES, (1, 2, 3, 4), 50, 455),
                (NORMAL_300, (), NEVER, 300),
            )
        ),
    ],
)
def test_a_rule_decides_where_its_words_say(
    rule: Rule, failed_at: tuple[int, ...], rolled_back: int, promoted: int
) -> None:
    assert decided(rule, failed_at, 5_000) == (rolled_back, promoted)


def test_the_rule_that_is_told_the_rate_is_quicker_to_see_it() -> None:
    assert decided(TOLD, (), 5_000, 0.005) == (decided(TOLD, (), 5_000, 0.02)[0], 198)
    assert decided(TOLD, (1, 2), 5_000, 0.1)[0] == 2


def test_every_rule_is_a_plug_in_of_twenty_lines() -> None:
    module = ast.parse(Path(promotion_rules.__file__).read_text(encoding="utf-8"))
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 10
    for function in functions:
        says = function.body[0] if ast.get_docstring(function) else None
        of_words = 0 if says is None else says.end_lineno - says.lineno + 1
        assert function.end_lineno - function.lineno + 1 - of_words <= 20, function.name


def drawn(scenario: Scenario, streams: int = 40) -> Played:
    return scenario.play(np.random.default_rng(5), scenario, streams)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_scenario_fails_as_often_as_it_says(scenario: Scenario) -> None:
    played = drawn(scenario)
    acts = played.actions
    spread = np.sqrt((played.chance * (1 - played.chance)).sum())
    assert abs(acts.failed.sum() - played.chance.sum()) <= 4 * spread
    assert (acts.minute < scenario.minutes).all()
    assert acts.stream.size == pytest.approx(40 * scenario.minutes * scenario.a_minute, rel=0.01)
    for gate_file in scenario.gates.values():
        assert GateFile.parse(gate_file.encode()).gates[0].signals[0].limit == THRESHOLD
    # What is told to the rule that is told the truth, and from when on which decision is wrong, is the truth.
    if scenario.rate is not None:
        assert played.chance.mean() == pytest.approx(scenario.rate, rel=0.25)
    if np.isinf(scenario.promotion_wrong_from):
        assert played.chance.mean() < THRESHOLD
    else:
        late = played.chance[acts.minute >= scenario.promotion_wrong_from]
        assert late.mean() >= 0.7 * THRESHOLD
    if np.isfinite(scenario.harm_from):
        assert played.chance[acts.minute >= scenario.harm_from].mean() > THRESHOLD


def test_outcomes_are_seen_in_the_order_of_their_reports_and_begin_anew_at_each_attempt() -> None:
    acts = Actions(
        np.array([0, 0, 0, 0]),
        np.array([0.0, 1.0, 2.0, 6.0]),
        np.array([True, False, False, True]),
        np.array([3.0, 0.5, 0.5, 0.5]),
        10,
    )
    played = Played(acts, np.full(4, 0.5))
    scenario: Any = SimpleNamespace(minutes=10, attempts=2, rate=None)
    seen = Reported.of(played, scenario, 1)
    assert seen.minutes.tolist() == [[1.5, 2.5, 3.0], [6.5, np.inf, np.inf]]
    assert seen.failures.tolist() == [[0, 0, 1], [1, 1, 1]]
    # A rule that would decide beyond the last outcome of an attempt decides nothing.
    assert seen.moments(np.array([3, 2]), 2).tolist() == [3.0]
    clean: Any = SimpleNamespace(decide=lambda *_: (np.array([NEVER, 1]), np.array([NEVER, NEVER])))
    found = decided_elsewhere(clean, seen, scenario)
    assert (found.rolled_back.tolist(), found.promoted.tolist()) == ([6.5], [np.inf])


def test_what_is_wrong_follows_from_the_true_chances() -> None:
    minute = np.array([0.0, 10.0, 20.0])
    acts = Actions(np.repeat([0, 1, 2], 3), np.tile(minute, 3), np.zeros(9, dtype=bool), np.zeros(9), 30)
    chance = np.tile([0.01, 0.02, 0.3], 3)
    scenario: Any = SimpleNamespace(harm_from=25.0, promotion_wrong_from=15.0)
    up, down = np.array([12.0, 18.0, np.inf]), np.array([11.0, 21.0, 28.0])
    found = against_truth("r", Crossings(up, down), Played(acts, chance), scenario)
    assert found["wrong_promotions"]["count"] == 1
    # At minute 21 the average so far is 11 %, so that rollback is right although harm is said to begin later.
    assert found["wrong_rollbacks"]["count"] == 1
    assert found["minutes_to_roll_back"] == {"median": 3.0, "p90": 3.0}
    assert found["minutes_to_promote"] is None


def test_an_interval_is_exact() -> None:
    assert exact_interval(0, 100) == pytest.approx((0.0, 0.03621669), abs=1e-7)
    assert exact_interval(5, 100) == pytest.approx((0.01643188, 0.11283491), abs=1e-7)
    assert exact_interval(10, 10)[1] == 1.0


@pytest.mark.slow
def test_most_rules_do_not_keep_even_their_own_limit() -> None:
    rows = {row["rule"]: row for row in on_their_own_terms(200)}
    assert rows[SHARE_95.name]["at_limit"]["share"] > 0.9
    assert rows[SHARE_80.name]["beyond"]["share"] > 0.5
    assert TOLD.name not in rows


def test_a_page_and_a_picture_hold_what_was_found() -> None:
    acts = Actions(np.array([0]), np.array([0.0]), np.array([False]), np.array([0.0]), 60)
    names = ("Stagekeeper", SHARE_95.name, ROW_OF_20.name, PEEKED.name)
    scenario: Any = SimpleNamespace(harm_from=np.inf, promotion_wrong_from=np.inf)
    never = Crossings(np.array([5.0]), np.array([np.inf]))
    rows = [against_truth(name, never, Played(acts, np.array([0.01])), scenario) for name in names]
    common = {"says": "s", "streams": 1, "minutes": 60, "actions_a_minute": 1.0, "look_every_min": 1, "rows": rows}
    steady = [{"name": f"constant {rate}", "rate": rate, "promised": 0.05, **common} for rate in (0.01, THRESHOLD)]
    found = {"scenarios": [*steady, {"name": "bursts", "rate": None, "promised": None, **common}], "own_terms": []}
    page = "".join(f"<!-- {name}: start -->old<!-- {name}: end -->" for name in tables(found))
    written = with_tables(page, found)
    assert "old" not in written
    assert "| Stagekeeper | 100.0 % | 100.0 % |" in written
    assert with_tables(written, found) == written
    drawing = picture(found)
    assert drawing.count("<polyline") == 4
    assert "within 60 actions" in drawing


@pytest.mark.slow
def test_a_quick_run_answers_with_one_document() -> None:
    chosen = ["constant 0.25 %", "constant 10 %", "one heavy user"]
    options = ["--times", "0.01", "--rarely", "10", "--json", "--only", *chosen]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "rules.py"), *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert [each["name"] for each in found["scenarios"]] == chosen
    ours = [next(row for row in each["rows"] if row["rule"] == "Stagekeeper") for each in found["scenarios"]]
    assert [row["promoted"]["share"] for row in ours] == [1.0, 0.0, 0.0]
    assert [row["rolled_back"]["share"] for row in ours] == [0.0, 1.0, 1.0]
    naive = next(row for row in found["scenarios"][2]["rows"] if row["rule"] == SHARE_80.name)
    assert naive["wrong_promotions"]["share"] > 0.5
