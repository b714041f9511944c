"""Write the table and the plots of docs/statistics.md, from the rules that tests/calibration holds to their figures.

python docs/statistics_tables.py [--plots | --table]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from analytics.evidence.change_detector import Watch
from analytics.evidence.sequential import crosses

HERE = Path(__file__).parent
# The rules live in the benchmark of rules and beside the tests that hold them, which are no packages.
sys.path[:0] = [str(HERE.parent / "tests" / "calibration"), str(HERE.parent / "benchmarks")]

import comparators as c  # noqa: E402
import promotion_rules as elsewhere  # noqa: E402
import test_clustered_users as users  # noqa: E402
import test_late_outcomes as late  # noqa: E402
import test_regressions as regressions  # noqa: E402
from dynamic import critical_failures, crossing_curve, median_look  # noqa: E402
from simulated import NEVER, failures_of_users  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic import BoolArray, FloatArray, IntArray, Side
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

START, END = "<!-- comparison: start -->", "<!-- comparison: end -->"
OURS, OTHER, LEVEL, SOFT = "#0b6e4f", "#c8553d", "#333333", "#7a869a"
LOOKS = np.arange(1, c.ACTIONS + 1)


def write_table(page: Path) -> None:
    """Replace the table between its markers."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    page.write_text(f"{before}{START}\n{c.table(c.compare())}\n{END}{after}", encoding="utf-8")


def curve(
    stops: Callable[[IntArray, IntArray], BoolArray], rate: float, side: Side, looks: int = c.ACTIONS
) -> FloatArray:
    """The exact chance of having stopped by each look."""
    return crossing_curve(critical_failures(stops, looks, side=side), rate, side=side)


def save(figure: Figure, name: str) -> None:
    """Write a plot without a date in it, so that it only changes when its numbers do."""
    figure.tight_layout()
    figure.savefig(HERE / "images" / f"statistics-{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def plot_peeking() -> None:
    """How often an action exactly at its limit is judged wrongly by now, the longer one looks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    _, normal_below = elsewhere.normal_sequence(50)
    left.plot(
        LOOKS, curve(elsewhere.peeked_above, c.THRESHOLD, "many"), color=OTHER, label="binomial test at every look"
    )
    left.plot(LOOKS, curve(c.evidence_above, c.THRESHOLD, "many"), color=OURS, label="Stagekeeper")
    right.plot(LOOKS, curve(normal_below, c.THRESHOLD, "few"), color=SOFT, label="normal sequence, from action 50")
    right.plot(
        LOOKS, curve(elsewhere.peeked_below, c.THRESHOLD, "few"), color=OTHER, label="binomial test at every look"
    )
    right.plot(LOOKS, curve(c.evidence_below, c.THRESHOLD, "few"), color=OURS, label="Stagekeeper")
    for axes, title in ((left, "rolled back"), (right, "promoted")):
        axes.axhline(c.ALPHA, color=LEVEL, linestyle=":", linewidth=1)
        axes.text(60, c.ALPHA + 0.008, "agreed: 5 %", color=LEVEL, fontsize=8)
        axes.set(xscale="log", xlim=(50, c.ACTIONS), xlabel="actions seen", title=f"At the limit (2 %), yet {title}")
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, 0.58)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, "peeking")


def plot_boundaries() -> None:
    """The failures that decide, by actions seen."""
    looks = 1_200
    n = np.arange(1, looks + 1)
    many = critical_failures(c.evidence_above, looks, side="many")
    few = critical_failures(c.evidence_below, looks, side="few")
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    top = 50
    axes.fill_between(n, np.minimum(many, top), top, step="mid", color=OTHER, alpha=0.18, linewidth=0)
    axes.fill_between(n, -1, few, where=few >= 0, step="mid", color=OURS, alpha=0.18, linewidth=0)
    axes.plot(n, c.THRESHOLD * n, color=LEVEL, linestyle=":", linewidth=1)
    rng = np.random.default_rng(3)
    for rate, color in ((0.005, OURS), (0.02, SOFT), (0.05, OTHER)):
        axes.step(n, (rng.random(looks) < rate).cumsum(), where="post", color=color, linewidth=1.4, label=f"{rate:.1%}")
    axes.text(430, 43, "roll back", color=OTHER, fontsize=12)
    axes.text(980, 2.5, "promote", color=OURS, fontsize=12)
    axes.text(850, 12, "hold: not yet decided", color=SOFT, fontsize=12)
    axes.set(xlim=(0, looks), ylim=(-0.5, top), xlabel="actions seen", ylabel="failures", title="Limit 2 %, levels 5 %")
    axes.legend(title="true rate of the stream", frameon=False, fontsize=8, title_fontsize=8, loc="upper left")
    save(figure, "boundaries")


def told(rate: float) -> Callable[[IntArray, IntArray], BoolArray]:
    """The test that is told the true rate."""

    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        failed, fine = np.log(rate / c.THRESHOLD), np.log((1 - rate) / (1 - c.THRESHOLD))
        return crosses(failures * failed + (trials - failures) * fine, c.ALPHA)

    return stops


def plot_delays() -> None:
    """How many actions a decision takes, by true rate, against the rule that is told the rate."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    rules: tuple[tuple[Side, tuple[float, ...], Axes], ...] = (
        ("few", (0.002, 0.005, 0.0075, 0.01, 0.0125, 0.015), left),
        ("many", (0.025, 0.0275, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08, 0.1), right),
    )
    for side, rates, axes in rules:
        ours = c.evidence_above if side == "many" else c.evidence_below
        limits = critical_failures(ours, c.ACTIONS, side=side)
        medians = [median_look(crossing_curve(limits, rate, side=side)) for rate in rates]
        oracle = [median_look(curve(told(rate), rate, side)) for rate in rates]
        percent = 100 * np.array(rates)
        axes.plot(percent, medians, "o-", color=OURS, label="Stagekeeper")
        axes.plot(percent, oracle, "o--", color=SOFT, label="a test that is told the true rate")
        axes.set(yscale="log", xlabel="true failure rate, %")
    left.set(title="To promote (limit 2 %)", ylabel="median actions")
    right.set(title="To roll back (limit 2 %)")
    right.legend(frameon=False, fontsize=8)
    save(figure, "delays")


