"""The life of a recommendation as a row of four steps, and the proof that a change is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics.enactment.enactments import Life
from dashboard import labels
from dashboard.components.html import Child, Markup, tag
from dashboard.components.symbols import symbol

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.backtest.recommendation_outcomes import Followed
    from dashboard.data.proven_change import Proof

_ENDED: Final = frozenset({Life.DISMISSED, Life.EXPIRED, Life.SUPERSEDED})


def life_steps(one: Followed, proof: Proof | None, now: datetime, deadline_s: float) -> Markup:
    """Open, accepted, applied, in force: how far it is, and what is waited for."""
    opened = _step("Open", "done", labels.timed(one.recommendation.at), ", by evidence")
    if proof is None:
        ended = one.life in _ENDED
        accepted = one.life is Life.ACCEPTED
        second = (
            _step(one.life.value.capitalize(), "ended", "nothing was changed")
            if ended
            else _step("Accepted", "done" if accepted else "", "" if accepted else "waits for one operator")
        )
        within = f"all routers, within {labels.span(deadline_s)}"
        steps = [opened, second, _step("Applied", ""), _step("In force", "", within)]
    else:
        by = proof.made.by
        accepted_by = _step("Accepted", "done", f"by {by}")
        applied = _step("Applied", "done", labels.timed(proof.made.step.at), f" in {proof.made.step.store}")
        steps = [opened, accepted_by, applied, _in_force(proof, now)]
    return tag("ol", steps, class_="sk-life", aria_label="Life of the recommendation")


def _in_force(proof: Proof, now: datetime) -> Markup:
    effect = proof.effect
    heard = f"{len(effect.heard)} of {proof.routers}"
    if effect.is_in_force and effect.began_at is not None:
        seconds = max((effect.began_at - proof.made.step.at).total_seconds(), 0.0)
        return _step("In force", "done", f"at all {len(effect.heard)} routers, after {seconds:.1f} s")
    if effect.late:
        return _step(
            "Not in force", "late", symbol("late"), f"{heard}: ", ", ".join(effect.late), " decide by the old stage"
        )
    left_s = (proof.deadline - now).total_seconds()
    if not proof.routers:
        return _step("In force", "", "no router has decided this action since; the next decision shows it")
    if left_s > 0:
        return _step("In force", "", f"{heard} · {left_s:.0f} s left")
    return _step("In force", "", f"{heard}; the others have not decided since")


def _step(name: str, state: str, *note: Child) -> Markup:
    mark = symbol("pass") if state == "done" else symbol("late") if state == "late" else symbol("NONE")
    return tag("li", tag("b", mark, name), tag("span", note), class_=f"sk-life-{state}" if state else None)
