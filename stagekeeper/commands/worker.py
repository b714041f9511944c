"""`stagekeeper worker`: the stream processors."""

from __future__ import annotations

import functools
import json
import logging
import math
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import click

from producers.errors import StagekeeperError, UsageError
from producers.flag_services.read_only_stages import ReadOnlyStages
from stagekeeper.commands.maintenance import retention_policy
from stagekeeper.settings import Settings
from stagekeeper.stage_stores import open_stages

# Loggers that repeat every attempt to connect; the worker says once that the broker is away.
_CHATTY = ("faust", "mode", "aiokafka", "streams.librdkafka", "streams.lag", "streams.broker")


class _LogLine(logging.Formatter):
    """One line for each record, in UTC; as JSON, or as text."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._as_json = as_json

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._as_json:
            return text
        line = {"at": record.asctime, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_text:
            line["trace"] = record.exc_text
        return json.dumps(line, ensure_ascii=False)


@click.command("worker")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file once the worker reads from the broker.",
)
@click.option(
    "--web-port", type=click.IntRange(0, 65_535), default=0, show_default="a free one", help="Port of /readyz etc."
)
@click.option("--web-host", default="127.0.0.1", show_default=True, help="Interface of the web port.")
@click.option("--web-name", "web_names", multiple=True, help="A further host name to answer to; may be repeated.")
@click.option("--data-only", is_flag=True, help="Read and store, and leave the judging to another worker.")
@click.option("--enact", is_flag=True, help="Carry out in the flag store what the gate file lets it do.")
@click.option("--json", "as_json", is_flag=True, help="Print the status lines and the log as JSON.")
@click.option("--verbose", is_flag=True, help="Also log what the libraries say.")
def command(
    ready_file: Path | None,
    web_port: int,
    *,
    web_host: str,
    web_names: tuple[str, ...],
    data_only: bool,
    enact: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Read events from Kafka, keep them in the lake, judge, and publish recommendations.

    Prints one line a second while something moves. Runs until SIGTERM or Ctrl-C; exits with another code than 0 when
    the data plane cannot go on. Started again, it resumes from the lake without losing or repeating anything.

    With --enact (or STAGEKEEPER_ENACT=true) one worker also carries out rollbacks and promotions in the flag file,
    or the service that STAGEKEEPER_STAGE_STORE names,
    where the gate file says `on_roll_back: apply`, or `on_promote: apply` or `ask`.

    Several workers share the partitions of a Kafka cluster; one of them judges. On the embedded broker one reads, and
    others wait to take its place. The web port answers /livez and /readyz (503 where the worker is not), /health,
    /metrics (Prometheus) and /verdicts, to whoever asks for an address, `localhost` or a --web-name.

    \b
    Examples:
      stagekeeper worker
      stagekeeper worker --data-only --web-port 9101
      STAGEKEEPER_FLAG_FILE=/etc/agents/flags.json stagekeeper worker --enact
      STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 stagekeeper worker --json
    """
    settings = Settings.load()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogLine(as_json=as_json))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger("streams").setLevel(logging.INFO)
    if not verbose:
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")  # the libraries' own, about Python versions to come
    # After the warnings are dealt with.
    from analytics.audit.signed_note import signers_of  # noqa: PLC0415
    from dashboard.urls import page_address  # noqa: PLC0415
    from streams.shutdown import end_process  # noqa: PLC0415
    from streams.webhooks.endpoints import Webhooks  # noqa: PLC0415
    from streams.worker import Worker  # noqa: PLC0415
    from streams.worker_config import WorkerConfig  # noqa: PLC0415

    stages = None
    if enact or settings.enact:
        if settings.stage_store is None and not settings.flags.is_file():
            raise UsageError(f"there is no flag file at {settings.flags} to enact in; name it in STAGEKEEPER_FLAG_FILE")
        stages = open_stages(settings)
        if isinstance(stages, ReadOnlyStages):
            raise UsageError(f"{stages.name} is read-only, so nothing can be enacted in it; leave out --enact")
    webhooks = None if settings.webhooks_file is None else Webhooks.load(settings.webhooks_file)
    config = WorkerConfig(
        bootstrap_servers=settings.require_kafka(),
        lake_root=settings.lake,
        gate_file=settings.gates,
        receipt_key=settings.signing_key,
        kafka=settings.kafka_security,
        now=lambda: datetime.now(UTC),
        say=click.echo,
        as_json=as_json,
        web_port=web_port,
        web_host=web_host,
        web_names=web_names,
        data_only=data_only,
        commit_every_s=settings.commit_every_s,
        maintenance_every_s=settings.maintenance_every_s,
        policy=retention_policy(settings),
        stages=stages,
        freshness_s=settings.freshness_s if "freshness_s" in settings.model_fields_set else math.inf,
        effect_deadline_s=settings.effect_deadline_s,
        seal_every_s=settings.seal_every_s,
        signers=signers_of(settings.audit_key_file),
        metrics_cells=settings.metrics_cells,
        webhooks=webhooks,
        link=None if webhooks is None or webhooks.page is None else functools.partial(page_address, webhooks.page),
        ready_file=ready_file,
    )
    try:
        Worker(config).run()
    except StagekeeperError as error:
        end_process(error)
    end_process()
