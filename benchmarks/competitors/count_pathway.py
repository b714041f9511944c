"""Pathway, counting by type, minute, tool and result: `count_pathway.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import pathway as pw

ADDRESS, COUNT, TOPICS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


class Event(pw.Schema):
    """The fields that are counted by; what an event does not have is null."""

    type: str
    time: str
    tool: str | None = pw.column_definition(default_value=None)
    outcome: str | None = pw.column_definition(default_value=None)
    status: str | None = pw.column_definition(default_value=None)


PATHS = {"tool": "/data/contract/tool", "outcome": "/data/decision/result/outcome", "status": "/data/status"}
settings = {
    "bootstrap.servers": ADDRESS,
    "group.id": f"count-{os.getpid()}",
    "auto.offset.reset": "earliest",
    "session.timeout.ms": "6000",
}
topics = [
    pw.io.kafka.read(
        settings, topic=topic, format="json", schema=Event, json_field_paths=PATHS, autocommit_duration_ms=500
    )
    for topic in TOPICS
]
events = topics[0].concat_reindex(*topics[1:])
keyed = events.select(
    pw.this.type,
    pw.this.tool,
    pw.this.outcome,
    pw.this.status,
    minute=pw.this.time.str.slice(0, 16),
)
counted = keyed.groupby(pw.this.type, pw.this.minute, pw.this.tool, pw.this.outcome, pw.this.status).reduce(
    pw.this.type, pw.this.minute, pw.this.tool, pw.this.outcome, pw.this.status, n=pw.reducers.count()
)
total = events.reduce(n=pw.reducers.count())
first: dict[str, Any] = {}


def seen(key: object, row: dict[str, Any], is_addition: bool, **_: object) -> None:  # noqa: ARG001, FBT001
    """End with the last."""
    if is_addition:
        first.setdefault("n", row["n"])
        first.setdefault("at", time.perf_counter())
        if row["n"] >= COUNT:
            rate = (row["n"] - first["n"]) / (time.perf_counter() - first["at"])
            print(json.dumps({"events_per_s": rate}), flush=True)
            os._exit(0)


pw.io.subscribe(total, on_change=seen)
pw.io.null.write(counted)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
