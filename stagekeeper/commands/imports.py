"""`stagekeeper import`: import recorded agents."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, fields
from pathlib import Path

import click

from producers.delivery.kafka_emitter import DeliveryStats, KafkaEmitter
from producers.delivery.recorder import system_clock
from producers.importers.catalog import Catalog
from producers.importers.failures import FailureRules
from producers.importers.importer import ImportCounts, ToolCount, TranscriptImporter, require_usable
from producers.importers.transcript import ToolExamples, Transcript, TranscriptReader, examples_of
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import json_option, print_json
from stagekeeper.imported_before import imported_before
from stagekeeper.settings import Settings
from streams.broker import ensure_topics

_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path, allow_dash=True)


@click.group(cls=CommandGroup)
def command() -> None:
    """Import recorded agents.

    \b
    Examples:
      stagekeeper import transcript runs.jsonl --catalog catalog.yaml
      stagekeeper import transcript --help
    """


@command.command()
@click.argument("files", type=_PATH, nargs=-1, required=True)
@click.option("--catalog", "catalog_file", type=_FILE, required=True, help="What the tools are (YAML).")
@click.option("--reward-field", help="Where a conversation's reward is, as a dotted path; below 1 is a failure.")
@click.option("--failed-when", multiple=True, metavar="REGEX", help="A result that holds this failed. Repeatable.")
@click.option("--succeeded-when", multiple=True, metavar="REGEX", help="A result that holds this did not fail.")
@click.option("--run", default="", help="Name of the run, where equal conversations of two runs must both count.")
@click.option("--skip-unknown", is_flag=True, help="Leave out tools that the catalog lacks.")
@click.option("--skip-bad", is_flag=True, help="Leave out conversations that cannot be read, and list them.")
@click.option("--dry-run", is_flag=True, help="Emit nothing: show what would be counted, with examples of results.")
@json_option
def transcript(
    *,
    files: tuple[Path, ...],
    catalog_file: Path,
    reward_field: str | None,
    failed_when: tuple[str, ...],
    succeeded_when: tuple[str, ...],
    run: str,
    skip_unknown: bool,
    skip_bad: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import recorded conversations: files, folders, or - for standard input; JSON or JSON lines, gzipped or not.

    Messages may be in OpenAI's chat format (with its older function calls) or its Responses format, in Anthropic's
    content blocks, or as tau2, AgentDojo and Inspect export them.

    Every tool call becomes a decision (allowed, as it was); its result an execution; a call without a result has no
    execution and counts as a missing outcome. A result failed where the recording says so, else where it is a JSON
    object with an error, a failed status or an exit code, else where its text begins like an error ("Error: ...",
    "Traceback ...", "HTTP 503"); --dry-run shows examples of both. With --reward-field, every executed call also gets a
    quality impact, passed where the reward is at least 1. What the files do not hold stays unknown: latency and cost
    are null, and the time of a decision is the moment of the import.

    A call counts once, also in a file that grew or was mended, where the second import comes within an hour of events:
    it is dated anew, and counts again later. Nothing is emitted unless everything can be read.

    \b
    Examples:
      stagekeeper import transcript conversations.json --catalog catalog.yaml
      stagekeeper import transcript runs/ --catalog catalog.yaml --dry-run
      stagekeeper import transcript runs.jsonl.gz --catalog catalog.yaml --reward-field reward --json
      cat run.jsonl | stagekeeper import transcript - --catalog catalog.yaml --failed-when "refused by"

    \b
    Exit codes: 0 imported, 1 not everything reached the broker, 2 the files or the catalog cannot be used.
    """
    rules = FailureRules(_patterns("--failed-when", failed_when), _patterns("--succeeded-when", succeeded_when))
    recorded = TranscriptReader(rules, run, skip_bad).read(files)
    catalog = Catalog.load(catalog_file)
    require_usable(recorded, catalog, reward_field=reward_field, skip_unknown=skip_unknown)
    for fault in recorded.bad:
        click.echo(f"left out: {fault}", err=True)
    if dry_run:
        found = examples_of(recorded)
        if as_json:
            tools = [asdict(tool) for tool in found]
            print_json({"conversations": len(recorded.conversations), "tools": tools, "bad": list(recorded.bad)})
        else:
            _show(found)
        return
    settings = Settings.load()
    bootstrap_servers = settings.require_kafka()
    ensure_topics(bootstrap_servers, settings.kafka_security)
    with KafkaEmitter(bootstrap_servers, client_id="stagekeeper-import", settings=settings.kafka_security) as emitter:
        importer = TranscriptImporter(
            recorded,
            catalog,
            emitter,
            reward_field=reward_field,
            skip_unknown=skip_unknown,
            key=settings.signing_key,
            now=system_clock,
            known=imported_before(settings),
        )
        with click.progressbar(recorded.conversations, label="conversations", file=sys.stderr) as bar:
            for conversation in bar:
                importer.add(conversation)
        emitter.flush(60.0)
    stats = emitter.stats
    if as_json:
        print_json(_document(files, recorded, catalog, importer.counts, stats))
    else:
        click.echo(_table(recorded, importer.counts, stats))
    stats.require_all()


