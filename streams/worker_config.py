"""What a worker needs to know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analytics.maintenance import RetentionPolicy
from producers.delivery.kafka_config import KafkaSecurity
from producers.web_guard import LOOPBACK
from streams.control.cell_metrics import MOST_CELLS
from streams.control.enactor import EFFECT_DEADLINE_S
from streams.ingest.cadence import COMMIT_EVERY_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from analytics.audit.signed_note import Signer
    from producers.boundary.stage_store import StageStore
    from producers.wire.receipt import Cell
    from streams.broker import KafkaSettings
    from streams.webhooks.endpoints import Webhooks


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to know."""

    bootstrap_servers: str  # `host:port,...`
    lake_root: str
    gate_file: Path  # whether or not it exists
    receipt_key: bytes | None  # signs receipts; None where none is configured
    now: Callable[[], datetime]
    say: Callable[[str], None]  # takes one line at a time for whoever watches
    as_json: bool = False  # of status lines
    web_host: str = LOOPBACK  # interface of the web server
    web_names: tuple[str, ...] = ()  # further host names under which it may be asked
    web_port: int = 0  # port of the web server; 0 takes a free one
    data_only: bool = False  # whether to leave the judging to other workers
    commit_every_s: float = COMMIT_EVERY_S  # between two batches that are committed, where nothing hurries
    maintenance_every_s: float = 3_600.0  # between two rounds of roll-up, retention and vacuum; 0: others do them
    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    stages: StageStore | None = None  # where recommendations are carried out; None leaves that to others, or to people
    freshness_s: float = math.inf  # how old evidence of a promotion may be, beside the gate file's limit
    effect_deadline_s: float = EFFECT_DEADLINE_S  # after which a source that decides by the old stage is named
    seal_every_s: float = 60.0  # between two seals of the transparency logs; 0: others seal
    signers: tuple[Signer, ...] = ()  # whose keys sign the checkpoints of these logs
    metrics_cells: int = MOST_CELLS  # of how many cells there are metrics at most
    webhooks: Webhooks | None = None  # who is told of changes in the lives of recommendations; None: nobody
    link: Callable[[Cell], str] | None = None  # where the page shows a cell
    ready_file: Path | None = None  # written once the worker reads; JSON: process id, log's identity, web address
    kafka: KafkaSettings = field(default_factory=KafkaSecurity)