def run_lengths(alike: float) -> tuple[float, float]:
    """Mean batches to a false alarm at the limit, in run lengths A = 200: counted by action, and by user."""
    length, runs, batches, users = 200, 750, 1_200, 5
    rng = np.random.default_rng([15, length, users, round(100 * alike)])
    failures = regressions.users_of(rng, batches, runs, users, rate=c.THRESHOLD, alike=alike)
    start = Watch.start(runs, threshold=c.THRESHOLD, run_length=length)
    trials = np.full((batches, runs), users * regressions.ACTIONS)
    watched = start.after(failures.sum(axis=2), trials), regressions.by_user(start, failures)
    by_action, by_user = (np.where(one.alarmed, one.alarmed_at, batches).mean() / length for one in watched)
    return float(by_action), float(by_user)


def plot_assumptions() -> None:
    """What usual shortcuts do to an action exactly at its limit, on the streams of the tests of calibration."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    alike = {
        "0.02, 10 each": (0.02, 10),
        "0.1, 10 each": (0.1, 10),
        "0.3, 10 each": (0.3, 10),
        "0.1, 50 each": (0.1, 50),
    }
    back: list[tuple[float, float]] = []
    for correlation, actions in alike.values():
        rng = np.random.default_rng([31, actions, round(100 * correlation)])
        failures = failures_of_users(rng, 600, 2_000, actions=actions, rate=c.THRESHOLD, alike=correlation)
        found = users.users_until_rollback(failures, actions, every=20) < NEVER
        back.append((float(users.by_action(failures, actions).mean()), float(found.mean())))
    promoted: list[tuple[float, float]] = []
    for window in (200, 300, 500, 1_000):
        known, final, mature = late.counted(c.THRESHOLD, window, seed=2)
        shares = [float(late.promoted(*each).mean()) for each in ((known, late.LOOKS), (final, mature))]
        promoted.append((shares[0], shares[1]))
    panels: tuple[tuple[Axes, list[str], list[tuple[float, float]], tuple[str, str]], ...] = (
        (left, list(alike), back, ("counted by action", "counted by user")),
        (middle, ["200", "300", "500", "1,000"], promoted, ("pending counted as fine", "mature only")),
        (right, ["0.1", "0.3"], [run_lengths(0.1), run_lengths(0.3)], ("counted by action", "counted by user")),
    )
    for axes, names, pairs, words in panels:
        place = np.arange(len(names))
        axes.bar(place - 0.2, [bad for bad, _ in pairs], 0.4, color=OTHER, label=words[0])
        axes.bar(place + 0.2, [good for _, good in pairs], 0.4, color=OURS, label=words[1])
        axes.axhline(1.0 if axes is right else c.ALPHA, color=LEVEL, linestyle=":", linewidth=1)
        axes.set_xticks(place, names)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    for axes in (left, middle):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    right.set_ylim(0, 2)
    left.set(title="Wrongly rolled back", xlabel="correlation of a user's actions, actions a user")
    middle.set(title="Wrongly promoted", xlabel="actions within one maturity window")
    right.set(
        title="Batches between false alarms, agreed: 1 A", xlabel="correlation of a user's actions", ylabel="in A"
    )
    left.tick_params(axis="x", labelsize=8)
    save(figure, "assumptions")


def main(wanted: list[str]) -> None:
    """Write what is asked for; everything unless told."""
    mpl.use("Agg")
    if "--table" not in wanted:
        for plot in (plot_peeking, plot_boundaries, plot_delays, plot_assumptions):
            plot()
            print(plot.__name__)
    if "--plots" not in wanted:
        write_table(HERE / "statistics.md")
        print("table")


if __name__ == "__main__":
    main(sys.argv[1:])
