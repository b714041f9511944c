"""`stagekeeper scorecard`: measure how often the recommender is wrong."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from analytics.backtest.recommendation_outcomes import of_history
from analytics.backtest.scorecard import scored
from analytics.gates.gate_file import GateFile
from analytics.text import duration, percent
from producers.simulation.scenarios import SCENARIOS, scenario
from stagekeeper.commands.options import existing_lake, json_option, lake_option, print_json
from stagekeeper.scorecard_runner import outcomes


@click.command("scorecard")
@click.option("--runs", type=click.IntRange(min=0), default=3, show_default=True, help="Simulations of each scenario.")
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="Simulate this one; all by default.")
@click.option("--events", type=click.IntRange(min=1), default=6_000, show_default=True, help="Events a simulation.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the first simulation.")
@click.option(
    "--gates", "path", type=click.Path(path_type=Path), metavar="FILE", help="Gate file of the simulations; the demo's."
)
@lake_option
@json_option
def command(
    *, runs: int, names: tuple[str, ...], events: int, seed: int, path: Path | None, root: str | None, as_json: bool
) -> None:
    """Measure how often the recommender is wrong, with exact bounds, and how long it takes.

    On simulated scenarios the truth is known: promotions and rollbacks that were not deserved, and the delay to those
    that were. On your own history it is what became of the promotions.

    \b
    Examples:
      stagekeeper scorecard
      stagekeeper scorecard --runs 20 --scenario slow --json | jq .simulated.false_promotes
      stagekeeper scorecard --runs 0
    """
    demo_gates = files("stagekeeper.embedded").joinpath("demo_gates.yaml")
    gates = GateFile.parse(demo_gates.read_bytes()) if path is None else GateFile.load(path)
    # The demonstration is a mix of the others.
    chosen = [scenario(name) for name in names] or [made for made in SCENARIOS.values() if made.name != "demo"]
    cells = []
    for number, made in enumerate(chosen if runs else []):
        click.echo(f"Scenario {made.name} ({number + 1} of {len(chosen)}), {runs} runs ...", err=True)
        cells += [outcome for run in range(runs) for outcome in outcomes(made, gates, seed=seed + run, events=events)]
    lake = existing_lake(root)
    answer: dict[str, Any] = {
        "runs": runs,
        "gate_sha256": gates.sha256,
        "simulated": scored(cells) if runs else None,
        "history": None if lake is None else of_history(lake),
    }
    if as_json:
        print_json(answer)
        return
    if answer["simulated"] is not None:
        _print_simulated(answer["simulated"])
    if answer["history"] is None:
        click.echo("There is no lake yet, so there is no history of your own to score.")
    else:
        _print_history(answer["history"])


def _print_simulated(scores: dict[str, Any]) -> None:
    click.echo(f"{scores['cells']} simulated cells with a known truth:")
    for name, meaning in (
        ("false_promotes", "promoted although they deserve something else"),
        ("false_rollbacks", "rolled back although they deserve something else"),
        ("rolled_back", "rolled back that deserve it"),
        ("promoted", "promoted that deserve it, in the time that they had"),
    ):
        click.echo(f"  {_share(scores[name])} {meaning}")
    if (delay := scores["delay_to_rollback_s"]) is not None:
        click.echo(f"  delay to rollback: median {duration(delay['median'])}, longest {duration(delay['longest'])}")
    for name, counts in scores["by_scenario"].items():
        promotes, rollbacks = counts["false_promotes"]["count"], counts["false_rollbacks"]["count"]
        wrong = f"{promotes} false promotes, {rollbacks} false rollbacks"
        click.echo(f"    {name:<26} {counts['cells']:>3} cells, {wrong}")


def _print_history(scores: dict[str, Any]) -> None:
    click.echo(f"Your own history: {scores['promotions']} promotions, {scores['rollbacks']} rollbacks.")
    for name, meaning in (
        ("later_rolled_back", "of the promotions were rolled back later"),
        ("followed_by_incident", "were followed by an incident within a week"),
        ("accepted", "were put into effect by people within a week"),
    ):
        click.echo(f"  {_share(scores[name])} {meaning}")
    for verdict, noun in (("PROMOTE", "promotions"), ("ROLL_BACK", "rollbacks")):
        answers = scores["agreement"][verdict]
        click.echo(
            f"  people agreed with {_share(answers['share'])} of the {noun} that they answered "
            f"({answers['accepted']} accepted, {answers['dismissed']} dismissed, {answers['superseded']} superseded, "
            f"{answers['open']} open)"
        )
    click.echo(f"  {scores['overrides']} verdicts were overridden by people")


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "none of 0"
    bounds = f"{percent(share['lower'])} to {percent(share['upper'])}"
    return f"{share['count']} of {share['among']} ({percent(share['value'])}, exactly bounded by {bounds})"
