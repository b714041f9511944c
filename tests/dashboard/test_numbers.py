"""The numbers of the page: they are the evidence's own, whatever the bins and the words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_lakes import FLEET, Behaviour, minute_row, populated

from analytics.evidence import histogram
from analytics.evidence.sequential import crosses, log_e_value
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.verdicts.evidence_models import SignalEvidence
from analytics.verdicts.ledger import latest_verdicts
from dashboard import labels
from dashboard.components import charts
from dashboard.components.html import Markup, join, tag
from dashboard.components.symbols import interval, log_interval
from dashboard.data.cell_history import bin_minutes, cell_history
from dashboard.data.outlook import explanation, failures_to_harm, forecasts
from dashboard.urls import PageLocation, PageName

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = st.text(min_size=1, max_size=12)
FIELDS = ("environment", "workflow", "tool", "stage", "cohort", "verdict", "risk", "owner", "search", "show", "item")
PLACES = st.builds(
    PageLocation, page=st.sampled_from(get_args(PageName)), **dict.fromkeys(FIELDS, st.none() | st.text(max_size=12))
)


def rows_of(behaviour: Behaviour, minutes: int, *, epochs: int = 1) -> pl.LazyFrame:
    rng = np.random.default_rng(11)
    rows = [
        minute_row(behaviour, NOON + timedelta(minutes=at), rng, epoch=f"e{at * epochs // minutes}")
        for at in range(minutes)
    ]
    return pl.DataFrame(rows, schema=COLUMNS[SIGNALS]).lazy()


@settings(deadline=None)
@given(PLACES)
def test_an_address_leads_back_to_its_place(place: PageLocation) -> None:
    assert PageLocation.from_address(place.address) == place


@settings(deadline=None)
@given(st.text(), st.text())
def test_text_never_becomes_markup(text: str, value: str) -> None:
    html = tag("span", text, title=value)
    inside = html.removeprefix('<span title="').removesuffix("</span>")
    assert not {"<", "'"} & set(inside)
    assert inside.count('"') == 1
    assert inside.count(">") == 1


def test_markup_is_taken_as_it_is_and_joined_text_is_not() -> None:
    assert join([tag("b", "1 < 2"), "<", None, 3, ["&"]]) == "<b>1 &lt; 2</b>&lt;3&amp;"
    assert isinstance(join(["x"]), Markup)


@pytest.mark.parametrize("minutes", [1, 44, 45, 46, 200])
def test_a_history_keeps_every_count_and_quantile_whatever_its_bins(minutes: int) -> None:
    behaviour = FLEET[0]
    rows = rows_of(behaviour, minutes)
    found = cell_history(rows, behaviour.cell, "e0")
    whole = (
        rows.select(pl.col("decisions", "denied", "executed", "failed", "undone").sum()).collect().row(0, named=True)
    )
    assert found.rows["decisions"].sum() == whole["decisions"]
    assert found.rows["executed"].sum() == whole["executed"]
    assert len(found.rows) <= 46
    last = found.rows.row(-1, named=True)
    assert last["denial_so_far"] == pytest.approx(whole["denied"] / whole["decisions"])
    assert last["undo_so_far"] == pytest.approx(whole["undone"] / whole["executed"])
    assert last["execution_error_so_far"] == pytest.approx(whole["failed"] / whole["executed"])
    first_bin = rows.filter(pl.col("bucket") < found.rows["bucket"][0] + timedelta(minutes=found.width_min))
    counted = first_bin.select("latency_bins", "latency_counts").explode("latency_bins", "latency_counts").collect()
    micros = histogram.quantile(counted["latency_bins"].to_numpy(), counted["latency_counts"].to_numpy(), 0.95)
    assert micros is not None
    assert found.rows["latency_p95"][0] == pytest.approx(micros / 1_000)


def test_running_rates_are_over_the_epoch_of_the_verdict_alone() -> None:
    behaviour = FLEET[4]
    rows = rows_of(behaviour, 40, epochs=2)
    found = cell_history(rows, behaviour.cell, "e1").rows
    newest = rows.filter(pl.col("epoch") == "e1").select(pl.col("denied").sum() / pl.col("decisions").sum())
    assert found["denial_so_far"][0] is None
    assert found["denial"][0] is not None
    assert found["denial_so_far"][-1] == pytest.approx(newest.collect().item())


@settings(deadline=None)
@given(st.integers(0, 1_000_000), st.integers(5, 60))
def test_bins_are_the_narrowest_that_fit(minutes: int, most: int) -> None:
    width = bin_minutes(NOON, NOON + timedelta(minutes=minutes), most=most)
    assert (minutes + 1) / width <= most or width == 1_440
    assert width == 1 or (minutes + 1) / (width - 1) > most or width > 2


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 900), st.floats(0.005, 0.2))
def test_failures_to_harm_is_the_first_run_that_crosses(failures: int, successes: int, limit: float) -> None:
    evidence = SignalEvidence(
        signal="undo",
        role="guardrail",
        state="undecided",
        value=None,
        unit="ratio",
        failures=failures,
        trials=failures + successes,
        limit=limit,
        harm_threshold=float(-np.log(0.05)),
    )
    run = failures_to_harm(evidence)
    assert run is not None

    def harmful(more: int) -> bool:
        log_e = log_e_value(failures + more, failures + successes + more, limit, direction="above")
        return bool(crosses(log_e, 0.05))

    assert harmful(run)
    assert run == 1 or not harmful(run - 1)


@pytest.mark.parametrize(
    ("failures", "trials", "told"),
    [
        (2, 200, "242 to over 5,000 more executions (10-90 %); 82 % within 5,000 (1.0 %, limit 2.0 %)."),
        # At 4 % no number of trials is enough, and yet one in nine of such actions is shown safe in the end.
        (4, 100, "4,113 to over 5,000 more executions (10-90 %); 11 % within 5,000"),
        (300, 1_000, "30.0 % is too high to be shown under 2.0 %, with less than a chance of 1 % within 5,000 more"),
    ],
)
@pytest.mark.slow
def test_a_way_to_safety_is_a_range_with_its_probability(tmp_path: Path, failures: int, trials: int, told: str) -> None:
    evidence = SignalEvidence(
        signal="undo",
        role="guardrail",
        state="undecided",
        value=failures / trials,
        unit="ratio",
        failures=failures,
        trials=trials,
        mature_failures=failures,
        mature_trials=trials,
        limit=0.02,
        safe_threshold=float(-np.log(0.05)),
    )
    held = next(verdict for verdict in latest_verdicts(populated(tmp_path)) if verdict.verdict == "HOLD")
    (text,) = [
        forecast.text
        for forecast in forecasts(held.model_copy(update={"signals": (evidence,), "exposure": None, "reasons": ()}))
        if forecast.towards == "PROMOTE"
    ]
    assert told in text.replace("\u202f", " ")


@pytest.mark.slow
def test_what_would_change_a_verdict_names_each_signal_in_its_way(tmp_path: Path) -> None:
    verdicts = latest_verdicts(populated(tmp_path))
    seen = set()
    for verdict in verdicts:
        found = forecasts(verdict)
        seen.add(verdict.verdict)
        blocked = [part for part in verdict.signals if part.role in {"guardrail", "promote"} and part.state != "pass"]
        to_promote = [forecast.text for forecast in found if forecast.towards == "PROMOTE"]
        if verdict.verdict == "PROMOTE":
            assert to_promote == []
            assert any(forecast.towards == "ROLL_BACK" for forecast in found)
        if verdict.verdict == "HOLD" and verdict.reasons[0].code != "top_of_ladder":
            for part in blocked:
                assert any(text.startswith(labels.signal_name(part.signal)) for text in to_promote)
        if verdict.verdict in {"INVALID", "ROLL_BACK"}:
            assert len(found) == 1
        assert explanation(verdict)
    assert seen == {"PROMOTE", "HOLD", "ROLL_BACK", "INVALID"}


@pytest.mark.slow
def test_a_latched_verdict_still_says_its_numbers(tmp_path: Path) -> None:
    verdicts = latest_verdicts(populated(tmp_path))
    judged = next(verdict for verdict in verdicts if verdict.verdict == "PROMOTE")
    reason = judged.reasons[0].model_copy(update={"code": "latched", "signal": None})
    latched = judged.model_copy(update={"reasons": (reason,), "latched_by": "0123456789abcdef"})
    said = explanation(latched)
    assert "Stands since verdict 0123456789ab" in said
    assert "upper bound" in said
    assert any(labels.count(part.trials) in said for part in judged.signals)


@pytest.mark.slow
def test_a_lane_has_its_limit_and_bounds_that_hold_the_rate_and_forgets_nothing(tmp_path: Path) -> None:
    lake = populated(tmp_path)
    verdict = next(verdict for verdict in latest_verdicts(lake) if verdict.cell == FLEET[0].cell)
    found = cell_history(lake.scan(SIGNALS), verdict.cell, verdict.epoch)
    for lane in charts.LANES:
        rows = charts.lane_rows(lane, found, verdict)
        limit = verdict.limit_of(lane.signal)
        assert limit is not None
        assert rows["limit"].unique().to_list() == pytest.approx([limit * 100])
        assert rows.filter((pl.col("lower") > pl.col("rate")) | (pl.col("upper") < pl.col("rate"))).is_empty()
        last, part = rows.row(-1, named=True), charts.evidence_of(verdict, lane.signal)
        assert part is not None
        assert last["rate"] == pytest.approx(100 * (part.value or 0.0))
        assert last["lower"] == pytest.approx(100 * (part.lower or 0.0), rel=1e-6)
        assert charts.lane_rows(lane, found, None)["limit"].null_count() == len(rows)
    marks = [charts.TimeMark(verdict.judged_at, "verdict"), charts.TimeMark(NOON, "long ago")]
    lanes = [charts.lane_rows(lane, found, verdict) for lane in charts.LANES]
    shown = charts.timeline(lanes, found, marks, charts.evidence_of(verdict, "latency_p95"), "dark")
    assert [words.split()[0] for words, _ in shown] == ["Denial", "Undo", "Execution", "Latency"]
    assert all(len(spec["datasets"]["marks"]) <= 1 for _, spec in shown)
    # Where moments are stated as a domain, everything is drawn at the left edge.
    scales = [
        layer["encoding"]["x"].get("scale", {})
        for _, spec in shown
        for layer in spec["layer"]
        if "x" in layer["encoding"]
    ]
    assert scales
    assert not any("domain" in scale for scale in scales)


def test_the_heat_of_latencies_is_whole_in_every_bin() -> None:
    behaviour = FLEET[0]
    heat = cell_history(rows_of(behaviour, 90), behaviour.cell, "e0").latency
    assert heat.group_by("bucket").agg(pl.col("share").sum())["share"].to_list() == pytest.approx([1.0] * 45)
    assert (heat["high_ms"] > heat["low_ms"]).all()


def test_a_logarithmic_interval_has_one_scale_for_every_limit() -> None:
    assert log_interval(0.02, 0.01, 0.04, 0.02) == log_interval(2_000.0, 1_000.0, 4_000.0, 2_000.0)
    assert 'x1="66" x2="66"' in log_interval(0.01, 0.005, 0.02, 0.02)
    assert log_interval(0.01, 0.0, None, 0.02).count("sk-forest-arrow") == 2
    assert "sk-bounds-none" in log_interval(3.0, None, None, 0.0)


def test_an_interval_puts_the_limit_in_the_middle_and_far_values_on_the_edge() -> None:
    assert 'x1="120" x2="120"' in interval(0.01, 0.005, 0.02, 0.02)
    assert "sk-forest-arrow" in interval(0.01, 0.005, None, 0.02)
    assert "sk-forest-arrow" not in interval(0.01, 0.005, 0.03, 0.02)
    assert "circle" not in interval(0.5, 0.4, 0.6, 0.02)
    assert "sk-forest-none" in interval(3.0, None, None, 0.0)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (labels.percent(None), "\u2013"),
        (labels.percent(0.0), "0\u202f%"),
        (labels.percent(0.00319), "0.32\u202f%"),
        (labels.percent(0.0188), "1.9\u202f%"),
        (labels.percent(0.144), "14.4\u202f%"),
        (labels.percent(1.0), "100\u202f%"),
        (labels.milliseconds(3.14159), "3.1 ms"),
        (labels.milliseconds(999.4), "999 ms"),
        (labels.milliseconds(1_501), "1.50 s"),
        (labels.milliseconds(90_000), "90 s"),
        (labels.milliseconds(3_600_000), "60 min"),
        (labels.dollars(0.0123), "$0.0123"),
        (labels.dollars(1234.5), "$1,234.50"),
        (labels.quantity(9.0, "count"), "9"),
        (labels.age(NOON, NOON + timedelta(seconds=1)), "just now"),
        (labels.age(NOON, NOON + timedelta(seconds=89)), "89 s ago"),
        (labels.age(NOON, NOON + timedelta(hours=5)), "5 h ago"),
        (labels.age(NOON, NOON - timedelta(minutes=4)), "4 min ahead"),
        (labels.age(None, NOON), "\u2013"),
        (labels.every(1), "per minute"),
        (labels.every(240), "per 4 h"),
        (labels.quantity(1.25, "times"), "1.2\u00d7"),
        (labels.quantity(None, "times"), labels.UNKNOWN),
        (labels.because("Promote to x: denial 1 %."), "Denial 1\u202f%."),
        (labels.because("Roll back to x: execution_error 9 %."), "Execution error 9\u202f%."),
        (labels.because("Roll back to x: latency_p95 900 ms (1 of 9)."), "Latency p95 900\u202fms (1 of 9)."),
        (labels.because("Hold: draft_write is the top."), "Draft write is the top."),
        (labels.because("No gate: none"), "No gate: none"),
        (labels.stage_name("draft_write"), "Draft write"),
        (labels.plural(1, "decision"), "1 decision"),
        (labels.plural(2_000, "decision"), "2,000 decisions"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


def test_times_grow_with_their_value() -> None:
    order = [labels.span(seconds) for seconds in (0, 60, 89, 100, 4_000, 6_000, 100_000, 200_000)]
    assert len(set(order)) == len(order)
    assert all(before != after for before, after in pairwise(order))
