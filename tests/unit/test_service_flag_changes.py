"""Webhooks of the flag service over HTTP: on record once, and only with the secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flag_webhook_cases import SECRET, unleash
from pydantic import SecretStr
from service_cases import running_service

from producers.wire.events import PolicyChanged

if TYPE_CHECKING:
    from pathlib import Path

STORE = {
    "stage_store": "unleash:https://unleash.example?project=default&environment=production",
    "flag_webhook_secret": SecretStr(SECRET),
    "flag_webhook_own_user": "stagekeeper",
}
SIGNED = {"Authorization": SECRET}


async def test_a_change_in_unleash_is_on_record(tmp_path: Path) -> None:
    async with running_service(tmp_path, changed=STORE) as service:
        taken = await service.client.post("/v1/flag-changes", content=unleash(), headers=SIGNED)
        assert (taken.status_code, taken.json()) == (202, {"accepted": 1})
        own = await service.client.post("/v1/flag-changes", content=unleash(createdBy="stagekeeper"), headers=SIGNED)
        assert own.json() == {"accepted": 0}
        (event,) = await service.events()
        assert isinstance(event, PolicyChanged)
        assert (event.data.changed_by, event.data.after) == ("ada", "autonomous")


async def test_what_nobody_vouches_for_is_not_recorded(tmp_path: Path) -> None:
    async with running_service(tmp_path, changed=STORE) as service:
        for headers, body, status in (
            (None, unleash(), 401),
            ({"Authorization": "x"}, unleash(), 401),
            (SIGNED, b"{}", 422),
        ):
            refused = await service.client.post("/v1/flag-changes", content=body, headers=headers)
            assert refused.status_code == status
            assert SECRET not in refused.text
        assert await service.events() == []


async def test_without_a_secret_or_a_service_nothing_is_taken(tmp_path: Path) -> None:
    for changed in ({**STORE, "flag_webhook_secret": None}, {}):
        async with running_service(tmp_path, changed=changed) as service:
            refused = await service.client.post("/v1/flag-changes", content=unleash(), headers=SIGNED)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
