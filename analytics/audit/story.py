"""The story of one decision: what was asked, why it was answered so, by whose word, and what came of it.

Everything is read from the lake. What is not there, and should be, is named (`Story.missing`).
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict

from analytics.audit.blame import Blame, blame_of, changes_of, deciding_flag
from analytics.audit.facts import stored_event
from analytics.lake.storage import reading
from analytics.lake.table_schemas import EVENTS, SIGNALS, VERDICTS
from analytics.signals.cells import EPOCH
from analytics.verdicts import heartbeats
from analytics.verdicts.document import VerdictDocument
from producers.errors import UsageError
from producers.wire import events
from producers.wire.contract import ActionContract
from producers.wire.decision import Decision, FlagEvaluation, Provenance
from producers.wire.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.lake.tables import Lake

EventT = TypeVar("EventT", bound=events.Event)

DEADLINE: Final = timedelta(seconds=120)  # how long an execution may take to be told, by default


class UntoldDecisionError(UsageError):
    """The lake holds no event about a decision of that id."""


class StoryPart(BaseModel):
    """A part of a story."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FlagShown(StoryPart):
    """One flag as it was evaluated, and who last changed it for this action."""

    evaluation: FlagEvaluation
    changed: Blame | None
    """Its newest recorded change before the decision that concerns the action; null where none is recorded."""


class VerdictShown(StoryPart):
    """A verdict of the ledger on the decision's cell."""

    verdict_id: str
    verdict: str
    to_stage: str | None
    summary: str
    judged_at: datetime
    is_regrade: bool
    """Whether the epoch was over when it was reached."""
    confirmed_at: datetime | None
    """When the judge found it again with the decision counted, where the row itself is older; else null."""


class ReviewShown(StoryPart):
    """The word that settled a review."""

    at: datetime
    resolution: str
    reviewer: str
    rationale: str
    authenticated: bool | None
    """Whether somebody checked that it is this reviewer; null where nobody said."""
    wait_ms: float | None
    earlier_approvals: tuple[events.EarlierApproval, ...]


class ExecutionShown(StoryPart):
    """What ran, and how it ended."""

    at: datetime
    ran: str
    """What ran: the action as asked, or the lesser variant that the decision names."""
    status: str
    latency_ms: float | None
    cost_usd: float | None
    error_type: str | None
    provenance: str | None
    source: str


class UndoShown(StoryPart):
    """An attempt to take the execution back."""

    at: datetime
    result: str
    reason: str | None


class ImpactShown(StoryPart):
    """What followed downstream."""

    at: datetime
    impact: events.Impact


class MissingPiece(StoryPart):
    """A piece of the story that is not in the lake."""

    piece: str
    why: str
    """What its absence means, and what to do."""


class StoryEvent(StoryPart):
    """One recorded event about the decision, and where its exact bytes lie."""

    id: str
    type: str
    time: datetime
    source: str
    topic: str
    partition: int
    offset: int


