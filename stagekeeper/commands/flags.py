"""`stagekeeper flags`: write and show the flags, and switch single actions off and on, on record."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_overlays import DENIED, OverlayScope
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.new_flags import new_flag_file
from producers.boundary.policy_flags import FLAGS
from producers.errors import StagekeeperError, UsageError
from producers.flag_services.flag_service import first_flags
from producers.strict_yaml import suggest
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import (
    NAME,
    RecordedText,
    actor_options,
    flags_option,
    json_option,
    print_json,
    stages,
    together,
)
from stagekeeper.overlay_moves import add_overlay, remove_overlay
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from producers.boundary.stage_writer import StageWriter
    from producers.flag_services.flag_service import NewFlag

_REVIEW_AFTER: Final = timedelta(days=90)

_entry_options = together(
    click.option("--tool", type=NAME, help="The tool; left out, every tool of the workflow or account."),
    click.option("--workflow", type=NAME, help="Only in this workflow."),
    click.option("--account", type=NAME, help="Only for this account."),
    actor_options,
    flags_option,
    json_option,
)


@click.group(cls=CommandGroup)
def command() -> None:
    """Write a first flag file, see the flags, and switch single actions off and on.

    Each switch is an entry in the flag file (flagd JSON) that a router with this file obeys within a second. It touches
    nothing else, and is recorded as an event with who and why.

    \b
    Examples:
      stagekeeper flags init --owner support-platform@example.org
      stagekeeper flags show
      stagekeeper flags disable --tool issue_refund --as ada@example.org --because "refunds go out twice"
      stagekeeper flags disable --tool issue_refund --account acct-9 --as ada@example.org --because "customer asked"
      stagekeeper flags enable --tool issue_refund --as ada@example.org --because "mended in 4.2"
    """


@command.command()
@click.option(
    "--provider",
    type=click.Choice(["flagd", "unleash", "featbit"]),
    default="flagd",
    show_default=True,
    help="For which provider.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file; the configured one by default.")
@click.option("--owner", type=RecordedText("owner", 200), required=True, help="Who answers for the flags.")
@click.option(
    "--review-date", type=click.DateTime(["%Y-%m-%d"]), help="When to look at them again; in 90 days if not given."
)
@click.option(
    "--cleanup-condition",
    type=RecordedText("condition", 1_000),
    default="every action has reached its last stage, or the roll-out is given up",
    show_default=True,
    help="When the temporary ones go.",
)
@json_option
def init(
    provider: str,
    out: Path | None,
    owner: str,
    review_date: datetime | None,
    cleanup_condition: str,
    *,
    as_json: bool,
) -> None:
    """Make every flag, so that nothing acts by itself: a flag file, or flags in Unleash or FeatBit.

    Who owns each, when it is reviewed and when it goes stands in its metadata, or its description there. A file or a
    flag that is there already is never replaced. A service is the one that STAGEKEEPER_STAGE_STORE names, with a token
    of its management API in STAGEKEEPER_STAGE_STORE_TOKEN.

    \b
    Examples:
      stagekeeper flags init --provider flagd --owner support-platform@example.org
      stagekeeper flags init --out flags.json --owner ada@example.org --review-date 2027-03-01
      STAGEKEEPER_STAGE_STORE="unleash:https://unleash.example?project=default&environment=production" \\
          stagekeeper flags init --provider unleash --owner ada@example.org
    """
    settings = Settings.load()
    review_on = review_date.date() if review_date is not None else datetime.now(UTC).date() + _REVIEW_AFTER
    if provider == "flagd":
        path = out if out is not None else settings.flags
        text = new_flag_file(owner=owner, review_date=review_on, cleanup_condition=cleanup_condition)
        _write_new(path, text)
        where, names, made = str(path), {"file": str(path)}, list(json.loads(text)["flags"])
    elif out is not None:
        raise UsageError(
            f"--out names a flag file, and --provider {provider} makes flags in the service; leave one out"
        )
    else:
        flags = first_flags(owner=owner, review_date=review_on, cleanup_condition=cleanup_condition)
        where, made = _made_in_service(provider, settings, flags)
        names = {"store": where}
    if as_json:
        print_json({**names, "provider": provider, "flags": made})
    elif made:
        click.echo(
            f"wrote {where} for {provider}: every action is at search_only, and whatever has consequences is reviewed"
        )
    else:
        click.echo(f"{where} has every flag already, and they stay as they are")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and stays as it is; name another file with --out") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another file with --out") from error


def _made_in_service(provider: str, settings: Settings, flags: list[NewFlag]) -> tuple[str, list[str]]:
    """The service's name, and the flags that it did not have."""
    from stagekeeper.stage_stores import open_flag_service  # noqa: PLC0415 - a flag file needs none

    if not (settings.stage_store or "").startswith(f"{provider}:"):
        raise UsageError(
            f"STAGEKEEPER_STAGE_STORE names no {provider}; set it to {provider}:URL?... as docs/loop.md says"
        )
    with contextlib.closing(open_flag_service(settings)) as service:
        service.prepare()
        return service.name, [new.flag.key for new in flags if service.create(new)]


