"""The source of a worker in a process of its own, its client talking: `python reading_process.py BROKER LAKE_ROOT`.

Says for each assignment how many partitions it has. What is read goes nowhere.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from analytics.lake.tables import Lake
from streams.broker import ensure_topics
from streams.ingest.pipeline import Assignment
from streams.ingest.source import Source
from streams.metrics import Progress

if TYPE_CHECKING:
    from streams.ingest.records import Batch


class Receiver:
    """Where batches go: they count as committed at once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def put(self, item: Assignment | Batch) -> None:
        if isinstance(item, Assignment):
            sys.stdout.write(f"{len(item.partitions)}\n")
            sys.stdout.flush()
        self._progress.reach(item.number)


def failed(error: BaseException) -> None:
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(1)


def main(address: str, lake_root: str) -> None:
    progress = Progress()
    source = Source(
        address,
        ensure_topics(address),
        Lake.open(lake_root),
        Receiver(progress).put,
        progress,
        on_failure=failed,
        settings={"debug": "cgrp,topic"},  # a line at every step of a rebalance
    )
    source.start()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
