"""A scenario, all rules, and how each of their decisions compares with the truth."""

from __future__ import annotations

import json
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from promotion_rules import MOST_OUTCOMES, RULES, THRESHOLD, TOLD, Rule
from rule_scenarios import SCENARIOS
from scipy import stats
from simulated import NEVER
from timed_streams import NOON, Crossings, crossings

from analytics.backtest.history import History
from analytics.gates.gate_file import GateFile

if TYPE_CHECKING:
    from promotion_rules import Decisions
    from rule_scenarios import Played, Scenario
    from simulated import BoolArray, FloatArray, IntArray

_SEED: Final = 22
_FEWEST_STREAMS: Final = 10
_THEIRS: Final = Path(__file__).parent / "competitors" / "gbstats_sequential.py"
_LOOK_EVERY: Final = 200
_LONGEST_S: Final = 1_200.0
GROWTHBOOK: Final = "GrowthBook's sequential test (`gbstats`), beside a base arm at the limit, every 200 actions"


@dataclass(frozen=True)
class Reported:
    """The outcomes of streams (or of their attempts) in the order in which they were reported.

    Attributes:
        failures: So far, by row and outcome; a row that is shorter than others repeats its last number.
        minutes: When each was reported; infinity beyond the last.
    """

    failures: IntArray
    minutes: FloatArray

    @classmethod
    def of(cls, played: Played, scenario: Scenario, streams: int) -> Reported:
        """Of the actions of a scenario: one row an attempt."""
        acts = played.actions
        at = acts.minute + acts.delay
        attempt = (acts.minute * scenario.attempts / scenario.minutes).astype(np.int64)
        row = acts.stream * scenario.attempts + attempt
        known = at < scenario.minutes
        row, at, failed = row[known], at[known], acts.failed[known]
        order = np.lexsort((at, row))
        row, at, failed = row[order], at[order], failed[order]
        sizes = np.bincount(row, minlength=streams * scenario.attempts)
        place = np.arange(row.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        minutes = np.full((sizes.size, min(int(sizes.max()), MOST_OUTCOMES)), np.inf)
        failures = np.zeros(minutes.shape, dtype=np.int64)
        minutes[row, place], failures[row, place] = at, failed
        return cls(failures.cumsum(axis=1), minutes)

    def moments(self, outcomes: IntArray, attempts: int) -> FloatArray:
        """When each stream first reached the given outcome in any attempt; infinity where it did not."""
        inside = np.minimum(outcomes, self.minutes.shape[1]) - 1
        at = np.where(outcomes == NEVER, np.inf, self.minutes[np.arange(inside.size), inside])
        return np.asarray(at.reshape(-1, attempts).min(axis=1))


def decided_elsewhere(rule: Rule, reported: Reported, scenario: Scenario) -> Crossings:
    """When a rule first promoted and rolled back each stream."""
    down, up = rule.decide(reported.failures, scenario.rate or np.nan)
    return Crossings(*(reported.moments(outcomes, scenario.attempts) for outcomes in (up, down)))


def decided_by_ours(gate_file: str, played: Played, scenario: Scenario, every: timedelta) -> Crossings:
    """When the judge that production runs first promoted and rolled back each stream."""
    streams = int(played.actions.stream.max()) + 1
    history = played.actions.history(stage=scenario.stage)
    if scenario.attempts > 1:
        since = (pl.col("bucket") - pl.lit(NOON)).dt.total_minutes()
        epoch = pl.format("e{}", since * scenario.attempts // scenario.minutes).alias("epoch")
        history = History.from_rows(history.increments.with_columns(epoch), history.events.lazy())
    return crossings(history, GateFile.parse(gate_file.encode()), streams, every=every)


def growthbook(python: Path) -> Rule:
    """GrowthBook's own package, in the environment that has it.

    It compares two arms, so it is given a second one of the same size, whose true rate is the limit.
    """

    def decide(failures: IntArray, _rate: float) -> Decisions:
        trials = np.arange(_LOOK_EVERY, failures.shape[1] + 1, _LOOK_EVERY)
        base = np.random.default_rng([_SEED, *failures.shape]).random(failures.shape) < THRESHOLD
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts.npz"
            np.savez(counts, base=base.cumsum(axis=1)[:, trials - 1], new=failures[:, trials - 1], trials=trials)
            ran = subprocess.run(
                [str(python), str(_THEIRS), str(counts)], stdout=subprocess.PIPE, check=True, timeout=_LONGEST_S
            )
        found = json.loads(ran.stdout)
        down, up = (
            np.array([NEVER if look is None else (look + 1) * _LOOK_EVERY for look in found[side]])
            for side in ("worse", "better")
        )
        return down, up

    return Rule(GROWTHBOOK, decide)


def exact_interval(count: int, runs: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95 % interval of a share."""
    low = float(stats.beta.ppf(0.025, count, runs - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(0.975, count + 1, runs - count)) if count < runs else 1.0
    return low, high


def _share(hits: BoolArray) -> dict[str, float]:
    count, runs = int(hits.sum()), hits.size
    low, high = exact_interval(count, runs)
    return {"count": count, "share": count / runs, "low": low, "high": high}


def _delays(minutes: FloatArray) -> dict[str, float | None]:
    """Median and 90 %; None where fewer ever decided."""
    found = {}
    for name, part in (("median", 0.5), ("p90", 0.9)):
        at = float(np.quantile(minutes, part, method="inverted_cdf")) if minutes.size else np.inf
        found[name] = at if np.isfinite(at) else None
    return found


def averages_until(played: Played, moments: FloatArray) -> FloatArray:
    """The average true chance of each stream's actions up to a moment; where there is none, of nothing (NaN)."""
    acts = played.actions
    seen = acts.minute <= moments[acts.stream]
    size = moments.size
    counts = np.bincount(acts.stream[seen], minlength=size)
    sums = np.bincount(acts.stream[seen], weights=played.chance[seen], minlength=size)
    return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)


def against_truth(rule: str, decided: Crossings, played: Played, scenario: Scenario) -> dict[str, Any]:
    """What one rule did on the streams of a scenario: its errors, and how long its right decisions took."""
    up, down = decided.promoted, decided.rolled_back
    kept = averages_until(played, down) <= THRESHOLD + 1e-9
    early = np.isfinite(down) & (down < scenario.harm_from)
    late = ~early
    return {
        "rule": rule,
        "promoted": _share(np.isfinite(up)),
        "rolled_back": _share(np.isfinite(down)),
        "wrong_promotions": (
            None
            if np.isinf(scenario.promotion_wrong_from)
            else _share(np.isfinite(up) & (up >= scenario.promotion_wrong_from))
        ),
        "wrong_rollbacks": None if scenario.harm_from == 0 else _share(early & kept),
        "minutes_to_promote": _delays(up) if np.isinf(scenario.promotion_wrong_from) else None,
        "minutes_to_roll_back": None if np.isinf(scenario.harm_from) else _delays(down[late] - scenario.harm_from),
    }


def tried(name: str, times: float, rarely: int, gbstats: Path | None) -> dict[str, Any]:
    """Run one scenario: every rule on the same streams.

    Args:
        name: Of the scenario.
        times: How many times its usual number of streams.
        rarely: How many times as rarely our engine looks.
        gbstats: A Python that has GrowthBook's package; without one it is left out.
    """
    (scenario,) = (each for each in SCENARIOS if each.name == name)
    streams = max(_FEWEST_STREAMS, round(scenario.streams * times))
    rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    played = scenario.play(rng, scenario, streams)
    reported = Reported.of(played, scenario, streams)
    every = timedelta(minutes=scenario.look_every_min * rarely)
    rules = [rule for rule in RULES if rule is not TOLD or scenario.rate is not None]
    if gbstats is not None:
        rules.append(growthbook(gbstats))
    decided = {rule.name: decided_elsewhere(rule, reported, scenario) for rule in rules}
    for row, gate_file in scenario.gates.items():
        decided[row] = decided_by_ours(gate_file, played, scenario, every)
    return {
        "name": name,
        "says": scenario.says,
        "streams": streams,
        "minutes": scenario.minutes,
        "actions_a_minute": scenario.a_minute,
        "look_every_min": scenario.look_every_min * rarely,
        "rate": scenario.rate if scenario.is_constant else None,
        "ours": list(scenario.gates),
        "promised": scenario.promised,
        "rows": [against_truth(rule, each, played, scenario) for rule, each in decided.items()],
    }


def on_their_own_terms(streams: int) -> list[dict[str, Any]]:
    """How often each rule promotes within 5 000 actions what fails at its own limit, and at half as much again."""
    rows = []
    for rule in RULES:
        if rule.own_limit is None or rule is TOLD:
            continue
        shares = []
        for beyond in (1.0, 1.5):
            rng = np.random.default_rng([_SEED, round(1_000 * rule.own_limit * beyond)])
            failures = (rng.random((streams, 5_000)) < rule.own_limit * beyond).cumsum(axis=1, dtype=np.int64)
            shares.append(_share(rule.decide(failures, 0.0)[1] < NEVER))
        rows.append({"rule": rule.name, "own_limit": rule.own_limit, "at_limit": shares[0], "beyond": shares[1]})
    return rows
