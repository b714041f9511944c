"""Flags in Unleash: a rule is a strategy of one environment, in the order of its `sortOrder`.

A boolean flag is true where a strategy matches. Any other has a variant in its strategies, whose payload is the value.
Unleash has no precondition that holds, so whoever changes something reads again what became of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from producers.boundary.policy_flags import ATTEMPT, FLAGS
from producers.boundary.stage_store import StageConflictError, StageStoreError
from producers.flag_services.flag_service import EarlierFlag
from producers.flag_services.management_api import quoted
from producers.flag_services.served_flags import Condition, RuleKind, ServedFlag, ServedRule, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from producers.boundary.policy_flags import Flag, FlagValue
    from producers.flag_services.flag_service import NewFlag
    from producers.flag_services.management_api import ManagementApi

Json = Any

CONTEXT_FIELDS: Final = (
    "account", "agent", "model", "prompt_version", "region", "reversibility", "risk_class", "service_identity",
    "system", "tool", "tool_version", "user", "workflow",
)  # fmt: skip
"""What our flags may be targeted by, beside `userId` and `environment`, which Unleash has."""

_FLAGS: Final = {flag.key: flag for flag in (*FLAGS, ATTEMPT)}
_GROUP: Final = "stagekeeper-roll-out"  # accounts are told apart by it and the `userId`, in every flag the same
_SWITCHES_AT: Final = -1_000_000
_NO_FEATURE: Final = ("There's no feature named", "Could not find feature flag")
_PAGE: Final = 200
_MOST_EVENTS: Final = 1_000  # how far back earlier versions are looked for
_UNTOLD: Final = frozenset({"id", "featureName", "strategyName", "sortOrder", "milestoneId", "lastSeenAt"})


@dataclass(frozen=True)
class UnleashFlags:
    """The flags of one environment of a project, by the management API."""

    api: ManagementApi
    project: str
    environment: str
    same_accounts: bool = True

    @property
    def name(self) -> str:
        """The server, the project and the environment."""
        return f"Unleash {self.api.url} {self.project}/{self.environment}"

    def load(self, flag: Flag) -> ServedFlag | None:
        """A flag with its strategies; None where there is none."""
        answer = self.api.get(self._feature(flag.key))
        if answer.status == 404:
            words = str(answer.body.get("message")) if isinstance(answer.body, dict) else ""
            if "but there's a feature" not in words and words.startswith(_NO_FEATURE):
                return None
            raise self._unknown(flag.key, words)
        try:
            if answer.body["archived"]:
                return None
            environments = {one["name"]: one for one in answer.body["environments"]}
            if self.environment not in environments:
                raise self._unknown(flag.key, f"its environments are {', '.join(environments)}")
            return self._served(flag.key, environments[self.environment])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StageStoreError(
                f"{self.name} describes {flag.key} in another way than Unleash 8: {error!r}"
            ) from error

    def earlier(self, flag: ServedFlag) -> Iterator[EarlierFlag]:
        """The versions before, by taking back one event after another, until one that cannot be taken back."""
        for event in self._events(flag.key):
            before = self._before(flag, event)
            if before is None:
                return
            if before.version != flag.version:
                yield EarlierFlag(datetime.fromisoformat(event["createdAt"]), before, f"{event['id']:020d}")
            flag = before

    def rule(
        self,
        flag: ServedFlag,
        kind: RuleKind,
        scope: Mapping[str, str],
        shares: Mapping[FlagValue, int],
        old: ServedRule | None = None,
    ) -> ServedRule:
        """A strategy of ours."""
        strategy = strategy_of(shares, title=kind.value, scope=scope)
        if old is not None:
            native = {**old.native, "variants": strategy["variants"]}
            return rule_of(flag.key, {**native, "id": old.id, "sortOrder": old.place})
        # Below every switch, and before whatever somebody else wrote.
        others = [rule.place for rule in flag.rules if rule.kind is RuleKind.OTHER]
        place = _SWITCHES_AT if kind is RuleKind.SWITCH else min(others, default=1) - 1
        return rule_of(flag.key, {**strategy, "sortOrder": place})

    def put(self, flag: ServedFlag, old: ServedRule | None, new: ServedRule | None) -> None:
        """Add, change or remove one strategy."""
        strategies = f"{self._path(flag.key)}/strategies"
        if old is None and new is not None:
            switches = [rule.id for rule in flag.rules if rule.kind is RuleKind.SWITCH and rule.place >= new.place]
            if new.kind is RuleKind.ACTION and switches:
                # Somebody has sorted the strategies anew, and there is no place left below the switches.
                first = [{"id": switch, "sortOrder": _SWITCHES_AT} for switch in switches]
                self._write("POST", f"{strategies}/set-sort-order", first)
            self._write("POST", strategies, {**new.native, "sortOrder": new.place})
        elif new is None and old is not None:
            self._write("DELETE", f"{strategies}/{old.id}")
        elif old is not None and new is not None:
            self._patch(flag.key, old, new)

    def close(self) -> None:
        """Let the connections go."""
        self.api.close()

    def create(self, new: NewFlag) -> bool:
        """Make a flag with one strategy, for everybody; or give that to one that was begun."""
        flag = self.load(new.flag)
        if flag is not None and (flag.rules or flag.is_on):
            return False
        if flag is None:
            kind = "release" if new.is_temporary else "operational"
            body = {"name": new.flag.key, "type": kind, "description": new.description, "impressionData": False}
            self._write("POST", f"/api/admin/projects/{quoted(self.project)}/features", body)
        value = new.variants[new.default]
        if value is False:  # a strategy that matches nothing: with the last one, Unleash would switch the flag off
            strategy = {**strategy_of({True: 100}, title="nothing", scope={"tool": "-"}), "sortOrder": 1_000}
        else:
            strategy = {**strategy_of({value: 100}, title="everything else", scope={}), "sortOrder": 1_000}
        self._write("POST", f"{self._path(new.flag.key)}/strategies", strategy)
        self._write("POST", f"{self._path(new.flag.key)}/on")
        return True

    def prepare(self) -> None:
        """Make the context fields that constraints of ours, and of people, name."""
        there = {field["name"] for field in self.api.get("/api/admin/context").body}
        for field in CONTEXT_FIELDS:
            if field not in there:
                self._write("POST", "/api/admin/context", {"name": field, "description": "", "legalValues": []})

    def _feature(self, key: str) -> str:
        return f"/api/admin/projects/{quoted(self.project)}/features/{quoted(key)}"

    def _path(self, key: str) -> str:
        return f"{self._feature(key)}/environments/{quoted(self.environment)}"

    def _unknown(self, key: str, why: str) -> StageStoreError:
        return StageStoreError(
            f"{self.name} has no {key}: {why[:200]}. Name its project and environment in STAGEKEEPER_STAGE_STORE, as "
            "unleash:URL?project=default&environment=production."
        )

    def _patch(self, key: str, old: ServedRule, new: ServedRule) -> None:
        """Change the variants of a strategy. Of those who tested the same ones, the first in the event log has won."""
        path, before, after = f"{self._path(key)}/strategies/{old.id}", old.native["variants"], new.native["variants"]

        def change(expected: Json, to: Json) -> None:
            test = {"op": "test", "path": "/variants", "value": expected}
            self._write("PATCH", path, [test, _replaced("variants", to)])

        change(before, after)
        since = []
        for event in self._events(key):
            stated = event.get("data")
            if isinstance(stated, dict) and stated.get("id") == old.id:
                variants = _sorted(stated.get("variants"))
                if variants == before:
                    break
                since.append(variants)
        if since and since[-1] != after:
            with contextlib.suppress(StageConflictError):  # somebody else has put it back already
                change(after, since[-1])
            raise StageConflictError(f"{self.name}: somebody else was first to change {key}; look at it again")

    def _write(self, method: str, path: str, body: Json = None) -> None:
        answer = self.api.write(method, path, body)
        if answer.status == 404:
            raise StageStoreError(f"{self.name} has no {path} any more; nothing was changed. Look at it again.")

    def _served(self, key: str, body: Json) -> ServedFlag:
        variants: Sequence[Json] = ()
        if not _is_boolean(key) and any(not strategy.get("variants") for strategy in body["strategies"]):
            variants = self.api.get(f"{self._path(key)}/variants").body["variants"]
        return _flag(key, is_on=bool(body["enabled"]), strategies=body["strategies"], variants=variants)

    def _events(self, key: str) -> Iterator[Json]:
        for offset in range(0, _MOST_EVENTS, _PAGE):
            params: dict[str, str | int] = {"feature": f"IS:{key}", "limit": _PAGE, "offset": offset}
            events = self.api.get("/api/admin/search/events", params).body["events"]
            yield from events
            if len(events) < _PAGE:
                return

    def _before(self, flag: ServedFlag, event: Json) -> ServedFlag | None:
        """The flag before an event; None where that cannot be told."""
        if event.get("environment") not in {None, self.environment}:
            return flag
        strategies = {rule.id: {**rule.native, "id": rule.id, "sortOrder": rule.place} for rule in flag.rules}
        is_on = flag.is_on
        match event:
            case {"type": "feature-strategy-add", "data": {"id": str(added)}}:
                strategies.pop(added, None)
            case {"type": "feature-strategy-update" | "feature-strategy-remove", "preData": {"id": str(), **before}}:
                strategies[event["preData"]["id"]] = {**before, "id": event["preData"]["id"]}
            case {"type": "feature-environment-enabled" | "feature-environment-disabled" as kind}:
                is_on = kind == "feature-environment-disabled"
            case {"type": "feature-created" | "feature-environment-variants-updated"}:
                return None
        variants = [] if flag.native is None else flag.native
        return _flag(flag.key, is_on=is_on, strategies=list(strategies.values()), variants=variants)


def strategy_of(shares: Mapping[FlagValue, int], *, title: str, scope: Mapping[str, str]) -> dict[str, Json]:
    """A strategy that gives values to percentages of accounts where a scope holds; true needs no variant."""
    given = [(value, percent) for value, percent in shares.items() if value is not True and percent]
    # Unleash shares what fixed weights leave among the others.
    kinds = ["fix"] * (len(given) - 1) + ["variable"]
    return {
        "name": "flexibleRollout",
        "title": title,
        "disabled": False,
        "parameters": {"rollout": "100", "stickiness": "userId", "groupId": _GROUP},
        "constraints": [{"contextName": name, "operator": "IN", "values": [scope[name]]} for name in scope],
        "variants": [_variant(value, percent, kind) for (value, percent), kind in zip(given, kinds, strict=False)],
        "segments": [],
    }


def _variant(value: FlagValue, percent: int, kind: str) -> dict[str, Json]:
    return {
        "name": str(value),
        "weight": percent * 10,
        "weightType": kind,
        "stickiness": "userId",
        "payload": {"type": "string" if isinstance(value, str) else "number", "value": str(value)},
    }


def _flag(key: str, *, is_on: bool, strategies: list[Json], variants: Sequence[Json]) -> ServedFlag:
    ordered = sorted(strategies, key=lambda strategy: strategy.get("sortOrder") or 0)
    rules = tuple(rule_of(key, strategy, variants) for strategy in ordered if not strategy.get("disabled"))
    # A flag of variants that nothing gives, or that is off, is answered with the default of whoever asks.
    return ServedFlag(key, is_on, rules, (False,) if _is_boolean(key) else (None,), native=variants)


def rule_of(key: str, strategy: Json, variants: Sequence[Json] = ()) -> ServedRule:
    """What a strategy says; `variants` are those of a flag whose strategies have none."""
    conditions = [_condition(constraint) for constraint in strategy.get("constraints", [])]
    if strategy.get("segments") or strategy["name"] not in {"default", "flexibleRollout"}:
        conditions.append(Condition("", frozenset(), is_plain=False))
    rollout = strategy.get("parameters", {}).get("rollout", "100") if strategy["name"] == "flexibleRollout" else "100"
    percent = float(rollout) if str(rollout).replace(".", "", 1).isdigit() else 50.0  # what is no number is not known
    if _is_boolean(key):
        values: list[tuple[FlagValue | None, float]] = [(True, percent)]
    else:
        given = strategy.get("variants") or variants
        values = [(_value(key, variant), variant["weight"] / 1_000 * percent) for variant in given] or [(None, percent)]
    native = {name: value for name, value in strategy.items() if name not in _UNTOLD}
    native["segments"] = native.get("segments") or []
    native["constraints"] = [_written(constraint) for constraint in native.get("constraints", [])]
    native["variants"] = _sorted(native.get("variants"))
    kind = kind_of(strategy.get("title"), conditions)
    if kind is not RuleKind.OTHER and percent != 100:
        kind = RuleKind.OTHER
    place = strategy.get("sortOrder") or 0
    return ServedRule(kind, tuple(conditions), tuple(values), native, id=strategy.get("id"), place=place)


def _sorted(variants: Json) -> list[Json]:
    return sorted(variants or [], key=lambda variant: str(variant["name"]))


def _condition(constraint: Json) -> Condition:
    operator, inverted = constraint["operator"], bool(constraint.get("inverted"))
    return Condition(
        constraint["contextName"],
        frozenset(constraint.get("values") or ()),
        negated=(operator == "NOT_IN") is not inverted,
        is_plain=operator in {"IN", "NOT_IN"} and not constraint.get("caseInsensitive"),
    )


def _written(constraint: Json) -> Json:
    """A constraint without what the server adds to it."""
    return {name: value for name, value in constraint.items() if value not in (None, False, "")}


def _value(key: str, variant: Json) -> FlagValue | None:
    payload = variant.get("payload")
    if not isinstance(payload, dict):
        return None
    if isinstance(_FLAGS[key].safe, float):
        try:
            return float(payload["value"])
        except ValueError:
            return None
    return str(payload["value"])


def _is_boolean(key: str) -> bool:
    return isinstance(_FLAGS[key].safe, bool)


def _replaced(name: str, value: Json) -> Json:
    return {"op": "replace", "path": f"/{name}", "value": value}
