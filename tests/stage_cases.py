"""A folder with flags, gates and settings, and the commands that change stages there."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from documents import ROOT
from lakes_of_events import EventLake
from verdict_cases import CELL, NOON, increments

from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.stage_store import ActionName, StageChange
from producers.delivery.outbox import Outbox
from producers.wire.events import PolicyChanged, event_from_bytes
from stagekeeper.commands import cli
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from click.testing import Result

    from producers.wire.events import PolicyChangedData
    from producers.wire.stage import Mode

WHO = ("--as", "maria", "--because", "odd refunds")
ACTION = ActionName("production", "refunds", "issue_refund")
OTHER = ActionName("production", "refunds", "close_account")
NAMED = ("--environment", "production", "--workflow", "refunds", "--tool", "issue_refund")
GATES = "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
GATED = CELL._replace(stage="approval_gated")


def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "examples" / "flags.json", tmp_path / "flags.json")
    (tmp_path / "gates.yaml").write_text(GATES)
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_FLAG_FILE", str(tmp_path / "flags.json"))
    monkeypatch.setenv("STAGEKEEPER_GATE_FILE", str(tmp_path / "gates.yaml"))
    monkeypatch.setenv("STAGEKEEPER_AUTHORIZATION_FILE", str(ROOT / "examples" / "authorization.yaml"))
    for name in ("LAKE_ROOT", "KAFKA_BOOTSTRAP_SERVERS", "FRESHNESS_S"):
        monkeypatch.delenv(f"STAGEKEEPER_{name}", raising=False)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def set_to(stage: str, *more: str) -> Result:
    return run("stage", "set", *NAMED, "--to", stage, *WHO, "--yes", *more)


def mode(home: Path) -> Mode | None:
    return FlagdStages(home / "flags.json").read(ACTION).mode


def changes(home: Path) -> list[PolicyChangedData]:
    with Outbox(home / "outbox.db") as outbox:
        events = [event_from_bytes(record.value) for record in outbox.after(0, 100)]
    return [event.data for event in events if isinstance(event, PolicyChanged)]


def judged(home: Path, *rows: dict[str, Any]) -> None:
    lake, now = Lake.open(str(home / "lake")), datetime.now(UTC)
    shift = now - timedelta(seconds=10) - NOON
    moved = [{**row, "bucket": (row["bucket"] + shift).replace(second=0, microsecond=0)} for row in rows]
    lake.append("signals", increments(*({**row, "last_event_at": now - timedelta(seconds=10)} for row in moved)))
    Judge(lake, home / "gates.yaml", settle_s=0).tick(now)


def stored(home: Path) -> None:
    """What waits in the outbox is in the lake."""
    history = EventLake(Lake.open(str(home / "lake")), LocalIngest(now=lambda: datetime.now(UTC)))
    with Outbox(home / "outbox.db") as outbox:
        history.emitter.events.extend(event_from_bytes(record.value) for record in outbox.after(0, 100))
    history.store()


def ignore(_sha256: str) -> None: ...


def put(path: Path, mode: Mode, action: ActionName = ACTION, before_write: Callable[[str], None] = ignore) -> None:
    store = FlagdStages(path)
    store.change(StageChange(action, mode, store.read(action).version), before_write=before_write)
