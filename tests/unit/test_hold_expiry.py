"""A hold that lasts too long reaches its owner by itself: as news, from whoever moves event time on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from verdict_cases import CELL, NOON, a_row, executions, increments, latest_documents

from analytics.audit.replay import replay
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from pathlib import Path

GATES = """\
version: 1
freshness: 1d
gates:
  - name: g
    owner: payments-risk
    hold_expires: 2h
    signals: [{signal: execution_error, role: guardrail, limit: 0.1, unit: action}]
"""


@pytest.mark.slow
def test_a_quiet_hold_past_its_expiry_is_published_to_its_owner_once(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    lake = Lake.open(str(tmp_path / "lake"))
    judge = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
    busy = CELL._replace(tool="busy")
    lake.append("signals", increments(a_row(**executions(3))))
    judge.tick(NOON + timedelta(minutes=1))
    recommendations = []
    for minute in range(5, 200, 5):
        # Only another action acts from now on.
        lake.append("signals", increments(a_row(busy, minute=minute, **executions(1))))
        recommendations += judge.tick(NOON + timedelta(minutes=minute + 1))
    called = [
        event
        for event in recommendations
        if event.data.tool == CELL.tool and event.data.reasons[0].code == "hold_expired"
    ]
    (event,) = called
    assert event.data.verdict.value == "HOLD"
    assert "payments-risk must decide" in event.data.reasons[0].message
    assert NOON + timedelta(hours=2) < event.data.watermark <= NOON + timedelta(hours=2, minutes=6)
    (latest,) = [found for found in latest_documents(lake) if found["tool"] == CELL.tool]
    assert latest["owner"] == "payments-risk"
    assert replay(lake, event.id).document.to_dict()["reasons"][0]["code"] == "hold_expired"
