"""What a verdict takes for granted, and what it warns of, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics.signals.definitions import SIGNALS
from analytics.text import iso, percent
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import Gate
    from analytics.verdicts.evidence_models import RateCourseShown, SignalEvidence
    from analytics.verdicts.verdict import EpochsBeside, Exposure, Regrade, VerdictInputs
    from producers.wire.receipt import Cell

_HEURISTIC: Final = "a warning, by a heuristic that decides nothing"


def independence(signals: Sequence[SignalEvidence]) -> str | None:
    """What signals that are counted by action take for granted; None where all that is weighed is counted by user."""
    weighed = [part for part in signals if part.log_e_harm is not None]
    by_action = [part.signal for part in weighed if part.by == "action"]
    if not by_action:
        return None
    of_some = "" if len(by_action) == len(weighed) else f" of {', '.join(dict.fromkeys(by_action))}"
    return f"assumes independent actions{of_some}"


def unit(seen: Exposure, signals: Sequence[SignalEvidence]) -> str:
    """What one observation is, and what that takes for granted."""
    assumed = independence(signals)
    if not any(part.by == "user" for part in signals):
        why = ": the lake names no user of these actions" if seen.users is not None and not seen.by_user else ""
        return f"counted by action{why}; {assumed or 'assumes independent actions'}"
    unnamed = f", and {seen.unnamed:,} actions that name no user" if seen.unnamed else ""
    until = "" if seen.as_of is None else f" up to {iso(seen.as_of)}"
    rest = "" if assumed is None else f"; {assumed}"
    return (
        f"counted by user where the gate asks for it: {seen.users or 0:,} users in closed windows{until}{unnamed}{rest}"
    )


def rising(course: RateCourseShown | None) -> str:
    """A warning of a newest day that failed more often than those before."""
    if course is None:
        return _HEURISTIC
    failed, before = course.failed_of_day, course.failed_before
    return (
        f"failures are rising: {percent(failed / max(course.windows_of_day, 1))} of the user-windows of "
        f"{course.day:%Y-%m-%d} failed ({failed:,} of {course.windows_of_day:,}), "
        f"{percent(before / max(course.windows_before, 1))} before ({before:,} of {course.windows_before:,}): "
        f"{_HEURISTIC}"
    )


def uneven_hours(course: RateCourseShown | None) -> str:
    """A warning of an hour of day that fails more often than others."""
    if course is None:
        return _HEURISTIC
    share = percent(course.failed_of_worst_hour / max(course.windows_of_worst_hour, 1))
    return (
        f"failures differ by hour of day: most fail from {course.worst_hour:02}:00 UTC, {share} of the user-windows "
        f"({course.failed_of_worst_hour:,} of {course.windows_of_worst_hour:,}): {_HEURISTIC}"
    )


def late_outcomes(inputs: VerdictInputs) -> str:
    """That the outcomes came for which an epoch had been rolled back."""
    latch = inputs.latches[VerdictName.ROLL_BACK]
    then = "; ".join(
        f"{part.signal} {part.failures:,} of {part.trials:,} {SIGNALS[part.signal].trial}"
        for part in latch.overdue or ()
    )
    left = sum(int(str(inputs.evidence[name])) for name in ("mature_missing", "pending", "in_flight"))
    return (
        f"verdict {latch.verdict_id} had rolled this epoch back for overdue outcomes alone ({then}); all but {left:,} "
        "have been reported since, so that rollback does not stand, and the evidence decides again"
    )


def late_harm(made: Sequence[Regrade]) -> str:
    """That outcomes of an epoch that is over showed harm, to which one that had begun already is no answer."""
    newest = made[-1]
    others = f" ({len(made) - 1} more such)" if len(made) > 1 else ""
    return (
        f"the earlier epoch `{newest.shown.epoch}` turned out harmful once it was over{others}, and this one had begun "
        f"before that was known at {iso(newest.known_at)}, so it is no answer to it (verdict {newest.shown.verdict_id})"
    )


def beside(epoch: str, beside: EpochsBeside) -> str:
    """That a verdict is of an epoch beside the newest one, and how much of the traffic it makes."""
    share = beside.share_of(epoch)
    if share is None:
        made = "a share of the decisions that is not known any more, as nothing was decided for long"
    else:
        made = f"{percent(share[0] / share[1])} of the decisions ({share[0]:,} of {share[1]:,} within an hour)"
    return (
        f"this epoch, `{epoch}`, goes on beside the newest one, `{beside.current}`, and makes {made}: of several that "
        "are alive the worst speaks for the cell"
    )


def is_baseline(cell: Cell, gate: Gate) -> str:
    """That a cell is what others are compared with."""
    compared = ", ".join(dict.fromkeys(part.signal for part in gate.at(cell.stage) if part.is_compared))
    if gate.baseline.cohort is not None:
        return (
            f"the cohort `{cell.cohort}` is what others are compared with, and is compared with nothing itself, so no "
            f"number of actions shows it safe in {compared}"
        )
    return (
        f"{cell.stage} is the foot of the ladder: what is above is compared with it, and it with nothing, so no number "
        f"of actions shows it safe in {compared}; to promote it by other signals, leave it out of the `stages` of these"
    )
