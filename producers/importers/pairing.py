"""Which result answers which call: the newest group of calls, by id, then by the tool's name, then in order.

Model servers repeat ids: some number the calls of each turn anew, some leave ids empty. So an id means the newest
group of calls that holds it, and a call that nobody answered shifts no other result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from producers.importers.steps import Call, NotTheAgents, Result, Step, Words


@dataclass
class Pairs:
    """The calls of a conversation with their results. What was left out is counted by reason."""

    calls: list[Call] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    """By the call's position."""
    left_out: Counter[str] = field(default_factory=Counter)
    _group: list[int] = field(default_factory=list)
    """Positions of the newest group of calls."""
    _group_is_over: bool = False
    _newest: dict[str, list[int]] = field(default_factory=dict)
    """For each id, the calls of the newest group that holds it."""

    def add(self, step: Step) -> None:
        """Take one step, in order."""
        if isinstance(step, Call):
            self._add_call(step)
        elif isinstance(step, Result):
            self._group_is_over = True
            if (answered := self._answered(step)) is None:
                self.left_out["results that answer no call"] += 1
            else:
                self.results[answered] = step
        elif isinstance(step, Words):
            self._group_is_over = True
        elif isinstance(step, NotTheAgents):
            self.left_out[step.reason] += 1

    def _add_call(self, call: Call) -> None:
        if self._group_is_over:
            self._group, self._group_is_over = [], False
        position = len(self.calls)
        self.calls.append(call)
        self._group.append(position)
        if call.id is not None:
            same = self._newest.get(call.id)
            if same is None or same[0] not in self._group:
                same = self._newest[call.id] = []
            same.append(position)

    def _answered(self, result: Result) -> int | None:
        if result.id is not None and (same := self._newest.get(result.id)) is not None:
            return self._open_one(same, result.tool)
        if result.id is not None and all(self.calls[position].id is not None for position in self._group):
            return None
        nameless = [position for position in self._group if result.id is None or self.calls[position].id is None]
        answered = self._open_one(nameless, result.tool)
        if answered is not None and result.tool not in (None, self.calls[answered].tool):
            return None
        return answered

    def _open_one(self, positions: list[int], tool: str | None) -> int | None:
        """The first open call of a tool, or of any where none of that tool is open."""
        still_open = [position for position in positions if position not in self.results]
        of_tool = (position for position in still_open if self.calls[position].tool == tool)
        return next(of_tool, still_open[0] if still_open else None)
