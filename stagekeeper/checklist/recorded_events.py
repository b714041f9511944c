"""The checklist's points about recent events in the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from analytics.gates.gate_file import GateFile
from analytics.lake.table_schemas import EVENTS
from producers.boundary.decision_rules import READS, REVIEWED_REVERSIBILITIES, REVIEWED_RISKS
from producers.strict_yaml import ConfigurationFileError
from producers.wire.decision import Provenance
from producers.wire.events import ActionDecided, event_from_bytes
from producers.wire.receipt import Receipt
from stagekeeper.checklist.point import Point, failed, pass_unless, passed, unknown

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from analytics.lake.tables import Lake
    from stagekeeper.settings import Settings

_MOST = 20_000  # decisions that are looked at, the newest

_DECIDED = "stagekeeper.action.decided.v1"
_EXECUTED = "stagekeeper.action.executed.v1"


@dataclass(frozen=True)
class RecentDecisions:
    """Recent decisions, live ones only, and the ids of those whose result is known."""

    decisions: list[ActionDecided]
    executed: frozenset[str]
    newest: datetime | None

    @property
    def environments(self) -> set[str]:
        """Where they were decided."""
        return {event.data.contract.target.environment for event in self.decisions}


def recent_decisions(lake: Lake, *, since: datetime, workflow: str | None, tool: str | None) -> RecentDecisions:
    """Read the decisions since a moment, of one workflow or tool where named."""
    fresh = lake.scan(EVENTS).filter(pl.col("time") >= since)
    for column, value in (("workflow", workflow), ("tool", tool)):
        if value is not None:
            fresh = fresh.filter(pl.col(column) == value)
    newest = fresh.select(pl.col("time").max()).collect().item()
    rows = fresh.filter(pl.col("type") == _DECIDED).sort("time", descending=True).head(_MOST).select("value").collect()
    decided = (event for event in map(event_from_bytes, rows["value"]) if isinstance(event, ActionDecided))
    decisions = [event for event in decided if event.data.decision.provenance is Provenance.LIVE]
    executed = fresh.filter(pl.col("type") == _EXECUTED).select("subject").collect()
    return RecentDecisions(decisions, frozenset(executed["subject"]), newest)


def event_points(
    recent: RecentDecisions | None, *, now: datetime, settled_after: timedelta, protected: bool
) -> list[Point]:
    """Points 1, 3, 6 and 7; `protected` says whether a key protects the rows of the review store."""
    if recent is None or not recent.decisions:
        why = "there is no lake" if recent is None else "no live decision in the period looked at"
        return [unknown(number, why) for number in (1, 3, 6, 7)]
    decisions = recent.decisions
    return [
        _complete(decisions),
        _server_side(decisions),
        _reviews(decisions, protected=protected),
        _results(recent, now - settled_after),
    ]


def flow_point(recent: RecentDecisions | None, *, now: datetime, settings: Settings) -> Point:
    """Point 9: events arrive, and a gate judges them."""
    try:
        gate_file = GateFile.load(settings.gates)
    except ConfigurationFileError as error:
        return failed(9, str(error))
    if recent is None or recent.newest is None:
        return unknown(9, "there is no lake" if recent is None else "no event in the period looked at")
    age, limit = now - recent.newest, settings.freshness_limit(gate_file.freshness_s)
    if age > limit:
        return failed(9, f"the newest event is {age.total_seconds():.0f} s old, limit {limit.total_seconds():.0f} s")
    decided = {
        (Receipt.from_token(event.data.receipt).cell, event.data.contract.risk_class.value)
        for event in recent.decisions
    }
    ungated = sorted(
        {f"{cell.workflow} · {cell.tool}" for cell, risk in decided if gate_file.gate_of(cell, risk) is None}
    )
    actions = {(cell.environment, cell.workflow, cell.tool, risk) for cell, risk in decided}
    if ungated:
        return failed(9, f"no gate in {settings.gates} is for {', '.join(ungated[:5])}")
    evidence = f"the newest event is {age.total_seconds():.0f} s old; {len(actions)} actions, each with a gate"
    return passed(9, evidence)


def _complete(decisions: list[ActionDecided]) -> Point:
    contracts = [event.data.contract for event in decisions]
    actors = [contract.actor for contract in contracts]
    unowned = [one for one in actors if not (one.user or one.account or one.service_identity)]
    lacking = {
        "an agent's name": sum(actor.agent == "unknown" for actor in actors),
        "an intent": sum(not contract.intent.strip() for contract in contracts),
        "an owner (user, account or service identity)": len(unowned),
        "the arguments' digest (redacted ones have one under STAGEKEEPER_RECEIPT_KEY only)": sum(
            not any(contract.arguments_digest) for contract in contracts
        ),
    }
    faults = [f"{count} of {len(decisions)} lack {name}" for name, count in lacking.items() if count]
    return pass_unless(1, faults, f"all of {len(decisions)} contracts")


def _server_side(decisions: list[ActionDecided]) -> Point:
    """A router's own decision carries what decided: authorization, flags and the ruleset."""
    made = [event.data.decision for event in decisions]
    bare = sum(one.authorization is None or one.ruleset_sha256 is None or not one.flags for one in made)
    evidence = f"{len(decisions) - bare} of {len(decisions)} decisions carry authorization, flags and ruleset"
    return (failed if bare else passed)(3, evidence)


def _reviews(decisions: list[ActionDecided], *, protected: bool) -> Point:
    queued = [event for event in decisions if event.data.decision.result.outcome == "queue_for_review"]
    contracts = [event.data.contract for event in queued]
    reads = sum(contract.risk_class in READS for contract in contracts)
    without_intent = sum(not contract.intent.strip() for contract in contracts)
    enforced = [event for event in decisions if event.data.decision.enforced]
    ran = [event.data.contract for event in enforced if event.data.decision.result.outcome == "allow"]
    unreviewed = sum(one.risk_class in REVIEWED_RISKS or one.reversibility in REVIEWED_REVERSIBILITIES for one in ran)
    unprotected = "" if protected else "; rows of the review store are unprotected, without STAGEKEEPER_RECEIPT_KEY"
    if not queued:
        evidence = f"nothing was queued for review; {unreviewed} consequential actions ran without one{unprotected}"
        return unknown(6, evidence)
    evidence = (
        f"{len(queued)} queued: {reads} of them reads, {without_intent} without an intent; "
        f"{unreviewed} consequential actions ran without a review, as released by a flag{unprotected}"
    )
    return (failed if reads or without_intent else passed)(6, evidence)


def _results(recent: RecentDecisions, before: datetime) -> Point:
    due = [event for event in recent.decisions if event.data.decision.expects_execution and event.time <= before]
    if not due:
        return unknown(7, f"{len(recent.decisions)} decisions, none of which is old enough to have a result")
    missing = sum(event.subject not in recent.executed for event in due)
    evidence = f"{len(due) - missing} of {len(due)} permitted actions have a result"
    return (failed if missing else passed)(7, evidence)
