"""Gates: policy as code, read strictly. Which signals must hold, at what limits, for which actions."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

from analytics.gates.after_promotion import DETECTOR_MINUTES_S, AfterPromotion
from analytics.gates.gate_arms import Baseline, Split
from analytics.gates.gate_signal import (
    NOT_BY_USER,
    CountBy,
    GateSignal,
    Level,
    Part,
    Seconds,
    StageList,
    refusal,
)
from analytics.gates.match import Match
from analytics.gates.minimum_exposure import MinimumExposure
from analytics.signals.definitions import QUANTILES
from analytics.signals.past_spans import SPANS_KEPT_S
from producers.boundary.canonical_json import digest
from producers.strict_yaml import ConfigurationFileError, parse_yaml, read_file
from producers.wire.model import Name  # noqa: TC001 - as above
from producers.wire.stage import LADDER, Stage

if TYPE_CHECKING:
    from producers.wire.receipt import Cell

Claim = Literal["users_seen", "users_to_come"]  # of whom a promotion speaks
_SHOWN_BY_TIME: Final = frozenset({"missing_outcome", "bad_outcome", "unpermitted_execution"})
_BY_WHOM: Final = frozenset({"name", "owner", "on_roll_back", "on_promote"})  # keys of a gate that judge nothing


def _whole_minutes(window_s: float) -> float:
    if window_s % 60:
        raise refusal("a user-window is a whole number of minutes")
    return window_s


WholeMinutes = Annotated[Seconds, AfterValidator(_whole_minutes)]


class GateTieError(ConfigurationFileError):
    """Two gates match an action equally well, so that nobody can say which one holds."""


class AttemptBudget(Part):
    """What trying an action again costs, so that it does not pass by being tried until it does."""

    budget: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """How often, at most, an action that breaks a limit is ever promoted, over all attempts of a cell together."""

    def beta_at(self, attempt: int, beta: float) -> float:
        """The error level of an attempt, counted from 1: at most beta, and a share of the budget; the shares add up."""
        return min(beta, self.budget / (attempt * (attempt + 1)))


class Gate(Part):
    """What must hold for the actions it matches."""

    name: Name
    owner: Name | None = None
    """Who answers for the limits."""
    match: Match = Match()
    ladder: StageList = LADDER
    """The stages that these actions climb, lowest first."""
    alpha: Level = 0.05
    """How often, at most, an action that keeps its limits is ever rolled back."""
    beta: Level = 0.05
    """How often, at most, an action that breaks a limit is ever promoted."""
    attempts: AttemptBudget | None = None
    """What trying again costs; where it is not stated, every attempt has the whole beta."""
    minimum_exposure: MinimumExposure = MinimumExposure()
    unit: CountBy = "user"
    """What one observation is: `user`, a user's closed window (actions of one user are alike), or `action`."""
    user_window: WholeMinutes | None = None
    """What one user does in this long is one observation of this gate; the file's unless stated."""
    correlation: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    """How alike the actions of one user are taken to be (intra-user correlation) where a promotion asks whether the
    traffic of all users together is within a limit, beside the average user's."""
    baseline: Baseline = Baseline()
    split: Split | None = None
    """How traffic is split between cohorts, or between stages; checked before anything is promoted."""
    claim: Claim | None = None
    """Of whom a promotion speaks: `users_seen`, of the users' traffic that was seen, or `users_to_come`, of a user who
    is still to come, for which each user counts once. Unless stated: users to come where the promotion widens the
    audience (to progressive expansion), users seen where it widens authority for the same audience."""
    on_roll_back: Literal["apply", "recommend"] = "recommend"
    """Whether a rollback is carried out in the flag store at once, by the worker that enacts."""
    on_promote: Literal["apply", "ask", "recommend"] = "recommend"
    """Whether a promotion is carried out likewise; with `ask` the gate opens, and it is, once a person has approved."""
    hold_expires: Seconds | None = None
    """How long an epoch may be held before its owner is called."""
    dry_run: bool = False
    """Judge and show, and do nothing: every verdict is HOLD, with what it would have been."""
    signals: tuple[GateSignal, ...] = ()
    """What must hold. A signal with several bounds stands here once for each, and its weight is shared among them."""

    @model_validator(mode="before")
    @classmethod
    def _approval_has_another_name(cls, stated: object) -> object:
        if isinstance(stated, dict) and "approval" in stated:
            raise refusal("`approval` is called `on_promote` now: write `on_promote: ask` for `approval: required`")
        return stated

    @field_validator("signals")
    @classmethod
    def _every_bound_is_a_signal(cls, stated: tuple[GateSignal, ...]) -> tuple[GateSignal, ...]:
        return tuple(part for signal in stated for part in signal.parts)

    @field_validator("ladder")
    @classmethod
    def _ladder_climbs(cls, ladder: tuple[Stage, ...]) -> tuple[Stage, ...]:
        ranks = [stage.rank for stage in ladder]
        if ranks != sorted(set(ranks)):
            raise refusal(f"the ladder must name its stages once each, lowest first: {', '.join(LADDER)}")
        return ladder

    @model_validator(mode="after")
    def _a_hold_expires_to_somebody(self) -> Self:
        if self.hold_expires is not None and self.owner is None:
            raise refusal("`hold_expires` needs an `owner`, who is called when a hold expires")
        return self

    @model_validator(mode="after")
    def _a_ratio_has_a_baseline(self) -> Self:
        for part in self.signals:
            if part.is_compared and self.baseline.kind == "none":
                key = "delta" if part.ratio is None else "ratio"
                raise refusal(f"`{key}` of `{part.signal}` needs a `baseline` of kind concurrent or historic")
        return self

    @model_validator(mode="after")
    def _nothing_is_said_twice(self) -> Self:
        uses = Counter(
            (part.signal, part.role, part.bound, stage) for part in self.signals for stage in dict.fromkeys(part.stages)
        )
        for (signal, role, _, stage), times in uses.items():
            if times > 1:
                raise refusal(f"`{signal}` is {role} more than once at {stage}; keep one, or part them by `stages`")
        return self

    def at(self, stage: str) -> tuple[GateSignal, ...]:
        """The signals that apply at a stage."""
        return tuple(part for part in self.signals if stage in part.stages)

    def beta_at(self, attempt: int) -> float:
        """The beta of an attempt of a cell, counted from 1."""
        return self.beta if self.attempts is None else self.attempts.beta_at(attempt, self.beta)

    def unit_of(self, part: GateSignal) -> CountBy:
        """By what a signal of this gate is counted."""
        if part.signal in NOT_BY_USER or part.role in {"trip", "watch"}:
            return "action"
        if part.signal in QUANTILES and part.is_compared:
            return "action"  # of a baseline's quantile only the histogram is known
        return part.unit or self.unit

    @property
    def counts_users(self) -> bool:
        """Whether it needs to know what single users did."""
        by_user = any(self.unit_of(part) == "user" for part in self.signals)
        return by_user or bool(self.minimum_exposure.users) or self.split_unit == "user"

    @property
    def compares(self) -> bool:
        """Whether arms are held against each other, minute by minute."""
        return self.baseline.kind != "none" or self.split is not None

    @property
    def compares_users(self) -> bool:
        """Whether users' windows are held against those of a baseline."""
        return any(part.is_compared and self.unit_of(part) == "user" for part in self.signals)

    @property
    def split_unit(self) -> CountBy | None:
        """By what the assignments of the declared split are counted; None where none is declared."""
        return None if self.split is None else self.split.unit or self.unit

    def watches(self, part: GateSignal, stage: str) -> bool:
        """Whether the detector watches a signal at a stage: a guardrail rate of actions that have been promoted."""
        rate = part.role == "guardrail" and part.limit is not None and part.signal != "missing_outcome"
        return rate and stage in part.stages and self.below(stage) is not None

    @property
    def claims(self) -> set[Claim]:
        """Of whom its promotions speak."""
        return {claim for stage in self.ladder if (claim := self.claim_at(stage)) is not None}

    def claim_at(self, stage: str) -> Claim | None:
        """Of whom a promotion from a stage would speak; None where there is none."""
        above = self.above(stage)
        if above is None:
            return None
        return self.claim or ("users_to_come" if above is Stage.PROGRESSIVE_EXPANSION else "users_seen")

    def above(self, stage: str) -> Stage | None:
        """The next stage of the ladder; None at its top, and for a stage that is not on it."""
        if stage not in self.ladder:
            return None
        place = self.ladder.index(Stage(stage)) + 1
        return self.ladder[place] if place < len(self.ladder) else None

    def below(self, stage: str) -> Stage | None:
        """The stage directly below on the ladder; None at its foot, and for a stage that is not on it."""
        place = self.ladder.index(Stage(stage)) if stage in self.ladder else 0
        return self.ladder[place - 1] if place else None


