"""A stock Faust agent that counts by type, minute, tool and result: `stock_faust.py ADDRESS COUNT TOPIC...`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from typing import Any

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
counts: Counter[tuple[Any, ...]] = Counter()
read, began = 0, 0.0


@app.agent(app.topic(*TOPICS, value_serializer="json"))
async def count(stream: Any) -> None:  # noqa: ANN401
    """Count, and end with the last."""
    global read, began  # noqa: PLW0603 - a program of one page
    async for event in stream:
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
    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False).execute_from_commandline()
