"""Simulated actions that take their stage from a real flag file, as the router's actions do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from producers.boundary.decision_rules import apply_rules
from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_stages import with_stage
from producers.boundary.new_flags import new_flag
from producers.boundary.policy_flags import APPROVAL_REQUIRED, FLAGS
from producers.boundary.stage_store import ActionName, StageChange
from producers.simulation.behaviour import DrawnAction
from producers.wire.decision import Authorization
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from producers.boundary.flags import FlagEvaluator, FlagValues
    from producers.boundary.policy_flags import Context
    from producers.simulation.behaviour import Phase, SimulatedAction
    from producers.simulation.scenarios import Scenario
    from producers.wire.contract import ActionContract

ENVIRONMENT = "production"  # of every simulated action


def write_flags(path: Path, scenario: Scenario) -> None:
    """Write a flag file with an entry for every action of a scenario, at the stage where its career begins."""
    flags = {flag.key: new_flag(flag, owner="demonstration") for flag in FLAGS}
    flags[APPROVAL_REQUIRED.key]["defaultVariant"] = "off"  # whoever must be asked is, by the mode
    text = FlagText.from_bytes(path, (json.dumps({"flags": flags}, indent=2) + "\n").encode())
    for action in scenario.actions:
        name = ActionName(ENVIRONMENT, action.workflow, action.tool)
        text = with_stage(text, StageChange(name, MODE_OF_STAGE[action.phases[0].stage], text.sha256))
    path.write_bytes(text.content)


class FlaggedStages:
    """What a flag file says of simulated actions, now and when the present began."""

    def __init__(self, flags: FlagEvaluator) -> None:
        self._flags = flags
        self._before: dict[str, FlagValues] = {}

    def values(self, action: SimulatedAction, *, live: bool) -> FlagValues:
        """The values of all flags for an action: as they are now, or, unless `live`, as they were at the first look."""
        key = f"{action.workflow}/{action.tool}"
        if live or key not in self._before:
            now = self._flags.evaluate(_context(action))
            self._before.setdefault(key, now)
            return now
        return self._before[key]


def phase_under(phase: Phase, values: FlagValues) -> Phase:
    """A phase at the stage that the flags give: nobody reviews above the stage that is gated by approval."""
    stage = STAGE_OF_MODE[values.mode]
    if stage is phase.stage:
        return phase
    behaviour = phase.behaviour.having(queued=0.0) if stage.rank > Stage.APPROVAL_GATED.rank else phase.behaviour
    return replace(phase, stage=stage, behaviour=behaviour, expected=None, why=f"moved from {phase.stage}")


def drawn_under(drawn: DrawnAction, contract: ActionContract, values: FlagValues, *, scripted: Stage) -> DrawnAction:
    """A drawn action as the flags let it be decided: below its scripted stage the router's own rules narrow it."""
    decision = drawn.decision.model_copy(update={"flags": values.evaluations, "ruleset_sha256": values.ruleset_sha256})
    if STAGE_OF_MODE[values.mode].rank >= scripted.rank:
        return replace(drawn, decision=decision)
    permitted = Authorization(permitted=True, rule="role-allows-tool")
    ruled = apply_rules(contract, permitted, values.ruleset_sha256, values, frozenset()).decision
    if ruled.expects_execution and decision.expects_execution:
        return replace(drawn, decision=decision)
    narrowed = decision.model_copy(update={"result": ruled.result, "enforced": ruled.enforced})
    # What would have run, and was drawn as denied, is denied all the same.
    return DrawnAction(decision if narrowed.expects_execution else narrowed, ())


def _context(action: SimulatedAction) -> Context:
    attributes = {"environment": ENVIRONMENT, "risk_class": action.risk_class.value, "tool": action.tool}
    return f"{action.workflow}-agent", tuple(sorted({**attributes, "workflow": action.workflow}.items()))
