"""Sign-offs: approvals and dismissals of a promotion, overrides of a verdict, and their revocation. Append only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.lake.table_schemas import COLUMNS, SIGNOFFS
from analytics.signals.cells import ACTION
from analytics.text import iso
from producers.errors import UsageError
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument
    from producers.wire.receipt import Cell


JUDGED_BY_AFTER: Final = timedelta(seconds=5)
"""How old an override, or its revocation, is before the judge goes by it.

By then it is in the lake, whatever clock gave it its moment, so that a replay knows what the judge knew.
"""


LONGEST_OVERRIDE: Final = timedelta(days=30)
# Reasons of what is evident now. What an earlier epoch did is not this one's: who knows that it was mended may say so.
_HARM: Final = frozenset({"harm", "combined_harm", "regression", "trip", "regraded"})


class SignOffKind(StrEnum):
    """What a person decided about a move."""

    APPROVAL = "approval"
    OVERRIDE = "override"
    DISMISSAL = "dismissal"
    REVOCATION = "revocation"
    """Ends an override before it expires."""
    ATTEMPT = "attempt"
    """Begins a new attempt of an action."""

    @property
    def with_article(self) -> str:
        """The word in a sentence: `an approval`."""
        article = "an" if self.value[0] in "ao" else "a"
        return f"{article} {self.value}"


class NothingToSignOffError(UsageError):
    """There is no verdict that such a sign-off could be about."""


class UnusableSignOffError(UsageError):
    """A sign-off lacks its actor, its reason or its expiry."""


@dataclass(frozen=True, slots=True, eq=False)
class SignOff:
    """One person's decision about one move of one action."""

    signoff_id: str  # sixteen hexadecimal digits
    kind: SignOffKind  # Approval, override, dismissal or revocation
    given_at: datetime  # when it was given
    expires_at: datetime  # from when on it counts for nothing
    action: tuple[str, str, str]  # Environment, workflow and tool
    cohort: str | None  # one segment of the roll-out; None is all of them
    to_stage: str  # where the action may move
    actor: str  # who gave it
    reason: str  # why
    about: Mapping[str, str]  # the bindings of the verdicts that it is about, each with the verdict's id at the time

    def to_dict(self) -> dict[str, Any]:
        """The sign-off as a JSON object."""
        return {
            "signoff_id": self.signoff_id,
            "kind": self.kind.value,
            "given_at": iso(self.given_at),
            "expires_at": iso(self.expires_at),
            **dict(zip(ACTION, self.action, strict=True)),
            "cohort": self.cohort,
            "to_stage": self.to_stage,
            "actor": self.actor,
            "reason": self.reason,
            "verdicts": sorted(self.about.values()),
        }


def binding(verdict: VerdictDocument) -> str:
    """What a sign-off about a verdict holds for: this verdict on this epoch of this cell under this gate's content.

    A verdict that stands is bound to what crossed first, so that further evidence for the same does not lift the
    sign-off; another verdict does.
    """
    stands = verdict.verdict in {VerdictName.ROLL_BACK, VerdictName.PROMOTE}
    crossed = (verdict.latched_by or verdict.verdict_id) if stands else ""
    return _bound(verdict.cell, verdict.epoch, _content(verdict), verdict.verdict, crossed)


def rollback_binding(cell: Cell, epoch: str, content_sha256: str, crossed: str) -> str:
    """What an override about the rollback of an epoch is bound to, as long as the gate has this content."""
    return _bound(cell, epoch, content_sha256, VerdictName.ROLL_BACK, crossed)


def is_about(signoff: SignOff, verdict: VerdictDocument) -> bool:
    """Whether a sign-off holds for a verdict as it stands now; an override also where it sets its rollback aside."""
    bindings = {binding(verdict)}
    # Sign-offs were bound to the whole gate file once, and those of them that are in force hold on.
    if verdict.gate_content_sha256 is not None:
        bindings.add(binding(verdict.model_copy(update={"gate_content_sha256": None})))
    if signoff.kind is SignOffKind.OVERRIDE:
        bindings.update(_set_aside(verdict))
    return not bindings.isdisjoint(signoff.about)


