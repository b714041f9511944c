"""`stagekeeper import`: import recorded agents."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path

import click

from producers.delivery.kafka_emitter import DeliveryStats, KafkaEmitter
from producers.delivery.recorder import system_clock
from producers.importers.catalog import Catalog
from producers.importers.importer import ImportCounts, ToolCount, TranscriptImporter, require_usable
from producers.importers.transcript import Transcript, read_transcript
from stagekeeper.commands.options import json_option, print_json
from stagekeeper.settings import Settings
from streams.broker import ensure_topics

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Import recorded agents.

    \b
    Examples:
      stagekeeper import transcript runs.jsonl --catalog catalog.yaml
      stagekeeper import transcript --help
    """


@command.command()
@click.argument("file", type=_FILE)
@click.option("--catalog", "catalog_file", type=_FILE, required=True, help="What the tools are (YAML).")
@click.option("--reward-field", help="Where a conversation's reward is, as a dotted path; below 1 is a failure.")
@click.option("--skip-unknown", is_flag=True, help="Leave out tools that the catalog lacks.")
@json_option
def transcript(*, file: Path, catalog_file: Path, reward_field: str | None, skip_unknown: bool, as_json: bool) -> None:
    """Import conversations in the OpenAI chat format: a JSON list, or JSON lines.

    Every tool call becomes a decision (allowed, as it was); its result an execution, failed where the result starts
    with "Error"; a call without a result has no execution and counts as a missing outcome. With --reward-field, every
    executed call also gets a quality impact, passed where the reward is at least 1. What the file does not hold stays
    unknown: latency and cost are null, and the time of a decision is the moment of the import.

    The same file with the same catalog gives the same events: a second import is dropped as a repeat for as long as
    the worker remembers the first one's ids.

    \b
    Examples:
      stagekeeper import transcript conversations.json --catalog catalog.yaml
      stagekeeper import transcript runs.jsonl --catalog catalog.yaml --reward-field reward --json

    \b
    Exit codes: 0 imported, 1 not everything reached the broker, 2 the file or the catalog cannot be used.
    """
    recorded, catalog = read_transcript(file), Catalog.load(catalog_file)
    require_usable(recorded, catalog, reward_field=reward_field, skip_unknown=skip_unknown)
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
        )
        with click.progressbar(recorded.conversations, label="conversations", file=sys.stderr) as bar:
            for conversation in bar:
                importer.add(conversation)
        emitter.flush(60.0)
    stats = emitter.stats
    if as_json:
        print_json(_document(file, recorded, catalog, importer.counts, stats))
    else:
        click.echo(_table(recorded, importer.counts, stats))
    stats.require_all()


def _document(
    file: Path, recorded: Transcript, catalog: Catalog, counts: ImportCounts, stats: DeliveryStats
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
        "file": file.name,
        "sha256": recorded.sha256,
        "conversations": len(recorded.conversations),
        **{field.name: sum(tool[field.name] for tool in tools) for field in fields(ToolCount)},
        "quality_checks": counts.quality_checks,
        "stray_results": counts.stray_results,
        "skipped": dict(sorted(counts.skipped.items())),
        "tools": tools,
        "events": counts.events,
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
    if counts.stray_results:
        lines.append(f"{counts.stray_results:,} tool results answer no call and were left out")
    return "\n".join(lines)
