"""The enactor in a storm: a flag file whose stages fall one after the other, and whether all records of it agree."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from analytics.enactment.due_changes import Done
from analytics.enactment.enactments import SOURCE, enactments
from analytics.enactment.standing_calls import StandingCalls
from analytics.lake.table_schemas import EVENTS
from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_stages import FlagdStages, settings_of, stage_steps
from producers.boundary.stage_store import ActionName, StageChange
from producers.simulation.flagged_stages import ENVIRONMENT, write_flags
from producers.wire.events import VerdictName
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE, Mode

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.lake.tables import Lake
    from producers.simulation.scenarios import Scenario

_GATE = """\
  - name: {tool}
    unit: action
    match: {{environment: production, tool: {tool}}}
    on_roll_back: {does}
    signals:
      - {{signal: execution_error, role: guardrail, limit: 0.0005}}
      - {{signal: undo, role: guardrail, limit: 0.0005}}
      - {{signal: denial, role: guardrail, limit: 0.0005}}
"""


@dataclass
class Enacted:
    """What the workers of a storm enact.

    Every action above `search_only` fails its gate. Half of them are rolled back from the start, the others from the
    moment at which the storm wants a change, to kill the enactor amid it.
    """

    folder: Path
    scenario: Scenario
    before: dict[ActionName, Mode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flags, self.gates = self.folder / "flags" / "flags.json", self.folder / "gates.yaml"
        self.flags.parent.mkdir(parents=True)
        write_flags(self.flags, self.scenario)
        stages = FlagdStages(self.flags)
        for action in self.scenario.actions:
            name, mode = ActionName(ENVIRONMENT, action.workflow, action.tool), MODE_OF_STAGE[action.phases[-1].stage]
            stages.change(StageChange(name, mode, stages.read(name).version), before_write=lambda _: None)
            self.before[name] = mode
        self.began = datetime.now(UTC)
        self.let(every=False)

    @property
    def environment(self) -> dict[str, str]:
        """Of the workers."""
        return {
            "STAGEKEEPER_GATE_FILE": str(self.gates),
            "STAGEKEEPER_FLAG_FILE": str(self.flags),
            "STAGEKEEPER_ENACT": "true",
        }

    @property
    def version(self) -> str:
        """Of the flag file."""
        return hashlib.sha256(self.flags.read_bytes()).hexdigest()

    def let(self, *, every: bool) -> None:
        """Have all rollbacks carried out, or every second one."""
        tools = sorted({name.tool for name in self.before})
        gates = [
            _GATE.format(tool=tool, does="apply" if every or number % 2 == 0 else "recommend")
            for number, tool in enumerate(tools)
        ]
        draft = self.gates.with_suffix(".draft")
        draft.write_text("version: 1\ninterval: 1s\nfreshness: 12h\ngates:\n" + "".join(gates))
        draft.rename(self.gates)

    def disagreements(self, lake: Lake) -> list[str]:
        """Where flag file, enactments, ledger and policy changes do not say the same."""
        found: list[str] = []

        def compare(what: str, one: object, other: object) -> None:
            if one != other:
                found.append(f"{what}: {one}, and not {other}")

        past = enactments(lake)
        made = [step for one in past.values() if (step := one.applied) is not None]
        now = {setting.action: setting.mode for setting in settings_of(FlagText.load(self.flags))}
        expected = self.before | {step.action: step.mode_after for step in made}
        compare("the flag file has the modes", now, expected)
        moved = Counter(
            (step.after.action, step.after.mode) for step in stage_steps(self.flags) if step.at > self.began
        )
        compare("the file's versions show", moved, Counter((step.action, step.mode_after) for step in made))
        ids = lake.scan(EVENTS).filter(pl.col("source") == SOURCE).select("id").collect()["id"].sort().to_list()
        compare("the policy changes are", ids, sorted(step.event_id for step in made))
        compare("changes are open", [one.last.action for one in past.values() if not one.is_settled], [])
        calls, done = StandingCalls(lake), Done(past.values())
        calls.refresh()
        left = [
            call.action
            for call in calls.by_cell.values()
            if call.verdict == VerdictName.ROLL_BACK
            and (mode := now.get(call.action)) is not None
            and STAGE_OF_MODE[mode] == call.cell.stage != call.to_stage  # from the lowest stage nothing goes down
            and not done.covers(call.key, call.crossed)
        ]
        compare("rollbacks are called for and not carried out", left, [])
        if not made:
            found.append("nothing was rolled back: the storm shows nothing about the enactor")
        return found
