"""What became of the recommender's own recommendations: what people said to them, and how its promotions fared."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import polars as pl

from analytics.backtest.scorecard import Share
from analytics.enactment.enactments import SOURCE, Enactment, EnactmentPhase, enactments
from analytics.lake.table_schemas import EVENTS, SIGNOFFS, VERDICTS
from analytics.signals.cells import CELL
from analytics.signals.event_kinds import kinds_moving
from analytics.text import iso
from analytics.verdicts.signoffs import SignOffKind
from analytics.verdicts.verdict import REASSESSED
from producers.wire.events import VerdictName
from producers.wire.stage import STAGE_OF_MODE, Mode, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analytics.lake.tables import Lake

FOLLOWED_FOR: Final = timedelta(days=7)
"""How long after a recommendation people's words, and after a promotion incidents, are counted with it."""

Answer = Literal["open", "accepted", "dismissed", "superseded"]  # people's; `superseded` by another call, or a move
Life = Literal[Answer, "expired", "applied", "not in force", "in force"]

_LIFE_OF: Final[dict[EnactmentPhase, Life]] = {
    EnactmentPhase.APPLIED: "applied",
    EnactmentPhase.NOT_IN_FORCE: "not in force",
    EnactmentPhase.IN_FORCE: "in force",
    EnactmentPhase.SUPERSEDED: "superseded",
}
_CALLS: Final = (VerdictName.PROMOTE.value, VerdictName.ROLL_BACK.value)
_ACCEPTS: Final = {SignOffKind.APPROVAL.value: _CALLS[0]}
_DISMISSES: Final = {SignOffKind.DISMISSAL.value: _CALLS[0], SignOffKind.OVERRIDE.value: _CALLS[1]}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One promotion or rollback that was recommended."""

    cell: tuple[str, ...]
    epoch: str
    verdict: str  # PROMOTE or ROLL_BACK
    to_stage: str  # where it was to go
    at: datetime  # when it was first said
    verdict_id: str  # the verdict that said it first
    until: datetime | None  # when the judge itself called for something else, or another epoch began; None if neither

    def to_dict(self) -> dict[str, Any]:
        """The recommendation as a JSON object."""
        return {
            **dict(zip(CELL, self.cell, strict=True)),
            "verdict": self.verdict,
            "to_stage": self.to_stage,
            "verdict_id": self.verdict_id,
            "recommended_at": iso(self.at),
        }

    def follows(self, moment: datetime) -> bool:
        """Whether something that happened then can be an answer to it."""
        return (
            self.at <= moment <= min(self.until or datetime.max.replace(tzinfo=moment.tzinfo), self.at + FOLLOWED_FOR)
        )


class Followed(NamedTuple):
    """A recommendation, and what became of it."""

    recommendation: Recommendation
    life: Life
    enactment: Enactment | None  # what was done in the store of stages; None where nothing was

    def to_dict(self) -> dict[str, Any]:
        """Both as a JSON object: also how long it took until the store had it, and until all were heard to obey."""
        one, applied = self.recommendation, None if self.enactment is None else self.enactment.applied
        last = None if self.enactment is None else self.enactment.last
        in_force_at = None if last is None else last.in_force_at
        return {
            **one.to_dict(),
            "life": self.life,
            "applied_at": None if applied is None else iso(applied.at),
            "in_force_at": None if in_force_at is None else iso(in_force_at),
            "seconds_to_apply": None if applied is None else _seconds(applied.judged_at, applied.at),
            "seconds_to_force": None if applied is None or not in_force_at else _seconds(applied.at, in_force_at),
            "sources": [] if last is None else list(last.sources),
        }


def recommendations(lake: Lake, *, now: datetime) -> list[Followed]:
    """Every promotion and rollback that was recommended, oldest first, and its fate. Raises `LakeError`."""
    made = _recommendations(_turns(lake))
    done = list(enactments(lake).values())
    return [
        Followed(one, _life(one, answer, enactment, now), enactment)
        for one, answer in zip(made, _answers(lake, made), strict=True)
        for enactment in [_enactment_of(one, done)]
    ]


def _life(one: Recommendation, answer: Answer, enactment: Enactment | None, now: datetime) -> Life:
    if enactment is not None and enactment.phase is not EnactmentPhase.INTENDED:
        return _LIFE_OF[enactment.phase]
    return "expired" if answer == "open" and now - one.at > FOLLOWED_FOR else answer


def _enactment_of(one: Recommendation, done: Sequence[Enactment]) -> Enactment | None:
    """What was done about a recommendation: its own change, or that of another cohort, which moved the whole action."""
    key, moves = (*one.cell, one.epoch, one.verdict, one.to_stage), (*one.cell[:-1], one.verdict, one.to_stage)
    for each in done:
        step, applied = each.last, each.applied
        moved = (*step.action, step.stage, step.verdict.value, step.to_stage) == moves
        if step.key == key or (moved and applied is not None and one.follows(applied.at)):
            return each
    return None


def _seconds(since: datetime, until: datetime) -> float:
    """Never below zero: clocks of two machines may be apart."""
    return round(max((until - since).total_seconds(), 0.0), 3)


def of_history(lake: Lake) -> dict[str, Any]:
    """What became of the recommendations that the ledger holds, as a JSON object. Raises `LakeError`.

    People accept a recommendation when they move the action as it says, or approve it; they dismiss a promotion with
    `stagekeeper recommendations dismiss`, and a rollback with `stagekeeper gate override`. The first word within a week
    counts, unless the judge itself said something else before. A promotion counts as later rolled back when its own
    epoch, or the action at the stage that it led to, was rolled back afterwards; with an incident when one was reported
    about a decision made there within a week.
    """
    turns = _turns(lake)
    made = _recommendations(turns)
    promotions = [one for one in made if one.verdict == VerdictName.PROMOTE.value]
    rollbacks = [row for row in turns if row["verdict"] == VerdictName.ROLL_BACK.value]
    answers = _answers(lake, made)
    incidents = _incidents(lake)
    agreement = {word: _agreement(made, answers, word) for word in _CALLS}
    return {
        "promotions": len(promotions),
        "rollbacks": len(rollbacks),
        "later_rolled_back": Share(sum(_later(one, rollbacks) for one in promotions), len(promotions)).to_dict(),
        "followed_by_incident": Share(sum(_led_to(one, incidents) for one in promotions), len(promotions)).to_dict(),
        "accepted": Share(agreement[VerdictName.PROMOTE.value]["accepted"], len(promotions)).to_dict(),
        "agreement": agreement,
        "overrides": int(lake.scan(SIGNOFFS).filter(pl.col("kind") == "override").select(pl.len()).collect().item()),
    }


def _turns(lake: Lake) -> list[dict[str, Any]]:
    """The verdicts that said something new, oldest first."""
    return (
        lake.scan(VERDICTS)
        .filter(pl.col("changed") | pl.col("verdict_id").str.starts_with(REASSESSED))
        .select(*CELL, "epoch", "verdict", "to_stage", "judged_at", "verdict_id")
        .sort("judged_at")
        .collect()
        .to_dicts()
    )


def _recommendations(turns: Sequence[dict[str, Any]]) -> list[Recommendation]:
    """Each call of each epoch once, with the moment at which another one took its place."""
    made: list[Recommendation] = []
    standing: dict[tuple[str, ...], list[int]] = defaultdict(list)
    seen: set[tuple[object, ...]] = set()
    for row in turns:
        if row["verdict_id"].startswith(REASSESSED):
            continue
        cell = tuple(str(row[name]) for name in CELL)
        is_call, at = row["verdict"] in _CALLS, row["judged_at"]
        for place in list(standing[cell]):
            other = made[place]
            if row["epoch"] != other.epoch or (is_call and _call(row) != (other.verdict, other.to_stage)):
                made[place] = replace(other, until=at)
                standing[cell].remove(place)
        key = (cell, row["epoch"], *_call(row))
        if is_call and key not in seen:
            seen.add(key)
            standing[cell].append(len(made))
            made.append(Recommendation(cell, row["epoch"], *_call(row), at, row["verdict_id"], until=None))
    return made


def _call(row: dict[str, Any]) -> tuple[str, str]:
    return row["verdict"], row["to_stage"]


def _agreement(made: Sequence[Recommendation], answers: Sequence[Answer], word: str) -> dict[str, Any]:
    counted = Counter(answer for one, answer in zip(made, answers, strict=True) if one.verdict == word)
    answered = counted["accepted"] + counted["dismissed"]
    return {
        **{life: counted[life] for life in ("accepted", "dismissed", "superseded", "open")},
        "share": Share(counted["accepted"], answered).to_dict(),
    }


def _answers(lake: Lake, made: Sequence[Recommendation]) -> list[Answer]:
    """What people made of each recommendation: the first answer to it. What is done by itself is no answer."""
    changes, signoffs = _changes(lake), _signoffs(lake)

    def answers(one: Recommendation) -> Iterator[tuple[datetime, Answer]]:
        _, workflow, tool = one.cell[:3]
        for at, mode in changes[workflow, tool]:
            stage = STAGE_OF_MODE[mode]
            if one.verdict == _CALLS[0]:
                moved = stage == one.to_stage and mode is not Mode.FALLBACK
            else:
                moved = stage.rank <= Stage(one.to_stage).rank
            if moved:
                yield at, "accepted"
            elif stage != one.cell[3]:
                yield at, "superseded"
        for at, kind in signoffs[one.cell, one.epoch, one.verdict]:
            if _ACCEPTS.get(kind) == one.verdict:
                yield at, "accepted"
            elif _DISMISSES.get(kind) == one.verdict:
                yield at, "dismissed"

    given: list[Answer] = []
    for one in made:
        unanswered: Answer = "open" if one.until is None else "superseded"
        _, answer = min((answer for answer in answers(one) if one.follows(answer[0])), default=(one.at, unanswered))
        given.append(answer)
    return given


class _ModeChange(msgspec.Struct):
    workflow: str | None = None
    tool: str | None = None
    after: str | None = None


class _PolicyChange(msgspec.Struct):
    data: _ModeChange


def _changes(lake: Lake) -> dict[tuple[str | None, str | None], list[tuple[datetime, Mode]]]:
    """Every change of the mode of a workflow and tool by somebody: when, and to what."""
    changed = (pl.col("type") == "stagekeeper.policy.changed.v1") & (pl.col("source") != SOURCE)
    rows = lake.scan(EVENTS).filter(changed).select("time", "value").collect()
    parse = msgspec.json.Decoder(_PolicyChange).decode
    modes = {mode.value: mode for mode in STAGE_OF_MODE}
    changes: dict[tuple[str | None, str | None], list[tuple[datetime, Mode]]] = defaultdict(list)
    for at, value in rows.iter_rows():
        try:
            change = parse(value).data
        except (msgspec.MsgspecError, RecursionError):
            continue  # whatever it changed, it was no mode
        # A roll-out by share says in brackets how many accounts have the mode.
        mode, _, _ = (change.after or "").partition(" (")
        if mode in modes:
            changes[change.workflow, change.tool].append((at, modes[mode]))
    return changes


def _signoffs(lake: Lake) -> dict[tuple[tuple[str, ...], str, str], list[tuple[datetime, str]]]:
    """Every sign-off on a verdict, by the verdict's cell, epoch and word: when, and its kind."""
    rows = lake.scan(SIGNOFFS).select("given_at", "kind", "payload").collect().rows()
    about = [
        (at, kind, verdict_id) for at, kind, payload in rows for verdict_id in json.loads(payload)["about"].values()
    ]
    ids = pl.Series("id", sorted({verdict_id for _, _, verdict_id in about}), dtype=pl.String)
    verdicts = (
        lake.scan(VERDICTS)
        .filter(pl.col("verdict_id").is_in(ids.implode()))
        .select("verdict_id", *CELL, "epoch", "verdict")
        .unique()
        .collect()
    )
    targets = {row[0]: (row[1 : 1 + len(CELL)], row[-2], row[-1]) for row in verdicts.iter_rows()}
    signoffs: dict[tuple[tuple[str, ...], str, str], list[tuple[datetime, str]]] = defaultdict(list)
    for at, kind, verdict_id in about:
        if verdict_id in targets:
            signoffs[targets[verdict_id]].append((at, kind))
    return signoffs


