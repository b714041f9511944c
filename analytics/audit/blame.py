"""Blame: which recorded change of the policy made a decision's outcome possible.

A decision names the flags that were evaluated. What decides among them follows from the outcome's reason; the change to
blame is the newest one of that flag, before the decision, that concerns the action.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from pydantic import BaseModel, ConfigDict

from analytics.audit.facts import stored_event
from analytics.lake.table_schemas import EVENTS, SIGNOFFS, VERDICTS
from analytics.verdicts.document import VerdictDocument
from producers.boundary.policy_flags import APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD, DENYLIST, GOVERNANCE_ENABLED, MODE
from producers.wire.events import PolicyChanged, type_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from analytics.lake.tables import Lake
    from producers.wire.decision import Decision
    from producers.wire.receipt import Receipt

POLICY_CHANGED: Final = type_of(PolicyChanged)

# By how the reason of an outcome begins: the flag that decided. What authorization alone decides has none.
_DECIDING: Final = (
    ("not_authorized", None),
    ("authorization_", None),
    ("governance_", GOVERNANCE_ENABLED.key),
    ("on_denylist", DENYLIST.key),
    ("risk_class_", APPROVAL_REQUIRED.key),
    ("reversibility_", APPROVAL_REQUIRED.key),
    ("confidence_", CONFIDENCE_THRESHOLD.key),
    ("", MODE.key),
)


class Blame(BaseModel):
    """A recorded change of a flag: who made it, when, why, and on which recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    event_id: str
    at: datetime
    source: str
    flag_key: str
    changed_by: str
    reason: str
    before: str | None
    after: str | None
    ruleset_sha256: str | None
    """The policy in force after it; null where it does not say."""
    ruleset_confirmed: bool | None = None
    """Whether a recorded change names the policy that the decision rests on; null where that cannot be told."""
    verdict_id: str | None
    recommendation_id: str | None
    signoff_id: str | None
    recommendation: str | None = None
    """What that verdict says in a sentence; null where none is named, or the ledger does not hold it."""
    signoff: str | None = None
    """Who signed it off, and why; null likewise."""


def deciding_flag(reason: str) -> str | None:
    """The key of the flag that an outcome's reason speaks of; None where hard authorization alone decided."""
    return next(key for prefix, key in _DECIDING if reason.startswith(prefix))


def changes_of(lake: Lake, receipt: Receipt, keys: Collection[str]) -> dict[str, Blame]:
    """The newest change of each flag, at or before a decision, that concerns its action. Raises `LakeError`."""
    if not keys:
        return {}
    rows = (
        lake.scan(EVENTS)
        .filter(pl.col("type") == POLICY_CHANGED, pl.col("subject").is_in(list(keys)))
        .filter(pl.col("time") <= receipt.decided_at)
        .select("time", "value")
        .collect()
        .sort("time", descending=True)
    )
    newest: dict[str, Blame] = {}
    for value in rows["value"]:
        event = stored_event(value)
        if isinstance(event, PolicyChanged) and event.data.flag_key not in newest and _concerns(event, receipt):
            newest[event.data.flag_key] = _blame(event)
    return newest


def blame_of(lake: Lake, decision: Decision, changes: Mapping[str, Blame]) -> Blame | None:
    """The change that made an outcome possible, with what led to it; None where none is recorded.

    `changes` are the newest of each evaluated flag. Raises `LakeError`.
    """
    key = deciding_flag(decision.result.reason)
    blame = None if key is None else changes.get(key)
    if blame is None:
        return None
    details: dict[str, Any] = {
        "ruleset_confirmed": _is_named(lake, decision.ruleset_sha256, [*changes.values()]),
        "recommendation": _recommendation(lake, blame.recommendation_id or blame.verdict_id),
        "signoff": _signoff(lake, blame.signoff_id),
    }
    return blame.model_copy(update=details)


def _concerns(event: PolicyChanged, receipt: Receipt) -> bool:
    named = (event.data.environment, event.data.workflow, event.data.tool)
    action = (receipt.environment, receipt.workflow, receipt.tool)
    return all(name in {None, own} for name, own in zip(named, action, strict=True))


def _blame(event: PolicyChanged) -> Blame:
    data = event.data
    names = ("flag_key", "changed_by", "reason", "before", "after", "ruleset_sha256")
    grounds = ("verdict_id", "recommendation_id", "signoff_id")
    return Blame(
        event_id=event.id,
        at=event.time,
        source=event.source,
        **{name: getattr(data, name) for name in (*names, *grounds)},
    )


def _is_named(lake: Lake, ruleset: str | None, changes: Sequence[Blame]) -> bool | None:
    """Whether any recorded change says that this ruleset was in force after it."""
    if ruleset is None or all(change.ruleset_sha256 is None for change in changes):
        return None
    if any(change.ruleset_sha256 == ruleset for change in changes):
        return True
    # A change of another action's flags moves the ruleset, too: it is the whole file's.
    named = lake.scan(EVENTS).filter(pl.col("type") == POLICY_CHANGED).select("value").collect()
    return any(ruleset.encode() in value for value in named["value"])


def _recommendation(lake: Lake, verdict_id: str | None) -> str | None:
    if verdict_id is None:
        return None
    rows = lake.scan(VERDICTS).filter(pl.col("verdict_id") == verdict_id).select("payload").head(1).collect()
    return VerdictDocument.from_json(rows.item()).summary if rows.height else None


def _signoff(lake: Lake, signoff_id: str | None) -> str | None:
    if signoff_id is None:
        return None
    rows = lake.scan(SIGNOFFS).filter(pl.col("signoff_id") == signoff_id).select("kind", "actor", "reason")
    for kind, actor, reason in rows.head(1).collect().iter_rows():
        return f"{kind} by {actor}: {reason}"
    return None
