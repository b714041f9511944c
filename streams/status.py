"""The status line: what the worker did since the last one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.data.progress import Totals


def status_line(before: Totals, now: Totals, seconds: float, *, as_json: bool) -> str:
    """Say in one line what moved.

    Args:
        before: The sums at the last line.
        now: The sums at this one.
        seconds: Time between the two.
        as_json: Write a JSON object rather than text.
    """
    read = now.read - before.read
    batches = now.batches - before.batches
    commit_ms = (now.commit_s - before.commit_s) * 1_000 / batches if batches else None
    numbers = {
        "events_per_s": round(read / seconds) if seconds > 0 else None,
        "read": now.read,
        "stored": now.stored,
        "repeats": now.repeats,
        "rejects": now.rejects,
        "lag": now.lag,
        "commit_ms": None if commit_ms is None else round(commit_ms, 1),
    }
    if as_json:
        return json.dumps(numbers)
    return (
        f"{numbers['events_per_s']:,} events/s · stored {now.stored:,} · repeats {now.repeats:,} · "
        f"rejects {now.rejects:,} · lag {'?' if now.lag is None else f'{now.lag:,}'} · "
        f"commit {'-' if commit_ms is None else f'{commit_ms:.0f} ms'}"
    )
