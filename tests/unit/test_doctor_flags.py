"""The doctor says how old each flag provider's rules may be, and whether decisions rest on safe values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from fakes import a_contract, a_decided

from analytics.lake.table_schemas import COLUMNS, EVENTS
from analytics.lake.tables import Lake
from producers.boundary.policy_flags import FLAGS
from producers.wire.decision import Allow, Decision, FlagEvaluation, FlagReason
from producers.wire.events import event_to_bytes
from stagekeeper.doctor.check_result import CheckState
from stagekeeper.doctor.flag_checks import check_flag_providers

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


def a_decision(provider: str | None, error: str | None = None) -> bytes:
    reason = FlagReason.STATIC if error is None else FlagReason.ERROR
    flags = tuple(
        FlagEvaluation(key=flag.key, variant="v", reason=reason, provider=provider, error=error) for flag in FLAGS
    )
    event = a_decided()
    data = event.data.model_copy(
        update={"contract": a_contract(), "decision": Decision(result=Allow(), flags=() if provider == "-" else flags)}
    )
    return event_to_bytes(event.model_copy(update={"data": data}))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def store(lake: Lake, *values: bytes) -> None:
    fixed: dict[str, Any] = {
        "log_id": "log",
        "topic": "agent.decisions",
        "partition": 0,
        "type": "stagekeeper.action.decided.v1",
        "source": "/routers/7",
        "subject": "d",
        "ingested_at": NOW,
        "kind": 1,
    }
    rows = [
        {**fixed, "offset": n, "id": f"e-{n}", "time": NOW - timedelta(minutes=n), "value": value}
        for n, value in enumerate(values)
    ]
    lake.append(EVENTS, pl.DataFrame(rows, schema=COLUMNS[EVENTS]))


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("flagd", "within 1 s"),
        ("Unleash Provider", "each 15 s"),
        ("featbit-openfeature-server", "streams"),
        ("FlagdProvider", "streams"),
        ("another", "refresh time of its own"),
        (None, "refresh time of its own"),
    ],
)
def test_each_provider_comes_with_its_refresh_time(lake: Lake, provider: str | None, said: str) -> None:
    store(lake, a_decision(provider), b"{}", a_decision("flagd"))
    result = check_flag_providers(lake, NOW)
    assert result.state is CheckState.PASS
    assert said in result.evidence
    assert "within 1 s" in result.evidence


def test_decisions_that_rest_on_a_safe_value_are_named(lake: Lake) -> None:
    store(lake, a_decision("flagd", "FLAG_NOT_FOUND: gone"), a_decision("flagd"))
    result = check_flag_providers(lake, NOW)
    assert result.state is CheckState.WARN
    assert "1 of the newest 2 decisions" in result.evidence
    assert "FLAG_NOT_FOUND: gone" in result.evidence


def test_without_a_lake_or_a_flag_nothing_is_wrong(lake: Lake) -> None:
    store(lake, a_decision("-"))
    for held in (lake, None):
        assert check_flag_providers(held, NOW).state is CheckState.PASS
