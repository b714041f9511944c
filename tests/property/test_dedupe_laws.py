"""What is a repeat: the arrays, the runs and the filters against the rule in plain words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from identified_events import Table, identities

from analytics.signals.cells import MINUTE_US
from streams.ingest.dedupe import SeenIds
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.id_store import Sizes, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HORIZON = timedelta(minutes=50)
TINY = Sizes(least=2, on_disk=8, most=64)
UUIDS = st.uuids().map(str)
LIKE_UUIDS = st.one_of(
    UUIDS,
    UUIDS.map(str.upper),
    st.builds(lambda text, at, char: text[:at] + char + text[at + 1 :], UUIDS, st.integers(0, 35), st.characters()),
    st.builds(lambda text, cut: text[:cut], UUIDS, st.integers(0, 35)),
    st.text(min_size=36, max_size=36),
    st.text(max_size=40),
).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
NAMES = st.one_of(
    st.integers(0, 30).map("event-{}".format), st.integers(0, 60).map("00000000-0000-7000-8000-{:012x}".format)
)


@st.composite
def streams(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """Batches of events whose times wander on; each name has one time, and comes again early and late."""
    batches: list[list[tuple[str, int]]] = []
    at, times = 0, dict[str, int]()
    for _ in range(draw(st.integers(1, 12))):
        at += draw(st.integers(-20, 60)) * MINUTE_US
        names = draw(st.lists(st.tuples(NAMES, st.integers(0, 40)), max_size=30))
        batches.append([(name, times.setdefault(name, at + more * MINUTE_US)) for name, more in names])
    return batches


@settings(deadline=None)
@given(streams(), st.sampled_from([TINY, Sizes()]), st.sets(st.integers(0, 11)))
def test_a_repeat_is_what_was_ever_accepted(
    batches: list[list[tuple[str, int]]], sizes: Sizes, restarts: set[int]
) -> None:
    """Also where the table has only what the batch before the last one brought."""
    table, accepted = Table(), set[str]()
    seen = SeenIds(HORIZON, earlier=table.find, sizes=sizes)
    for number, batch in enumerate(batches):
        if number in restarts and table.times:
            if number:
                table.store(*columns(batches[number - 1]))
            latest = max(table.times.values())
            seen = SeenIds(HORIZON, earlier=table.find, latest_us=latest, sizes=sizes)
            held = [(name, at) for name, at in table.times.items() if at >= seen.held_since_us]
            seen.remember(identities(*columns(held[::-1])))
        expected = []
        for name, _ in batch:
            expected.append(name not in accepted)
            accepted.add(name)
        assert (seen.accept_all(identities(*columns(batch))) == NOT_FOUND).tolist() == expected
        if number:
            table.store(*columns(batches[number - 1]))


def columns(events: Sequence[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return [name for name, _ in events], [at for _, at in events]


@settings(deadline=None)
@given(st.lists(LIKE_UUIDS, max_size=12))
def test_numbers_are_equal_where_ids_are(names: list[str]) -> None:
    """Whoever else is in the array, and wherever it begins within another."""
    together = [tuple(row) for row in words_of(pa.array(["x", *names, "y"], pa.string())[1:-1]).tolist()]
    alone = [tuple(words_of(pa.array([name], pa.string()))[0].tolist()) for name in names]
    assert together == alone
    assert len(set(together)) == len(set(names))


@settings(deadline=None)
@given(st.lists(UUIDS, min_size=1, max_size=12), LIKE_UUIDS)
def test_uuids_have_the_same_numbers_beside_other_ids(uuids: list[str], other: str) -> None:
    alone = words_of(pa.array(uuids, pa.string()))
    beside = words_of(pa.array([*uuids, other], pa.string()))
    assert beside[:-1].tolist() == alone.tolist()
