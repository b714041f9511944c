"""How a worker's memory moves while many events go through it, all of them within the horizon of the ids.

    python benchmarks/memory.py --events 20000000 --broker apache --picture docs/images/memory.svg

Events are written in portions, each when the worker is less than a portion behind, so that it is always at work and the
broker never holds much that is unread. Every second it is asked what it has in memory of its own (`anonymous`), and
what of files that the system may drop at any moment (`file-backed`: libraries, and ids on disk).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from places import WorkerLife, a_broker, a_folder, machine
from traffic import fill

from analytics.lake.tables import Lake
from streams.broker import ensure_topics
from streams.lag import Backlog

_PORTION = 250_000
_PORTIONS = 20
"""At most so many events are written at a time, and in at least so many portions: each is looked at."""
_PATIENCE_S = 600.0
_EVERY_S = 1.0
_FLAT = 1.1
_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 300, 60, 40


@dataclass(frozen=True)
class Sample:
    """What a worker had in memory.

    Attributes:
        at_s: Seconds since its start.
        events: Events that it had read, about.
        anonymous_mb: Memory of its own.
        file_mb: Memory that the system may drop, since it is in files.
    """

    at_s: float
    events: int
    anonymous_mb: float
    file_mb: float


@dataclass
class Watch:
    """Looks at a worker's memory until it is told to end."""

    worker: WorkerLife
    began_s: float = field(default_factory=time.monotonic)
    events: int = 0
    samples: list[Sample] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look once a second."""
        while not self.over.wait(_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once (Linux)."""
        lines = Path(f"/proc/{self.worker.process.pid}/status").read_text().splitlines()
        sizes = {
            name: int(rest.split()[0]) / 1_024
            for name, _, rest in (line.partition(":") for line in lines if "kB" in line)
        }
        self.samples.append(
            Sample(time.monotonic() - self.began_s, self.events, sizes["RssAnon"], sizes["RssFile"] + sizes["RssShmem"])
        )


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure; the numbers."""
    portion = min(_PORTION, asked.events // _PORTIONS)
    with a_folder() as folder, a_broker(asked.broker, folder / "broker") as address:
        log_id, ready = ensure_topics(address), folder / "ready.json"
        worker = WorkerLife(address, folder / "kept" / "lake", "--ready-file", str(ready))
        watch = Watch(worker)
        looking = threading.Thread(target=watch.run, daemon=True)
        try:
            worker.await_that(ready.exists)
            looking.start()
            lake, sent = Lake.open(str(worker.lake)), 0
            with Backlog(address, log_id) as backlog:
                while sent < asked.events:
                    sent += fill(address, min(portion, asked.events - sent), start=sent)[1]
                    worker.await_that(lambda: backlog.records_left(lake) < portion, _PATIENCE_S)
                    watch.events = sent - backlog.records_left(lake)
                    watch.look()
                    latest = watch.samples[-1]
                    said = f"{sent:,} events on the broker, {latest.events:,} in the lake: {latest.anonymous_mb:.0f} MB"
                    print(said, file=sys.stderr, flush=True)
                worker.await_that(lambda: backlog.records_left(lake) == 0, _PATIENCE_S)
                watch.events = sent
            watch.look()
            peak_mb = worker.peak_mb
        finally:
            watch.over.set()
            worker.stop()
    return {
        "machine": machine(),
        "broker": asked.broker,
        "events": sent,
        "peak_mb": peak_mb,
        "by_tenth": (by_tenth := tenths(watch.samples, sent)),
        **rise(by_tenth),
        "samples": [vars(sample) for sample in watch.samples],
    }


def tenths(samples: list[Sample], events: int) -> list[dict[str, float]]:
    """For each tenth of the events: the median and the most of each kind of memory."""
    found = []
    for tenth in range(10):
        own = [each for each in samples if tenth * events <= 10 * each.events < (tenth + 1) * events]
        if own:
            anonymous, files = sorted(each.anonymous_mb for each in own), sorted(each.file_mb for each in own)
            found.append(
                {
                    "events": (tenth + 1) * events // 10,
                    "anonymous_mb": anonymous[len(own) // 2],
                    "most_anonymous_mb": anonymous[-1],
                    "file_mb": files[len(own) // 2],
                    "most_file_mb": files[-1],
                }
            )
    return found


def rise(by_tenth: list[dict[str, float]]) -> dict[str, float | bool]:
    """How memory of its own in the last three tenths compares with that in the second to the fourth, by medians.

    The first tenth is left out: the first batches and what is loaded when it is needed first. Flat is up to `_FLAT`.
    """
    if len(by_tenth) < 10:
        raise SystemExit("too short to be told: a tenth of the events passed without a look. Ask for more --events.")
    medians = [each["anonymous_mb"] for each in by_tenth]
    early_mb, late_mb = median(medians[1:4]), median(medians[7:])
    return {"early_mb": early_mb, "late_mb": late_mb, "rise": late_mb / early_mb, "flat": late_mb / early_mb <= _FLAT}


def picture(found: dict[str, Any]) -> str:
    """The curve as SVG: anonymous and file-backed memory over the events."""
    samples, events = found["samples"], found["events"]
    most = 100 * (int(max(each["anonymous_mb"] + each["file_mb"] for each in samples)) // 100 + 1)
    across, down = (_WIDTH - _LEFT - 20) / events, (_HEIGHT - _TOP - 40) / most

    def line(color: str, *names: str) -> str:
        points = " ".join(
            f"{_LEFT + each['events'] * across:.1f},{_HEIGHT - 40 - sum(each[name] for name in names) * down:.1f}"
            for each in samples
        )
        return f'<polyline fill="none" stroke="{color}" stroke-width="1.2" points="{points}"/>'

    def text(x: float, y: float, said: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{said}</text>'

    grid = [
        f'<path stroke="#ddd" d="M{_LEFT} {_HEIGHT - 40 - mb * down:.1f}H{_WIDTH - 20}"/>'
        + text(_LEFT - 6, _HEIGHT - 36 - mb * down, f"{mb} MB", "end")
        for mb in range(0, most + 1, 100)
    ]
    marks = [text(_LEFT + part * events / 4 * across, _HEIGHT - 22, f"{part * events / 4e6:g} M") for part in range(5)]
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
    return "\n".join(
        [
            frame + 'font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
            text(_LEFT, 20, f"A worker's memory over {events:,} events, all within the horizon", "start"),
            *grid,
            *marks,
            line("#888", "anonymous_mb", "file_mb"),
            line("#0b62a4", "anonymous_mb"),
            text(_WIDTH - 24, _TOP - 4, "grey: resident; blue: of these, anonymous", "end"),
            text(_WIDTH / 2, _HEIGHT - 6, "events read"),
            "</svg>\n",
        ]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--broker", choices=("embedded", "apache"), default="apache")
    parser.add_argument("--picture", type=Path, help="where to put the curve, as SVG")
    parser.add_argument("--json", action="store_true", dest="as_json")
    asked = parser.parse_args()
    found = run(asked)
    if asked.picture:
        asked.picture.write_text(picture(found))
    if asked.as_json:
        print(json.dumps(found))
        return
    print(f"{found['machine']}; {found['broker']} broker; {found['events']:,} events, peak {found['peak_mb']:.0f} MB")
    print(f"{'up to':>12} {'anonymous: median':>18} {'most':>8} {'file-backed: median':>20} {'most':>8}  (MB)")
    for each in found["by_tenth"]:
        print(
            f"{each['events']:>12,} {each['anonymous_mb']:>18.0f} {each['most_anonymous_mb']:>8.0f} "
            f"{each['file_mb']:>20.0f} {each['most_file_mb']:>8.0f}"
        )
    print(
        f"early {found['early_mb']:.0f} MB, late {found['late_mb']:.0f} MB: x {found['rise']:.2f}, "
        f"{'flat' if found['flat'] else 'NOT FLAT'} (at most x {_FLAT:g})"
    )


if __name__ == "__main__":
    main()
