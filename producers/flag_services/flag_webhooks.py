"""Changes that people make in Unleash or FeatBit themselves: what their webhooks say, as events `policy.changed`.

A delivery that is repeated gives the same event, which counts once. What Stagekeeper changes there comes back as well,
by the name of the user whom its token belongs to, and is left out: it is on record already.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from producers.boundary.policy_flags import ATTEMPT, FLAGS, MODE
from producers.errors import StagekeeperError
from producers.flag_services.served_flags import RuleKind
from producers.flag_services.unleash_flags import rule_of
from producers.wire.events import PolicyChanged, PolicyChangedData, schema_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.flag_services.served_flags import ServedRule

Json = Any

_KEYS: Final = frozenset(flag.key for flag in (*FLAGS, ATTEMPT))
_LONGEST: Final = 4_000  # characters of a text in an event
_UNLEASH_TYPES: Final = {
    "feature-strategy-add": "a strategy was added",
    "feature-strategy-update": "a strategy was changed",
    "feature-strategy-remove": "a strategy was removed",
    "strategy-order-changed": "the strategies were sorted anew",
    "feature-environment-enabled": "the flag was switched on",
    "feature-environment-disabled": "the flag was switched off",
    "feature-archived": "the flag was archived",
    "feature-revived": "the flag was revived",
    "feature-deleted": "the flag was deleted",
}


class FlagWebhookError(StagekeeperError):
    """A delivery that cannot be read, or of which nothing shows that the service has sent it; nothing is recorded."""


class ForgedWebhookError(FlagWebhookError):
    """A delivery whose secret or signature is missing or wrong."""


@dataclass(frozen=True, slots=True)
class UnleashWebhook:
    """Deliveries of one environment of an Unleash project, with its add-on's `Authorization` as their secret."""

    secret: str
    project: str
    environment: str
    own_user: str | None = None  # the name of the user behind Stagekeeper's token

    def events(self, headers: Mapping[str, str], body: bytes) -> list[PolicyChanged]:
        """What a delivery says of the flags that decide; nothing where it is about something else.

        Raises `FlagWebhookError`.
        """
        _require_equal(_header(headers, "authorization"), self.secret, "Authorization")
        event = _parsed(body)
        try:
            key, kind = event.get("featureName"), event["type"]
            here = event.get("project") == self.project and event.get("environment") in {None, self.environment}
            if key not in _KEYS or kind not in _UNLEASH_TYPES or not here or event["createdBy"] == self.own_user:
                return []
            before, after = _rule(key, event.get("preData")), _rule(key, event.get("data"))
            if kind in {"feature-environment-enabled", "feature-environment-disabled"}:
                before, after = None, None
            entry = next((rule for rule in (after, before) if rule is not None and rule.action is not None), None)
            return [
                _event(
                    f"unleash/{self.project}/{self.environment}/{event['id']}",
                    f"/unleash/{self.project}/{self.environment}",
                    event["createdAt"],
                    flag_key=key,
                    changed_by=event["createdBy"],
                    reason=f"in Unleash: {_UNLEASH_TYPES[kind]}",
                    before=None if before is None else _in_words(key, before),
                    after=None if after is None else _in_words(key, after),
                    **({} if entry is None or entry.action is None else entry.action._asdict()),
                )
            ]
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise FlagWebhookError(f"a delivery is written in another way than Unleash 8 does: {error!r}") from error


@dataclass(frozen=True, slots=True)
class FeatBitWebhook:
    """Deliveries of one environment of FeatBit, signed with the webhook's secret; they name no earlier state."""

    secret: str
    environment: str  # its id
    own_user: str | None = None

    def events(self, headers: Mapping[str, str], body: bytes) -> list[PolicyChanged]:
        """What a delivery says of the flags that decide; raises `FlagWebhookError`."""
        if not self.secret:
            raise ForgedWebhookError("FeatBit's webhook has no secret here, so nothing shows who has sent this")
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        _require_equal(_header(headers, "x-featbit-signature-256"), f"sha256={signature}", "X-FeatBit-Signature-256")
        delivery, document = _header(headers, "x-featbit-delivery"), _parsed(body)
        try:
            if document["environment"]["id"] != self.environment or document["operator"] == self.own_user:
                return []
            about = document["data"]
            if about["kind"] != "feature flag" or about["object"]["key"] not in _KEYS:
                return []
            if not delivery:
                raise FlagWebhookError("the header X-FeatBit-Delivery is missing: a repetition would count twice")
            changes = document.get("changes") or [document["events"]]
            return [
                _event(
                    f"featbit/{self.environment}/{delivery}",
                    f"/featbit/{self.environment}",
                    document["happenedAt"],
                    flag_key=about["object"]["key"],
                    changed_by=document["operator"],
                    reason=f"in FeatBit: {'; '.join(map(str, changes))}"[:_LONGEST],
                )
            ]
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise FlagWebhookError(f"a delivery is written in another way than FeatBit 5 does: {error!r}") from error


def _event(seed: str, source: str, at: str, **data: str | None) -> PolicyChanged:
    moment = datetime.fromisoformat(at)
    return PolicyChanged(
        id=hashlib.sha256(seed.encode()).hexdigest()[:32],
        source=source,
        time=moment,
        subject=str(data["flag_key"]),
        dataschema=schema_id(PolicyChanged),
        data=PolicyChangedData.model_validate(data),
    )


def _rule(key: str, strategy: Json) -> ServedRule | None:
    return rule_of(key, strategy) if isinstance(strategy, dict) and "name" in strategy else None


def _in_words(key: str, rule: ServedRule) -> str:
    """What a rule gives, as the history of stages says it where it is an entry of ours."""
    values = " or ".join(
        f"{value}" if percent >= 100 else f"{value} ({percent:g} % of accounts)" for value, percent in rule.values
    )
    if key == MODE.key and rule.kind is RuleKind.ACTION:
        return values
    where = json.dumps(rule.native["constraints"], ensure_ascii=False)
    return f"{values} where {where}"[:_LONGEST]


def _parsed(body: bytes) -> dict[str, Json]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise FlagWebhookError(f"a delivery is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise FlagWebhookError("a delivery is no JSON object")
    return document


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _require_equal(stated: str, expected: str, name: str) -> None:
    if not expected or not hmac.compare_digest(stated.encode(), expected.encode()):
        raise ForgedWebhookError(
            f"the header {name} is missing or wrong; the service and Stagekeeper must have the same secret"
        )
