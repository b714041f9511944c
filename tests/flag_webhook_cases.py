"""Deliveries as Unleash's webhook sends them."""

from __future__ import annotations

import json
from typing import Any

from flag_service_cases import REFUND

from producers.boundary.policy_flags import MODE
from producers.flag_services.served_flags import RuleKind
from producers.flag_services.unleash_flags import strategy_of

SECRET = "a secret of the add-on"  # noqa: S105 - of a test


def strategy(mode: str, *, title: str = RuleKind.ACTION.value, scope: dict[str, str] | None = None) -> dict[str, Any]:
    return {"id": "s1", **strategy_of({mode: 100}, title=title, scope=REFUND._asdict() if scope is None else scope)}


def unleash(**changes: Any) -> bytes:
    event = {
        "id": 17,
        "type": "feature-strategy-update",
        "createdBy": "ada",
        "createdAt": "2026-11-29T11:42:25.610Z",
        "featureName": MODE.key,
        "project": "default",
        "environment": "production",
        "data": strategy("autonomous"),
        "preData": strategy("draft_write"),
    }
    return json.dumps(event | changes).encode()
