"""What is wrong with a gate file although it can be read: gates that never hold, stages nobody leaves, idle limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any, Final, Literal

from analytics.evidence.forecast import median_trials_to_harm
from analytics.evidence.sequential import trials_to_decision
from analytics.gates.gate_file import Gate, GateFile, GateTieError
from analytics.judging.levels import EARLY_SHARE, share_of
from analytics.judging.user_windows import FIRST_FAILED
from analytics.signals.definitions import QUANTILES, RATES, SIGNALS
from analytics.text import duration, percent
from producers.strict_yaml import ConfigurationFileError, read_file
from producers.wire.contract import RiskClass
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from analytics.gates.gate_signal import GateSignal
    from analytics.gates.match import Match

Level = Literal["error", "warning", "note"]

CODES: Final[dict[str, str]] = {
    "invalid": "It says something that it may not say; nothing is judged under it.",
    "unreachable_gate": "Other gates take every action that it matches.",
    "ambiguous_gate": "Another gate matches some of its actions equally well; those are never judged.",
    "no_gates": "There is no gate: every action is `INVALID`.",
    "never_promotes": "At a stage of its ladder nothing shows an action safe, so the stages above are never reached.",
    "off_the_ladder": "A signal applies only at stages that the gate's ladder does not have.",
    "contradictory": "Two statements cannot both mean something.",
    "undeclared_split": "Arms are compared at the same time, and nothing says what share each should have.",
    "promote_anything": "Hardly any action could fail to be promoted.",
    "never_rolls_back": "No guardrail and no trip applies at a stage where actions run.",
    "impossible_minimum": "A limit so low that it takes more clean trials than most actions ever have.",
    "loose_level": "An alpha or beta above 0.2: a promise that is broken for one action in five is none.",
    "long_window": "A user-window outlasts the minimum exposure, so evidence by user comes later than it.",
    "no_maturity": "Nothing says how late a failure may still come, so the signal holds every promotion.",
    "nothing_runs": "A signal of executions that a promotion waits for, at a stage where nothing runs.",
    "idle_minimum": "The minimum exposure is below what a limit needs anyway.",
    "time_to_find": "How soon a rate of 2 or 5 times the limit is found in the median, at a stated traffic.",
    "minimum": "How many clean trials a limit needs at least.",
}
"""Every finding and what it means."""

IMPOSSIBLE: Final = 10_000  # clean trials from which on a limit counts as out of reach

ACTIONS_PER_MINUTE: Final = 10.0  # the traffic that times are stated at

_KNOWN: Final = {"risk_class": [risk.value for risk in RiskClass], "stage": [stage.value for stage in Stage]}
_LOOSE: Final = 0.5
_LOOSE_LEVEL: Final = 0.2
_WORSE: Final = (2, 5)
_TRIED: Final = 20_000
_OF_ACTIONS: Final = frozenset({"decisions", "executions", "expected executions"})
_EXECUTIONS: Final = frozenset({"executions", "undos", "expected executions", "known latencies", "known costs"})


@dataclass(frozen=True, slots=True)
class LintIssue:
    """One thing that lint found."""

    level: Level  # an `error` makes the file, or a part of it, useless; a `warning` is probably not meant
    code: str  # one of `CODES`
    place: str  # where: a gate, a signal, a stage
    message: str  # what, with its numbers

    def to_dict(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def lint(path: Path, actions_per_minute: float = ACTIONS_PER_MINUTE) -> list[LintIssue]:
    """Look a gate file over; errors come first. Raises `ConfigurationFileError` where it cannot be read."""
    text = read_file(path, name="the gate file")
    try:
        gates = GateFile.parse(text, path=path)
    except ConfigurationFileError as error:
        faults = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
        return [LintIssue("error", "invalid", "file", fault) for fault in faults.split("; ")]
    return lint_gates(gates, actions_per_minute)


def lint_gates(gates: GateFile, actions_per_minute: float = ACTIONS_PER_MINUTE) -> list[LintIssue]:
    """Look over a gate file that could be read, for a traffic."""
    issues = list(_of_file(gates))
    for gate in gates.gates:
        issues += _of_gate(gate)
        issues += _times(gate, gates, actions_per_minute)
    order: tuple[Level, ...] = ("error", "warning", "note")
    return sorted(issues, key=lambda issue: order.index(issue.level))


def clean_minimum(part: GateSignal, beta: float) -> int | None:
    """How many trials without a failure show a signal safe; None where nothing is asked of it."""
    if part.threshold is None:
        return None
    needed = float(trials_to_decision(0, 0, part.threshold, direction="below", alpha=beta))
    return int(needed) if math.isfinite(needed) else None


def _of_file(gates: GateFile) -> Iterator[LintIssue]:
    if not gates.gates:
        yield LintIssue("error", "no_gates", "file", "no gate is stated, so no action is ever judged")
    witnesses = {
        name: [getattr(gate.match, name) for gate in gates.gates]
        for name in ("environment", "workflow", "tool", "risk_class", "stage", "cohort")
    }
    for gate in gates.gates:
        chosen: set[str] = set()
        tied: str | None = None
        for *action, stage, cohort in _cells(gate.match, witnesses):
            try:
                holds = gates.gate_for(*action, stage=stage, cohort=cohort)
            except GateTieError as error:
                tied = str(error)
                continue
            if holds is not None:
                chosen.add(holds.name)
        if tied is not None:
            yield LintIssue("error", "ambiguous_gate", gate.name, tied)
        elif gate.name not in chosen:
            others = ", ".join(f"`{name}`" for name in sorted(chosen))
            yield LintIssue("error", "unreachable_gate", gate.name, f"every action that it matches goes to {others}")


def _cells(match: Match, stated: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """Cells that a gate matches, with a risk class: its own patterns made concrete, and those of others that fit."""
    choices = []
    for name, patterns in stated.items():
        own = getattr(match, name)
        if name in _KNOWN:
            apart = {pattern for pattern in patterns if pattern != "*"}
            matching = [word for word in _KNOWN[name] if fnmatchcase(word, own)]
            # Words that no pattern tells apart are tried once.
            alike = {tuple(fnmatchcase(word, pattern) for pattern in sorted(apart)): word for word in matching[::-1]}
            choices.append([word for word in matching if word in alike.values()])
            continue
        made = {_concrete(own, filler) for filler in ("", "x")} | {
            _concrete(pattern, filler) for pattern in patterns for filler in ("", "x")
        }
        choices.append(sorted(value for value in made if value and fnmatchcase(value, own)))
    # In a file of very many gates the combinations are too many to try; the nearest to the gate's own come first.
    yield from islice(product(*choices), _TRIED)


def _of_gate(gate: Gate) -> Iterator[LintIssue]:
    live = [part for part in gate.signals if not part.dry_run]
    for part in gate.signals:
        if not set(part.stages) & set(gate.ladder):
            stages = ", ".join(part.stages)
            yield LintIssue(
                "warning",
                "off_the_ladder",
                f"{gate.name}/{part.signal}",
                f"it applies at {stages}, and the ladder is {' → '.join(gate.ladder)}",
            )
    for name, level in (("alpha", gate.alpha), ("beta", gate.beta)):
        if level > _LOOSE_LEVEL:
            message = f"{name} is {level:g}, and at most {_LOOSE_LEVEL:g} is a promise worth making"
            yield LintIssue("error", "loose_level", f"{gate.name}/{name}", message)
    if gate.attempts is not None and gate.attempts.budget < gate.beta:
        message = f"{gate.attempts.budget:g} is less than beta, {gate.beta:g}, which the first attempt alone may spend"
        yield LintIssue("warning", "contradictory", f"{gate.name}/attempts", message)
    yield from _maturities(gate)
    yield from _contradictions(gate, live)
    yield from _splits(gate)
    if gate.dry_run:
        return
    yield from _stages(gate, live)
    yield from _minimums(gate, live)


def _stages(gate: Gate, live: list[GateSignal]) -> Iterator[LintIssue]:
    if all(part.role == "watch" for part in live):
        # Watching only is a plain choice, and says so in every verdict.
        yield LintIssue(
            "note", "never_promotes", gate.name, "its signals are all watched or dry runs: it decides nothing"
        )
        return
    for stage in gate.ladder[:-1]:
        if not fnmatchcase(stage, gate.match.stage):
            continue  # another gate judges there
        place = f"{gate.name}/{stage}"
        here = [part for part in live if stage in part.stages]
        deciding = [part for part in here if part.role in {"guardrail", "promote"}]
        above = gate.above(stage)
        if not deciding:
            yield LintIssue(
                "warning", "never_promotes", place, f"no guardrail or promote signal applies, so nobody reaches {above}"
            )
        elif not any(part.needs_data for part in deciding):
            message = "no signal must have data here, so a promotion may rest on any single one"
            yield LintIssue("warning", "promote_anything", place, message)
        if loose := [part for part in deciding if part.signal in RATES and (part.limit or 0.0) >= _LOOSE]:
            level: Level = "error" if len(loose) == len(deciding) else "warning"
            limits = ", ".join(f"{part.signal} {percent(part.limit or 0.0)}" for part in loose)
            yield LintIssue(level, "promote_anything", place, f"an action may fail half of the time and more: {limits}")
        if stage is Stage.OBSERVE_ONLY:
            waiting = [
                part.signal for part in deciding if part.needs_data and SIGNALS[part.signal].trial in _EXECUTIONS
            ]
            if waiting:
                message = f"nothing runs here, so {', '.join(waiting)} will never have data and nobody reaches {above}"
                yield LintIssue("note", "nothing_runs", place, message)
        elif not any(part.role in {"guardrail", "trip"} for part in here):
            yield LintIssue("warning", "never_rolls_back", place, "no guardrail and no trip applies here")


def _maturities(gate: Gate) -> Iterator[LintIssue]:
    for part in gate.signals:
        promotes = any(gate.above(stage) is not None for stage in part.stages)
        late = part.maturity is None and part.awaits in {"consequence", "evaluation", "everything"}
        if late and promotes and part.role in {"guardrail", "promote"}:
            yield LintIssue(
                "error",
                "no_maturity",
                f"{gate.name}/{part.signal}",
                f"`{part.signal}` becomes known long after its {SIGNALS[part.signal].trial}, and without `maturity` it "
                "holds every promotion; state how late it may come, such as `maturity: 24h`",
            )


def _contradictions(gate: Gate, live: list[GateSignal]) -> Iterator[LintIssue]:
    guardrails = [part for part in live if part.role == "guardrail"]
    for promote, guardrail in product([part for part in live if part.role == "promote"], guardrails):
        if promote.signal != guardrail.signal or not set(promote.stages) & set(guardrail.stages):
            continue
        stated, other = _limit(promote), _limit(guardrail)
        if stated is None or other is None or stated < other:
            continue
        looser = "looser than" if stated > other else "the same as"
        message = f"its promote limit is {looser} its guardrail limit, which must be kept for a promotion anyway"
        yield LintIssue("warning", "contradictory", f"{gate.name}/{promote.signal}", message)
    for one, two in combinations([part for part in live if part.signal in QUANTILES and _limit(part)], 2):
        low, high = sorted((one, two), key=lambda part: QUANTILES[part.signal].q)
        same = QUANTILES[low.signal].source == QUANTILES[high.signal].source and set(low.stages) & set(high.stages)
        if same and low.signal != high.signal and (_limit(low) or 0.0) >= (_limit(high) or 0.0):
            message = f"{low.signal} may be as high as {high.signal}, so its limit means nothing"
            yield LintIssue("warning", "contradictory", f"{gate.name}/{low.signal}", message)
    shown = [part for part in live if part.role in {"guardrail", "promote"}]
    if gate.claim == "users_to_come" and any(gate.unit_of(part) == "action" for part in shown):
        actions = ", ".join(dict.fromkeys(part.signal for part in shown if gate.unit_of(part) == "action"))
        message = f"it claims users to come, and {actions} is counted by action, as if each were another user's"
        yield LintIssue("warning", "contradictory", f"{gate.name}/claim", message)
    least_s = gate.minimum_exposure.least_s
    if gate.hold_expires is not None and gate.hold_expires < least_s:
        expires = duration(gate.hold_expires)
        message = f"a hold expires after {expires}, and the minimum exposure is spread over {duration(least_s)}"
        yield LintIssue("warning", "contradictory", f"{gate.name}/hold_expires", message)


def _splits(gate: Gate) -> Iterator[LintIssue]:
    split, place = gate.split, f"{gate.name}/split"
    concurrent = gate.baseline.kind == "concurrent" and any(part.is_compared for part in gate.signals)
    if split is None:
        if concurrent:
            message = (
                "arms are compared at the same time without a `split`, so traffic that never reaches one goes unseen"
            )
            yield LintIssue("note", "undeclared_split", gate.name, message)
        return
    held = gate.baseline.cohort
    if split.by == "cohort" and concurrent and held is not None and held not in split.shares:
        message = f"the baseline is the cohort {held}, which has no share in the declared split"
        yield LintIssue("warning", "contradictory", place, message)
    if split.by == "stage":
        if off := [name for name in split.shares if name not in gate.ladder]:
            message = f"{', '.join(off)} is not on the ladder {' → '.join(gate.ladder)}"
            yield LintIssue("warning", "off_the_ladder", place, message)
        below = {gate.below(name) for name in split.shares}
        if concurrent and held is None and not below & set(split.shares):
            message = "the baseline is the stage directly below, and no stage of the split is directly below another"
            yield LintIssue("warning", "contradictory", place, message)


def _minimums(gate: Gate, live: list[GateSignal]) -> Iterator[LintIssue]:
    largest = 0
    for part in live:
        needed = clean_minimum(part, gate.beta) if part.role in {"guardrail", "promote"} else None
        if needed is None:
            continue
        largest = max(largest, needed)
        trial = SIGNALS[part.signal].trial
        if gate.unit_of(part) == "user":
            trial = f"user-windows with {trial}"
        clean = "above the limit" if part.signal in QUANTILES else "with a failure"
        counted = f"needs at least {needed:,} {trial}, none of them {clean}, at beta {gate.beta:g}"
        if gate.unit_of(part) == "user" and "users_to_come" in gate.claims:
            counted += ", and of as many different users where a promotion speaks of users to come"
        level: Level = "warning" if needed >= IMPOSSIBLE else "note"
        code = "impossible_minimum" if needed >= IMPOSSIBLE else "minimum"
        if gate.attempts is not None:
            later = [
                f"{clean_minimum(part, gate.beta_at(attempt)) or 0:,} at attempt {attempt}" for attempt in (2, 3, 7)
            ]
            counted += f"; {', '.join(later)}"
        yield LintIssue(level, code, f"{gate.name}/{part.signal}", counted)
    actions = gate.minimum_exposure.actions
    if 0 < actions < largest:
        message = f"{actions:,} actions are asked for, and a limit needs {largest:,} clean trials anyway"
        yield LintIssue("note", "idle_minimum", f"{gate.name}/minimum_exposure", message)


def _times(gate: Gate, gates: GateFile, actions_per_minute: float) -> Iterator[LintIssue]:
    least, window_s = gate.minimum_exposure, gates.window_of(gate)
    filled_s = max(least.days * 86_400.0, least.hours * 3_600.0, least.actions * 60.0 / actions_per_minute)
    by_user = any(gate.unit_of(part) == "user" for part in gate.signals)
    if by_user and window_s > max(filled_s, GateFile.model_fields["user_window"].default):
        message = (
            f"a user-window of {duration(window_s)} is open for longer than the minimum exposure takes to fill, "
            f"{duration(filled_s)} at {actions_per_minute:g} actions a minute"
        )
        yield LintIssue("warning", "long_window", f"{gate.name}/minimum_exposure", message)
    for part in gate.signals:
        if gate.dry_run or part.dry_run or part.role != "guardrail" or part.limit is None:
            continue
        texts = [
            f"{worse} times the limit ({percent(rate)}) is found after {duration(after_s)} in the median"
            for worse in _WORSE
            if (rate := worse * part.limit) < 1.0
            and (after_s := _time_to_find(gate, part, rate, gates, actions_per_minute)) is not None
        ]
        if texts:
            trial = SIGNALS[part.signal].trial
            trial = "actions" if trial in _OF_ACTIONS else trial
            users = ", each of another user," if gate.unit_of(part) == "user" else ""
            message = f"at {actions_per_minute:g} {trial} a minute{users} a rate of {', and one of '.join(texts)}"
            yield LintIssue("note", "time_to_find", f"{gate.name}/{part.signal}", message)


def _time_to_find(
    gate: Gate, part: GateSignal, rate: float, gates: GateFile, actions_per_minute: float
) -> float | None:
    """Median seconds until a guardrail rate is evidently over its limit, at the stage where its share is smallest."""
    level = gate.alpha * min(share_of(gate, part, stage) for stage in part.stages)
    known_s = gates.outcome_deadline if part.signal == "missing_outcome" else part.harm_age_s
    tests = [(level, known_s)]
    if gate.unit_of(part) == "user":
        # Closed windows; where it is known at once also users' first actions, and heavy users, of whom nothing is said.
        first = EARLY_SHARE if part.signal in FIRST_FAILED else 0.0
        tests = [
            (level * (1.0 - 2 * first), known_s + gates.window_of(gate)),
            *([(level * first, 0.0)] if first else []),
        ]
    medians = [(median_trials_to_harm(rate, part.limit or 0.0, alpha=alpha), later_s) for alpha, later_s in tests]
    return min(
        (trials * 60.0 / actions_per_minute + later_s for trials, later_s in medians if trials is not None),
        default=None,
    )


def _limit(part: GateSignal) -> float | None:
    return part.limit if part.signal in RATES else part.limit_ms if part.limit_ms is not None else part.limit_usd


def _concrete(pattern: str, filler: str) -> str:
    """A word that a shell-style pattern matches, in all likelihood; whether it does is checked."""
    example, at = "", 0
    while at < len(pattern):
        end = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        if end > 0:
            inside = pattern[at + 1 : end]
            example += "_" if inside.startswith("!") else inside[0]
            at = end
        else:
            example += {"*": filler, "?": "x"}.get(pattern[at], pattern[at])
        at += 1
    return example
