"""`stagekeeper page`: the page alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from producers.errors import UsageError
from producers.web_guard import LOOPBACK
from stagekeeper.commands.options import lake_option
from stagekeeper.embedded.programs import page_command
from stagekeeper.settings import Settings
from streams.ports import available_port
from streams.ready_file import web_address


@click.command("page")
@lake_option
@click.option("--gates", "gate_file", type=click.Path(path_type=Path, dir_okay=False), help="Gate file (YAML).")
@click.option("--host", default=LOOPBACK, show_default=True, help="Interface to serve it on.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8501, show_default=True, help="Port to serve it on.")
@click.option("--web-name", "web_names", multiple=True, help="A further host name to answer to; may be repeated.")
def command(root: str | None, gate_file: Path | None, host: str, port: int, web_names: tuple[str, ...]) -> None:
    """Serve the page on a lake, without a broker or a worker.

    Who has not signed in may act on the loopback interface alone, under a name that is recorded as unauthenticated;
    docs/console.md says how people sign in.

    \b
    Examples:
      stagekeeper page
      stagekeeper page --lake /srv/stagekeeper/lake --gates /etc/stagekeeper/gates.yaml --port 8600
    """
    settings = Settings.load()
    named = {"lake_root": root, "gate_file": gate_file}
    settings = settings.model_copy(update={name: value for name, value in named.items() if value is not None})
    if available_port(port) != port:
        raise UsageError(f"port {port} is taken. Choose another with --port.")
    served = page_command(settings, port, host=host, web_names=web_names)
    click.echo(f"open {web_address(host, port)}", err=True)
    # In this process, so that signals and the exit code are the page's own.
    os.execve(served[0], served, {**os.environ, **settings.as_environment})  # noqa: S606 - a list that we made
