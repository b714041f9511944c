"""`stagekeeper audit`: why an action was allowed, which decisions there were, and whether the record is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import click

from analytics.audit import story_text
from analytics.audit.completeness import CompletenessReport, completeness
from analytics.audit.export import ExportFormat, ExportManifest, export, verify_export
from analytics.audit.search import DecisionQuery, SearchPage, search
from analytics.audit.search_index import SearchIndex, index_path
from analytics.audit.story import DEADLINE, story
from analytics.text import iso
from producers.written_files import writing
from stagekeeper.commands import CommandGroup, audit_seals
from stagekeeper.commands.options import (
    Duration,
    Moment,
    json_option,
    lake_option,
    print_json,
    require_lake,
    say,
    together,
)
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta

    from analytics.lake.tables import Lake

_EXIT: Final = {"COMPLETE": 0, "INCOMPLETE": 1, "INVALID": 40}

query_options: Final = together(
    click.option("--actor", help="Agent, user or service identity."),
    click.option("--user", help="The user."),
    click.option("--account", help="The account."),
    click.option("--environment", help="Environment of the target."),
    click.option("--workflow", help="The workflow."),
    click.option("--tool", help="The tool."),
    click.option("--target", help="System, record or environment of the target."),
    click.option(
        "--outcome",
        type=click.Choice(["allow", "constrain", "queue_for_review", "deny", "fallback"]),
        help="The outcome.",
    ),
    click.option("--stage", help="The stage at which it was decided."),
    click.option("--rule", help="The rule of hard authorization that decided."),
    click.option("--reason", help="The outcome's reason."),
    click.option("--risk-class", help="The risk class."),
    click.option("--source", help="The router that decided."),
    click.option("--since", type=Moment(), help="Decided at this moment or later."),
    click.option("--until", type=Moment(), help="Decided before this moment."),
    click.option("--text", default="", help="Words of the intent, all of them; `refund*` is the beginning of one."),
)


@click.group("audit", cls=CommandGroup)
def command() -> None:
    """Ask why an action was allowed, search the record, export it, and check whether it is whole.

    \b
    Examples:
      stagekeeper audit why 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11
      stagekeeper audit search --tool issue_refund --outcome allow --text "charged twice"
      stagekeeper audit export --to refunds --format csv --tool issue_refund
      stagekeeper audit completeness --json
    """


for _sealed in audit_seals.COMMANDS:
    command.add_command(_sealed)


@command.command("why")
@click.argument("decision_id")
@click.option("--at", type=Moment(), help="When it was decided, exactly; spares reading the whole table.")
@click.option("--deadline", type=Duration(), default=DEADLINE, help="After that long an outcome is overdue; 120s.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for an incident report.")
@click.option("--graph", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it, as SVG, into this file.")
@lake_option
@json_option
def why(
    decision_id: str,
    at: datetime | None,
    deadline: timedelta,
    graph: Path | None,
    root: str | None,
    *,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Tell the whole story of a decision, in order: who asked for what, why it was answered so, and what came of it.

    What is not on record is named as missing.

    Exit code 0: told. 1: the lake cannot be read. 2: usage, or no event about such a decision is in the lake.

    \b
    Examples:
      stagekeeper audit why 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11
      stagekeeper audit why 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --markdown > incident.md
      stagekeeper audit why 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --graph why.svg
    """
    if as_markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    told = story(require_lake(root), decision_id, decided_at=at, deadline=deadline)
    if graph is not None:
        with writing(graph):
            graph.write_text(story_text.to_svg(told), encoding="utf-8")
    if as_json:
        print_json(told.to_dict())
    else:
        click.echo(story_text.to_markdown(told) if as_markdown else story_text.to_text(told))


@command.command("search")
@query_options
@click.option("--limit", type=click.IntRange(min=1), default=50, help="How many; 50.")
@click.option("--before", type=int, help="Go on after a page: its `before` in --json.")
@lake_option
@json_option
def search_command(limit: int, before: int | None, root: str | None, *, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - click passes them by name
    """Find decisions, the newest first. The first search builds an index beside the lake.

    Values are exact; words of the intent are found in any case and order.

    \b
    Examples:
      stagekeeper audit search --actor support-agent --outcome deny
      stagekeeper audit search --account acct-9 --since 2026-03-14 --text "refund*"
      stagekeeper audit search --reason mode_fallback --json | jq -r '.hits[].decision_id'
    """
    query = DecisionQuery(**filters)
    lake = require_lake(root)
    index, version = _index(lake)
    try:
        page = search(index, query, events_version=version, limit=limit, before=before)
    finally:
        index.close()
    if as_json:
        print_json(page.model_dump(mode="json"))
    else:
        say(*_page(page))


@command.group("export", cls=CommandGroup, invoke_without_command=True)
@query_options
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="The folder; it is created.")
@click.option("--format", "form", type=click.Choice(get_args(ExportFormat)), default="jsonl", help="jsonl by default.")
@lake_option
@json_option
@click.pass_context
def export_command(
    context: click.Context,
    /,
    folder: Path | None,
    form: str,
    root: str | None,
    *,
    as_json: bool,
    **filters: Any,  # noqa: ANN401 - click passes them by name
) -> None:
    """Write every event about the decisions of a search to files, with a manifest and digests.

    Each row holds the exact text of its event. An export that was stopped goes on when the same command is given again.
    `sha256sum --check SHA256SUMS` checks the files, too.

    \b
    Examples:
      stagekeeper audit export --to refunds --tool issue_refund --since 2026-03-01
      stagekeeper audit export --to refunds.csv.d --format csv --account acct-9
      stagekeeper audit export verify refunds
    """
    if context.invoked_subcommand is not None:
        return
    if folder is None:
        raise click.UsageError("say where to, by --to FOLDER")
    lake = require_lake(root)
    index, version = _index(lake)
    try:
        manifest = export(
            lake,
            index,
            DecisionQuery(**filters),
            folder,
            form=cast("ExportFormat", form),
            events_version=version,
            progress=_told,
        )
    finally:
        index.close()
    _end(manifest, folder, as_json=as_json)


