"""Quality suites as data: the expectations for every event of a type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from producers.wire import events
from producers.wire.contract import RiskClass
from producers.wire.decision import Provenance
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Severity = Literal["critical", "warning"]
CRITICAL: Final = "critical"
WARNING: Final = "warning"

CLOCK_TOLERANCE_S: Final = 300.0  # how far the clocks of two machines may be apart
LONGEST_LATENCY_MS: Final = 3_600_000.0
LEAST_KNOWN_RATIO: Final = 0.9  # below this share of known latencies or costs, quantiles stand on thin ground


@dataclass(frozen=True)
class Check:
    """One expectation about one fact."""

    fact: str  # name of the fact, as in `analytics.audit.facts`
    kind: str  # name of the great-expectations class
    meaning: str  # what a failure means to a person
    arguments: Mapping[str, object] = field(default_factory=dict)  # further arguments of that class
    when: tuple[str, tuple[str, ...]] | None = None  # rows with one of these values of a fact; None is all rows
    severity: Severity = CRITICAL  # a failed `critical` check fails the run; a `warning` is only shown


_When = tuple[str, tuple[str, ...]] | None


def _present(fact: str, meaning: str, *, when: _When = None, severity: Severity = CRITICAL, mostly: float = 1) -> Check:
    return Check(fact, "ExpectColumnValuesToNotBeNull", meaning, {"mostly": mostly}, when, severity)


def _absent(fact: str, meaning: str, *, when: _When = None, severity: Severity = CRITICAL) -> Check:
    return Check(fact, "ExpectColumnValuesToBeNull", meaning, {}, when, severity)


def _one_of(
    fact: str, values: Iterable[str], meaning: str, *, when: _When = None, severity: Severity = CRITICAL
) -> Check:
    return Check(fact, "ExpectColumnValuesToBeInSet", meaning, {"value_set": [*values]}, when, severity)


def _between(
    fact: str, low: float | None, high: float | None, meaning: str, *, when: _When = None, severity: Severity = CRITICAL
) -> Check:
    return Check(fact, "ExpectColumnValuesToBeBetween", meaning, {"min_value": low, "max_value": high}, when, severity)


_LIVE: Final = ("provenance", (Provenance.LIVE.value,))
_REFUSED_OR_LESSENED: Final = ("constrain", "queue_for_review", "deny", "fallback")


def _envelope(event_class: type[events.Event]) -> list[Check]:
    return [
        _absent("fault", "the bytes in the lake are not the event that is published"),
        _absent("unpublished", "a writer uses fields that are not published", severity=WARNING),
        _absent("row_differs", "a column of the lake says something else than the bytes beside it"),
        _present("id", "an event has no id, so it cannot be counted once"),
        Check("id", "ExpectColumnValuesToBeUnique", "the same event was kept twice"),
        _present("source", "nobody is named as the sender"),
        _one_of("dataschema", [events.schema_id(event_class)], "the event names another schema", severity=WARNING),
        _between("ahead_of_arrival_s", None, CLOCK_TOLERANCE_S, "the event lies in the future of its arrival"),
    ]


_RECEIPT: Final = [
    _absent("receipt_fault", "the receipt is unreadable, or of another decision or cell"),
    _present("decided_at", "the event belongs to no minute"),
    _between("decided_ahead_s", None, CLOCK_TOLERANCE_S, "the event happened before its decision"),
    _one_of("stage", [stage.value for stage in LADDER], "the stage is not on the ladder"),
    _present("epoch", "the event belongs to no epoch"),
]

_DECIDED: Final = [
    _present("outcome", "nothing was decided"),
    _one_of("outcome", ["allow", *_REFUSED_OR_LESSENED], "the outcome is none of the five"),
    _present("reason", "an action was denied or lessened without a reason", when=("outcome", _REFUSED_OR_LESSENED)),
    _present("mode", "it is not said what the action was lessened to", when=("outcome", ("constrain", "fallback"))),
    _one_of(
        "outcome", ["deny", "fallback"], "a flag widened what authorization refused", when=("permitted", ("false",))
    ),
    _present("agent", "the contract names no agent"),
    _present(
        "owner",
        "the contract names no user, account or service identity to answer for it",
        when=_LIVE,
        severity=WARNING,
    ),
    _one_of("risk_class", [risk.value for risk in RiskClass], "the risk class is unknown"),
    _one_of(
        "reversibility",
        ["expensive", "none"],
        "an irreversible action claims to be easy to take back",
        when=("risk_class", (RiskClass.IRREVERSIBLE.value,)),
        severity=WARNING,
    ),
    _one_of("provenance", [origin.value for origin in Provenance], "it is unknown how the decision came to be known"),
    _between("flag_count", 1, None, "a live decision shows no flag that it rests on", when=_LIVE),
    _present("flag_count", "a live decision shows no flag that it rests on", when=_LIVE),
    _present("permitted", "a live decision does not record hard authorization", when=_LIVE, severity=WARNING),
    _present("ruleset_sha256", "a live decision does not name its policy", when=_LIVE, severity=WARNING),
    _between("decide_ms", 0, 60_000, "deciding took over a minute", severity=WARNING),
]

_ENDED_BADLY: Final = (events.ExecutionStatus.FAILED.value, events.ExecutionStatus.TIMED_OUT.value)

_EXECUTED: Final = [
    _present("status", "it is not said how the execution ended"),
    _one_of("status", [status.value for status in events.ExecutionStatus], "the status is unknown"),
    _between("latency_ms", 0, LONGEST_LATENCY_MS, "a latency is negative or above an hour"),
    _present(
        "latency_ms",
        f"fewer than {LEAST_KNOWN_RATIO:.0%} of the latencies are known",
        severity=WARNING,
        mostly=LEAST_KNOWN_RATIO,
    ),
    _between("cost_usd", 0, None, "a cost is negative"),
    _present("error_type", "a failure does not name its class", when=("status", _ENDED_BADLY)),
    _absent("error_type", "a success names an error", when=("status", (events.ExecutionStatus.SUCCEEDED.value,))),
]

_UNDONE: Final = [
    _present("undo_result", "it is not said what came of the undo"),
    _one_of("undo_result", [result.value for result in events.UndoResult], "the result of the undo is unknown"),
    _present("undo_reason", "an undo has no reason", severity=WARNING),
]

_IMPACT: Final = [
    _present("kind", "it is not said what kind of impact this is"),
    _one_of("kind", ["incident", "support", "quality"], "the kind of impact is unknown"),
    _present("severity", "an incident has no severity", when=("kind", ("incident",))),
    _between("severity", 1, 5, "a severity is not between 1 and 5"),
    _present("quality_passed", "a quality evaluation does not say whether it passed", when=("kind", ("quality",))),
]

_REVIEWED: Final = [
    _one_of("resolution", [word.value for word in events.Resolution], "the resolution is unknown"),
    _present("resolution", "it is not said what the reviewer decided"),
    _present("reviewer", "a review names no reviewer"),
    _present("rationale", "a review gives no rationale"),
    _between("wait_ms", 0, None, "a wait is negative"),
]

_CHANGED: Final = [
    _present("flag_key", "it is not said which flag was changed"),
    _present("changed_by", "it is not said who changed the flag"),
    _present("change_reason", "it is not said why the flag was changed"),
    Check("changed", "ExpectColumnValuesToBeInSet", "nothing was changed", {"value_set": ["true"]}, severity=WARNING),
]

_RECOMMENDED: Final = [
    _one_of("verdict", [verdict.value for verdict in events.VerdictName], "the verdict is unknown"),
    _present("verdict", "a recommendation has no verdict"),
    _between("reason_count", 1, None, "a verdict has no reason"),
    _one_of("to_stage", [stage.value for stage in LADDER], "the stage to go to is not on the ladder"),
    _present("to_stage", "a promotion does not say where to", when=("verdict", (events.VerdictName.PROMOTE.value,))),
    _between("watermark_ahead_s", None, CLOCK_TOLERANCE_S, "the verdict knows events from after it was published"),
]

_OWN: Final[Mapping[type[events.Event], list[Check]]] = {
    events.ActionDecided: [*_RECEIPT, *_DECIDED],
    events.ActionExecuted: [*_RECEIPT, *_EXECUTED],
    events.ActionUndone: [*_RECEIPT, *_UNDONE],
    events.ActionImpact: [*_RECEIPT, *_IMPACT],
    events.ReviewResolved: [*_RECEIPT, *_REVIEWED],
    events.PolicyChanged: _CHANGED,
    events.StageRecommended: _RECOMMENDED,
    events.RouterStatus: [],  # it does not come to the lake; one that was sent to another topic is held to the envelope
}

SUITES: Final[Mapping[str, tuple[Check, ...]]] = {
    events.type_of(event_class): (*_envelope(event_class), *_OWN[event_class]) for event_class in events.EVENT_CLASSES
}
"""The checks of each type of event, by the type's name."""