class GateFile(Part):
    """A gate file: every gate, and how often and how freshly they are judged. Read one with `load`."""

    version: Literal[1]
    interval: Seconds = 2.0
    """How often changed cells are judged."""
    outcome_deadline: Seconds = 120.0
    """How long an execution may take to be reported before it counts as missing."""
    freshness: Seconds = 900.0
    """How old evidence may be before it promotes nothing."""
    user_window: WholeMinutes = 3_600.0
    """What one user does in this long is one observation, once it is over; at least a minute."""
    after_promotion: AfterPromotion = AfterPromotion()
    """The detector that watches on after a promotion."""
    gates: tuple[Gate, ...]

    _sha256: str = PrivateAttr(default="")
    _text: bytes = PrivateAttr(default=b"")
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _gates_are_told_apart(self) -> Self:
        names = Counter(gate.name for gate in self.gates)
        for name, times in names.items():
            if times > 1:
                raise refusal(f"{times} gates are called `{name}`; a verdict must be able to name its gate")
        matches: dict[Match, str] = {}
        for gate in self.gates:
            if (other := matches.setdefault(gate.match, gate.name)) != gate.name:
                raise refusal(f"the gates `{other}` and `{gate.name}` match the same actions")
        return self

    @classmethod
    def load(cls, path: Path) -> GateFile:
        """Read a gate file. Raises `ConfigurationFileError`, which names every place that says what it may not say."""
        return cls.parse(read_file(path, name="the gate file"), path=path)

    @classmethod
    def parse(cls, text: bytes, *, path: Path | None = None) -> GateFile:
        """Read the bytes of a gate file. Raises `ConfigurationFileError` as `load` does."""
        gates = parse_yaml(text, cls, origin=str(path or "the gate file"))
        gates._sha256 = hashlib.sha256(text).hexdigest()  # noqa: SLF001 - of the bytes, which the model never sees
        gates._text, gates._path = text, path  # noqa: SLF001
        return gates

    @property
    def text(self) -> bytes:
        """The file's bytes."""
        return self._text

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return self._sha256

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of the canonical JSON of what each gate judges by: its own content and what it inherits, by its name.

        Comments, other gates, what a gate is called, who owns it and what is done by itself have no part in it. Whether
        a person is asked has, under the name that it had once.
        """
        inherited = self.model_dump(include={"outcome_deadline", "freshness", "user_window", "after_promotion"})
        asks = {gate.name: {"approval": "required" if gate.on_promote == "ask" else "none"} for gate in self.gates}
        contents = {
            # A key that came later has no part where it is not stated, so that what was decided before stands.
            gate.name: gate.model_dump(exclude={*_BY_WHOM, *(["user_window"] if gate.user_window is None else [])})
            | asks[gate.name]
            for gate in self.gates
        }
        return {name: digest(inherited | content) for name, content in contents.items()}

    @property
    def path(self) -> Path | None:
        """Where it was read from."""
        return self._path

    @property
    def interval_s(self) -> float:
        """Seconds between two looks at changed cells."""
        return self.interval

    @property
    def outcome_deadline_s(self) -> float:
        """Seconds after which an execution that did not come counts as missing."""
        return self.outcome_deadline

    @property
    def freshness_s(self) -> float:
        """Seconds after which evidence promotes nothing any more."""
        return self.freshness

    def ages_s(self, part: GateSignal) -> set[float]:
        """Every age, in seconds, from which trials of a signal count for something."""
        return {part.harm_age_s, *part.promotion_ages_s(self.outcome_deadline)}

    @property
    def harm_matures_s(self) -> float:
        """Seconds since a decision until which time alone may show harm of it; 0 where only events can.

        A quality check counts once it is mature, and an execution that did not come once it is overdue.
        """
        acting = [part for gate in self.gates for part in gate.signals if part.role in {"guardrail", "trip"}]
        overdue_s = [self.outcome_deadline_s for part in acting if part.signal in _SHOWN_BY_TIME]
        return max([*(part.harm_age_s for part in acting), *overdue_s], default=0.0)

    @property
    def unrolled_s(self) -> float:
        """Seconds for which minutes must not be rolled up to hours in the lake: the detector takes them by less."""
        return self.horizon_s + SPANS_KEPT_S

    @property
    def horizon_s(self) -> float:
        """Seconds of event time for which single minutes matter: the longest maturity, deadline or detector."""
        parts = [part for gate in self.gates for part in gate.signals]
        maturities = [part.maturity for part in parts if part.maturity is not None]
        # The minutes of the hour in which it goes over from hours to minutes are needed as well.
        watched = 3_600.0 + DETECTOR_MINUTES_S + max((part.harm_age_s for part in parts), default=0.0)
        return max(self.outcome_deadline, watched, *maturities, 0.0)

    @property
    def counts_users(self) -> bool:
        """Whether any gate needs to know what single users did."""
        return bool(self.user_windows)

    @cached_property
    def user_windows(self) -> tuple[float, ...]:
        """Every length of a user-window, in seconds, that a gate needs; ascending."""
        return tuple(sorted({self.window_of(gate) for gate in self.gates if gate.counts_users}))

    def window_of(self, gate: Gate) -> float:
        """The length of a gate's user-windows, in seconds."""
        return gate.user_window or self.user_window

    def gate_of(self, cell: Cell, risk_class: str | None) -> Gate | None:
        """The gate that judges a cell, as `gate_for`."""
        action = (cell.environment, cell.workflow, cell.tool)
        return self.gate_for(*action, risk_class, stage=cell.stage, cohort=cell.cohort)

    def gate_for(
        self,
        environment: str,
        workflow: str,
        tool: str,
        risk_class: str | None,
        *,
        stage: str | None = None,
        cohort: str | None = None,
    ) -> Gate | None:
        """The most specific gate that matches a cell; None where none does.

        What is unknown (None) matches only where a gate does not ask for it. Raises `GateTieError` where two gates
        match equally well.
        """
        matching = [
            gate
            for gate in self.gates
            if gate.match.covers(environment, workflow, tool, risk_class, stage=stage, cohort=cohort)
        ]
        matching.sort(key=lambda gate: gate.match.specificity, reverse=True)
        if len(matching) > 1 and matching[0].match.specificity == matching[1].match.specificity:
            raise GateTieError(
                f"the gates `{matching[0].name}` and `{matching[1].name}` match {environment}/{workflow}/{tool} "
                "equally well; name more of the action in one of them"
            )
        return matching[0] if matching else None
