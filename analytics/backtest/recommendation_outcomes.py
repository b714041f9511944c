"""What became of the recommender's own recommendations: what people said to them, and how its promotions fared."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import polars as pl

from analytics.backtest.scorecard import Share
from analytics.enactment.due_changes import Done
from analytics.enactment.enactments import SOURCE, Enactment, Life, enactments
from analytics.enactment.mode_changes import mode_changes
from analytics.lake.table_schemas import EVENTS, SIGNOFFS, VERDICTS
from analytics.signals.cells import CELL
from analytics.signals.event_kinds import kinds_moving
from analytics.text import iso
from analytics.verdicts.signoffs import SignOffKind
from analytics.verdicts.verdict import REASSESSED
from producers.boundary.stage_store import ActionName
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell
from producers.wire.stage import STAGE_OF_MODE, Mode, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analytics.enactment.mode_changes import ModeChange
    from analytics.lake.tables import Lake

FOLLOWED_FOR: Final = timedelta(days=7)
"""How long after a recommendation people's words, and after a promotion incidents, are counted with it."""

_CALLS: Final = (VerdictName.PROMOTE.value, VerdictName.ROLL_BACK.value)
_ACCEPTS: Final = {SignOffKind.APPROVAL.value: _CALLS[0]}
_DISMISSES: Final = {SignOffKind.DISMISSAL.value: _CALLS[0], SignOffKind.OVERRIDE.value: _CALLS[1]}


SignOffs: TypeAlias = dict[tuple[tuple[str, ...], str, str], list[tuple[datetime, str]]]
"""By a verdict's cell, epoch and word: when somebody spoke about it, and the kind of the sign-off."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One promotion or rollback that was recommended."""

    cell: tuple[str, ...]
    epoch: str
    verdict: str  # PROMOTE or ROLL_BACK
    to_stage: str  # where it was to go
    at: datetime  # when it was first said
    verdict_id: str  # the verdict that crossed first
    # From when to when it was called for: until the judge called for something else, or another epoch began; None while
    # neither. What was called for again is the same recommendation.
    called_for: tuple[tuple[datetime, datetime | None], ...]

    def to_dict(self) -> dict[str, Any]:
        """The recommendation as a JSON object."""
        return {
            **dict(zip(CELL, self.cell, strict=True)),
            "verdict": self.verdict,
            "to_stage": self.to_stage,
            "verdict_id": self.verdict_id,
            "recommended_at": iso(self.at),
        }

    @property
    def place(self) -> Cell:
        """The cell that it is about."""
        return Cell(*self.cell)

    @property
    def key(self) -> tuple[str, ...]:
        """Cell, epoch, verdict and destination."""
        return (*self.cell, self.epoch, self.verdict, self.to_stage)

    def follows(self, moment: datetime) -> bool:
        """Whether something that happened then can be an answer to it."""
        return any(
            since <= moment <= since + FOLLOWED_FOR and (until is None or moment <= until)
            for since, until in self.called_for
        )


class Followed(NamedTuple):
    """A recommendation, and what became of it."""

    recommendation: Recommendation
    life: Life
    enactment: Enactment | None  # what was done in the store of stages; None where nothing was
    answer: Life  # what people made of it, or the judge by saying something else; open where nobody did
    answered_at: datetime  # when; where nobody did, when it was last called for

    def to_dict(self) -> dict[str, Any]:
        """Both as a JSON object: also how long it took until the store had it, and until all were heard to obey."""
        one, applied = self.recommendation, None if self.enactment is None else self.enactment.applied
        last = None if self.enactment is None else self.enactment.last
        in_force_at = None if last is None else last.in_force_at
        return {
            **one.to_dict(),
            "life": self.life.value,
            "applied_at": None if applied is None else iso(applied.at),
            "in_force_at": None if in_force_at is None else iso(in_force_at),
            "seconds_to_apply": None if applied is None else _seconds(applied.judged_at, applied.at),
            "seconds_to_force": None if applied is None or not in_force_at else _seconds(applied.at, in_force_at),
            "sources": [] if last is None else list(last.sources),
            "silent": [] if last is None else list(last.silent),
        }


def recommendations(lake: Lake, *, now: datetime) -> list[Followed]:
    """Every promotion and rollback that was recommended, oldest first, and its fate. Raises `LakeError`."""
    said = turns(lake.scan(VERDICTS))
    return followed(said, mode_changes(lake), signoffs(lake), list(enactments(lake).values()), now=now)


def followed(
    said: Sequence[dict[str, Any]],  # as `turns` gives it
    moves: Sequence[ModeChange],
    words: SignOffs,
    changes: Sequence[Enactment],
    *,
    now: datetime,
) -> list[Followed]:
    """As `recommendations`, from what was read before."""
    made = _recommendations(said)
    done = Done(changes)
    return [
        Followed(one, _life(one, answer, enactment, now), enactment, answer, at)
        for one, (at, answer) in zip(made, _answers(made, moves, words), strict=True)
        for enactment in [done.of(one.key, one.verdict_id) or _moved_with(one, changes)]
    ]


def _life(one: Recommendation, answer: Life, enactment: Enactment | None, now: datetime) -> Life:
    if enactment is not None and enactment.is_settled:
        return enactment.life
    return Life.EXPIRED if answer is Life.OPEN and now - one.called_for[-1][0] > FOLLOWED_FOR else answer


