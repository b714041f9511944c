from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING

from verdict_cases import CELL, NOON, a_row, executions, increments

from analytics.lake.schemas import VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.judge import Judge

if TYPE_CHECKING:
    from pathlib import Path

GATES = "version: 1\ngates: [{name: g, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"


def test_a_quiet_cell_costs_nothing_and_is_looked_at_before_its_verdict_seems_old(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES)
    lake = Lake.open(str(tmp_path / "lake"))
    judge = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
    busy = CELL._replace(tool="busy")
    lake.append("signals", increments(a_row(**executions(20)), a_row(busy, **executions(20))))
    judge.tick(NOON + timedelta(minutes=1))
    for minute in range(1, 12):
        lake.append("signals", increments(a_row(busy, minute=minute, **executions(1))))
        judge.tick(NOON + timedelta(minutes=minute + 1))
    rows = lake.scan(VERDICTS).sort("watermark").collect()
    quiet = [row["watermark"] for row in rows.to_dicts() if row["tool"] == CELL.tool]
    assert rows.height >= 12 + len(quiet)
    # Its minute closes, becomes mature and establishes its epoch; a full round comes every five minutes.
    assert len(quiet) <= 6
    assert max(later - earlier for earlier, later in itertools.pairwise(quiet)) <= timedelta(minutes=5)