def _incidents(lake: Lake) -> list[dict[str, Any]]:
    """Every incident: the cell and the moment of the decision that it is about."""
    chosen = pl.col("kind").is_in(kinds_moving("incidents"))
    return lake.scan(EVENTS).filter(chosen).select(*CELL, "decided_at").collect().to_dicts()


def _later(one: Recommendation, rollbacks: Sequence[dict[str, Any]]) -> bool:
    """Whether a promotion was rolled back afterwards: its epoch, or the stage that it led to."""
    return any(
        row["judged_at"] >= one.at
        and (
            (tuple(row[name] for name in CELL), row["epoch"]) == (one.cell, one.epoch)
            or tuple(row[name] for name in CELL) == _place(one)
        )
        for row in rollbacks
    )


def _led_to(one: Recommendation, incidents: Sequence[dict[str, Any]]) -> bool:
    """Whether an incident was reported about a decision made within a week at the stage that a promotion led to."""
    there, until = _place(one), one.at + FOLLOWED_FOR
    return any(tuple(row[name] for name in CELL) == there and one.at <= row["decided_at"] <= until for row in incidents)


def _place(one: Recommendation) -> tuple[str, ...]:
    """The cell of the same action and cohort at the stage that it leads to."""
    at = CELL.index("stage")
    return (*one.cell[:at], one.to_stage, *one.cell[at + 1 :])