@command.command()
@flags_option
@json_option
def show(flag_path: Path | None, *, as_json: bool) -> None:
    """Print the flags, and what is switched off.

    \b
    Examples:
      stagekeeper flags show
      stagekeeper flags show --json | jq .switched_off
    """
    path = flag_path if flag_path is not None else Settings.load().flags
    file = FlagText.load(path)
    flags, denied = file.flags, DENIED.scopes(file)
    if as_json:
        answer = {
            "file": str(path),
            "flags": {key: _facts(flag) for key, flag in flags.items()},
            "missing": [flag.key for flag in FLAGS if flag.key not in flags],
            "switched_off": [entry._asdict() for entry in denied],
        }
        print_json(answer)
        return
    for key, flag in flags.items():
        facts = _facts(flag)
        targeted = ", targeted" if facts["targeted"] else ""
        owner = facts["owner"] or "nobody"
        click.echo(f"{key:<36}{facts['state']}, default {json.dumps(facts['default'])}{targeted}; owner {owner}")
    for flag in FLAGS:
        if flag.key not in flags:
            click.echo(f"{flag.key:<36}missing: {json.dumps(flag.safe)} applies")
    for entry in denied:
        click.echo(f"switched off: {entry}")


@command.command()
@_entry_options
@click.option("--anyway", is_flag=True, help="Also where nobody has seen the tool.")
def disable(
    flag_path: Path | None, actor: str, reason: str, *, anyway: bool, as_json: bool, **values: str | None
) -> None:
    """Switch an action off.

    A tool that neither the lake nor the flag store has seen may be a slip of the pen, which stops nothing: it needs
    --anyway. It is recorded after it is in force, as is a repetition.

    \b
    Exit codes:
      0  it is switched off
      1  it is not: the flag store cannot be read or written
      2  usage
      3  it is switched off, and that is not on record: say it again

    \b
    Examples:
      stagekeeper flags disable --tool issue_refund --as ada@example.org --because "refunds go out twice"
    """
    settings, store, entry = Settings.load(), stages(flag_path), _entry(values)
    if entry.tool is not None and not anyway:
        _require_seen(entry.tool, store, settings)
    add_overlay(
        DENIED,
        entry,
        store,
        settings,
        actor=actor,
        reason=reason,
        announce=lambda changed: _say(
            entry, f"is switched off{'' if changed else ' already'}", changed=changed, as_json=as_json
        ),
    )


@command.command()
@_entry_options
def enable(flag_path: Path | None, actor: str, reason: str, *, as_json: bool, **values: str | None) -> None:
    """Switch an action on again.

    \b
    Examples:
      stagekeeper flags enable --tool issue_refund --as ada@example.org --because "mended in 4.2"
    """
    settings, store, entry = Settings.load(), stages(flag_path), _entry(values)
    changed = remove_overlay(DENIED, entry, store, settings, actor=actor, reason=reason)
    _say(entry, f"is {'switched on' if changed else 'not switched off'}", changed=changed, as_json=as_json)


def _entry(values: dict[str, str | None]) -> OverlayScope:
    entry = OverlayScope(**values)
    if not entry.values:
        raise UsageError("say what to switch: a tool, a workflow or an account")
    return entry


def _say(entry: OverlayScope, what: str, *, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json({**entry._asdict(), "changed": changed, "message": f"{entry} {what}."})
    else:
        click.echo(f"{entry} {what}.")


def _require_seen(tool: str, store: StageWriter, settings: Settings) -> None:
    """Refuse a tool that nobody has seen; where no lake can tell, say so and let it pass: it may be an emergency."""
    if isinstance(store, FlagdStages):
        if json.dumps(tool) in json.dumps(FlagText.load(store.path).document):
            return
    elif any(setting.action.tool == tool for setting in store.settings()):
        return
    try:
        tools = _seen_tools(settings.lake)
    except (ImportError, StagekeeperError) as error:
        click.echo(f"Whether anybody has seen the tool {tool} is not known: {error}", err=True)
        return
    if tools is None:
        click.echo(f"Whether anybody has seen the tool {tool} is not known: there is no lake here.", err=True)
    elif tool not in tools:
        raise UsageError(
            f"nobody has seen the tool {tool}; {suggest(tool, sorted(tools))} Nothing is switched off. Name the tool "
            "as it is recorded, or add --anyway."
        )


def _seen_tools(root: str) -> set[str] | None:
    # The imports are deferred: a router's machine has no extra `analytics`.
    from analytics.lake.storage import reading  # noqa: PLC0415
    from analytics.lake.table_schemas import SIGNALS  # noqa: PLC0415
    from analytics.lake.tables import Lake  # noqa: PLC0415

    with reading(root):
        lake = Lake.existing(root)
        return None if lake is None else set(lake.scan(SIGNALS).select("tool").unique().collect()["tool"])


def _facts(flag: dict[str, Any]) -> dict[str, Any]:
    metadata = flag.get("metadata", {})
    default = flag.get("defaultVariant")
    return {
        "state": flag.get("state"),
        "default": flag.get("variants", {}).get(default),
        "targeted": bool(flag.get("targeting")),
        **{name: metadata.get(name) for name in ("owner", "kind", "review_date", "cleanup_condition")},
    }
