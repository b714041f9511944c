"""`stagekeeper up`: broker, topics, lake, worker, traffic and page with one command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from stagekeeper.commands import tables
from stagekeeper.commands.options import Duration, print_json
from stagekeeper.embedded.progress import ProgressPrinter
from stagekeeper.embedded.up import BrokerKind, UpOptions, run
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from datetime import timedelta


_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--demo", is_flag=True, help="Simulated traffic into a fresh lake of its own (<home>/demo).")
@click.option("--headless", is_flag=True, help="No page.")
@click.option("--for", "lasting", type=Duration(), help="End by itself after this long, for example 45s or 2m.")
@click.option("--json", "as_json", is_flag=True, help="At the end, one JSON document on stdout; progress on stderr.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Folder for everything that is kept.")
@click.option("--gates", "gate_file", type=click.Path(path_type=Path, dir_okay=False), help="Gate file (YAML).")
@click.option(
    "--broker",
    type=click.Choice(get_args(BrokerKind)),
    default="embedded",
    show_default=True,
    help="The broker to start: in memory, or one node of Apache Kafka, which needs Java.",
)
@click.option("--kafka-port", type=_PORT, default=9092, show_default=True, help="Of that broker; 0 is any.")
@click.option("--page-port", type=_PORT, default=8501, show_default=True, help="Of the page; 0 is any.")
@click.option("--service-port", type=_PORT, default=8600, show_default=True, help="Of the HTTP service; 0 is any.")
def command(
    *,
    demo: bool,
    headless: bool,
    lasting: timedelta | None,
    as_json: bool,
    home: Path | None,
    gate_file: Path | None,
    broker: BrokerKind,
    kafka_port: int,
    page_port: int,
    service_port: int,
) -> None:
    """Start the embedded stack: broker, topics, lake, worker, page, and the HTTP service.

    With STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS set, that Kafka cluster is used and no broker is started. A port that is
    taken is replaced by a free one. Ctrl-C stops everything.

    The service starts where the extra `service`, a flag file and an authorization file are there; the demonstration
    has both. Without a tokens file a first token is drawn, for agent `local-agent`, into <home>/service.token.

    With --for it ends by itself: it waits until the lake has everything that was emitted, every cell is judged and the
    events were validated once, prints signals and verdicts, and exits 0.

    \b
    Examples:
      stagekeeper up --demo                              simulated traffic, and the page
      stagekeeper up --demo --headless --for 45s --json  a run that ends by itself
      stagekeeper up --gates gates.yaml                  for your own routers
      stagekeeper up --broker apache                     the same, on Apache Kafka, whose log stays
      STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 stagekeeper up --gates gates.yaml
    """
    if home is not None:
        os.environ["STAGEKEEPER_HOME"] = str(home)
    options = UpOptions(
        settings=Settings.from_environment(),
        demo=demo,
        gate_file=gate_file,
        broker=broker,
        page=not headless,
        lasting=lasting,
        kafka_port=kafka_port,
        page_port=page_port,
        service_port=service_port,
    )
    result = run(options, ProgressPrinter(sys.stderr if as_json else sys.stdout))
    if result.report is not None:
        if as_json:
            print_json({**result.report.to_dict(), **result.loop})
        else:
            shown = (
                tables.signals_table(result.report.signals),
                tables.verdicts_table(result.report.verdicts, result.report.marks),
            )
            click.echo(f"{tables.show(*shown)}\n{tables.rejects_line(result.report.rejects)}")
    sys.exit(result.exit_code)
