"""All benchmarks, one after the other, and one table of what they found.

    make bench
    make bench-all
    python benchmarks/table.py --quick --only freshness recovery
    python benchmarks/table.py --broker apache --json

What is asked stands beside what was measured, with what it is compared with in the same run. What cannot be measured
here is said with the reason. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from decision import BUFFERED, DISK, DURABLE, THEIR_FILE
from environments import PINNED, interpreter
from places import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        measured: The number, with its unit.
        beside: What it is compared with in the same run; empty where with nothing.
        asked: What it should be.
        met: Whether it is; None where nothing is asked, or where it was not measured.
    """

    what: str
    measured: str
    beside: str = ""
    asked: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes:
        name: Its name; the script is `NAME.py`.
        rows: What its JSON document says.
        options: Its arguments.
        quick: Its arguments for a quick look, with smaller numbers.
        largest: Its arguments for `make bench-all`, which may take hours; empty where they are the usual ones.
        broker: Whether it takes `--broker`.
        competitors: Options that name a competitor's Python.
    """

    name: str
    rows: Callable[[dict[str, Any]], Iterator[Row]]
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    largest: tuple[str, ...] = ()
    broker: bool = False
    competitors: tuple[str, ...] = ()


def _ingest(found: dict[str, Any]) -> Iterator[Row]:
    rate = found["worker"]["events_per_s"]
    yield Row("events/s, the whole path, one worker", f"{rate:,.0f}", "", "100,000", rate >= 100_000)
    for key, label, asked in (
        ("bare_consume", "bare consume()", 0.4),
        ("faust", "stock Faust that counts", 15.0),
        ("quix", "Quix Streams that counts", 3.0),
        ("pathway", "Pathway that counts", 1.5),
    ):
        if found.get(key) is None:
            yield Row(f"  ratio to {label}", "NOT MEASURED", "", f"{asked:g} x")
        else:
            ratio = rate / found[key]
            yield Row(f"  ratio to {label}", f"{ratio:.2f} x", f"{found[key]:,.0f}/s", f"{asked:g} x", ratio >= asked)

    share = found["sealing_cpu_us"] / found["worker"]["cpu_us"]
    yield Row("  sealing it, of that processor time", f"{share:.0%}", "", "10 %", share <= 0.1)


def _freshness(found: dict[str, Any]) -> Iterator[Row]:
    visible, bare = found["visible"], found["bare_consume"]
    yield Row(
        f"produce to visible, p99 at {found['events_per_s']:,}/s",
        f"{visible['p99_s']:.2f} s",
        f"bare consume() {bare['p99_s']:.2f} s",
        f"{found['target_p99_s']:g} s",
        found["met"],
    )
    yield Row("  median", f"{visible['p50_s']:.2f} s", f"bare consume() {bare['p50_s']:.2f} s")


def _recovery(found: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"SIGKILL to caught up, {found['events']:,} events in the lake",
        f"{found['recovery_s']:.1f} s",
        f"{found['ratio_to_fresh_start']:.2f} x an empty lake's {found['fresh_start_s']:.1f} s",
        f"{found['target_s']:g} s",
        found["met"],
    )


def _time_to_safe(found: dict[str, Any]) -> Iterator[Row]:
    rate = f"{found['events_per_s']:,} events/s"
    labels = {
        "steady": f"outcome to constrained in another process, {rate}",
        "killed": f"  the worker killed at that moment, {rate}",
        "restart": "  the broker restarted at that moment",
        "fleet": "  a hundred at once, all of them",
    }
    for name, label in labels.items():
        if name in found:
            part = found[name]
            yield Row(
                label,
                f"p50 {part['p50_s']:.2f} s, p99 {part['p99_s']:.2f} s, longest {part['max_s']:.2f} s",
                "",
                {"steady": "p50 2 s, p99 5 s", "fleet": "10 s"}.get(name, "20 s"),
                part["met"],
            )


def _memory(found: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"a worker's own memory over {found['events']:,} events, late",
        f"{found['late_mb']:.0f} MB, peak of all {found['peak_mb']:.0f} MB",
        f"{found['rise']:.2f} x early ({found['early_mb']:.0f} MB)",
        "flat",
        found["flat"],
    )


def _evidence(found: dict[str, Any]) -> Iterator[Row]:
    for name, seconds in found["calls_s"].items():
        share = seconds / found["bisection_s"]
        beside = f"{share:.3f} x bisection"
        yield Row(f"{name}, {found['cells']:,} cells", f"{seconds * 1e3:.1f} ms", beside)


def _judge(found: dict[str, Any]) -> Iterator[Row]:
    limits = {10_000: 1.0, 100_000: 10.0}
    for fleet in found["fleets"]:
        cells, ticks = fleet["cells"], fleet["ticks"]
        limit = limits.get(cells)
        asked, few = "" if limit is None else f"{limit:g} s", ticks["few"]["median_s"]
        for kind, label in (
            ("all", "all changed"),
            ("few", "one in a hundred changed"),
            ("edited", "edited gates"),
        ):
            slowest = ticks[kind]["slowest_s"]
            yield Row(
                f"a tick over {cells:,} cells, {label}",
                f"{ticks[kind]['median_s']:.2f} s, slowest {slowest:.2f} s",
                f"{ticks[kind]['median_s'] / few:.1f} x where few changed",
                asked,
                None if limit is None else slowest <= limit,
            )


def _page(found: dict[str, Any]) -> Iterator[Row]:
    for fleet in found["fleets"]:
        yield Row(
            f"a look of the page, {fleet['cells']:,} cells, one in ten changed",
            f"{fleet['look_s']:.2f} s, slowest {fleet['slowest_look_s']:.2f} s",
            f"{fleet['look_s'] / fleet['opened_s']:.3f} x reading all anew",
        )


def _decision(found: dict[str, Any]) -> Iterator[Row]:
    for each in found["paces"]:
        rows = each["rows"]
        median, high = rows[BUFFERED]
        theirs = rows.get(THEIR_FILE)
        for label, ours, index in (("median", median, 0), ("p99", high, 1)):
            what = f"buffered decision, {label}, {each['pace']}"
            if theirs is None:
                yield Row(f"{what}: beside AGT NOT MEASURED", f"{ours:.0f} us", "", "1 x")
            else:
                ratio = ours / theirs[index]
                yield Row(
                    what, f"{ratio:.2f} x", f"{ours:.0f} us, AGT's file {theirs[index]:.0f} us", "1 x", ratio <= 1
                )
        durable = rows[DURABLE][0]
        beside = f"the disk alone {rows[DISK][0]:.0f} us"
        yield Row(f"durable decision, median, {each['pace']}", f"{durable:.0f} us", beside, "300 us", durable <= 300)


def _rules(found: dict[str, Any]) -> Iterator[Row]:
    for scenario in found["scenarios"]:
        ours, promised = scenario["ours"], scenario["promised"]
        for kind in ("wrong_promotions", "wrong_rollbacks"):
            shares = {row["rule"]: row[kind] for row in scenario["rows"] if row[kind] is not None}
            worst = max((name for name in shares if name not in ours), key=lambda n: shares[n]["share"], default="")
            for name in ours if shares else ():
                found_share = shares[name]
                is_asked = promised is not None and name == ours[-1]
                yield Row(
                    f"{kind.replace('_', ' ')}, {scenario['name']}: {name}",
                    f"{found_share['share']:.1%} [{found_share['low']:.1%} to {found_share['high']:.1%}]",
                    f"{shares[worst]['share']:.0%}: {worst[:44]}" if worst else "",
                    f"{promised:.0%}" if is_asked else "",
                    found_share["low"] <= promised if is_asked else None,
                )


BENCHMARKS: Final = (
    Benchmark("ingest", _ingest, (), ("--events", "100000"), broker=True, competitors=("quix", "pathway")),
    Benchmark("freshness", _freshness, (), ("--seconds", "10"), broker=True),
    Benchmark("time_to_safe", _time_to_safe, (), ("--quick",), broker=True),
    Benchmark("recovery", _recovery, (), ("--events", "200000", "--backlog", "20000"), broker=True),
    Benchmark(
        "memory", _memory, ("--events", "5000000"), ("--events", "1000000"), ("--events", "20000000"), broker=True
    ),
    Benchmark("judge", _judge, ("--cells", "1000,10000"), ("--cells", "1000"), ("--cells", "1000,10000,100000")),
    Benchmark("page", _page, (), ("--cells", "1000")),
    Benchmark("decision", _decision, competitors=("agt",)),
    Benchmark("evidence", _evidence, (), ("--cells", "10000")),
    Benchmark("rules", _rules, (), ("--times", "0.03", "--rarely", "12"), ("--times", "5"), competitors=("gbstats",)),
)


def arguments(benchmark: Benchmark, size: str) -> tuple[str, ...]:
    """What a script is told at a size: `quick`, `usual` or `largest`."""
    usual = benchmark.options
    return {"quick": benchmark.quick, "largest": benchmark.largest or usual}.get(size, usual)


def measure(benchmark: Benchmark, *, size: str, broker: str) -> dict[str, Any]:
    """Run one script; its document, or the lines that it printed, or why there is neither."""
    command = [sys.executable, str(HERE / f"{benchmark.name}.py"), *arguments(benchmark, size)]
    if benchmark.broker:
        command += ["--broker", broker]
    for name in benchmark.competitors:
        python = interpreter(name)
        if python is not None:
            command += [f"--{name}", str(python)]
    command.append("--json")
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.strip()]
    if ran.returncode:
        return {"fault": f"exit code {ran.returncode}: {' '.join(command[1:])}", "lines": lines}
    document: dict[str, Any] = json.loads(lines[-1])
    return document


def _shown(rows: list[tuple[str, Row]]) -> Iterator[str]:
    widths = [
        max(len(text) for text in column)
        for column in zip(
            *((row.what, row.measured, row.beside, row.asked) for _, row in rows if row.measured), strict=True
        )
    ] or [0] * 4
    before = ""
    for name, row in rows:
        if name != before:
            yield f"\n{name}"
        before = name
        met = {True: "met", False: "MISSED", None: ""}[row.met]
        cells = (row.what.ljust(widths[0]), row.measured.rjust(widths[1]), row.beside.ljust(widths[2]))
        yield f"  {'  '.join(cells)}  {row.asked.rjust(widths[3])}  {met}".rstrip()


def main() -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_const",
        dest="size",
        const="quick",
        help="smaller numbers: whether it works, not how fast it is",
    )
    size.add_argument(
        "--all", action="store_const", dest="size", const="largest", help="the largest fleets and streams"
    )
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], help="these alone")
    parser.add_argument("--broker", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.set_defaults(size="usual")
    asked = parser.parse_args()
    chosen = [each for each in BENCHMARKS if asked.only is None or each.name in asked.only]
    stated, found, rows = machine(), {}, []
    for number, each in enumerate(chosen, 1):
        print(f"[bench] {each.name} ({number} of {len(chosen)})", file=sys.stderr, flush=True)
        began = time.monotonic()
        found[each.name] = document = measure(each, size=asked.size, broker=asked.broker)
        if "fault" in document:
            print(f"NOT MEASURED: {each.name}: {document['fault']}", file=sys.stderr, flush=True)
            rows.append((each.name, Row("NOT MEASURED", document["fault"])))
        else:
            rows += [(each.name, row) for row in each.rows(document)]
        print(f"[bench] {each.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if asked.as_json:
        lines = [{"benchmark": name, **asdict(row)} for name, row in rows]
        print(json.dumps({"machine": stated, "broker": asked.broker, "size": asked.size, "rows": lines, **found}))
    else:
        print(
            f"{stated}; {asked.broker} broker"
            f"{'; QUICK: smaller numbers than are asked for' if asked.size == 'quick' else ''}"
        )
        print(f"compared with {', '.join(PINNED.values())}")
        print("\n".join(_shown(rows)))
    return 1 if any("fault" in document for document in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
