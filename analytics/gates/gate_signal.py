"""One signal of a gate: what it must hold, at which stages, and what follows when it does not."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from analytics.evidence import histogram
from analytics.evidence.errors import EvidenceError
from analytics.signals.definitions import COUNTS, MICRO_PER, QUANTILES, RATES, SIGNALS, Awaited
from producers.strict_yaml import suggest
from producers.wire.stage import LADDER, Stage

Role = Literal["guardrail", "promote", "trip", "watch"]

CountBy = Literal["user", "action"]  # what one observation is: a user's closed window, or a single action

NOT_BY_USER: Final = frozenset(COUNTS)
"""Signals that are counted action by action whatever the gate says."""

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def refusal(message: str) -> PydanticCustomError:
    """Say why something may not be said; the reader adds the place."""
    return PydanticCustomError("gate", "{message}", {"message": message})


def _seconds(stated: object) -> object:
    if not isinstance(stated, str) or (match := _DURATION.fullmatch(stated.strip())) is None:
        raise refusal("a duration reads like 500ms, 2s, 15m, 1h or 7d")
    return float(match[1]) * _UNITS_S[match[2]]


_WRITTEN: Final = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)\s*$", "examples": ["2s", "15m", "7d"]}

Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0), WithJsonSchema(_WRITTEN)]
"""A duration, written like `2s` or `15m`, kept in seconds."""

Level = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]


def known_word(stated: object, kind: str, words: list[str]) -> object:
    """Let a known word pass, and refuse another one with a suggestion."""
    if stated not in words:
        raise refusal(f"unknown {kind} `{stated}`: {suggest(str(stated), words)}")
    return stated


def _known_stages(stated: object) -> object:
    if isinstance(stated, (list, tuple)):
        for stage in stated:
            known_word(stage, "stage", [rung.value for rung in LADDER])
    return stated


StageList = Annotated[tuple[Stage, ...], BeforeValidator(_known_stages), Field(min_length=1)]


_LIMITS: Final = ("limit", "limit_ms", "limit_usd", "max_count")
_WEIGHED: Final = frozenset({"guardrail", "promote"})


class Part(BaseModel):
    """A part of a gate file: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GateSignal(Part):
    """One signal of a gate: what it must hold, and what follows when it does not."""

    signal: Annotated[str, Field(json_schema_extra={"enum": list(SIGNALS)})]
    """Name of the signal."""
    role: Role
    """`guardrail` rolls back on harm and must be shown safe to promote; `promote` only blocks promotion; `trip` rolls
    back at once when a count is over `max_count`; `watch` is shown and decides nothing."""
    limit: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """For a rate: the highest tolerable share."""
    limit_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """For a latency quantile: milliseconds."""
    limit_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """For a cost quantile: US dollars."""
    max_count: Annotated[int, Field(ge=0)] | None = None
    """For a trip: the highest tolerable count; 0 unless stated."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """For a guardrail: its share of the error level alpha, relative to the other guardrails; 1 unless stated."""
    stages: StageList = LADDER
    """The stages at which it applies; all unless stated."""
    maturity: Seconds | None = None
    """For a rate of executions: how long after a decision its outcome may still come. Promotions count decisions older
    than this only; rollbacks count all."""
    unit: CountBy | None = None
    """`user` counts closed user-windows, `action` single actions; the gate's unless stated."""
    must_have_data: bool | None = None
    """Whether it holds up promotions while it has no trials: true for guardrail and promote, false otherwise, unless
    stated."""
    dry_run: bool = False
    """Shown with what it would do, and does nothing."""
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The highest tolerable multiple of the baseline's rate, or of its quantile of latency or cost."""
    delta: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """For a rate: how far it may lie above the baseline's, as a difference of ratios (0.01 is one percentage point)."""

    @field_validator("signal", mode="before")
    @classmethod
    def _signal_is_known(cls, stated: object) -> object:
        return known_word(stated, "signal", list(SIGNALS))

    @field_validator("role", mode="before")
    @classmethod
    def _role_is_known(cls, stated: object) -> object:
        return known_word(stated, "role", list(get_args(Role)))

    @model_validator(mode="after")
    def _limit_fits(self) -> Self:
        wanted = self._limit_key()
        for key in _LIMITS:
            if getattr(self, key) is not None and key != wanted:
                raise refusal(
                    f"`{self.signal}` as {self.role} takes {f'`{wanted}`' if wanted else 'no limit'}, not `{key}`"
                )
        only_trips = f"`{self.signal}` is a count: its role is `trip` or `watch`, not `{self.role}`"
        if self.role in _WEIGHED and not self.is_compared and (wanted is None or getattr(self, wanted) is None):
            raise refusal(f"`{self.signal}` as {self.role} needs `{wanted}`" if wanted else only_trips)
        if self.role == "trip" and self.signal in QUANTILES:
            raise refusal(f"`{self.signal}` is a quantile and counts nothing, so it cannot trip")
        if self.weight is not None and self.role != "guardrail":
            raise refusal(f"only a guardrail takes `weight`; `{self.signal}` is {self.role}")
        if self.limit_micro is not None:
            try:
                histogram.snap(self.limit_micro)
            except EvidenceError as error:
                raise refusal(f"`{wanted}` of `{self.signal}`: {error}") from error
        return self

    @model_validator(mode="after")
    def _comparison_fits(self) -> Self:
        wanted = self._limit_key()
        for key in ("ratio", "delta"):
            if getattr(self, key) is None:
                continue
            if wanted is None or self.role not in _WEIGHED:
                raise refusal(f"`{key}` of `{self.signal}` is for a guardrail or promote signal, not for {self.role}")
            if self.signal == "missing_outcome":
                raise refusal(
                    f"`missing_outcome` takes no `{key}`: it becomes known after its minute, for both arms alike"
                )
        if self.delta is not None and self.signal in QUANTILES:
            raise refusal(f"`{self.signal}` is a quantile and takes no `delta`: state a `ratio` of the baseline's")
        return self

    @model_validator(mode="after")
    def _counting_fits(self) -> Self:
        if self.maturity is not None and (self.signal not in RATES or self.signal == "missing_outcome"):
            why = "it has the file's `outcome_deadline`" if self.signal in RATES else "it is known at once"
            raise refusal(f"`{self.signal}` takes no `maturity`: {why}")
        alone = self.signal in QUANTILES and self.is_compared and self.limit_micro is None
        if self.unit == "user" and (self.signal in NOT_BY_USER or self.role == "trip" or alone):
            raise refusal(f"`{self.signal}` as {self.role} is counted by action, so it takes no `unit: user`")
        return self

    @property
    def is_compared(self) -> bool:
        """Whether it is held against a baseline."""
        return self.ratio is not None or self.delta is not None

    @property
    def bound(self) -> str:
        """What a signal with one bound is held to."""
        return "ratio" if self.ratio is not None else "delta" if self.delta is not None else "limit"

    @property
    def parts(self) -> tuple[Self, ...]:
        """One signal for each bound, a limit, a ratio and a delta; a guardrail's weight is shared among them."""
        limited = any(getattr(self, key) is not None for key in _LIMITS)
        stated = [key for key in ("ratio", "delta") if getattr(self, key) is not None]
        if len(stated) + limited < 2:
            return (self,)
        weight = None
        if self.role == "guardrail":
            weight = (self.weight or 1.0) / (len(stated) + limited)
        bounds = [*_LIMITS, "ratio", "delta"]
        kept = [set(_LIMITS), *({key} for key in stated)][0 if limited else 1 :]
        return tuple(
            self.model_copy(update={"weight": weight} | {key: None for key in bounds if key not in own}) for own in kept
        )

    def _limit_key(self) -> str | None:
        if self.role == "trip":
            return "max_count"
        if self.signal in COUNTS:
            return None
        return f"limit_{QUANTILES[self.signal].unit}" if self.signal in QUANTILES else "limit"

    @property
    def limit_micro(self) -> int | None:
        """The limit of a quantile as configured, in micro-units; None where there is none."""
        if self.signal not in QUANTILES:
            return None
        stated = self.limit_ms if self.limit_ms is not None else self.limit_usd
        return None if stated is None else round(stated * MICRO_PER[QUANTILES[self.signal].unit])

    @property
    def needs_data(self) -> bool:
        """Whether a promotion has to wait while it has no trials."""
        return self.role in _WEIGHED if self.must_have_data is None else self.must_have_data

    @property
    def awaits(self) -> Awaited:
        """What decides a trial after it was opened."""
        rate = RATES.get(self.signal)
        return rate.awaits if rate is not None else "execution" if self.signal in QUANTILES else "nothing"

    @property
    def harm_age_s(self) -> float:
        """Seconds since their decision from which trials count for a rollback."""
        return (self.maturity or 0.0) if self.awaits == "evaluation" else 0.0

    def promotion_ages_s(self, deadline_s: float) -> tuple[float, ...]:
        """Seconds since their decision from which trials may count for a promotion: any one of these ages is valid.

        What is older and unreported counts as failed, so at every age the failures are at least those of a prefix of
        the decisions, and the evidence is at most a value that the same test martingale takes there.

        Args:
            deadline_s: The outcome deadline: after it an unreported execution is overdue.

        Returns:
            Nothing where only a stated maturity could tell.
        """
        if self.signal in QUANTILES:
            return (0.0,)  # a histogram does not know when its values were decided
        if self.awaits == "execution":
            return (0.0, deadline_s) if self.maturity is None else (max(self.maturity, deadline_s),)
        if self.maturity is not None:
            return (max(self.maturity, deadline_s) if self.awaits == "everything" else self.maturity,)
        return () if self.awaits in {"consequence", "evaluation", "everything"} else (0.0,)

    @property
    def threshold(self) -> float | None:
        """The rate that the evidence compares with: the limit, or the share that may lie above a quantile's limit."""
        if self.signal in QUANTILES:
            return None if self.limit_micro is None else QUANTILES[self.signal].tail
        return self.limit if self.signal in RATES else None
