"""Webhooks of Unleash and FeatBit become policy changes: who, what, and only where the secret is right."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from flag_service_cases import REFUND
from flag_webhook_cases import SECRET, strategy, unleash

from producers.boundary.policy_flags import MODE
from producers.flag_services.flag_webhooks import (
    FeatBitWebhook,
    FlagWebhookError,
    ForgedWebhookError,
    UnleashWebhook,
)
from producers.wire.events import event_from_bytes, event_to_bytes

UNLEASH = UnleashWebhook(SECRET, "default", "production", own_user="stagekeeper")
FEATBIT = FeatBitWebhook(SECRET, "env-1", own_user="stagekeeper")


def from_unleash(body: bytes) -> list[Any]:
    return list(UNLEASH.events({"Authorization": SECRET}, body))


def test_a_changed_entry_is_a_change_of_that_action_s_mode() -> None:
    (event,) = from_unleash(unleash())
    data = event.data
    assert (data.flag_key, data.changed_by, data.before, data.after) == (MODE.key, "ada", "draft_write", "autonomous")
    assert (data.environment, data.workflow, data.tool) == REFUND
    assert data.reason == "in Unleash: a strategy was changed"
    assert event.time.isoformat() == "2026-11-29T11:42:25.610000+00:00"
    assert event_from_bytes(event_to_bytes(event)) == event


def test_a_repeated_delivery_is_the_same_event_and_another_change_another() -> None:
    assert from_unleash(unleash()) == from_unleash(unleash())
    assert from_unleash(unleash())[0].id != from_unleash(unleash(id=18))[0].id


def test_other_targeting_is_told_with_its_conditions() -> None:
    rule = strategy("autonomous", title="mine", scope={"account": "acct-1"})
    (event,) = from_unleash(unleash(type="feature-strategy-add", data=rule, preData=None))
    assert event.data.before is None
    assert event.data.after.startswith("autonomous where ")
    assert "acct-1" in event.data.after
    assert event.data.tool is None


def test_a_switch_is_told_without_rules() -> None:
    (event,) = from_unleash(unleash(type="feature-environment-disabled", data=None, preData=None))
    assert (event.data.before, event.data.after) == (None, None)
    assert "switched off" in event.data.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"createdBy": "stagekeeper"},
        {"featureName": "somebody-else-s"},
        {"environment": "development"},
        {"project": "other"},
        {"type": "feature-tagged"},
    ],
)
def test_what_is_not_about_policy_or_is_our_own_gives_nothing(changes: dict[str, Any]) -> None:
    assert from_unleash(unleash(**changes)) == []


@pytest.mark.parametrize("headers", [{}, {"authorization": "wrong"}, {"authorization": ""}])
def test_without_the_secret_nothing_is_believed(headers: dict[str, str]) -> None:
    with pytest.raises(ForgedWebhookError) as refused:
        UNLEASH.events(headers, unleash())
    assert SECRET not in str(refused.value)
    with pytest.raises(ForgedWebhookError):
        UnleashWebhook("", "default", "production").events(headers, unleash())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", unleash(data={"name": "x", "constraints": 3}), unleash(createdAt="now")]
)
def test_what_cannot_be_read_is_named(body: bytes) -> None:
    with pytest.raises(FlagWebhookError, match="a delivery"):
        from_unleash(body)


def featbit(**changes: Any) -> bytes:
    document = {
        "events": "feature_flag.targeting_rules_changed",
        "operator": "ada",
        "happenedAt": "2026-11-29T11:42:25.61Z",
        "environment": {"id": "env-1", "name": "Prod"},
        "data": {"kind": "feature flag", "object": {"key": MODE.key}},
        "changes": ["added rule mine"],
    }
    return json.dumps(document | changes).encode()


def from_featbit(body: bytes, **headers: str) -> list[Any]:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    signed = {"X-FeatBit-Signature-256": f"sha256={signature}", "X-FeatBit-Delivery": "d-1"}
    return list(FEATBIT.events(signed | headers, body))


def test_a_signed_delivery_of_featbit_is_a_policy_change() -> None:
    (event,) = from_featbit(featbit())
    assert (event.data.flag_key, event.data.changed_by) == (MODE.key, "ada")
    assert event.data.reason == "in FeatBit: added rule mine"
    assert event == from_featbit(featbit())[0]
    assert event.id != from_featbit(featbit(), **{"X-FeatBit-Delivery": "d-2"})[0].id


@pytest.mark.parametrize(
    "changes",
    [
        {"operator": "stagekeeper"},
        {"environment": {"id": "env-2"}},
        {"data": {"kind": "segment", "object": {"key": MODE.key}}},
        {"data": {"kind": "feature flag", "object": {"key": "other"}}},
    ],
)
def test_what_featbit_says_of_other_things_gives_nothing(changes: dict[str, Any]) -> None:
    assert from_featbit(featbit(**changes)) == []


def test_an_altered_delivery_of_featbit_is_refused() -> None:
    signature = hmac.new(SECRET.encode(), featbit(), hashlib.sha256).hexdigest()
    for body, name in ((featbit(operator="eve"), "x-featbit-signature-256"), (featbit(), "x-other")):
        with pytest.raises(ForgedWebhookError):
            FEATBIT.events({name: f"sha256={signature}", "x-featbit-delivery": "d"}, body)
    with pytest.raises(ForgedWebhookError, match="no secret"):
        FeatBitWebhook("", "env-1").events({}, featbit())


def test_a_delivery_of_featbit_without_an_id_is_refused() -> None:
    with pytest.raises(FlagWebhookError, match="X-FeatBit-Delivery"):
        from_featbit(featbit(), **{"X-FeatBit-Delivery": ""})
