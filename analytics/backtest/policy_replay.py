"""Recorded contracts through candidate rules: which decisions would differ, and which cannot be said.

Many decisions share what a decision rests on, so each combination is decided once, by the code that routers run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import polars as pl
from pydantic import ValidationError

from analytics.backtest.candidate_rules import Unsaid
from analytics.lake.storage import reading
from analytics.lake.table_schemas import EVENTS
from analytics.signals.cells import ACTION
from analytics.text import iso
from producers.wire.contract import ActionContract
from producers.wire.decision import Decision, Provenance
from producers.wire.events import ActionDecided, type_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.backtest.candidate_rules import CandidateRules
    from analytics.lake.tables import Lake
    from producers.boundary.stage_store import ActionName

MOST_EXAMPLES: Final = 3
OBSERVED: Final = "observed"
"""The outcome of a decision that nothing was held to: what enforcing would have done stands beside it."""

_CHUNK: Final = 20_000  # rows that are held at once
# Denied for what a call is, whatever the rules say; see `producers.boundary.router`.
_NOT_BY_RULES: Final = frozenset(
    {"arguments_not_accepted", "arguments_not_digestible", "context_not_valid", "record_not_durable"}
)


class _AskedPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of what a decision rests on; a field that is not named here has no part in any."""


class _AskedActor(_AskedPart, frozen=True):
    agent: str
    user: str | None = None
    account: str | None = None
    service_identity: str | None = None
    model: str | None = None
    prompt_version: str | None = None


class _AskedTarget(_AskedPart, frozen=True):
    environment: str
    system: str
    record: str | None = None


class _AskedScope(_AskedPart, frozen=True):
    account: str | None = None
    region: str | None = None


class _AskedEvidence(_AskedPart, frozen=True):
    confidence: float | None = None


class _AskedFallback(_AskedPart, frozen=True):
    mode: str = "refuse"


class _ReplayedContract(_AskedPart, frozen=True):
    actor: _AskedActor
    target: _AskedTarget
    tool: str
    workflow: str
    risk_class: str
    reversibility: str
    tool_version: str | None = None
    scope: _AskedScope = _AskedScope()
    evidence: _AskedEvidence = _AskedEvidence()
    fallback: _AskedFallback = _AskedFallback()


class _ReplayedResult(msgspec.Struct, frozen=True):
    outcome: str
    reason: str
    mode: str | None = None


class _ReplayedFlag(msgspec.Struct, frozen=True):
    error: str | None = None


class _ReplayedDecision(msgspec.Struct, frozen=True):
    result: _ReplayedResult
    enforced: bool = True
    provenance: str = Provenance.LIVE.value
    flags: tuple[_ReplayedFlag, ...] = ()


class _ReplayedData(msgspec.Struct, frozen=True):
    contract: _ReplayedContract
    decision: _ReplayedDecision


class _ReplayedEvent(msgspec.Struct, frozen=True):
    data: _ReplayedData


class ComparedOutcome(NamedTuple):
    """What is compared of a decision."""

    outcome: str  # one of the five, or `OBSERVED`
    detail: str  # of a constraint why, of a fallback which; empty for the others
    would_be: str = ""  # where it was only observed: the outcome that it had

    @property
    def in_words(self) -> str:
        """Such as `constrain (mode_search_only)`."""
        return self.outcome + (f" ({self.detail})" if self.detail else "")


class _DecisionKind(NamedTuple):
    """Decisions that are alike in everything that is compared."""

    asked: _ReplayedContract
    decided: ComparedOutcome
    by_rules: bool  # False where the call was denied for what it was
    on_safe_values: bool


class Example(NamedTuple):
    """One recorded decision."""

    decision_id: str
    decided_at: datetime

    def to_dict(self) -> dict[str, str]:
        """The example as a JSON object."""
        return {"decision_id": self.decision_id, "decided_at": iso(self.decided_at)}


class DifferenceKey(NamedTuple):
    """What decisions that would differ are counted by."""

    environment: str
    workflow: str
    tool: str
    account: str | None
    before: ComparedOutcome
    after: ComparedOutcome


@dataclass
class PolicyComparison:
    """What candidate rules would have done with the recorded contracts."""

    since: datetime
    until: datetime
    decisions: int = 0
    same: int = 0
    not_by_rules: int = 0  # denied for what the call was, under any rules
    on_safe_values: int = 0  # recorded decisions for which a flag could not be asked
    unsaid: Counter[str] = field(default_factory=Counter)  # by why it cannot be said
    enforcing: Counter[str] = field(default_factory=Counter)  # only observed: by the outcome that enforcing would give
    differences: Counter[DifferenceKey] = field(default_factory=Counter)
    examples: dict[DifferenceKey, list[Example]] = field(default_factory=dict)
    left_out: int = 0  # decisions that were recorded and not looked at, the oldest

    @property
    def different(self) -> int:
        """How many decisions would differ; what was only observed is no decision."""
        return self.differences.total() - self.observed

    @property
    def observed(self) -> int:
        """How many of the differences were only observed before."""
        return sum(count for key, count in self.differences.items() if key.before.outcome == OBSERVED)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        outcomes = Counter[tuple[str, str]]()
        for key, count in self.differences.items():
            outcomes[key.before.in_words, key.after.in_words] += count
        return {
            "since": iso(self.since),
            "until": iso(self.until),
            "decisions": self.decisions,
            "same": self.same,
            "different": self.different,
            "observed": self.observed,
            "cannot_be_said": self.unsaid.total(),
            "cannot_be_said_because": dict(self.unsaid.most_common()),
            "denied_under_any_rules": self.not_by_rules,
            "recorded_on_safe_values": self.on_safe_values,
            "left_out": self.left_out,
            "outcomes": [{"before": was, "after": now, "count": n} for (was, now), n in outcomes.most_common()],
            "enforcing_would": dict(self.enforcing.most_common()),
            "differences": [
                {
                    **{name: getattr(key, name) for name in (*ACTION, "account")},
                    "before": key.before.in_words,
                    "after": key.after.in_words,
                    "count": count,
                    "examples": [one.to_dict() for one in self.examples[key]],
                }
                for key, count in self.differences.most_common()
            ],
        }

    def add(
        self, kind: _DecisionKind, count: int, examples: list[Example], before: ComparedOutcome, after: ComparedOutcome
    ) -> None:
        """Count decisions of one kind."""
        if before.outcome == OBSERVED and after.outcome != OBSERVED:
            self.enforcing[after.in_words] += count
        if (before.outcome, before.detail) == (after.outcome, after.detail) and before.would_be == after.would_be:
            self.same += count
            return
        asked = kind.asked
        place = (asked.target.environment, asked.workflow, asked.tool, asked.actor.account or asked.scope.account)
        key = DifferenceKey(*place, before, after)
        self.differences[key] += count
        kept = self.examples.setdefault(key, [])
        kept += examples[: MOST_EXAMPLES - len(kept)]


