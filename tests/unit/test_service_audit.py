from __future__ import annotations

from typing import TYPE_CHECKING

from lakes_of_events import EventLake
from service_cases import running_service

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_audit_is_read_over_http_by_who_may_read(tmp_path: Path) -> None:
    lake = EventLake.at(tmp_path)
    first, second = lake.act(0, "u-1"), lake.act(60, "u-2", reported=False)
    lake.store()
    async with running_service(tmp_path) as service:
        told = await service.get(f"/v1/decisions/{first.decision_id}/story", by="ada")
        assert (told.status_code, told.json()["decision_id"]) == (200, first.decision_id)
        assert told.json()["executions"][0]["status"] == "succeeded"
        unknown = await service.get("/v1/decisions/nobody/story", by="ada")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_decision")
        found = (await service.get("/v1/audit/decisions?user=u-2&text=charged", by="ada")).json()
        assert [hit["decision_id"] for hit in found["hits"]] == [second.decision_id]
        odd = await service.get("/v1/audit/decisions?nonsense=1", by="ada")
        assert odd.status_code in {400, 422}
        whole = (await service.get("/v1/audit/completeness?deadline_s=60", by="ada")).json()
        assert whole["state"] == "COMPLETE"
        assert (await service.get("/v1/audit/completeness", by="bot")).status_code == 403
        for path in ("decisions?until=9999-12-31T23:59:59-14:00", "completeness?since=0001-01-01T00:00:00%2B14:00"):
            beyond = await service.get(f"/v1/audit/{path}", by="ada")
            assert (beyond.status_code, "cannot be counted in UTC" in beyond.json()["detail"]) == (422, True)
        for path in ("decisions", "completeness"):
            zoneless = await service.get(f"/v1/audit/{path}?since=2026-03-14T12:00:00", by="ada")
            assert (zoneless.status_code, "has no time zone" in zoneless.json()["detail"]) == (422, True)
        late = (await service.get("/v1/audit/decisions?until=9999-12-31T23:59:59Z", by="ada")).json()
        assert len(late["hits"]) == 2
