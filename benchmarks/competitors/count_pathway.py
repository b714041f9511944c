"""Pathway, counting by type: `count_pathway.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import pathway as pw

ADDRESS, COUNT, TOPIC = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Event(pw.Schema):
    """The field that is counted by."""

    type: str


settings = {
    "bootstrap.servers": ADDRESS,
    "group.id": f"count-{os.getpid()}",
    "auto.offset.reset": "earliest",
    "session.timeout.ms": "6000",
}
events = pw.io.kafka.read(settings, topic=TOPIC, format="json", schema=Event, autocommit_duration_ms=500)
by_type = events.groupby(pw.this.type).reduce(pw.this.type, n=pw.reducers.count())
total = events.reduce(n=pw.reducers.count())
first: dict[str, Any] = {}


def seen(key: object, row: dict[str, Any], is_addition: bool, **_: object) -> None:  # noqa: ARG001, FBT001
    """End with the last; one topic of two holds half of the events."""
    if is_addition:
        first.setdefault("n", row["n"])
        first.setdefault("at", time.perf_counter())
        if row["n"] >= COUNT // 2:
            rate = (row["n"] - first["n"]) / (time.perf_counter() - first["at"])
            print(json.dumps({"events_per_s": rate}), flush=True)
            os._exit(0)


pw.io.subscribe(total, on_change=seen)
pw.io.null.write(by_type)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