def compare(
    lake: Lake,
    candidate: CandidateRules,
    *,
    since: datetime,
    until: datetime,
    action: ActionName | None = None,
    against: CandidateRules | None = None,
    most: int | None = None,
) -> PolicyComparison:
    """Replay what was decided from one moment to another (of one action) through candidate rules.

    It is compared with what was recorded, or with what the rules `against` say of the same contracts. With `most` only
    so many of the newest decisions are looked at. Raises `LakeError`, and `UnusableRulesError`.
    """
    comparison = PolicyComparison(since, until)
    kinds, examples = _recorded(lake, comparison, action, most)
    for kind, count in kinds.items():
        if not kind.by_rules:
            comparison.not_by_rules += count
            continue
        comparison.on_safe_values += count * kind.on_safe_values
        try:
            contract = ActionContract.model_validate({"intent": "", **msgspec.to_builtins(kind.asked)})
        except ValidationError as error:
            comparison.unsaid[f"the contract cannot be read: {error.errors()[0]['msg']}"] += count
            continue
        before = kind.decided if against is None else _decided(against.decide(contract))
        after = _decided(candidate.decide(contract))
        for unsaid in (after, before):
            if isinstance(unsaid, Unsaid):
                comparison.unsaid[unsaid.reason] += count
                break
        else:
            comparison.add(kind, count, examples[kind], before, after)  # type: ignore[arg-type]
    return comparison


def _recorded(
    lake: Lake, comparison: PolicyComparison, action: ActionName | None, most: int | None
) -> tuple[Counter[_DecisionKind], dict[_DecisionKind, list[Example]]]:
    """Recorded decisions by kind, with the first few of each as examples; what cannot be read is counted as unsaid."""
    kinds, examples = Counter[_DecisionKind](), dict[_DecisionKind, list[Example]]()
    parse = msgspec.json.Decoder(_ReplayedEvent).decode
    for decision_id, decided_at, value in _rows(lake, comparison, action, most):
        comparison.decisions += 1
        try:
            data = parse(value).data
        except msgspec.MsgspecError as error:
            comparison.unsaid[f"the record cannot be read: {error}"] += 1
            continue
        decision, result = data.decision, data.decision.result
        enforced = decision.enforced and decision.provenance != Provenance.OBSERVED.value
        decided = _compared(result.outcome, result.reason, result.mode, enforced=enforced)
        safe = any(flag.error for flag in decision.flags)
        kind = _DecisionKind(data.contract, decided, result.reason not in _NOT_BY_RULES, safe)
        kinds[kind] += 1
        if len(kept := examples.setdefault(kind, [])) < MOST_EXAMPLES:
            kept.append(Example(decision_id, decided_at))
    return kinds, examples


def _rows(
    lake: Lake, comparison: PolicyComparison, action: ActionName | None, most: int | None
) -> Iterator[tuple[str, datetime, bytes]]:
    within = pl.col("decided_at").is_between(comparison.since, comparison.until)
    rows = lake.scan(EVENTS).filter(pl.col("type") == type_of(ActionDecided), within)
    if action is not None:
        rows = rows.filter(*(pl.col(name) == value for name, value in zip(ACTION, action, strict=True)))
    with reading(lake.root):
        if most is not None:
            # The newest of them, found by their moments alone.
            moments = rows.select("decided_at").collect()["decided_at"].sort(descending=True)
            if len(moments) > most:
                rows = rows.filter(pl.col("decided_at") >= moments[most - 1])
                comparison.left_out = int((moments < moments[most - 1]).sum())
        for part in rows.select("subject", "decided_at", "value").collect_batches(chunk_size=_CHUNK):
            yield from part.iter_rows()


def _decided(said: Decision | Unsaid) -> ComparedOutcome | Unsaid:
    if isinstance(said, Unsaid):
        return said
    result = said.result
    return _compared(result.outcome, result.reason, getattr(result, "mode", None), enforced=said.enforced)


def _compared(outcome: str, reason: str, mode: str | None, *, enforced: bool) -> ComparedOutcome:
    # Which lesser variant ran is the router's, not the rules': a constraint is told by its reason.
    detail = {"constrain": reason, "fallback": mode or ""}.get(outcome, "")
    if enforced:
        return ComparedOutcome(outcome, detail)
    return ComparedOutcome(OBSERVED, "", ComparedOutcome(outcome, detail).in_words)
