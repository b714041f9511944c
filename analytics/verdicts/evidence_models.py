"""Evidence as the verdict document holds it: signals, splits, regressions, reassessments.

Logarithms are natural. What is unknown is null.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from analytics.evidence.sample_ratio import ALPHA
from analytics.gates.gate_file import Claim
from analytics.gates.gate_signal import CountBy, Role
from analytics.text import Unit
from producers.wire.events import VerdictName
from producers.wire.model import Moment

SignalState = Literal["pass", "fail", "undecided", "missing", "not_applicable"]
VerdictClaim = Literal["traffic_seen", Claim]  # of whom a verdict speaks
SplitState = Literal["as_declared", "mismatch", "undeclared"]

SPLIT_THRESHOLD: Final = -math.log(ALPHA)  # evidence (a natural logarithm) that a mismatch takes


class DocumentPart(BaseModel):
    """Base of everything in a verdict document: frozen, strict about fields, unknown is null."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


RegressionPart = Literal["windows", "first_actions", "heavy_users"]


class Regression(DocumentPart):
    """What the change detector says about one guardrail after a promotion."""

    log_level: float | None = None
    """The detector's level; null before the first minute."""
    threshold: float
    """The level at which it alarms."""
    since: Moment | None = None
    """The minute, or the beginning of the user-window, that raised the alarm; null where none did."""
    failures: int = 0
    """Failed trials within its window."""
    trials: int = 0
    """Trials within its window."""
    window_s: float
    """How far back these are counted, seconds; the level goes by at least the last 28 days of the epoch."""
    by: CountBy = "action"
    """What one observation is."""
    part: RegressionPart = "windows"
    """By user: whether closed windows are told of, users' first actions, or the blocks of heavy users."""
    windows: int | None = None
    """Closed user-windows within its window; null where it is not those that are counted."""
    value: float | None = None
    """The rate within its window: failures over trials, or the failed share of the average user-window."""
    assumes: str
    """What the level takes for granted."""


class FirstActionRate(DocumentPart):
    """Users' first due actions, one for each of a user's windows, those of open windows among them."""

    failures: int
    """Those known to have failed."""
    trials: int
    """All that were due to run."""
    log_e_harm: float
    """Evidence that the limit is broken."""
    harm_threshold: float
    """How much of it shows harm by first actions alone."""


class HeavyUserRate(DocumentPart):
    """Actions of heavy users: of those who made a tenth of the actions, and a hundred, in the window before."""

    failures: int
    """Failed actions in whole blocks of twenty."""
    trials: int
    """All actions in them."""
    share: float
    """Their share of all due actions."""
    log_e_harm: float
    """Evidence that all actions together break the limit, whatever the others did."""
    harm_threshold: float
    """How much of it shows harm by heavy users alone."""


class AboveLimit(DocumentPart):
    """By user, the share of what lies above a quantile's limit in the average user-window."""

    value: float | None
    """The share; null without windows."""
    lower: float
    """Its lower bound, at the error level that `harm_threshold` stands for."""
    upper: float
    """Its upper bound, at the error level that `safe_threshold` stands for."""
    allowed: float
    """The share that may lie above the limit: .05 of a 95 % quantile."""


class FirstWindowRate(DocumentPart):
    """Different users, each by the first closed window of the epoch: what a claim about users to come rests on."""

    users: int
    """Different users whose first window has trials."""
    value: float | None
    """The failed share of the average first window; null without any."""
    least: int
    """How many different users the claim takes, none of them with a failure."""
    log_e_seen: float
    """Evidence that the limit is kept among the users seen; `safe_threshold` shows it."""


class PooledRate(DocumentPart):
    """The actions of all users together, beside the average user."""

    failures: int
    """Failed ones, unreported ones among them."""
    trials: int
    """Actions in closed user-windows that a promotion may count."""
    value: float | None
    """Failures over trials."""
    design_effect: float
    """How many actions say as much as one independent action."""
    heaviest: float | None
    """The share of these actions that the heaviest single user-window made."""
    log_e_safe: float
    """Evidence that the limit is kept; `safe_threshold` shows safety."""


