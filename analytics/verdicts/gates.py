"""Gates: policy as code, read strictly. Which signals must hold, at what limits, for which actions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from analytics.evidence import histogram
from analytics.evidence.errors import EvidenceError
from analytics.evidence.signals import COUNTS, MICRO_PER, QUANTILES, RATES, SIGNALS
from producers.strict_yaml import ConfigurationFileError, parse_yaml, suggest
from producers.wire.contract import RiskClass
from producers.wire.model import Name
from producers.wire.stage import LADDER, Stage

ROLES: Final[tuple[str, ...]] = ("guardrail", "promote", "trip", "watch")
Role = Literal["guardrail", "promote", "trip", "watch"]

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_GLOB: Final = frozenset("*?[")


class GateTieError(ConfigurationFileError):
    """Two gates match an action equally well, so that nobody can say which one holds."""


def _refusal(message: str) -> PydanticCustomError:
    return PydanticCustomError("gate", "{message}", {"message": message})


def _seconds(stated: object) -> object:
    if not isinstance(stated, str) or (found := _DURATION.fullmatch(stated.strip())) is None:
        raise _refusal("a duration reads like 500ms, 2s, 15m, 1h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A duration, written like `2s` or `15m`, kept in seconds."""

Level = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]


def _known(stated: object, kind: str, known: list[str]) -> object:
    if stated not in known:
        raise _refusal(f"unknown {kind} `{stated}`: {suggest(str(stated), known)}")
    return stated


def _known_stages(stated: object) -> object:
    if isinstance(stated, (list, tuple)):
        for stage in stated:
            _known(stage, "stage", [known.value for known in LADDER])
    return stated


