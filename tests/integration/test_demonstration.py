"""One whole demonstration, `stagekeeper up --demo`, run once; everything here looks at what it left."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from up_process import clean_environment, command

from analytics.audit.quality import latest_quality
from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.signals.cells import CELL
from analytics.signals.definitions import COUNTERS
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.stage_store import ActionName
from stagekeeper.settings import RUNNING_FILE

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One whole demonstration without a page, and the document that it prints."""
    home = tmp_path_factory.mktemp("demo-home")
    done = subprocess.run(
        command(home, "--demo", "--headless", "--for", "40s", "--json"),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (home / RUNNING_FILE).exists()
    return {"report": json.loads(done.stdout), "progress": done.stderr, "home": home}


@pytest.mark.timeout(300)
def test_the_demonstration_ends_by_itself_with_signals_and_verdicts(demonstration: dict[str, Any]) -> None:
    signals, verdicts = demonstration["report"]["signals"], demonstration["report"]["verdicts"]
    assert len({cell["tool"] for cell in signals}) >= 6
    assert len({cell["stage"] for cell in signals}) >= 4
    assert {verdict["verdict"] for verdict in verdicts} >= {"PROMOTE", "HOLD", "ROLL_BACK"}
    assert demonstration["report"]["rejects"]["total"] > 0
    assert {(cell["workflow"], cell["tool"], cell["stage"]) for cell in signals} == {
        (verdict["workflow"], verdict["tool"], verdict["stage"]) for verdict in verdicts
    }


@pytest.mark.timeout(300)
def test_the_demonstration_checks_the_quality_of_its_events(demonstration: dict[str, Any]) -> None:
    lake = Lake.existing(str(demonstration["home"] / "demo" / "lake"))
    assert lake is not None
    found = latest_quality(lake)
    assert found is not None
    assert found.success, found


@pytest.mark.timeout(300)
def test_everything_that_was_emitted_is_counted(demonstration: dict[str, Any]) -> None:
    lake = Lake.existing(str(demonstration["home"] / "demo" / "lake"))
    truth = json.loads((demonstration["home"] / "demo" / "truth.json").read_text())
    assert truth["finished"]
    counted = {tuple(row.cell): {name: row.counts[name] for name in COUNTERS} for row in build_report(lake).signals}
    assert counted == {tuple(cell[name] for name in CELL): cell["counts"] for cell in truth["cells"]}


@pytest.mark.timeout(300)
def test_what_harms_is_rolled_back_in_the_demonstrations_own_flag_file_and_promotions_wait(
    demonstration: dict[str, Any],
) -> None:
    report = demonstration["report"]
    made = report["enactments"]
    assert {one["verdict"] for one in made} == {"ROLL_BACK"}
    assert report["time_to_safe_s"] is not None
    stages = FlagdStages(demonstration["home"] / "demo" / "flags.json")
    for one in made:
        action = ActionName(one["environment"], one["workflow"], one["tool"])
        assert stages.read(action).stage == one["to_stage"]
        assert one["life"] in {"applied", "in force"}
        assert one["applied_at"] is not None


@pytest.mark.timeout(300)
def test_each_step_is_told(demonstration: dict[str, Any]) -> None:
    progress = demonstration["progress"]
    for step in ("broker", "topics", "lake", "traffic", "worker", "running", "settled"):
        assert f"] {step:<8} " in progress
