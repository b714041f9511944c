"""Recorded agents, imported through a real broker and a real worker, down to the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from brokers import apache_in_exhaustive
from pipeline import Pipeline, running_pipeline
from shared_recordings import CALLS, EXAMPLES, FILE, needs_recorded_calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Broker

pytestmark = pytest.mark.integration


@pytest.fixture
def pipeline(either_broker: Broker, lake_root: str, tmp_path: Path) -> Iterator[Pipeline]:
    gates = EXAMPLES / "gates-airline.yaml"
    with running_pipeline(either_broker, lake_root=lake_root, home=tmp_path / "home", gates=gates) as made:
        yield made


@apache_in_exhaustive
def test_the_example_reaches_the_lake_and_a_second_import_changes_nothing(pipeline: Pipeline) -> None:
    example = ("import", "transcript", str(EXAMPLES / "transcript.jsonl"), "--catalog", str(EXAMPLES / "catalog.yaml"))
    first = pipeline.run(*example, "--reward-field", "reward", "--json")
    assert (first["calls"], first["executed"], first["failed"], first["unanswered"]) == (10, 9, 1, 1)
    assert first["delivered"] == first["events"] == 27
    pipeline.await_that("the lake has the import", lambda: pipeline.stored() == 27)
    report = pipeline.run("signals", "--json")

    counts = {
        (signals["workflow"], signals["tool"], signals["stage"]): signals["counts"] for signals in report["signals"]
    }
    assert {
        cell: (
            count["decisions"],
            count["executed"],
            count["failed"],
            count["quality_checks"],
            count["quality_failures"],
        )
        for cell, count in counts.items()
    } == {
        ("bookshop", "find_book", "search_only"): (2, 2, 0, 2, 0),
        ("bookshop", "get_order", "search_only"): (4, 4, 0, 4, 2),
        ("bookshop", "change_address", "draft_write"): (2, 2, 1, 1, 1),
        ("bookshop-goodwill", "issue_voucher", "approval_gated"): (2, 1, 0, 1, 0),
    }
    assert all(signals["latency_ms"] is None and signals["cost_usd"] is None for signals in report["signals"])

    second = pipeline.run(*example, "--reward-field", "reward", "--json")
    assert (second["delivered"], second["known_before"]) == (0, 27)
    again = pipeline.run("signals", "--json")
    assert {
        (signals["workflow"], signals["tool"], signals["stage"]): signals["counts"] for signals in again["signals"]
    } == (counts)
    assert again["rejects"]["total"] == 0


@apache_in_exhaustive
@needs_recorded_calls
def test_the_recorded_airline_agent_is_judged_by_what_it_did(pipeline: Pipeline) -> None:
    catalog = str(EXAMPLES / "catalog-airline.yaml")
    summary = pipeline.run(
        "import", "transcript", str(FILE), "--catalog", catalog, "--reward-field", "reward", "--json"
    )
    assert (summary["calls"], summary["executed"], summary["failed"], summary["unanswered"]) == (1_164, 1_164, 73, 0)
    pipeline.await_that("the lake has the import", lambda: pipeline.stored() == summary["delivered"])
    by_tool = {signals["tool"]: signals for signals in pipeline.run("signals", "--json")["signals"]}
    assert {
        tool: (signals["counts"]["executed"], signals["counts"]["failed"]) for tool, signals in by_tool.items()
    } == CALLS
    assert sum(signals["counts"]["executed"] for signals in by_tool.values()) == 1_164
    assert all(signals["latency_ms"] is None and signals["cost_usd"] is None for signals in by_tool.values())

    def judged() -> bool:
        latest = pipeline.verdicts()
        return latest.keys() == CALLS.keys() and all(
            verdict["exposure"]["actions"] == CALLS[tool][0] for tool, verdict in latest.items()
        )

    pipeline.await_that("every tool is judged on all of its calls", judged)
    verdicts = pipeline.verdicts()
    assert {tool for tool, verdict in verdicts.items() if verdict["verdict"] == "ROLL_BACK"} == {
        "update_reservation_flights",
        "book_reservation",
    }
    assert verdicts["get_reservation_details"]["verdict"] == "PROMOTE"
    assert verdicts["get_reservation_details"]["to_stage"] == "progressive_expansion"
    assert verdicts["update_reservation_baggages"]["verdict"] == "HOLD"

    flights = _signal(verdicts["update_reservation_flights"], "execution_error")
    assert (flights["failures"], flights["trials"], flights["limit"]) == (42, 104, 0.1)
    assert flights["lower"] > 0.1
    airports = verdicts["list_all_airports"]
    assert airports["verdict"] == "HOLD"
    assert _signal(airports, "execution_error")["more_needed"] > 0


def _signal(verdict: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [signal for signal in verdict["signals"] if signal["signal"] == name]
    return dict(found)
