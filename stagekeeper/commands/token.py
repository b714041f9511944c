"""`stagekeeper token`: who may ask the service, and for what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from stagekeeper.api.access_tokens import AccessScope, AccessToken, TokensFile, draw_token, revoke_token
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import Duration, FiniteRange, RecordedText, json_option, print_json
from stagekeeper.settings import Settings

_NAME = RecordedText("name", 200)
_SCOPE = click.Choice([each.value for each in AccessScope])


@click.group(cls=CommandGroup)
def command() -> None:
    """Draw, list and revoke the tokens of the service.

    A token fixes the agent, the service that asks on its behalf, the person who reviews, and the scopes: `decide`,
    `report`, `review`, `read`, `operate`. The file holds digests; a token is shown once.

    \b
    Examples:
      stagekeeper token new --agent support-bot --service crm --scope decide --scope report
      stagekeeper token new --person ada@example.org --scope review --scope read --expires 90d
      stagekeeper token list
      stagekeeper token revoke 3f9c1e0a7b52
    """


@command.command()
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([each.value for each in AccessScope]),
    help="What it is for; may be repeated.",
)
@click.option("--agent", type=_NAME, help="The agent that asks.")
@click.option("--service", type=_NAME, help="The workload that asks on its behalf.")
@click.option("--person", type=_NAME, help="The person who reviews or operates.")
@click.option("--expires", type=Duration(), help="For how long it holds, e.g. 90d; by default until it is revoked.")
@click.option("--per-second", type=FiniteRange(min=0, min_open=True), help="Requests a second; 1000 by default.")
@json_option
def new(*, expires: timedelta | None, as_json: bool, **fields: Any) -> None:  # noqa: ANN401 - a token's fields, by name
    """Draw a token; it is printed once, and only its digest is kept. A service that runs takes it within a second.

    \b
    Examples:
      stagekeeper token new --agent support-bot --service crm --scope decide --scope report
      stagekeeper token new --person ada@example.org --scope review --scope read --expires 90d --json
    """
    path = Settings.load().tokens
    given = {name: value for name, value in fields.items() if value is not None}
    if expires is not None:
        given["expires_at"] = datetime.now(UTC) + expires
    token, text = draw_token(path, **given)
    if as_json:
        print_json({**token.model_dump(mode="json", exclude={"sha256"}), "token": text, "file": str(path)})
        return
    click.echo(f"Token {token.id} is in {path}, by its digest. It is shown this once:", err=True)
    click.echo(text)


@command.command("list")
@json_option
def list_tokens(*, as_json: bool) -> None:
    """List the tokens, without what would let anybody use them.

    \b
    Examples:
      stagekeeper token list
    """
    path = Settings.load().tokens
    file = TokensFile.load(path) if path.exists() else TokensFile()
    if as_json:
        print_json([token.model_dump(mode="json", exclude={"sha256"}) for token in file.tokens])
        return
    if not file.tokens:
        click.echo(f"There is no token in {path}.")
    for token in file.tokens:
        who = " by ".join(filter(None, (token.agent, token.service))) or token.person
        click.echo(f"{token.id}  {who or 'anybody'}  {', '.join(token.scopes)}  {_state(token)}")


@command.command()
@click.argument("token_id")
@json_option
def revoke(token_id: str, *, as_json: bool) -> None:
    """End a token. A service that runs refuses it within a second.

    \b
    Examples:
      stagekeeper token revoke 3f9c1e0a7b52
    """
    token = revoke_token(Settings.load().tokens, token_id)
    if as_json:
        print_json(token.model_dump(mode="json", exclude={"sha256"}))
    else:
        click.echo(f"Token {token.id} is {_state(token)}.")


def _state(token: AccessToken) -> str:
    if token.revoked_at is not None:
        return f"revoked at {token.revoked_at.isoformat(timespec='seconds')}"
    if token.expires_at is None:
        return "holds until it is revoked"
    word = "holds until" if token.holds(datetime.now(UTC)) else "expired at"
    return f"{word} {token.expires_at.isoformat(timespec='seconds')}"
