"""Searches of many decisions: how fast the index takes them in, and each search beside a scan of the same lake.

python benchmarks/search.py                 10,000,000 events: 5,000,000 decisions and their executions
python benchmarks/search.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.audit.search import DecisionQuery, search
from analytics.audit.search_index import SearchIndex, index_path
from analytics.lake.table_schemas import COLUMNS, EVENTS
from analytics.lake.tables import Lake
from analytics.signals.event_kinds import EventKind
from producers.wire import events
from producers.wire.events import event_to_bytes
from producers.wire.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
WORDS: Final = (
    *("refund", "customer", "charged", "twice", "order", "late", "damaged", "parcel", "address", "change", "cancel"),
    *("booking", "flight", "seat", "upgrade", "invoice", "wrong", "amount", "support", "ticket", "quarterly", "report"),
)
BATCH: Final = 100_000
QUERIES: Final[dict[str, dict[str, Any]]] = {
    "a user": {"user": "user-77"},
    "a tool, an outcome": {"tool": "tool-3", "outcome": "allow"},
    "an account, words": {"account": "account-5", "text": "refund twice"},
    "words alone": {"text": "damaged parcel"},
    "the beginning of a word": {"text": "quart*", "tool": "tool-1"},
    "a reason, a minute": {
        "reason": "on_denylist",
        "since": BEGIN + timedelta(minutes=1),
        "until": BEGIN + timedelta(minutes=2),
    },
    "nobody": {"user": "nobody at all"},
}


def batches(decisions: int, chance: random.Random) -> Iterator[pl.DataFrame]:
    """Rows of `events`: decisions, and an execution of each."""
    document = json.loads(event_to_bytes(EXAMPLES[events.ActionDecided]))
    ran = event_to_bytes(EXAMPLES[events.ActionExecuted])
    blank = dict.fromkeys(COLUMNS[EVENTS])
    outcomes = [{"outcome": "allow", "reason": "policy_allows"}, {"outcome": "deny", "reason": "on_denylist"}]
    cells = {"environment": "production", "workflow": "refunds", "stage": "draft_write", "cohort": "all", "epoch": "e"}
    for first in range(0, decisions, BATCH // 2):
        rows = []
        for number in range(first, min(first + BATCH // 2, decisions)):
            at = BEGIN + timedelta(milliseconds=number)
            contract, result = document["data"]["contract"], outcomes[chance.random() < 0.1]
            contract["actor"] |= {"user": f"user-{chance.randrange(50_000)}", "account": f"account-{number % 5_000}"}
            contract["tool"] = f"tool-{number % 30}"
            contract["intent"] = " ".join(chance.choices(WORDS, k=7))
            document["data"]["decision"]["result"] = result
            shared = blank | cells | {"log_id": "l", "partition": 0, "offset": number, "tool": contract["tool"]}
            shared |= {
                "subject": f"{number:032x}",
                "decided_at": at,
                "time": at,
                "ingested_at": at,
                "source": "/router",
            }
            decided = {"topic": "d", "id": f"d{number}", "type": document["type"], "kind": EventKind.ALLOWED}
            executed = {"topic": "o", "id": f"o{number}", "type": "stagekeeper.action.executed.v1"}
            rows.append(shared | decided | {"value": json.dumps(document).encode()})
            rows.append(shared | executed | {"kind": EventKind.SUCCEEDED, "value": ran})
        yield pl.DataFrame(rows, schema=COLUMNS[EVENTS])


def scanned(lake: Lake) -> float:
    """Seconds of a search without the index, by a text in the bytes of every decision."""
    began_s = time.perf_counter()
    decided = lake.scan(EVENTS).filter(pl.col("kind") == EventKind.ALLOWED).select(pl.col("value").cast(pl.String))
    decided.filter(pl.col("value").str.contains('"user": "user-77"', literal=True)).collect()
    return time.perf_counter() - began_s


def measured(events: int, repeat: int) -> dict[str, Any]:
    """What `--json` prints: seconds, and how many times as fast as the scan each search is."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(f"{folder}/lake")
        for rows in batches(events // 2, random.Random(7)):  # noqa: S311 - nothing secret
            lake.append(EVENTS, rows)
        index = SearchIndex(index_path(lake.root, Path(folder)))
        began_s = time.perf_counter()
        version = index.follow(lake)
        built_s = time.perf_counter() - began_s
        scan_s, searches = scanned(lake), {}
        for name, query in QUERIES.items():
            times = []
            for _ in range(repeat):
                began_s = time.perf_counter()
                index.follow(lake)
                page = search(index, DecisionQuery(**query), events_version=version)
                times.append(time.perf_counter() - began_s)
            searches[name] = {
                "hits": len(page.hits),
                "median_s": statistics.median(times),
                "slowest_s": max(times),
                "times_as_fast_as_the_scan": scan_s / statistics.median(times),
            }
        index.close()
        return {
            "events": events,
            "load_average": os.getloadavg()[0],
            "built_s": built_s,
            "decisions_per_s": events // 2 / built_s,
            "index_bytes": index.path.stat().st_size,
            "scan_s": scan_s,
            "searches": searches,
        }


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="events in the lake; 10,000,000 by default")
    parser.add_argument("--quick", action="store_true", help="200,000 events")
    parser.add_argument("--repeat", type=int, default=5, help="searches of each kind")
    parser.add_argument("--json", action="store_true", help="print one object")
    arguments = parser.parse_args()
    found = measured(200_000 if arguments.quick else arguments.events, arguments.repeat)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['events']:,} events; load average {found['load_average']:.1f}")
    print(
        f"index: {found['built_s']:,.1f} s, {found['decisions_per_s']:,.0f} decisions/s, "
        f"{found['index_bytes'] / 1e6:,.0f} MB"
    )
    print(f"scan of the lake: {found['scan_s']:.2f} s")
    for name, one in found["searches"].items():
        print(
            f"{name}: {one['hits']} hits, {1e3 * one['median_s']:.1f} ms, slowest {1e3 * one['slowest_s']:.1f} ms, "
            f"{one['times_as_fast_as_the_scan']:,.0f} times as fast as the scan"
        )


if __name__ == "__main__":
    main()
