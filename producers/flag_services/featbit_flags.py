"""Flags in FeatBit: a rule is one of the flag's targeting, which is written as a whole for the revision it was read at.

FeatBit's JSON Patch of a flag has no precondition, so it is not used.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from producers.boundary.policy_flags import ATTEMPT, FLAGS
from producers.boundary.stage_store import StageStoreError
from producers.flag_services.flag_service import EarlierFlag
from producers.flag_services.management_api import quoted
from producers.flag_services.served_flags import Condition, RuleKind, ServedFlag, ServedRule, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from producers.boundary.policy_flags import Flag, FlagValue
    from producers.flag_services.flag_service import NewFlag
    from producers.flag_services.management_api import ManagementApi

Json = Any

_FLAGS: Final = {flag.key: flag for flag in (*FLAGS, ATTEMPT)}
_ALWAYS: Final = {"property": "tool", "op": "NotEqual", "value": ""}  # FeatBit wants a condition in each rule
_PAGE: Final = 100
_MOST_ENTRIES: Final = 1_000  # how far back earlier versions are looked for
_COMMENT: Final = "by Stagekeeper, whose event policy.changed says who and why"


@dataclass(frozen=True)
class FeatBitFlags:
    """The flags of one environment, by the management API."""

    api: ManagementApi
    environment: str  # its id
    same_accounts: bool = False  # a flag's key decides which accounts its percentages choose

    @property
    def name(self) -> str:
        """The server and the environment."""
        return f"FeatBit {self.api.url} {self.environment}"

    def load(self, flag: Flag) -> ServedFlag | None:
        """A flag with its rules; None where there is none, or it is archived."""
        answer = self.api.get(self._path(flag.key))
        if answer.status == 404:
            return None
        body = self._data(flag.key, answer.body)
        return None if body is None or body.get("isArchived") else self._served(flag.key, body)

    def earlier(self, flag: ServedFlag) -> Iterator[EarlierFlag]:
        """The versions before, as the audit log has them."""
        for page in range(_MOST_ENTRIES // _PAGE):
            params: dict[str, str | int] = {
                "refId": flag.native["id"], "refType": "FeatureFlag", "pageIndex": page, "pageSize": _PAGE,
            }  # fmt: skip
            answer = self.api.get(f"/api/v1/envs/{quoted(self.environment)}/audit-logs", params)
            entries = (self._data(flag.key, answer.body) or {}).get("items", [])
            for entry in entries:
                previous = entry["dataChange"]["previous"]
                if not previous:
                    return  # it was made then
                before = self._served(flag.key, json.loads(previous))
                if before.version != flag.version:
                    until = datetime.fromisoformat(entry["createdAt"]).astimezone(UTC)
                    yield EarlierFlag(until, before, until.isoformat(timespec="microseconds"))
                flag = before
            if len(entries) < _PAGE:
                return

    def rule(
        self,
        flag: ServedFlag,
        kind: RuleKind,
        scope: Mapping[str, str],
        shares: Mapping[FlagValue, int],
        old: ServedRule | None = None,
    ) -> ServedRule:
        """A rule of ours; variations that the flag lacks have an id that follows from the value."""
        conditions = [{"property": name, "op": "Equal", "value": scope[name]} for name in scope] or [_ALWAYS]
        begins, variations = 0.0, []
        for value, percent in shares.items():
            ends = begins + percent / 100
            variations.append({"id": _variation_id(flag, value), "rollout": [begins, ends], "exptRollout": 1.0})
            begins = ends
        fresh = {"name": kind.value, "dispatchKey": None, "includedInExpt": False, "conditions": conditions}
        native = {**(fresh if old is None else old.native), "variations": variations}
        values = {_variation_id(flag, value): value for value in shares}
        return _rule({**native, "id": str(uuid.uuid4()) if old is None else old.id}, values)

    def put(self, flag: ServedFlag, old: ServedRule | None, new: ServedRule | None) -> None:
        """Write the targeting with a rule in the place of another, for the revision that was read."""
        revision = flag.revision
        there = {variation["id"] for variation in flag.native["variations"]}
        if new is not None:
            ids = [variation["id"] for variation in new.native["variations"]]
            missing = [
                {"id": id_, "name": str(value), "value": _text(value)}
                for id_, (value, _) in zip(ids, new.values, strict=True)
                if id_ not in there and value is not None
            ]
            if missing:
                body: dict[str, Json] = {
                    "revision": revision,
                    "variations": [*flag.native["variations"], *missing],
                    "comment": _COMMENT,
                }
                answer = self.api.write("PUT", f"{self._path(flag.key)}/variations", body)
                revision = self._data(flag.key, answer.body)
        raw = {rule["id"]: rule for rule in flag.native["rules"]}
        rules = []
        for rule in flag.with_rule(old, new).rules:
            if rule.id is None:
                continue  # users that are targeted one by one, which are no rules
            is_new = rule.id not in raw or (old is not None and rule.id == old.id)
            rules.append({**raw.get(rule.id, {}), **_raw(rule)} if is_new else raw[rule.id])
        targeting: dict[str, Json] = {
            name: flag.native.get(name) for name in ("targetUsers", "fallthrough", "exptIncludeAllTargets")
        }
        targeting |= {"disabledVariationId": flag.native["disabledVariationId"], "rules": rules}
        body = {"revision": revision, "targeting": targeting, "comment": _COMMENT}
        self._data(flag.key, self.api.write("PUT", f"{self._path(flag.key)}/targeting", body).body)

    def close(self) -> None:
        """Let the connections go."""
        self.api.close()

    def prepare(self) -> None:
        """Nothing: FeatBit targets by whatever property it is sent."""

    def create(self, new: NewFlag) -> bool:
        """Make a flag that gives everybody its default variant; one that is there is left alone."""
        if self.load(new.flag) is not None:
            return False
        variations = [
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{new.flag.key}#{_text(value)}")),
                "name": name,
                "value": _text(value),
            }
            for name, value in new.variants.items()
        ]
        ids = {variation["name"]: variation["id"] for variation in variations}
        safe = next((ids[name] for name, value in new.variants.items() if value == new.flag.safe), ids[new.default])
        body = {
            "name": new.flag.key,
            "key": new.flag.key,
            "description": new.description,
            "isEnabled": True,
            "variationType": _type_of(new.flag.safe),
            "variations": variations,
            "enabledVariationId": ids[new.default],
            "disabledVariationId": safe,
            "tags": ["stagekeeper", "temporary" if new.is_temporary else "permanent"],
        }
        path = f"/api/v1/envs/{quoted(self.environment)}/feature-flags"
        self._data(new.flag.key, self.api.write("POST", path, body).body)
        return True

    def _path(self, key: str) -> str:
        return f"/api/v1/envs/{quoted(self.environment)}/feature-flags/{quoted(key)}"

    def _data(self, key: str, body: Json) -> Json:
        """What an answer carries; FeatBit also says with status 200 that it did nothing."""
        match body:
            case {"success": True, "data": data}:
                return data
            case {"errors": [*errors]}:
                raise StageStoreError(
                    f"{self.name} refuses {key}: {', '.join(map(str, errors))[:200]}; nothing was changed"
                )
        raise StageStoreError(
            f"{self.name} answers about {key} in another way than FeatBit 5; is the address its API's?"
        )

    def _served(self, key: str, body: Json) -> ServedFlag:
        try:
            values = {variation["id"]: _value(key, variation["value"]) for variation in body["variations"]}
            named = [user for user in body["targetUsers"] if user["keyIds"]]
            users = tuple(
                ServedRule(
                    RuleKind.OTHER,
                    (Condition("keyId", frozenset(user["keyIds"]), is_plain=False),),
                    ((values[user["variationId"]], 100.0),),
                    {"keyIds": user["keyIds"], "variationId": user["variationId"]},
                )
                for user in named
            )
            rules = tuple(_rule(rule, values) for rule in body["rules"])
            served = {values[one["id"]]: None for one in body["fallthrough"]["variations"] if _percent(one) > 0}
            is_on = bool(body["isEnabled"])
            otherwise = tuple(served) if is_on else (None,)
            revision = str(body.get("revision") or "")
            return ServedFlag(key, is_on, (*users, *rules), otherwise, revision=revision, native=body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StageStoreError(f"{self.name} describes {key} in another way than FeatBit 5: {error!r}") from error


def _rule(rule: Json, values: Mapping[str, FlagValue | None]) -> ServedRule:
    stated = [{name: one[name] for name in ("property", "op", "value")} for one in rule["conditions"]]
    conditions = tuple(_condition(one) for one in stated if one != _ALWAYS)
    served = tuple((values.get(one["id"]), _percent(one)) for one in rule["variations"])
    native = {
        "name": rule.get("name"),
        "dispatchKey": rule.get("dispatchKey") or None,
        "includedInExpt": bool(rule.get("includedInExpt")),
        "conditions": stated,
        "variations": [
            {name: one.get(name) for name in ("id", "rollout", "exptRollout")} for one in rule["variations"]
        ],
    }
    kind = kind_of(rule.get("name"), conditions) if stated else RuleKind.OTHER
    return ServedRule(kind, conditions, served, native, id=rule["id"])


def _condition(stated: Json) -> Condition:
    operator, value = stated["op"], stated["value"]
    values = [value]
    if operator in {"IsOneOf", "NotOneOf"}:
        values = [str(one) for one in json.loads(value)]
    return Condition(
        stated["property"],
        frozenset(values),
        negated=operator in {"NotEqual", "NotOneOf"},
        is_plain=operator in {"Equal", "NotEqual", "IsOneOf", "NotOneOf"},
    )


def _raw(rule: ServedRule) -> dict[str, Json]:
    """A rule as it is sent: its conditions have ids."""
    conditions = [{"id": str(uuid.uuid4()), **condition} for condition in rule.native["conditions"]]
    return {**rule.native, "id": rule.id, "conditions": conditions}


def _percent(variation: Json) -> float:
    begins, ends = variation["rollout"]
    return round((float(ends) - float(begins)) * 100, 6)


def _variation_id(flag: ServedFlag, value: FlagValue) -> str:
    there = (one["id"] for one in flag.native["variations"] if _value(flag.key, one["value"]) == value)
    return str(next(there, uuid.uuid5(uuid.NAMESPACE_URL, f"{flag.key}#{_text(value)}")))


def _value(key: str, text: str) -> FlagValue | None:
    safe = _FLAGS[key].safe
    if isinstance(safe, bool):
        return {"true": True, "false": False}.get(str(text).lower())
    try:
        return float(text) if isinstance(safe, float) else str(text)
    except ValueError:
        return None


def _text(value: FlagValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_of(safe: FlagValue) -> str:
    return "boolean" if isinstance(safe, bool) else "number" if isinstance(safe, float) else "string"
