from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from fakes import FakeClock
from service_cases import asked, contract, running_service, write_files

from producers.boundary.router import Router
from producers.delivery.outbox import OutboxError
from producers.wire.events import ActionDecided, ActionExecuted, ActionUndone
from stagekeeper.api import decision_log

if TYPE_CHECKING:
    from pathlib import Path


async def test_an_allowed_action_is_permitted_on_record_and_its_execution_and_undo_follow(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        answer = (await service.post("/v1/decisions", asked())).json()
        assert answer["outcome"] == "allow"
        assert answer["permit"]["runs"] == "as_asked"
        assert answer["permit"]["expires_at"] > answer["decided_at"]
        place = f"/v1/decisions/{answer['decision_id']}"
        early = await service.post(f"{place}/undo", {"result": "undone"})
        assert (early.status_code, early.json()["code"]) == (409, "not_executed")
        report = {"status": "succeeded", "latency_ms": 12.5}
        assert (await service.post(f"{place}/execution", report)).json()["recorded"] is True
        assert (await service.post(f"{place}/execution", report, by="twin")).json()["recorded"] is False
        other = await service.post(f"{place}/execution", {"status": "failed"})
        assert (other.status_code, other.json()["code"]) == (409, "reported_otherwise")
        assert (await service.post(f"{place}/undo", {"result": "undone"})).json()["recorded"] is True
        decided, executed, undone = await service.events()
    assert isinstance(decided, ActionDecided)
    assert isinstance(executed, ActionExecuted)
    assert isinstance(undone, ActionUndone)
    actor = decided.data.contract.actor
    assert (actor.agent, actor.service_identity, actor.user, actor.account) == ("support-bot", "crm", "u-1", "a-1")
    assert decided.data.receipt == executed.data.receipt == undone.data.receipt == answer["receipt"]
    assert decided.data.contract.arguments_hmac
    assert executed.data.latency_ms == 12.5


@pytest.mark.parametrize(
    ("flags", "changed", "outcome", "runs"),
    [
        ({"denylist": True}, {}, "deny", None),
        ({"mode": "search_only"}, {}, "constrain", None),
        ({"mode": "draft_write"}, {"variants": ["draft"]}, "constrain", "draft"),
        ({"mode": "observe"}, {}, "allow", None),
        ({"mode": "fallback"}, {}, "fallback", None),
        ({"approval": True}, {}, "queue_for_review", None),
    ],
)
async def test_only_a_permit_lets_anything_run(
    tmp_path: Path, flags: dict[str, object], changed: dict[str, object], outcome: str, runs: str | None
) -> None:
    async with running_service(tmp_path, **flags) as service:
        response = await service.post("/v1/decisions", asked(**changed))
        answer = response.json()
        assert (response.status_code, answer["outcome"]) == (200, outcome)
        assert (answer["permit"] or {}).get("runs") == runs
        place = f"/v1/decisions/{answer['decision_id']}"
        report = await service.post(f"{place}/execution", {"status": "succeeded"})
        assert report.status_code == (200 if runs else 409)


async def test_a_retry_gets_the_same_decision_until_the_permit_is_over_and_then_a_new_one(tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    async with running_service(tmp_path, changed={"permit_s": 10.0}, now=clock) as service:
        first = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        again = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        assert first == again
        reused = await service.post("/v1/decisions", asked(arguments={}), Idempotency_Key="k-1")
        assert (reused.status_code, reused.json()["code"]) == (409, "idempotency_key_reused")
        others = (
            await service.post(
                "/v1/decisions",
                asked(contract=contract(actor={"agent": "other-bot"})),
                by="other",
                Idempotency_Key="k-1",
            )
        ).json()
        assert others["decision_id"] != first["decision_id"], "a key is its owner's"
        clock.advance(9.9)
        assert (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json() == first
        clock.advance(0.2)
        late = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        assert late["decision_id"] != first["decision_id"]
        assert len(await service.events()) == 3, "decided anew, so that no old permit outlives a switch"


async def test_what_was_reported_as_executed_is_not_permitted_again_under_its_key(tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    async with running_service(tmp_path, changed={"permit_s": 10.0}, now=clock) as service:
        first = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        place = f"/v1/decisions/{first['decision_id']}"
        assert (await service.post(f"{place}/execution", {"status": "succeeded"})).status_code == 200
        for seconds in (0.0, 11.0):
            clock.advance(seconds)
            again = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
            assert again == {**first, "permit": None}
        assert len(await service.events()) == 2, "nothing is decided anew"


async def test_an_execution_reported_late_ends_the_permits_of_the_decision_that_took_its_place(tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    async with running_service(tmp_path, changed={"permit_s": 10.0}, now=clock) as service:
        first = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        clock.advance(11.0)
        second = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        await service.post(f"/v1/decisions/{first['decision_id']}/execution", {"status": "succeeded"})
        again = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        assert again == {**second, "permit": None}


async def test_many_at_once_with_one_key_are_one_decision(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        answers = await asyncio.gather(
            *(service.post("/v1/decisions", asked(), Idempotency_Key="k-1") for _ in range(20))
        )
        assert len({answer.json()["decision_id"] for answer in answers}) == 1
        assert len(await service.events()) == 1


async def test_a_service_that_starts_anew_knows_what_it_answered(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        first = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
        tokens = service.tokens
    async with running_service(tmp_path, tokens=tokens) as service:
        assert (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json() == first
        report = await service.post(f"/v1/decisions/{first['decision_id']}/execution", {"status": "succeeded"})
        assert report.json()["recorded"] is True


async def test_the_flat_contract_is_the_same_request(tmp_path: Path) -> None:
    flat = {
        "userId": "u-1",
        "accountId": "a-1",
        "intent": "the order came twice",
        "environment": "production",
        "system": "billing",
        "recordId": "o-1",
        "tool": "issue_refund",
        "workflow": "refunds",
        "riskClass": "external_effect",
        "reversibility": "manual",
        "arguments": {"order": "o-1", "amount": 5},
        "consequence": "money leaves",
    }
    async with running_service(tmp_path) as service:
        ours = (await service.post("/v1/decisions", asked())).json()
        answer = (await service.post("/v1/decisions", flat)).json()
        assert answer["outcome"] == ours["outcome"] == "allow"
        one, other = await service.events()
        assert isinstance(one, ActionDecided)
        assert isinstance(other, ActionDecided)
        assert one.data.contract == other.data.contract
        wrong = await service.post("/v1/decisions", {**flat, "riskClas": "search"})
        assert wrong.status_code == 422
        assert "riskClas" in wrong.json()["detail"]


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"contract": contract(actor={"agent": "other-bot"})}, 403, "another_agent"),
        ({"contract": contract(actor={"agent": "support-bot", "service_identity": "x"})}, 403, "another_service"),
        ({"contract": contract(arguments_sha256="0" * 64)}, 422, "digest_of_arguments"),
        ({"contract": contract(scope={"account": "a-2"})}, 422, "scope_mismatch"),
        ({"contract": contract(risk_class="harmless")}, 422, "invalid_request"),
        ({"scopes": ["operate"]}, 422, "invalid_request"),
    ],
)
async def test_a_request_says_nothing_that_is_not_its_callers_to_say(
    tmp_path: Path, changed: dict[str, object], status: int, code: str
) -> None:
    async with running_service(tmp_path) as service:
        refused = await service.post("/v1/decisions", asked(**changed))
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert refused.headers["content-type"] == "application/problem+json"
        assert await service.events() == []


async def test_a_pinned_tool_does_not_run_as_a_search(tmp_path: Path) -> None:
    tokens = write_files(tmp_path, mode="draft_write")
    file = tmp_path / "authorization.yaml"
    file.write_text(f"{file.read_text()}pins: [{{tools: [issue_refund], risk_class: external_effect}}]\n")
    async with running_service(tmp_path, tokens=tokens) as service:
        answer = (await service.post("/v1/decisions", asked(contract=contract(risk_class="search")))).json()
        assert (answer["outcome"], answer["permit"]) == ("deny", None)
        assert answer["decision"]["authorization"]["reason"] == (
            "the risk class of issue_refund is pinned to external_effect, and the contract says search"
        )


async def test_a_decision_is_its_owners(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        answer = (await service.post("/v1/decisions", asked())).json()
        place = f"/v1/decisions/{answer['decision_id']}"
        for response in (
            await service.post(f"{place}/execution", {"status": "failed"}, by="other"),
            await service.post(f"{place}/impact", {"impact": {"kind": "support"}}, by="other"),
            await service.post(f"{place}/redeem", asked(contract=contract(actor={"agent": "other-bot"})), by="other"),
            await service.get(place, by="other"),
        ):
            assert (response.status_code, response.json()["code"]) == (403, "another_agent")
        unknown = await service.post("/v1/decisions/none/execution", {"status": "failed"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_decision")
        assert len(await service.events()) == 1


async def test_a_write_whose_record_is_not_on_disk_is_denied_and_a_read_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutboxError("database or disk is full")

    async with running_service(tmp_path) as service:
        monkeypatch.setattr(decision_log.Outbox, "put_all", full)
        answer = (await service.post("/v1/decisions", asked())).json()
        assert (answer["outcome"], answer["reason"], answer["permit"]) == ("deny", "record_not_durable", None)
        read = (await service.post("/v1/decisions", asked(contract=contract(risk_class="search")))).json()
        assert read["permit"]["runs"] == "as_asked"


async def test_a_bug_inside_permits_nothing_and_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the inside")

    async with running_service(tmp_path) as service:
        monkeypatch.setattr(Router, "decide_async", broken)
        response = await service.post("/v1/decisions", asked())
        assert response.status_code == 500
        assert "secret" not in json.dumps(response.json())
