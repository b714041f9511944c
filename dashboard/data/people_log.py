"""What people did, as the lake has it: changes of policy and words on reviews, followed as it grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import polars as pl

from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import EVENTS
from producers.wire.events import PolicyChanged, ReviewResolved, type_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake
    from producers.boundary.stage_store import ActionName

_POLICY: Final = type_of(PolicyChanged)
_REVIEW: Final = type_of(ReviewResolved)
_COLUMNS: Final = ["type", "time", "source", "subject", "workflow", "tool", "value"]


class PolicyChangeData(msgspec.Struct):
    """What a record says of a change of a flag."""

    flag_key: str
    changed_by: str
    reason: str
    before: str | None = None
    after: str | None = None
    environment: str | None = None
    workflow: str | None = None
    tool: str | None = None
    recommendation_id: str | None = None


class SettledReviewData(msgspec.Struct):
    """What a record says of a review."""

    resolution: str
    reviewer: str
    rationale: str
    wait_ms: float | None = None
    authenticated: bool | None = None


class _PolicyEvent(msgspec.Struct):
    data: PolicyChangeData


class _ReviewEvent(msgspec.Struct):
    data: SettledReviewData


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One change of a flag that is on record."""

    at: datetime
    source: str
    data: PolicyChangeData

    def is_about(self, action: ActionName) -> bool:
        """Whether it changed an action; one that names less changed every action that has what it names."""
        data = self.data
        named = (data.environment, data.workflow, data.tool)
        return all(value in {None, wanted} for value, wanted in zip(named, action, strict=True))

    @property
    def about(self) -> str:
        """What it names."""
        data = self.data
        return " / ".join(filter(None, (data.workflow, data.tool))) or data.environment or "everything"


@dataclass(frozen=True, slots=True)
class SettledReview:
    """A word that settled a review."""

    at: datetime
    decision_id: str
    workflow: str
    tool: str
    data: SettledReviewData


class PeopleLog:
    """Everything that people did, oldest first. One reader at a time."""

    def __init__(self) -> None:
        self._version = -1
        self.changes: list[PolicyChange] = []
        self.words: list[SettledReview] = []

    def follow(self, lake: Lake) -> None:
        """Take in what the lake has gained. Raises `LakeError`."""
        version = lake.version(EVENTS)
        if version == self._version:
            return
        rows = None
        if self._version >= 0:
            try:
                rows = lake.increments(EVENTS, after=self._version, through=version, columns=_COLUMNS).lazy()
            except ForgottenError:
                self.changes, self.words = [], []  # the table is read whole
        chosen = (lake.scan(EVENTS).select(_COLUMNS) if rows is None else rows).filter(
            pl.col("type").is_in([_POLICY, _REVIEW])
        )
        for kind, at, source, subject, workflow, tool, value in chosen.sort("time").collect().iter_rows():
            try:
                if kind == _POLICY:
                    self.changes.append(PolicyChange(at, source, _policy(value).data))
                else:
                    self.words.append(SettledReview(at, subject, workflow, tool, _review(value).data))
            except (msgspec.MsgspecError, RecursionError):
                continue  # a field that is not counted may hold anything
        self._version = version


_policy = msgspec.json.Decoder(_PolicyEvent).decode
_review = msgspec.json.Decoder(_ReviewEvent).decode
