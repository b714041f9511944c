"""`stagekeeper doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from stagekeeper.commands.options import Duration, json_option, lake_option
from stagekeeper.doctor.finding import State
from stagekeeper.doctor.run import examine
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from datetime import timedelta

FAILED, UNKNOWN = 1, 3
"""Exit codes: something fails; nothing fails, and something is unknown."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--worker", "workers", multiple=True, help="Address of a worker's web server; may be given more than once."
)
@click.option("--watch", type=Duration(), default="3s", show_default=True, help="Time between the two looks.")
@lake_option
@json_option
def command(workers: tuple[str, ...], watch: timedelta, root: str | None, *, as_json: bool) -> None:
    """Tell what is wrong and what to do: broker, topics, workers, lag, lake, commits, clocks, gates, evidence, rejects.

    Looks from outside, twice, and changes nothing. Every check is pass, warn, fail or unknown, with its evidence and
    what mends it.

    Exit code 0: nothing fails. 1: something fails. 3: nothing fails, and something is unknown. 2: usage.

    \b
    Examples:
      stagekeeper doctor
      stagekeeper doctor --worker http://127.0.0.1:9101 --worker http://127.0.0.1:9102 --watch 10s
      stagekeeper doctor --json | jq '.findings[] | select(.state != "pass")'
    """
    settings = Settings.load()
    if root is not None:
        settings = settings.model_copy(update={"lake_root": root})
    findings = examine(
        settings, workers=workers, watch_s=watch.total_seconds(), now=lambda: datetime.now(UTC), wait=time.sleep
    )
    counts = Counter(finding.state for finding in findings)
    if as_json:
        document = {
            "counts": {state.value: counts[state] for state in State},
            "findings": [finding.document() for finding in findings],
        }
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(f"{finding.state.value:<8}{finding.check:<10} {finding.evidence}")
            if finding.mend and finding.state is not State.PASS:
                click.echo(f"{'':<18} → {finding.mend}")
        click.echo(", ".join(f"{counts[state]} {state.value}" for state in State if counts[state]))
    sys.exit(FAILED if counts[State.FAIL] else UNKNOWN if counts[State.UNKNOWN] else 0)