def shown_harm(verdict: VerdictDocument) -> list[str]:
    """What the evidence behind a verdict shows to be harmful; nothing where a rollback only stands."""
    return [reason.message for reason in verdict.reasons if reason.code in _HARM]


def overrides(lake: Lake, *, now: datetime) -> frozenset[str]:
    """The bindings of all overrides that the judge goes by. Raises `LakeError`."""
    if not lake.version(SIGNOFFS):
        return frozenset()  # asked at every look, and most lakes have no sign-off
    return frozenset(
        bound
        for signoff in in_force(lake, now=now, given_by=now - JUDGED_BY_AFTER)
        if signoff.kind is SignOffKind.OVERRIDE
        for bound in signoff.about
    )


def _content(verdict: VerdictDocument) -> str:
    return verdict.gate_content_sha256 or verdict.gate_sha256


def _set_aside(verdict: VerdictDocument) -> list[str]:
    crossed = verdict.set_aside
    return [] if crossed is None else [rollback_binding(verdict.cell, verdict.epoch, _content(verdict), crossed)]


def _bound(cell: Cell, epoch: str, content_sha256: str, verdict: VerdictName, crossed: str) -> str:
    basis = [*cell, epoch, content_sha256, verdict.value, crossed]
    return hashlib.sha256(json.dumps(basis, ensure_ascii=False).encode()).hexdigest()[:32]


def record(
    lake: Lake,
    kind: SignOffKind,
    verdicts: Sequence[VerdictDocument],
    *,
    to_stage: str,
    cohort: str | None,
    actor: str,
    reason: str,
    now: datetime,
    expires_at: datetime,
) -> SignOff:
    """Record a sign-off about verdicts, at least one, on one action; no cohort stands for all of them.

    Raises:
        UnusableSignOffError: It has no actor, no reason, has expired already, or is an override for too long.
        LakeError: It cannot be recorded.
    """
    if not actor.strip() or not reason.strip():
        raise UnusableSignOffError(f"{kind.with_article} needs who says it and why; say both")
    if expires_at <= now:
        raise UnusableSignOffError(f"{kind.with_article} must expire in the future, not at {iso(expires_at)}")
    if kind is SignOffKind.OVERRIDE and expires_at - now > LONGEST_OVERRIDE:
        raise UnusableSignOffError(
            f"an override expires within {LONGEST_OVERRIDE.days} days, not at {iso(expires_at)}; give another one then"
        )
    about = {binding(verdict): verdict.verdict_id for verdict in verdicts}
    if kind is SignOffKind.OVERRIDE:
        about |= {bound: verdict.verdict_id for verdict in verdicts for bound in _set_aside(verdict)}
    action = (verdicts[0].environment, verdicts[0].workflow, verdicts[0].tool)
    signoff_id = _new_id(kind, now, *action, to_stage, actor, reason, *sorted(about))
    signoff = SignOff(signoff_id, kind, now, expires_at, action, cohort, to_stage, actor, reason, about)
    _append(lake, signoff, {"about": about})
    return signoff


def revoke(lake: Lake, override_id: str, *, actor: str, reason: str, now: datetime) -> SignOff:
    """Record that an override counts no more. Raises `NothingToSignOffError` or `LakeError`."""
    overrides = {
        signoff.signoff_id: signoff for signoff in in_force(lake, now=now) if signoff.kind is SignOffKind.OVERRIDE
    }
    if override_id not in overrides:
        raise NothingToSignOffError(
            f"no override {override_id} is in force; `stagekeeper gate override list` names those that are"
        )
    override = overrides[override_id]
    kind = SignOffKind.REVOCATION
    signoff_id = _new_id(kind, now, override_id, actor, reason)
    # It expires with what it ends, so that no reader has to look further back.
    revocation = replace(override, signoff_id=signoff_id, kind=kind, given_at=now, actor=actor, reason=reason)
    _append(lake, revocation, {"about": dict(override.about), "revokes": override_id})
    return revocation


