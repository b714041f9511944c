"""`stagekeeper doctor`: check a running installation."""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import click

from stagekeeper.commands.options import Duration, json_option, lake_option, print_json
from stagekeeper.doctor.check_result import CheckState, exit_code
from stagekeeper.doctor.run import run_checks
from stagekeeper.settings import Settings


@click.command()
@click.option(
    "--worker", "workers", multiple=True, help="Address of a worker's web server; may be given more than once."
)
@click.option("--watch", type=Duration(), default="3s", show_default=True, help="Time between the two snapshots.")
@lake_option
@json_option
def command(workers: tuple[str, ...], watch: timedelta, root: str | None, *, as_json: bool) -> None:
    """Find what is wrong with a running installation, and what to do about it.

    Checks broker, topics, workers, lag, lake, commits, clocks, gate file, verdicts, evidence, rejects, flags and the
    review store from outside, twice, and changes nothing. Every check is pass, warn, fail or unknown, with its evidence
    and what to do about it.

    Exit code 0: nothing fails. 1: something fails. 3: nothing fails, and something is unknown. 2: usage.

    \b
    Examples:
      stagekeeper doctor
      stagekeeper doctor --worker http://127.0.0.1:9101 --worker http://127.0.0.1:9102 --watch 10s
      stagekeeper doctor --json | jq '.checks[] | select(.state != "pass")'
    """
    settings = Settings.load()
    if root is not None:
        settings = settings.model_copy(update={"lake_root": root})
    results = run_checks(
        settings, workers=workers, watch_s=watch.total_seconds(), now=lambda: datetime.now(UTC), wait=time.sleep
    )
    counts = Counter(result.state for result in results)
    if as_json:
        by_state = {state.value: counts[state] for state in CheckState}
        print_json({"counts": by_state, "checks": [result.to_dict() for result in results]})
    else:
        for result in results:
            click.echo(f"{result.state.value:<8}{result.check:<10} {result.evidence}")
            if result.fix and result.state is not CheckState.PASS:
                click.echo(f"{'':<18} → {result.fix}")
        click.echo(", ".join(f"{counts[state]} {state.value}" for state in CheckState if counts[state]))
    sys.exit(exit_code(result.state for result in results))
