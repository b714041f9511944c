"""Quix Streams, counting without state by type, minute, tool and result: `count_quix.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

from quixstreams import Application

ADDRESS, COUNT, TOPICS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

app = Application(
    broker_address=ADDRESS,
    consumer_group=f"count-{os.getpid()}",
    auto_offset_reset="earliest",
    auto_create_topics=False,
    loglevel="ERROR",
    consumer_extra_config={"session.timeout.ms": 6_000, "heartbeat.interval.ms": 2_000},
)
counts: Counter[tuple[Any, ...]] = Counter()
read, began = 0, 0.0


def count(event: dict[str, Any]) -> None:
    """Count, and end with the last."""
    global read, began  # noqa: PLW0603 - a program of one page
    began = began or time.perf_counter()
    data = event["data"]
    contract, decision = data.get("contract"), data.get("decision")
    tool = contract["tool"] if contract else None
    result = decision["result"]["outcome"] if decision else data.get("status")
    counts[event["type"], event["time"][:16], tool, result] += 1
    read += 1
    if read >= COUNT:
        print(json.dumps({"events_per_s": read / (time.perf_counter() - began)}), flush=True)
        os._exit(0)


if __name__ == "__main__":
    for topic in TOPICS:
        frame = app.dataframe(app.topic(topic, value_deserializer="json"))
        frame.update(count)
    app.run()