@export_command.command("verify")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def verify(folder: Path, *, as_json: bool) -> None:
    """Check that every part of an export is what its manifest says.

    Exit code 0: it is. 1: it is not, the export has not ended, or the manifest is no manifest. 2: usage.

    \b
    Examples:
      stagekeeper audit export verify refunds
    """
    manifest = verify_export(folder)
    _end(manifest, folder, as_json=as_json)
    sys.exit(0 if manifest.complete else 1)


@command.command("completeness")
@click.option("--since", type=Moment(), help="Look only at what was decided at this moment or later.")
@click.option("--deadline", type=Duration(), default=DEADLINE, help="After that long an outcome is overdue; 120s.")
@lake_option
@json_option
def completeness_command(since: datetime | None, deadline: timedelta, root: str | None, *, as_json: bool) -> None:
    """Check whether the record is whole: what should be in the lake and is not, and what should not be there.

    \b
    Exit codes:
      0    COMPLETE
      1    INCOMPLETE: there are gaps, and none concerns what verdicts count
      40   INVALID: verdicts on the cells that are named cannot be relied on
      2    usage

    \b
    Examples:
      stagekeeper audit completeness
      stagekeeper audit completeness --since 2026-03-14 --deadline 10m --json
    """
    report = completeness(require_lake(root), deadline=deadline, since=since)
    if as_json:
        print_json(report.to_dict())
    else:
        say(*_report(report))
    sys.exit(_EXIT[report.state])


def _index(lake: Lake) -> tuple[SearchIndex, int]:
    """The lake's search index, brought up to date, and the version that it covers."""
    index = SearchIndex(index_path(lake.root, Settings.load().home))
    try:
        return index, index.follow(lake, _counter("decisions are indexed"))
    except BaseException:
        index.close()
        raise


def _counter(what: str) -> Callable[[int], None]:
    def show(count: int) -> None:
        if count % 200_000 == 0:
            click.echo(f"{count:,} {what}", err=True)

    return show


def _told(manifest: ExportManifest) -> None:
    if manifest.parts:
        click.echo(f"{manifest.parts[-1].file}: {manifest.decisions:,} decisions so far", err=True)


def _end(manifest: ExportManifest, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    state = "complete" if manifest.complete else "not complete: give the command that began it again"
    click.echo(
        f"{folder}: decisions {manifest.decisions:,}, events {manifest.events:,}, files {len(manifest.parts)}, {state}"
    )


def _page(page: SearchPage) -> Iterator[str]:
    if not page.hits:
        yield "No decision is like that."
    for hit in page.hits:
        yield (
            f"{iso(hit.decided_at)}  {hit.decision_id}  {hit.outcome} ({hit.reason})  {hit.workflow}/{hit.tool} at "
            f"{hit.stage}  {hit.agent}, {hit.account or hit.user or 'nobody named'}"
        )
        yield f"    {hit.intent}"
    if page.before is not None:
        yield f"There are more: add --before {page.before}"


def _report(report: CompletenessReport) -> list[str]:
    lines = [
        f"{report.state}: {report.events:,} events, of them {report.decisions:,} decisions; {report.rejects:,} rejects"
    ]
    for gap in report.gaps:
        lines.append(f"{'INVALID  ' if gap.invalidates else ''}{gap.code}: {gap.count:,}. {gap.meaning}")
        lines += [f"  {'/'.join(cell)}" for cell in gap.cells]
        lines += [
            f"    {'' if example.at is None else iso(example.at)} {example.what}: {example.detail}"
            for example in gap.examples
        ]
    if report.unsequenced_sources:
        lines.append(
            f"No event is numbered by {', '.join(report.unsequenced_sources)}: of these a loss cannot be seen."
        )
    return lines
