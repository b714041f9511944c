"""What the readers of plain Python count: by type, minute, tool and result, until the last event."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import Any


class Count:
    """Counts, and ends the program with the last event.

    Args:
        last: How many there are.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._read, self._began = 0, 0.0

    def add(self, event: dict[str, Any]) -> None:
        """Count one; after the last, print the events a second since the first, and end."""
        self._began = self._began or time.perf_counter()
        data = event["data"]
        contract, decision = data.get("contract"), data.get("decision")
        tool = contract["tool"] if contract else None
        result = decision["result"]["outcome"] if decision else data.get("status")
        self._counts[event["type"], event["time"][:16], tool, result] += 1
        self._read += 1
        if self._read >= self._last:
            print(json.dumps({"events_per_s": self._read / (time.perf_counter() - self._began)}), flush=True)
            os._exit(0)