StageList = Annotated[tuple[Stage, ...], BeforeValidator(_known_stages), Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GateSignal(_Part):
    """One signal of a gate: what it must hold, and what follows when it does not."""

    signal: str
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

    @field_validator("signal", mode="before")
    @classmethod
    def _signal_is_known(cls, stated: object) -> object:
        return _known(stated, "signal", list(SIGNALS))

    @field_validator("role", mode="before")
    @classmethod
    def _role_is_known(cls, stated: object) -> object:
        return _known(stated, "role", list(ROLES))

    @model_validator(mode="after")
    def _limit_fits(self) -> Self:
        wanted = self._limit_key()
        for key in ("limit", "limit_ms", "limit_usd", "max_count"):
            if getattr(self, key) is not None and key != wanted:
                raise _refusal(
                    f"`{self.signal}` as {self.role} takes {f'`{wanted}`' if wanted else 'no limit'}, not `{key}`"
                )
        if self.role in {"guardrail", "promote"} and (wanted is None or getattr(self, wanted) is None):
            raise _refusal(f"`{self.signal}` as {self.role} needs `{wanted}`" if wanted else self._only_trips())
        if self.role == "trip" and self.signal in QUANTILES:
            raise _refusal(f"`{self.signal}` is a quantile and counts nothing, so it cannot trip")
        if self.weight is not None and self.role != "guardrail":
            raise _refusal(f"only a guardrail takes `weight`; `{self.signal}` is {self.role}")
        if self.limit_micro is not None:
            try:
                histogram.snap(self.limit_micro)
            except EvidenceError as error:
                raise _refusal(f"`{wanted}` of `{self.signal}`: {error}") from error
        return self

    def _only_trips(self) -> str:
        return f"`{self.signal}` is a count: its role is `trip` or `watch`, not `{self.role}`"

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
    def threshold(self) -> float | None:
        """The rate that the evidence compares with: the limit, or the share that may lie above a quantile's limit."""
        if self.signal in QUANTILES:
            return None if self.limit_micro is None else QUANTILES[self.signal].tail
        return self.limit if self.signal in RATES else None


class Match(_Part):
    """Which actions a gate is for; shell-style patterns, upper and lower case told apart."""

    environment: Name = "*"
    workflow: Name = "*"
    tool: Name = "*"
    risk_class: Name = "*"

    @field_validator("risk_class")
    @classmethod
    def _risk_class_is_known(cls, stated: str) -> str:
        if not _GLOB & set(stated):
            _known(stated, "risk class", [known.value for known in RiskClass])
        return stated

    def covers(self, environment: str, workflow: str, tool: str, risk_class: str | None) -> bool:
        """Whether an action matches; an unknown risk class matches only `*`."""
        named = ((environment, self.environment), (workflow, self.workflow), (tool, self.tool))
        return all(fnmatchcase(value, pattern) for value, pattern in named) and (
            self.risk_class == "*" if risk_class is None else fnmatchcase(risk_class, self.risk_class)
        )

    @property
    def specificity(self) -> tuple[int, int]:
        """How many fields are named exactly, and how many by a pattern other than `*`."""
        patterns = (self.environment, self.workflow, self.tool, self.risk_class)
        exact = sum(not _GLOB & set(pattern) for pattern in patterns)
        return exact, len(patterns) - exact - patterns.count("*")


class MinimumExposure(_Part):
    """What must have been seen before anything is promoted. It never holds up a rollback."""

    actions: Annotated[int, Field(ge=0)] = 0
    """Decisions in the cell's current epoch."""


class Gate(_Part):
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
    minimum_exposure: MinimumExposure = MinimumExposure()
    signals: tuple[GateSignal, ...] = ()

    @field_validator("ladder")
    @classmethod
    def _ladder_climbs(cls, ladder: tuple[Stage, ...]) -> tuple[Stage, ...]:
        ranks = [stage.rank for stage in ladder]
        if ranks != sorted(set(ranks)):
            raise _refusal(f"the ladder must name its stages once each, lowest first: {', '.join(LADDER)}")
        return ladder

    @model_validator(mode="after")
    def _nothing_is_said_twice(self) -> Self:
        said = Counter((part.signal, part.role, stage) for part in self.signals for stage in dict.fromkeys(part.stages))
        for (signal, role, stage), times in said.items():
            if times > 1:
                raise _refusal(f"`{signal}` is {role} more than once at {stage}; keep one, or part them by `stages`")
        return self

    def at(self, stage: str) -> tuple[GateSignal, ...]:
        """The signals that apply at a stage."""
        return tuple(part for part in self.signals if stage in part.stages)

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


class GateFile(_Part):
    """A gate file: every gate, and how often and how freshly they are judged. Read one with `load`."""

    version: Literal[1]
    interval: Seconds = 2.0
    """How often changed cells are judged."""
    outcome_deadline: Seconds = 120.0
    """How long an execution may take to be reported before it counts as missing."""
    freshness: Seconds = 900.0
    """How old evidence may be before it promotes nothing."""
    gates: tuple[Gate, ...]

    _sha256: str = PrivateAttr(default="")
    _text: bytes = PrivateAttr(default=b"")
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _gates_are_told_apart(self) -> Self:
        names = Counter(gate.name for gate in self.gates)
        for name, times in names.items():
            if times > 1:
                raise _refusal(f"{times} gates are called `{name}`; a verdict must be able to name its gate")
        matches: dict[Match, str] = {}
        for gate in self.gates:
            if (other := matches.setdefault(gate.match, gate.name)) != gate.name:
                raise _refusal(f"the gates `{other}` and `{gate.name}` match the same actions")
        return self

    @classmethod
    def load(cls, path: Path) -> GateFile:
        """Read a gate file.

        Raises:
            ConfigurationFileError: It cannot be read, is not YAML, or says something it may not say; the message
                names every place.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigurationFileError(f"the gate file {path} cannot be read: {error.strerror or error}.") from error
        return cls.parse(text, path=path)

    @classmethod
    def parse(cls, text: bytes, *, path: Path | None = None) -> GateFile:
        """Read the bytes of a gate file.

        Raises:
            ConfigurationFileError: As in `load`.
        """
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

    def gate_for(self, environment: str, workflow: str, tool: str, risk_class: str | None) -> Gate | None:
        """The most specific gate that matches an action; None where none does.

        Args:
            environment: Of the action's target.
            workflow: Of the action.
            tool: Of the action.
            risk_class: The action's risk class; None where it is unknown.

        Raises:
            GateTieError: Two gates match equally well.
        """
        matching = [gate for gate in self.gates if gate.match.covers(environment, workflow, tool, risk_class)]
        matching.sort(key=lambda gate: gate.match.specificity, reverse=True)
        if len(matching) > 1 and matching[0].match.specificity == matching[1].match.specificity:
            raise GateTieError(
                f"the gates `{matching[0].name}` and `{matching[1].name}` match {environment}/{workflow}/{tool} "
                "equally well; name more of the action in one of them"
            )
        return matching[0] if matching else None
