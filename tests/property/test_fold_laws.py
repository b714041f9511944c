"""Counting is a sum: however the events are shuffled, split and merged, the totals are the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
from decoding import DecodedEvent, columns_of
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.evidence.histogram import bin_of
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.signals.cells import MINUTE_US
from analytics.signals.definitions import BAD, COUNTED_ONCE, COUNTERS, HISTOGRAMS
from analytics.signals.event_kinds import COUNTERS_OF_KIND, NO_LONGER_EXPECTED, EventKind
from analytics.signals.event_structs import CellEpoch
from streams.ingest.event_columns import UNKNOWN
from streams.ingest.id_store import words_of
from streams.ingest.known_facts import KnownFacts
from streams.ingest.rows import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INGESTED_US = 10**15
CELLS = [
    CellEpoch("production", "refunds", "issue_refund", "draft_write", "all", "a"),
    CellEpoch("production", "refunds", "issue_refund", "draft_write", "all", "b"),
    CellEpoch("production", "refunds", "issue_refund", "draft_write", "eu", "a"),
    CellEpoch("staging", "search", "find", "observe_only", "all", "a"),
]


@st.composite
def decoded(draw: st.DrawFn) -> DecodedEvent:
    kind = draw(st.sampled_from(EventKind))
    cell = None if kind is EventKind.UNCOUNTED else draw(st.sampled_from(CELLS))
    executed = kind in {EventKind.SUCCEEDED, EventKind.FAILED, EventKind.TIMED_OUT}
    amounts = st.just(UNKNOWN) | st.integers(0, 10**13)
    return DecodedEvent(
        id="id",
        type="type",
        source="/s",
        subject="s",
        time_us=draw(st.integers(-(10**15), 10**16)),
        kind=kind,
        cell=cell,
        decided_at_us=None if cell is None else draw(st.integers(-2, 2)) * MINUTE_US + draw(st.integers(0, MINUTE_US)),
        risk_rank=draw(st.integers(-1, 6)),
        latency_us=draw(amounts) if executed else UNKNOWN,
        cost_microusd=draw(amounts) if executed else UNKNOWN,
    )


def totals(frames: Iterable[pl.DataFrame]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Sum the increments the way a reader does."""
    summed: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(
        lambda: {
            "risk": -1,
            "last": None,
            "counts": Counter[str](),
            **{name: Counter[int]() for name in HISTOGRAMS},
        }
    )
    for frame in frames:
        for row in frame.iter_rows(named=True):
            total = summed[(*(row[name] for name in CellEpoch._fields), row["bucket"])]
            total["risk"] = max(total["risk"], -1 if row["risk_rank"] is None else row["risk_rank"])
            last = row["last_event_at"]
            total["last"] = last if total["last"] is None else max(total["last"], last)
            total["counts"].update({name: row[name] for name in COUNTERS if row[name]})
            for name in HISTOGRAMS:
                pairs = zip(row[f"{name}_bins"], row[f"{name}_counts"], strict=True)
                total[name].update(dict(pairs))
    return dict(summed)


def counted_one_by_one(events: Sequence[DecodedEvent]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The same without a matrix or a sort."""
    summed: dict[tuple[Any, ...], dict[str, Any]] = {}
    kinds_of: dict[str, set[EventKind]] = defaultdict(set)
    for event in events:
        if event.cell is None or event.decided_at_us is None:
            continue
        key = (*event.cell, event.decided_at_us // MINUTE_US)
        total = summed.setdefault(
            key, {"risk": -1, "last": event.time_us, "counts": Counter[str](), "latency": Counter(), "cost": Counter()}
        )
        total["risk"] = max(total["risk"], event.risk_rank)
        total["last"] = max(total["last"], event.time_us)
        total["counts"].update(dict.fromkeys(set(COUNTERS_OF_KIND[event.kind]).difference(COUNTED_ONCE), 1))
        total["counts"]["expected"] -= event.kind in NO_LONGER_EXPECTED
        total["counts"].subtract(Counter(came_of(kinds_of[event.subject])))
        kinds_of[event.subject].add(event.kind)
        total["counts"].update(came_of(kinds_of[event.subject]))
        for name, micro in (("latency", event.latency_us), ("cost", event.cost_microusd)):
            if micro != UNKNOWN:
                total[name][int(bin_of(micro))] += 1
        if event.cost_microusd > 0:
            total["counts"]["cost_microusd"] += event.cost_microusd
    return summed


def came_of(kinds: set[EventKind]) -> set[str]:
    """What a decision counts once, by the kinds of its events: the table of the documents, case by case."""
    told = {name for kind in kinds for name in COUNTERS_OF_KIND[kind]}
    once = told & {"quality_checks", "quality_failures", "severe_incidents", "incidents", "support"}
    undos = [name for name in ("not_undoable", "undo_failed", "undone") if name in told]
    bad = told & set(BAD)
    if kinds & set(NO_LONGER_EXPECTED):
        once -= {"support"} | (set() if "severe_incidents" in told else {"incidents"})
        undos, bad = [], bad & {"failed", "timed_out"}
    return once | set(undos[:1]) | ({"bad_outcomes"} if bad else set())


def counted(events: list[DecodedEvent], known: KnownFacts | None = None) -> pl.DataFrame:
    columns = columns_of(events)
    return count(columns, (known or KnownFacts()).take(columns, words_of(columns.subjects)), INGESTED_US)


@settings(deadline=None)
@given(st.lists(decoded(), max_size=40))
def test_the_increments_are_what_counting_one_by_one_gives(events: list[DecodedEvent]) -> None:
    rolled = counted(events)
    assert rolled.schema == COLUMNS[SIGNALS]
    assert rolled["last_ingested_at"].cast(pl.Int64).is_in([INGESTED_US]).all()
    plain = rolled.with_columns(pl.col("bucket").cast(pl.Int64) // MINUTE_US, pl.col("last_event_at").cast(pl.Int64))
    assert not plain.select(*CellEpoch._fields, "bucket").is_duplicated().any()
    assert totals([plain]) == counted_one_by_one(events)


@settings(deadline=None)
@given(st.lists(decoded(), max_size=40), st.randoms(use_true_random=False), st.integers(1, 5))
def test_shuffled_and_split_input_gives_the_same_totals(events: list[DecodedEvent], random: Any, parts: int) -> None:
    # All events of a decision carry its cell and its moment.
    events = [replace(event, subject=f"{event.cell} {event.decided_at_us}") for event in events]
    whole = totals([counted(events)])
    known = KnownFacts()
    shuffled = random.sample(events, len(events))
    split = [shuffled[start::parts] for start in range(parts)]
    assert totals(counted(part, known) for part in split) == whole


@settings(deadline=None)
@given(st.lists(decoded(), min_size=1, max_size=15), st.randoms(use_true_random=False))
def test_what_came_of_decisions_is_counted_once_however_often_it_is_told(
    events: list[DecodedEvent], random: Any
) -> None:
    events = [replace(event, subject=f"{event.cell} {event.decided_at_us}") for event in events]
    known = KnownFacts()
    once = totals([counted(events)])
    again = totals(counted(part, known) for part in (events, random.choices(events, k=20), events))
    for key, total in once.items():
        assert [total["counts"][name] for name in COUNTED_ONCE] == [again[key]["counts"][name] for name in COUNTED_ONCE]
