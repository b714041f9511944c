"""A stock Faust agent that counts by type, minute, tool and result: `stock_faust.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from typing import Any

from counting import Count

warnings.simplefilter("ignore")
import faust  # noqa: E402

ADDRESS, COUNT, TOPICS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

app = faust.App(
    f"count-{os.getpid()}",
    broker=f"kafka://{ADDRESS}",
    store="memory://",
    topic_disable_leader=True,
    topic_allow_declare=False,
    web_enabled=False,
    datadir=tempfile.mkdtemp(),
    broker_session_timeout=6.0,
    broker_heartbeat_interval=2.0,
    broker_rebalance_timeout=12.0,
)
counted = Count(COUNT)


@app.agent(app.topic(*TOPICS, value_serializer="json"))
async def count(stream: Any) -> None:  # noqa: ANN401
    """Count, and end with the last."""
    async for event in stream:
        counted.add(event)


if __name__ == "__main__":
    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False).execute_from_commandline()
