"""`stagekeeper webhooks`: who is told of recommendations, and whether they can be reached."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from producers.errors import UsageError
from producers.strict_yaml import suggest
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import json_option, print_json
from stagekeeper.settings import Settings
from streams.webhooks.delivery import Attempt, deliver, session_for
from streams.webhooks.endpoints import Webhooks
from streams.webhooks.messages_out import trial_body

if TYPE_CHECKING:
    from streams.webhooks.endpoints import Endpoint

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_file_option: Final = click.option(
    "--file", "path", type=_FILE, help="The webhooks file; the configured one by default."
)


@click.group("webhooks", cls=CommandGroup)
def command() -> None:
    """See who is told of recommendations, and try whether they can be reached.

    \b
    Examples:
      stagekeeper webhooks list
      stagekeeper webhooks try --endpoint payments
    """


@command.command("list")
@_file_option
@json_option
def list_endpoints(path: Path | None, *, as_json: bool) -> None:
    """List the endpoints, once their secrets have been read; none of them is shown.

    \b
    Examples:
      stagekeeper webhooks list
      stagekeeper webhooks list --file webhooks.yaml --json
    """
    rows = [
        {"name": one.name, "format": one.format, "owners": sorted(one.owners), "lives": sorted(one.lives)}
        for one in _webhooks(path).endpoints
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        owners = ", ".join(row["owners"]) or "all gates"
        click.echo(f"{row['name']}  {row['format']}  of {owners}  when {', '.join(row['lives'])}")


@command.command("try")
@click.option("--endpoint", "name", help="Only this one; all by default.")
@_file_option
@json_option
def try_endpoints(name: str | None, path: Path | None, *, as_json: bool) -> None:
    """Send each endpoint a message of type `stagekeeper.trial`, once, and print what it answers.

    Exits with 1 where one did not take it.

    \b
    Examples:
      stagekeeper webhooks try
      stagekeeper webhooks try --endpoint payments --json
    """
    endpoints = {one.name: one for one in _webhooks(path).endpoints}
    if name is not None and name not in endpoints:
        raise UsageError(f"there is no endpoint `{name}`; {suggest(name, list(endpoints))}")
    chosen = [one for one in endpoints.values() if name in {None, one.name}]
    attempts = asyncio.run(_send(chosen))
    rows = [{"name": one.name, "delivered": got.delivered, "answer": got.detail} for one, got in attempts]
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        click.echo(f"{row['name']}  {'delivered' if row['delivered'] else 'NOT DELIVERED'}  {row['answer']}")
    if not all(row["delivered"] for row in rows):
        raise SystemExit(1)


async def _send(endpoints: list[Endpoint]) -> list[tuple[Endpoint, Attempt]]:
    now = datetime.now(UTC)

    async def one(endpoint: Endpoint) -> Attempt:
        async with session_for(endpoint) as session:
            return await deliver(session, endpoint, f"msg_trial_{now:%Y%m%d%H%M%S%f}", trial_body(endpoint, now))

    return list(zip(endpoints, await asyncio.gather(*map(one, endpoints)), strict=True))


def _webhooks(path: Path | None) -> Webhooks:
    path = path or Settings.load().webhooks_file
    if path is None:
        raise UsageError("no webhooks file is known; name it with --file or in STAGEKEEPER_WEBHOOKS_FILE")
    return Webhooks.load(path)
