"""The two routers of `time_to_safe.py`, each a process of its own: one does harm, the other sees when that is over.

    python benchmarks/loop_routers.py harm PLAN
    python benchmarks/loop_routers.py watch PLAN

Both do what a plan says, and print one JSON line for each tool of it: when its first harmful outcome was produced, and
when its first decision was constrained or refused. Moments are `time.time()` of one machine.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import stagekeeper as sk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEALTHY = 30
"""Actions of each tool before its harm."""
FAILURES = 60
"""Failing actions, where the harm is a rate; where it is one severe incident, that alone crosses."""

_LOOK_EVERY_S = 0.02
_AHEAD_S = 0.25
_PATIENCE_S = 180.0


@dataclass(frozen=True)
class Harm:
    """What goes wrong with one tool.

    Attributes:
        tool: Its name.
        at_s: When, after the start.
        kind: `incident`, which is one outcome, or `failures`.
    """

    tool: str
    at_s: float
    kind: str


@dataclass(frozen=True)
class Plan:
    """What the routers do.

    Attributes:
        start_s: Moment from which harms are counted.
        flags: The flag file.
        authorization: The authorization file.
        harms: In the order of their moments.
    """

    start_s: float
    flags: str
    authorization: str
    harms: tuple[Harm, ...]

    def save(self, path: Path) -> None:
        """Write it for the routers to read."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read it."""
        stated = json.loads(path.read_text())
        return cls(**{**stated, "harms": tuple(Harm(**each) for each in stated["harms"])})


class ToolError(Exception):
    """What a tool that goes wrong raises."""


class Tools:
    """The plan's tools behind one router.

    Args:
        router: The router.
        plan: What it does.
    """

    def __init__(self, router: sk.Router, plan: Plan) -> None:
        self._broken: set[str] = set()
        self._router = router
        self._calls = {harm.tool: self._routed(harm.tool) for harm in plan.harms}

    def _routed(self, tool: str) -> Callable[[], sk.ActionResult]:
        def run() -> None:
            if tool in self._broken:
                raise ToolError(tool)

        how = {"workflow": "refunds", "system": "billing", "risk_class": "reversible_write", "reversibility": "manual"}
        return self._router.action(tool=tool, **how)(run).perform  # type: ignore[attr-defined,arg-type,no-any-return]

    def act(self, tool: str) -> sk.ActionResult:
        """One action; what it came to."""
        return self._calls[tool]()

    def is_free(self, tool: str) -> bool:
        """Whether the next decision allows the action as it was asked for."""
        try:
            return self.act(tool).permit.constrained_to is None
        except sk.RefusedError:
            return False

    def do(self, harm: Harm) -> float:
        """Do a harm; when its first outcome was produced."""
        if harm.kind == "incident":
            receipt = self.act(harm.tool).receipt
            at_s = time.time()
            self._router.report_impact(receipt, sk.Incident(severity=1))
            return at_s
        self._broken.add(harm.tool)
        at_s = time.time()
        for _ in range(FAILURES):
            try:
                self.act(harm.tool)
            except ToolError:
                continue
        return at_s


def harm(tools: Tools, plan: Plan) -> Iterator[tuple[str, float]]:
    """Act well, then do each harm at its moment."""
    for each in plan.harms:
        for _ in range(HEALTHY):
            tools.act(each.tool)
    for each in plan.harms:
        time.sleep(max(0.0, plan.start_s + each.at_s - time.time()))
        yield each.tool, tools.do(each)


def watch(tools: Tools, plan: Plan) -> Iterator[tuple[str, float]]:
    """Decide each tool again and again from shortly before its harm until it is constrained."""
    watched: list[Harm] = []
    left = list(plan.harms)
    while watched or left:
        elapsed_s = time.time() - plan.start_s
        while left and left[0].at_s - _AHEAD_S <= elapsed_s:
            watched.append(left.pop(0))
        for each in list(watched):
            at_s = time.time()
            if tools.is_free(each.tool):
                if at_s > plan.start_s + each.at_s + _PATIENCE_S:
                    raise SystemExit(f"{each.tool} was still allowed {_PATIENCE_S:.0f} s after its harm")
                continue
            if at_s < plan.start_s + each.at_s:
                raise SystemExit(f"{each.tool} was constrained before its harm: nothing is measured")
            watched.remove(each)
            yield each.tool, at_s
        time.sleep(_LOOK_EVERY_S)


def main(role: str, path: str) -> None:
    """Be one of the two."""
    plan = Plan.load(Path(path))
    files = {"authorization": plan.authorization, "flags": plan.flags}
    with sk.open_router(source=f"/routers/{role}", environment="production", agent="agent", **files) as router:
        for tool, at_s in {"harm": harm, "watch": watch}[role](Tools(router, plan), plan):
            print(json.dumps([tool, at_s]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
