from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from service_cases import running_service
from verdict_cases import CELL, a_row, executions, judge_lately

from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GATES = "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
NARROW = CELL._replace(stage="approval_gated")
ACTION = {"environment": CELL.environment, "workflow": CELL.workflow, "tool": CELL.tool}
QUERY = "&".join(f"{name}={value}" for name, value in ACTION.items())
GATE = f"/v1/gate?{QUERY}&to=narrow_autonomy"


def judged(folder: Path, executed: int, failed: int) -> None:
    (folder / "gates.yaml").write_text(GATES)
    judge_lately(Lake.open(str(folder / "lake")), folder / "gates.yaml", a_row(NARROW, **executions(executed, failed)))


async def test_the_gate_answers_as_the_command_with_an_expiry_and_a_tag(tmp_path: Path) -> None:
    judged(tmp_path, 377, 0)
    async with running_service(tmp_path, changed={"lake_root": str(tmp_path / "lake")}) as service:
        response = await service.get(GATE, by="ada")
        answer = response.json()
        assert (response.status_code, answer["verdict"], answer["answer"]) == (200, "PROMOTE", "PROMOTE")
        assert answer["exit_code"] == 0
        assert datetime.fromisoformat(answer["expires_at"]) > datetime.now(UTC)
        tagged = await service.get(GATE, by="ada", If_None_Match=response.headers["ETag"])
        assert (tagged.status_code, tagged.content) == (304, b"")
        other = await service.get(f"/v1/gate?{QUERY}&to=progressive_expansion", by="ada")
        assert other.json()["verdict"] == "INVALID"
        (tmp_path / "gates.yaml").write_text("gates: [")
        broken = await service.get(GATE, by="ada", If_None_Match=response.headers["ETag"])
        assert (broken.status_code, broken.json()["verdict"]) == (200, "INVALID")
        wrong = await service.get(f"/v1/gate?{QUERY}&to=anywhere", by="ada")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")


async def test_the_evidence_is_read_and_a_promotion_accepted_by_its_person(tmp_path: Path) -> None:
    judged(tmp_path, 377, 0)
    async with running_service(tmp_path, changed={"lake_root": str(tmp_path / "lake")}) as service:
        cells = (await service.get("/v1/cells", by="ada")).json()
        assert [row["stage"] for row in cells["signals"]] == ["approval_gated"]
        (verdict,) = (await service.get("/v1/verdicts", by="ada")).json()["verdicts"]
        again = await service.get(f"/v1/verdicts/{verdict['verdict_id']}", by="ada")
        assert again.json()["verdict"] == "PROMOTE", again.text
        unknown = await service.get("/v1/verdicts/none", by="ada")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_verdict")
        (recommended,) = (await service.get("/v1/recommendations", by="ada")).json()
        assert (recommended["tool"], recommended["to_stage"]) == (CELL.tool, "narrow_autonomy")
        ruling: dict[str, Any] = {**ACTION, "to": "narrow_autonomy", "because": "seen", "expires_s": 3_600}
        assert (await service.post("/v1/recommendations/accept", ruling, by="ada")).status_code == 403
        accepted = await service.post("/v1/recommendations/accept", ruling, by="boss")
        assert accepted.json()["actor"] == "boss@example.org", accepted.text
        claimed = await service.post("/v1/recommendations/accept", {**ruling, "actor": "ada"}, by="boss")
        assert claimed.status_code == 422
        dismissed = await service.post("/v1/recommendations/dismiss", ruling, by="boss")
        assert dismissed.json()["kind"] == "dismissal"
        assert (await service.get(GATE, by="ada")).json()["verdict"] == "HOLD"


async def test_a_stage_goes_down_at_once_and_up_only_where_the_gate_says_yes(tmp_path: Path) -> None:
    judged(tmp_path, 14, 1)
    async with running_service(tmp_path, changed={"lake_root": str(tmp_path / "lake")}) as service:
        wanted = {**ACTION, "to": "draft_write", "because": "odd refunds"}
        down = await service.post("/v1/stages", wanted, by="boss")
        assert (down.json()["stage"], down.json()["changed"]) == ("draft_write", True), down.text
        shown = (await service.get("/v1/stages", by="ada")).json()["stages"]
        assert [row["stage"] for row in shown if row["tool"] == CELL.tool] == ["draft_write"]
        up = await service.post("/v1/stages", {**wanted, "to": "narrow_autonomy"}, by="boss")
        assert (up.status_code, up.json()["code"]) == (409, "not_done")
        assert "may not move up" in up.json()["detail"]
        assert (await service.post("/v1/stages", wanted, by="ada")).status_code == 403
