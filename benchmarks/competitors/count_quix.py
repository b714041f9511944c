"""Quix Streams, counting without state by type, minute, tool and result: `count_quix.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import os
import sys

from counting import Count
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
count = Count(COUNT)

if __name__ == "__main__":
    for topic in TOPICS:
        frame = app.dataframe(app.topic(topic, value_deserializer="json"))
        frame.update(count.add)
    app.run()