def _moved_with(one: Recommendation, changes: Sequence[Enactment]) -> Enactment | None:
    """The change for another cell, such as a cohort, that moved the whole action as a recommendation says."""
    moves = (*one.cell[:-1], one.verdict, one.to_stage)
    for each in changes:
        step, applied = each.last, each.applied
        moved = (*step.action, step.stage, step.verdict.value, step.to_stage) == moves
        if moved and applied is not None and one.follows(applied.at):
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
    said = turns(lake.scan(VERDICTS))
    made = _recommendations(said)
    promotions = [one for one in made if one.verdict == VerdictName.PROMOTE.value]
    rollbacks = [row for row in said if row["verdict"] == VerdictName.ROLL_BACK.value]
    answers = [answer for _, answer in _answers(made, mode_changes(lake), signoffs(lake))]
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


def turns(ledger: pl.LazyFrame) -> list[dict[str, Any]]:
    """The verdicts that said something new, oldest first, among rows of the ledger."""
    return (
        ledger.filter(pl.col("changed") | pl.col("verdict_id").str.starts_with(REASSESSED))
        .with_columns(crossed=pl.coalesce(pl.col("payload").str.json_path_match("$.latched_by"), "verdict_id"))
        .select(*CELL, "epoch", "verdict", "to_stage", "judged_at", "verdict_id", "crossed")
        .sort("judged_at")
        .collect()
        .to_dicts()
    )


def _recommendations(turns: Sequence[dict[str, Any]]) -> list[Recommendation]:
    """Each call of each epoch once, with the moments at which another one took its place and it came back."""
    made: list[Recommendation] = []
    standing: dict[tuple[str, ...], list[int]] = defaultdict(list)
    places: dict[tuple[object, ...], int] = {}
    for row in turns:
        if row["verdict_id"].startswith(REASSESSED):
            continue
        cell = tuple(str(row[name]) for name in CELL)
        is_call, at = row["verdict"] in _CALLS, row["judged_at"]
        for place in list(standing[cell]):
            other = made[place]
            said = (other.verdict, other.to_stage, *([other.verdict_id] if other.verdict == _CALLS[1] else []))
            if row["epoch"] != other.epoch or (is_call and _said(row) != said):
                *earlier, (since, _) = other.called_for
                made[place] = replace(other, called_for=(*earlier, (since, at)))
                standing[cell].remove(place)
        key = (cell, row["epoch"], *_said(row))
        if not is_call or places.get(key) in standing[cell]:
            continue
        if key in places:
            again = made[places[key]]
            made[places[key]] = replace(again, called_for=(*again.called_for, (at, None)))
        else:
            places[key] = len(made)
            called_for = ((at, None),)
            made.append(
                Recommendation(cell, row["epoch"], row["verdict"], row["to_stage"], at, row["crossed"], called_for)
            )
        standing[cell].append(places[key])
    return made


def _said(row: dict[str, Any]) -> tuple[str, ...]:
    """What makes two calls of an epoch one recommendation, by the rule of `Done`: a rollback's crossing, too."""
    return row["verdict"], row["to_stage"], *([row["crossed"]] if row["verdict"] == _CALLS[1] else [])


def _agreement(made: Sequence[Recommendation], answers: Sequence[Life], word: str) -> dict[str, Any]:
    counted = Counter(answer.value for one, answer in zip(made, answers, strict=True) if one.verdict == word)
    answered = counted["accepted"] + counted["dismissed"]
    return {
        **{life: counted[life] for life in ("accepted", "dismissed", "superseded", "open")},
        "share": Share(counted["accepted"], answered).to_dict(),
    }


def _answers(
    made: Sequence[Recommendation], changes: Sequence[ModeChange], words: SignOffs
) -> list[tuple[datetime, Life]]:
    """What people made of each recommendation: the first answer to it, and when. What is done by itself is none."""

    def answers(one: Recommendation) -> Iterator[tuple[datetime, Life]]:
        for at, mode in _moves(one, changes):
            stage = STAGE_OF_MODE[mode]
            if one.verdict == _CALLS[0]:
                moved = stage == one.to_stage and mode is not Mode.FALLBACK
            else:
                moved = stage.rank <= Stage(one.to_stage).rank
            if moved:
                yield at, Life.ACCEPTED
            elif stage != one.cell[3] and at >= one.called_for[-1][0]:  # called for again: it is there again
                yield at, Life.SUPERSEDED
        for at, kind in words.get((one.cell, one.epoch, one.verdict), ()):
            if _ACCEPTS.get(kind) == one.verdict:
                yield at, Life.ACCEPTED
            elif _DISMISSES.get(kind) == one.verdict:
                yield at, Life.DISMISSED

    given: list[tuple[datetime, Life]] = []
    for one in made:
        since, until = one.called_for[-1]
        unanswered = (since, Life.OPEN) if until is None else (until, Life.SUPERSEDED)
        given.append(min((answer for answer in answers(one) if one.follows(answer[0])), default=unanswered))
    return given


def _moves(one: Recommendation, changes: Sequence[ModeChange]) -> Iterator[tuple[datetime, Mode]]:
    """Every move of its action by somebody that can be an answer to it: when, and to what."""
    action = ActionName(*one.cell[:3])
    for change in changes:
        if one.follows(change.at) and change.source != SOURCE and change.mode and change.is_about(action):
            yield change.at, change.mode


def signoffs(lake: Lake) -> SignOffs:
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
    given: SignOffs = defaultdict(list)
    for at, kind, verdict_id in about:
        if verdict_id in targets:
            given[targets[verdict_id]].append((at, kind))
    return given


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