def _patterns(option: str, texts: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(text) for text in texts)
    except re.error as error:
        raise click.BadParameter(f"{error.pattern!r} is no regular expression: {error}", param_hint=option) from error


def _show(found: list[ToolExamples]) -> None:
    for tool in found:
        click.echo(f"{tool.tool}: {tool.calls:,} calls, {tool.failed:,} failed, {tool.unanswered:,} unanswered")
        for word, examples in (("failed", tool.failures), ("succeeded", tool.successes)):
            for example in examples:
                click.echo(f"  {word:<9}  {example}")


def _document(
    files: tuple[Path, ...], recorded: Transcript, catalog: Catalog, counts: ImportCounts, stats: DeliveryStats
) -> dict[str, object]:
    tools = [
        {
            "tool": tool,
            "workflow": catalog.contract(tool).workflow,
            "stage": catalog.stage_of(tool).value,
            **asdict(count),
        }
        for tool, count in _by_calls(counts)
    ]
    return {
        "files": [file.name for file in files],
        "sha256": recorded.sha256,
        "conversations": len(recorded.conversations),
        **{field.name: sum(tool[field.name] for tool in tools) for field in fields(ToolCount)},
        "quality_checks": counts.quality_checks,
        "left_out": dict(sorted(counts.left_out.items())),
        "bad_conversations": list(recorded.bad),
        "skipped": dict(sorted(counts.skipped.items())),
        "tools": tools,
        "events": counts.events,
        "known_before": counts.known,
        "delivered": stats.delivered,
    }


def _by_calls(counts: ImportCounts) -> list[tuple[str, ToolCount]]:
    return sorted(counts.tools.items(), key=lambda item: (-item[1].calls, item[0]))


def _table(recorded: Transcript, counts: ImportCounts, stats: DeliveryStats) -> str:
    width = max([len("tool"), *(len(tool) for tool in counts.tools)])
    lines = [f"{'tool':<{width}}  {'calls':>7}  {'failed':>7}  {'no result':>9}"]
    lines += [
        f"{tool:<{width}}  {count.calls:>7,}  {count.failed:>7,}  {count.unanswered:>9,}"
        for tool, count in _by_calls(counts)
    ]
    calls = sum(count.calls for count in counts.tools.values())
    lines.append(
        f"{len(recorded.conversations):,} conversations, {calls:,} calls, {stats.delivered:,} events delivered"
    )
    if counts.skipped:
        skipped = ", ".join(f"{tool} ({count:,})" for tool, count in sorted(counts.skipped.items()))
        lines.append(f"left out, not in the catalog: {skipped}")
    if counts.known:
        lines.append(f"{counts.known:,} of {counts.events:,} events were known already, and are not counted again")
    lines += [f"not counted: {reason} ({count:,})" for reason, count in sorted(counts.left_out.items())]
    return "\n".join(lines)