class SignalEvidence(DocumentPart):
    """What one signal of the gate says about a cell."""

    signal: str
    role: Role
    state: SignalState
    """`fail` where harm is evident, `pass` where safety is, `missing` without trials, `not_applicable` where nothing
    is asked of it."""
    value: int | float | None
    """The rate, quantile or count as measured, in `unit`; by user, the failed share of the average user-window."""
    failures: int
    """Failed trials; for a quantile, observations above the limit."""
    trials: int
    """Trials whose outcome is known; for a quantile, known observations."""
    unreported: int = 0
    """Trials that are due and whose outcome is not known: no harm for a rollback, no safety for a promotion."""
    limit: int | float | None
    """The limit in force, in `unit`; a quantile's is moved to the nearest bound of its histogram."""
    unit: Unit
    """Unit of `value`, `limit`, `lower` and `upper`."""
    lower: float | None = None
    """Lower confidence bound at the error level that `harm_threshold` stands for."""
    upper: float | None = None
    """Upper confidence bound at the error level that `safe_threshold` stands for."""
    log_e_harm: float | None = None
    """Evidence that the limit is broken."""
    log_e_safe: float | None = None
    """Evidence that the limit is kept."""
    harm_threshold: float | None = None
    """How much `log_e_harm` shows harm by this signal alone."""
    safe_threshold: float | None = None
    """How much `log_e_safe` shows safety."""
    more_needed: int | None = None
    """More trials until safety is shown at the present rate; 0 where it is shown, null where this rate never shows it
    or nothing is asked."""
    more_to_harm: int | None = None
    """More trials until harm is shown by this signal alone at the present rate; 0 and null likewise."""
    weight: float | None = None
    """A guardrail's share of alpha; null for other roles."""
    mature_failures: int = 0
    """Failed ones among `mature_trials`."""
    mature_trials: int = 0
    """Trials that a promotion may count; unreported ones among them count as failed."""
    by: CountBy = "action"
    """What one observation is: a single action, or a user's closed window."""
    windows: int | None = None
    """Closed user-windows; null where it is counted by action."""
    first_actions: FirstActionRate | None = None
    """What users' first actions say, before their windows close; null where it is counted by action, or fails late."""
    heavy_users: HeavyUserRate | None = None
    """What heavy users' actions say; null where there are none, and where it is counted by action or fails late."""
    pooled: PooledRate | None = None
    """Of users' windows, what all their actions together say; null where it is counted by action."""
    above_limit: AboveLimit | None = None
    """Of a quantile that is counted by user, what lies above its limit, in place of bounds; null elsewhere."""
    users_to_come: FirstWindowRate | None = None
    """What the evidence that the limit is kept rests on where a promotion claims users to come; null elsewhere."""
    assumes: str | None = None
    """What the evidence takes for granted; null where nothing is weighed."""
    needs_data: bool = False
    """Whether a promotion has to wait while there are no trials."""
    dry_run: bool = False
    """Whether it is shown and does nothing."""
    regression: Regression | None = None
    """What the change detector says after a promotion; null where it does not watch."""
    contribution: float | None = None
    """Its share of the combined evidence of the guardrails; null where it has no part in it."""


class RateCourseShown(DocumentPart):
    """How failures lie in time, over user-windows in which anything was due: a heuristic, which decides nothing.

    A window has failed where any action in it failed, timed out, was undone or led to an incident.
    """

    day: Moment
    """Beginning of the newest day (UTC) that is over."""
    windows_of_day: int
    """User-windows that closed on that day."""
    failed_of_day: int
    """Failed ones among them."""
    windows_before: int
    """User-windows that closed before that day."""
    failed_before: int
    """Failed ones among them."""
    log_e_rising: float
    """Evidence that the newest day fails more than those before."""
    worst_hour: int
    """The hour of day (UTC) with most failed windows beyond its share."""
    windows_of_worst_hour: int
    """User-windows that opened in that hour of any day."""
    failed_of_worst_hour: int
    """Failed ones among them."""
    log_e_uneven_hours: float
    """Evidence that the rate differs by hour of day."""
    threshold: float
    """Evidence from which on a verdict warns."""


class SplitArm(DocumentPart):
    """One arm of a declared split of traffic."""

    arm: str
    """The cohort, or the stage."""
    declared: float
    """Its declared share, a ratio."""
    assigned: int
    """What was assigned to it."""
    share: float | None
    """Its share of all assignments; null without any."""


class SplitEvidence(DocumentPart):
    """What the assignments say about the split that the gate declares (sample ratio mismatch)."""

    state: SplitState
    """`mismatch` once the evidence has ever reached its threshold; `undeclared` where the cell is in no arm."""
    by: Literal["cohort", "stage"]
    """What tells the arms apart."""
    unit: CountBy
    """What one assignment is."""
    arm: str
    """The arm of the cell that is judged."""
    since: Moment
    """From when on assignments are counted."""
    until: Moment
    """Up to when."""
    arms: tuple[SplitArm, ...]
    """The declared arms, in the order of the gate file."""
    outside: int
    """Assignments to no declared arm; they are left out."""
    crossed: int | None
    """Users who were seen in more than one arm; null where actions are counted."""
    log_e: float
    """Evidence against the declared shares now."""
    log_e_highest: float
    """The highest that it ever was: a crossing stands."""
    threshold: float = SPLIT_THRESHOLD
    """Evidence that a mismatch takes."""
    mismatch_at: Moment | None
    """The end of the minute, or user-window, by which it first sufficed; null where it never did."""

    @property
    def assigned(self) -> int:
        """Assignments to the declared arms in all."""
        return sum(arm.assigned for arm in self.arms)

    @property
    def broken(self) -> bool:
        """Whether nothing that compares the arms can be believed."""
        return self.state != "as_declared"


class Reassessment(DocumentPart):
    """A verdict on an epoch that is over, reached because outcomes of it came late."""

    epoch: str
    verdict_id: str
    """The new verdict on it."""
    verdict: VerdictName
    summary: str