def start_attempt(
    lake: Lake, action: tuple[str, str, str], attempt: int, *, actor: str, reason: str, now: datetime
) -> SignOff:
    """Record that somebody begins an attempt of an action; it is about no verdict, and opens nothing.

    Raises `UnusableSignOffError` where it has no actor or no reason, `LakeError` where it cannot be recorded.
    """
    kind = SignOffKind.ATTEMPT
    if not actor.strip() or not reason.strip():
        raise UnusableSignOffError(f"{kind.with_article} needs who says it and why; say both")
    signoff_id = _new_id(kind, now, *action, str(attempt), actor, reason)
    signoff = SignOff(signoff_id, kind, now, now, action, None, "", actor, reason, {})
    _append(lake, signoff, {"about": {}, "attempt": attempt})
    return signoff


def attempts_started(lake: Lake, action: tuple[str, str, str]) -> int:
    """The highest attempt of an action that anybody began; 1 where nobody did. Raises `LakeError`."""
    named = [pl.col(name) == value for name, value in zip(ACTION, action, strict=True)]
    kind = pl.col("kind") == SignOffKind.ATTEMPT.value
    payloads = lake.scan(SIGNOFFS).filter(kind, *named).select("payload").collect()["payload"]
    return max((int(json.loads(payload)["attempt"]) for payload in payloads), default=1)


def _new_id(kind: SignOffKind, now: datetime, *basis: str) -> str:
    text = json.dumps([kind.value, iso(now), *basis], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _append(lake: Lake, signoff: SignOff, more: Mapping[str, Any]) -> None:
    document = signoff.to_dict()
    row = {name: value for name, value in document.items() if name != "verdicts"}
    row |= {"given_at": signoff.given_at, "expires_at": signoff.expires_at}
    row |= {"payload": json.dumps({**document, **more}, ensure_ascii=False)}
    lake.append(SIGNOFFS, pl.DataFrame([row], schema=COLUMNS[SIGNOFFS], orient="row"))


def in_force(
    lake: Lake,
    *,
    now: datetime,
    given_by: datetime | None = None,
    action: tuple[str, str, str] | None = None,
    to_stage: str | None = None,
) -> list[SignOff]:
    """The sign-offs (about one action, or stage) neither expired nor revoked, oldest first. Raises `LakeError`.

    What was given after `given_by`, a revocation too, is left out; now unless given. An override is over after
    `LONGEST_OVERRIDE`, whatever its row says.
    """
    wanted = [] if action is None else list(zip(ACTION, action, strict=True))
    wanted += [] if to_stage is None else [("to_stage", to_stage)]
    latest = pl.col("given_at") + LONGEST_OVERRIDE
    ends_at = pl.when(pl.col("kind") == SignOffKind.OVERRIDE.value).then(pl.min_horizontal("expires_at", latest))
    rows = (
        lake.scan(SIGNOFFS)
        .with_columns(expires_at=ends_at.otherwise("expires_at"))
        .filter((pl.col("given_at") <= (given_by or now)) & (pl.col("expires_at") > now))
        .filter(*(pl.col(name) == value for name, value in wanted))
        .sort("given_at", "signoff_id")
        .collect()
        .to_dicts()
    )
    payloads = [json.loads(row["payload"]) for row in rows]
    ended = {payload.get("revokes") for payload in payloads}
    return [
        SignOff(
            row["signoff_id"],
            SignOffKind(row["kind"]),
            row["given_at"],
            row["expires_at"],
            (row["environment"], row["workflow"], row["tool"]),
            row["cohort"],
            row["to_stage"],
            row["actor"],
            row["reason"],
            payload["about"],
        )
        for row, payload in zip(rows, payloads, strict=True)
        if row["kind"] != SignOffKind.REVOCATION and row["signoff_id"] not in ended
    ]


def signed_off(signoff: SignOff) -> str:
    """What a person said about a move, until when, and why."""
    verdicts = ", ".join(sorted(signoff.about.values()))
    if signoff.kind == "revocation":
        return f"{signoff.actor} has revoked the override of verdict {verdicts}: {signoff.reason}"
    word = {"override": "set aside", "approval": "approved", "dismissal": "dismissed"}[signoff.kind]
    return f"{signoff.actor} has {word} verdict {verdicts} until {iso(signoff.expires_at)}: {signoff.reason}"
