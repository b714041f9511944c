"""Quix Streams, reading and counting without state: `count_quix.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

from quixstreams import Application

ADDRESS, COUNT, TOPIC = sys.argv[1], int(sys.argv[2]), sys.argv[3]

app = Application(
    broker_address=ADDRESS,
    consumer_group=f"count-{os.getpid()}",
    auto_offset_reset="earliest",
    auto_create_topics=False,
    loglevel="ERROR",
    consumer_extra_config={"session.timeout.ms": 6_000, "heartbeat.interval.ms": 2_000},
)
by_type: Counter[str] = Counter()
began = 0.0


def count(event: dict[str, Any]) -> None:
    """Count, and end with the last."""
    global began  # noqa: PLW0603 - a program of one page
    began = began or time.perf_counter()
    by_type[event["type"]] += 1
    # One topic of two: it holds half of the events.
    if by_type.total() % 1_000 == 0 and by_type.total() >= COUNT // 2:
        print(json.dumps({"events_per_s": by_type.total() / (time.perf_counter() - began)}), flush=True)
        os._exit(0)


if __name__ == "__main__":
    frame = app.dataframe(app.topic(TOPIC, value_deserializer="json"))
    frame.update(count)
    app.run()