class Story(StoryPart):
    """Everything that the lake knows about one decision, in the order in which it happened."""

    decision_id: str
    summary: str
    decided_at: datetime | None
    source: str | None
    """The router that decided."""
    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str
    epoch: str
    attempt: int
    rung: int | None
    contract: ActionContract | None
    """What was asked."""
    decision: Decision | None
    flags: tuple[FlagShown, ...]
    blame: Blame | None
    """The policy change that made this outcome possible; null where none is recorded."""
    verdict_then: VerdictShown | None
    """What the ledger last said about the cell before the decision."""
    review: ReviewShown | None
    executions: tuple[ExecutionShown, ...]
    undos: tuple[UndoShown, ...]
    impacts: tuple[ImpactShown, ...]
    counted_in: VerdictShown | None
    """The first verdict on the decision's epoch that knew of everything above."""
    missing: tuple[MissingPiece, ...]
    events: tuple[StoryEvent, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no piece is missing."""
        return not self.missing

    def to_dict(self) -> dict[str, Any]:
        """The story of JSON types alone."""
        return {**self.model_dump(mode="json"), "is_whole": self.is_whole}


def story(lake: Lake, decision_id: str, *, decided_at: datetime | None = None, deadline: timedelta = DEADLINE) -> Story:
    """Tell what the lake knows about a decision; `decided_at`, where it is known, spares reading everything.

    An execution that did not come within `deadline` of the newest event counts as missing.

    Raises `UntoldDecisionError` where nothing is known, and `LakeError`.
    """
    with reading(lake.root):
        about = (pl.col("subject") == decision_id) & pl.col("decided_at").is_not_null()
        if decided_at is not None:
            about &= pl.col("decided_at") == decided_at
        rows = lake.scan(EVENTS).filter(about).collect().sort("time", "topic", "partition", "offset")
        if rows.is_empty():
            raise UntoldDecisionError(
                f"the lake at {lake.root} holds no event about a decision {decision_id!r}. One of the last seconds may "
                "still be on its way; `stagekeeper audit search` finds ids; retention may have let go of it "
                "(keep_events_days)."
            )
        return _told(lake, decision_id, rows.to_dicts(), deadline)


def _told(lake: Lake, decision_id: str, rows: list[dict[str, Any]], deadline: timedelta) -> Story:
    recorded = [event for row in rows if (event := stored_event(row["value"])) is not None]
    decided = next(iter(_of(events.ActionDecided, recorded)), None)
    receipt = _receipt(rows)
    decision = None if decided is None else decided.data.decision
    evaluated = () if decision is None else decision.flags
    changes = changes_of(lake, receipt, [flag.key for flag in evaluated])
    ledger = _ledger(lake, receipt)
    told = {
        "flags": tuple(FlagShown(evaluation=flag, changed=changes.get(flag.key)) for flag in evaluated),
        "blame": None if decision is None else blame_of(lake, decision, changes),
        "verdict_then": _shown(
            lake, next((row for row in reversed(ledger) if row["judged_at"] <= receipt.decided_at), None)
        ),
        "review": next((_review(event) for event in _of(events.ReviewResolved, recorded)), None),
        "executions": tuple(_execution(event, decision) for event in _of(events.ActionExecuted, recorded)),
        "undos": tuple(
            UndoShown(at=event.time, result=event.data.result.value, reason=event.data.reason)
            for event in _of(events.ActionUndone, recorded)
        ),
        "impacts": tuple(
            ImpactShown(at=event.time, impact=event.data.impact) for event in _of(events.ActionImpact, recorded)
        ),
        "counted_in": _shown(lake, _counting(lake, ledger, receipt, max(row["ingested_at"] for row in rows))),
    }
    newest = lake.scan(EVENTS).select(pl.col("time").max()).collect().item()
    unreadable = [
        MissingPiece(piece="readable event", why=f"event {row['id']} ({row['type']}) is not as published.")
        for row in rows
        if stored_event(row["value"]) is None
    ]
    return Story(
        decision_id=decision_id,
        summary=_summary(receipt, decision, told),
        decided_at=receipt.decided_at,
        source=None if decided is None else decided.source,
        **receipt.cell._asdict() | {"stage": receipt.stage.value},
        epoch=receipt.epoch,
        attempt=receipt.attempt,
        rung=receipt.rung,
        contract=None if decided is None else decided.data.contract,
        decision=decision,
        missing=(*unreadable, *_missing(told, decision, is_overdue=receipt.decided_at + deadline < newest)),
        events=tuple(StoryEvent(**{name: row[name] for name in StoryEvent.model_fields}) for row in rows),
        **told,
    )


def _of(event_class: type[EventT], recorded: Sequence[events.Event]) -> list[EventT]:
    return [event for event in recorded if isinstance(event, event_class)]


def _review(event: events.ReviewResolved) -> ReviewShown:
    data = event.data
    return ReviewShown(
        at=event.time,
        resolution=data.resolution.value,
        reviewer=data.reviewer,
        rationale=data.rationale,
        authenticated=data.authenticated,
        wait_ms=data.wait_ms,
        earlier_approvals=data.earlier_approvals or (),
    )


def _execution(event: events.ActionExecuted, decision: Decision | None) -> ExecutionShown:
    data, mode = event.data, None if decision is None else getattr(decision.result, "mode", None)
    return ExecutionShown(
        at=event.time,
        ran="the action as asked" if mode is None else f"its lesser variant `{mode}`",
        status=data.status.value,
        latency_ms=data.latency_ms,
        cost_usd=data.cost_usd,
        error_type=data.error_type,
        provenance=None if data.provenance is None else data.provenance.value,
        source=event.source,
    )


def _receipt(rows: Sequence[Mapping[str, Any]]) -> Receipt:
    """The receipt that all events about a decision carry."""
    return Receipt.from_token(json.loads(rows[0]["value"])["data"]["receipt"])


def _ledger(lake: Lake, receipt: Receipt) -> list[dict[str, Any]]:
    """The ledger's rows on the decision's cell, oldest first, without their payloads."""
    here = (pl.col(name) == value for name, value in receipt.cell._asdict().items())
    rows = lake.scan(VERDICTS).filter(*here).select(*EPOCH, "verdict_id", "judged_at", "watermark", "lake_version")
    return rows.sort("judged_at", "lake_version").collect().to_dicts()


def _counting(
    lake: Lake, ledger: Sequence[Mapping[str, Any]], receipt: Receipt, known: datetime
) -> Mapping[str, Any] | None:
    """The first verdict on the epoch that counted what was read by then, as the ledger or a later heartbeat has it."""
    here = [row for row in ledger if row["epoch"] == receipt.epoch]
    for row in here:
        if row["judged_at"] >= known and _counted(lake, receipt, row["lake_version"], known):
            return row
    heartbeat = heartbeats.newest(lake)
    if not here or here[-1] is not ledger[-1] or heartbeat is None or heartbeat.judged_at < known:
        return None
    stands = _counted(lake, receipt, heartbeat.lake_version, known)
    return {**here[-1], "confirmed_at": heartbeat.judged_at} if stands else None


def _counted(lake: Lake, receipt: Receipt, version: int, known: datetime) -> bool:
    """Whether `signals` had counted of the epoch, at a version, what was read by a moment."""
    if not lake.reaches(SIGNALS, version):
        return True  # nobody can tell any more, and the verdict was reached after everything had been read
    epoch = (pl.col(name) == value for name, value in zip(EPOCH, (*receipt.cell, receipt.epoch), strict=True))
    counted = lake.scan(SIGNALS, version=version).filter(*epoch)
    newest = counted.select(pl.col("last_ingested_at").max()).collect().item()
    return newest is not None and newest >= known


def _shown(lake: Lake, row: Mapping[str, Any] | None) -> VerdictShown | None:
    if row is None:
        return None
    here = (pl.col("verdict_id") == row["verdict_id"]) & (pl.col("judged_at") == row["judged_at"])
    document = VerdictDocument.from_json(lake.scan(VERDICTS).filter(here).select("payload").head(1).collect().item())
    shown = {name: getattr(document, name) for name in VerdictShown.model_fields}
    return VerdictShown(**shown | {"confirmed_at": row.get("confirmed_at")})


_GONE: Final = {
    "decision": "there are events about it, and no decision: it was lost, or retention let go of it. From this lake "
    "nobody can say why the action was allowed.",
    "authorization": "the decision does not say what hard authorization answered.",
    "flags": "the decision names no flag that was evaluated.",
    "ruleset": "the decision does not name the policy that was in force.",
    "policy change": "no recorded change of an evaluated flag precedes the decision: they are as first installed, "
    "or somebody edited them without a record. `stagekeeper audit completeness` tells which.",
    "ruleset's change": "no recorded change names the ruleset that the decision rests on: flags or authorization were "
    "changed since without an event.",
    "review": "the action was queued for a person, and no word of one is recorded yet.",
    "execution": "the action was let run, and how it ended is not recorded; it may still come.",
    "overdue execution": "the action was let run, and how it ended is not recorded although it is overdue: the event "
    "was lost, or the router died.",
    "verdict before": "the ledger holds no verdict on the cell from before the decision.",
    "verdict after": "no verdict of the ledger has counted all this yet.",
}
"""What may be missing, and what that means."""


def _missing(told: Mapping[str, Any], decision: Decision | None, *, is_overdue: bool) -> list[MissingPiece]:
    if decision is None:
        return [MissingPiece(piece="decision", why=_GONE["decision"])]
    blame, review, executions = told["blame"], told["review"], told["executions"]
    runs = decision.expects_execution or (review is not None and review.resolution == events.Resolution.APPROVED)
    is_flagged = deciding_flag(decision.result.reason) is not None and decision.provenance is Provenance.LIVE
    absent = {
        "authorization": decision.authorization is None,
        "flags": not decision.flags,
        "ruleset": decision.ruleset_sha256 is None,
        "policy change": is_flagged and blame is None,
        "ruleset's change": blame is not None and blame.ruleset_confirmed is False,
        "review": decision.result.outcome == "queue_for_review" and review is None,
        "execution": runs and not executions and not is_overdue,
        "overdue execution": runs and not executions and is_overdue,
        "verdict before": told["verdict_then"] is None,
        "verdict after": told["counted_in"] is None,
    }
    return [MissingPiece(piece=piece, why=_GONE[piece]) for piece, is_absent in absent.items() if is_absent]


def _summary(receipt: Receipt, decision: Decision | None, told: Mapping[str, Any]) -> str:
    action = f"{receipt.workflow}/{receipt.tool} in {receipt.environment}"
    if decision is None:
        return f"{action}: what was decided is not on record."
    blame, review = told["blame"], told["review"]
    parts = [f"{action} at {receipt.stage.value}: {decision.result.outcome} ({decision.result.reason})"]
    if blame is not None:
        parts.append(f"since {blame.changed_by} changed {blame.flag_key}: {blame.reason}")
    if review is not None:
        parts.append(f"{review.resolution} by {review.reviewer}")
    parts += [f"execution {execution.status}" for execution in told["executions"]] or ["no execution is recorded"]
    return "; ".join(parts) + "."
