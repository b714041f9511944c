"""`stagekeeper gates`: look gate files over."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import click

from analytics.gates.lint import lint


@click.group("gates")
def command() -> None:
    """Look gate files over before they are in force.

    \b
    Examples:
      stagekeeper gates lint gates.yaml
    """


@command.command("lint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def lint_command(file: Path, *, as_json: bool) -> None:
    """Find what is unknown, unreachable, contradictory, or promotes anything, and what each limit takes at least.

    \b
    Exit codes: 0 nothing but notes · 1 errors or warnings · 2 usage, or the file cannot be read.

    \b
    Examples:
      stagekeeper gates lint gates.yaml
      stagekeeper gates lint gates.yaml --json | jq '.findings[] | select(.level == "error")'
    """
    found = lint(file)
    counted = Counter(finding.level for finding in found)
    if as_json:
        answer = {
            "file": str(file),
            "counts": {level: counted[level] for level in ("error", "warning", "note")},
            "findings": [finding.document() for finding in found],
        }
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for finding in found:
            click.echo(f"{finding.level:<7} {finding.code:<18} {finding.place}: {finding.message}")
        said = ", ".join(f"{counted[level]} {level}s" for level in ("error", "warning", "note"))
        click.echo(f"{file}: {said}.")
    sys.exit(1 if counted["error"] or counted["warning"] else 0)
