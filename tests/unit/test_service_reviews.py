from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from service_cases import Service, asked, contract, running_service

from producers.boundary.review_store import ReviewStore
from producers.wire.events import ReviewResolved

if TYPE_CHECKING:
    from pathlib import Path

SAID = {"because": "agreed by phone"}


async def queued(service: Service, **changed: Any) -> dict[str, Any]:
    answer: dict[str, Any] = (await service.post("/v1/decisions", asked(**changed), Idempotency_Key="k-1")).json()
    assert (answer["outcome"], answer["permit"], answer["review"]["state"]) == ("queue_for_review", None, "waiting")
    return answer


async def test_an_approval_is_redeemed_once_and_its_execution_reported(tmp_path: Path) -> None:
    async with running_service(tmp_path, approval=True) as service:
        answer = await queued(service, redact=["amount"], consequence="money leaves")
        place, desk = f"/v1/decisions/{answer['decision_id']}", f"/v1/reviews/{answer['decision_id']}"
        request = asked(redact=["amount"], consequence="money leaves")
        early = await service.post(f"{place}/redeem", request)
        assert (early.status_code, early.json()["code"]) == (409, "review_pending")
        (listed,) = (await service.get("/v1/reviews", by="ada")).json()
        assert listed["queued"]["arguments"] == {"order": "o-1", "amount": "[redacted]"}
        assert listed["queued"]["consequence"] == "money leaves"
        approved = await service.post(f"{desk}/approve", SAID, by="ada")
        assert approved.json()["resolution"]["authenticated"] is True
        assert (await service.get(f"{place}?wait=5s")).json()["review"]["reviewer"] == "ada@example.org"
        refused = await service.post(f"{place}/execution", {"status": "succeeded"})
        assert (refused.status_code, refused.json()["code"]) == (409, "nothing_was_permitted")
        redeemed = (await service.post(f"{place}/redeem", request)).json()
        assert redeemed["permit"]["runs"] == "as_asked"
        assert (await service.post(f"{place}/execution", {"status": "succeeded"})).json()["recorded"] is True
        again = await service.post(f"{place}/redeem", request)
        assert (again.status_code, again.json()["code"]) == (409, "approval_used")
        resolved = [event for event in await service.events() if isinstance(event, ReviewResolved)]
        assert [event.data.reviewer for event in resolved] == ["ada@example.org"]


async def test_a_lost_answer_is_redeemed_again_while_its_permit_is_good(tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    changed = {"permit_s": 10.0}
    async with running_service(tmp_path, approval=True, changed=changed, now=clock) as service:
        decision_id = (await queued(service))["decision_id"]
        await service.post(f"/v1/reviews/{decision_id}/approve", SAID, by="ada")
        place = f"/v1/decisions/{decision_id}/redeem"
        first, second = await asyncio.gather(service.post(place, asked()), service.post(place, asked()))
        assert first.json() == second.json()
        assert first.json()["permit"]["runs"] == "as_asked"
        for by, request, code in (
            ("twin", asked(), "approval_used"),
            ("bot", asked(arguments={"order": "o-1", "amount": 6}), "approval_used"),
        ):
            refused = await service.post(place, request, by=by)
            assert (refused.status_code, refused.json()["code"]) == (409, code)
        tokens = service.tokens
    async with running_service(tmp_path, tokens=tokens, changed=changed, now=clock) as service:
        assert (await service.post(place, asked())).json() == first.json()
        clock.advance(10.1)
        late = await service.post(place, asked())
        assert (late.status_code, late.json()["code"]) == (409, "approval_used")


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": {"order": "o-1", "amount": 6}},
        {"arguments": {"order": "o-1", "amount": "5"}},
        {"contract": contract(tool="issue_voucher")},
        {"contract": contract(risk_class="admin_action")},
        {"contract": contract(target={"environment": "production", "system": "ledger"})},
    ],
)
async def test_what_differs_from_what_was_approved_does_not_run(tmp_path: Path, changed: dict[str, Any]) -> None:
    async with running_service(tmp_path, approval=True) as service:
        decision_id = (await queued(service))["decision_id"]
        await service.post(f"/v1/reviews/{decision_id}/approve", SAID, by="ada")
        refused = await service.post(f"/v1/decisions/{decision_id}/redeem", asked(**changed))
        assert (refused.status_code, refused.json()["code"]) == (409, "approval_mismatch")
        assert (await service.post(f"/v1/decisions/{decision_id}/redeem", asked())).status_code == 200


async def test_a_rejection_reaches_who_waits_and_permits_nothing(tmp_path: Path) -> None:
    async with running_service(tmp_path, approval=True) as service:
        decision_id = (await queued(service))["decision_id"]
        await service.post(f"/v1/reviews/{decision_id}/reject", {"because": "wrong account"}, by="ada")
        looked = (await service.get(f"/v1/decisions/{decision_id}?wait=5s")).json()
        assert (looked["review"]["state"], looked["review"]["rationale"]) == ("rejected", "wrong account")
        refused = await service.post(f"/v1/decisions/{decision_id}/redeem", asked())
        assert (refused.status_code, refused.json()["code"]) == (409, "review_rejected")


async def test_who_asks_cannot_approve_and_a_retry_does_not_queue_twice(tmp_path: Path) -> None:
    async with running_service(tmp_path, approval=True) as service:
        user = contract(actor={"agent": "support-bot", "user": "Ada@Example.org"})
        decision_id = (await queued(service, contract=user))["decision_id"]
        assert (await queued(service, contract=user))["decision_id"] == decision_id
        assert len((await service.get("/v1/reviews", by="ada")).json()) == 1
        for by, code in (("ada", "self_approval"), ("bot", "missing_scope")):
            refused = await service.post(f"/v1/reviews/{decision_id}/approve", SAID, by=by)
            assert (refused.status_code, refused.json()["code"]) == (403, code)


async def test_a_decision_whose_review_was_lost_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the service was killed after the decision was on disk, and before it was queued."""
    async with running_service(tmp_path, approval=True) as service:
        with monkeypatch.context() as lost:
            lost.setattr(ReviewStore, "submit", lambda *_: None)
            first = (await service.post("/v1/decisions", asked(), Idempotency_Key="k-1")).json()
            assert first["review"] is None
        assert (await queued(service))["decision_id"] != first["decision_id"]


async def test_while_the_desk_is_away_reviews_are_denied_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path, approval=True) as service:
        decision_id = (await queued(service))["decision_id"]
        service.break_desk()
        denied = (await service.post("/v1/decisions", asked())).json()
        assert denied["permit"] is None
        away = await service.get("/v1/reviews", by="ada")
        assert (away.status_code, away.json()["code"]) == (503, "review_store_away")
        redeemed = await service.post(f"/v1/decisions/{decision_id}/redeem", asked())
        assert redeemed.status_code == 503
        reversible = contract(risk_class="reversible_write", reversibility="automatic")
        assert (await service.post("/v1/decisions", asked(contract=reversible))).json()["permit"] is not None
        ready = (await service.client.get("/readyz")).json()
        assert ready["ready"] is True
        assert any("reviews" in line for line in ready["degraded"])
