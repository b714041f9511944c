"""What is a repeat: the arrays, the runs and the filters against the rule in plain words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.ingest.dedupe import SeenIds
from streams.ingest.id_store import Sizes, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HORIZON_US = 50
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


class PlainRule:
    """Every id that was ever accepted, and the latest time of each."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, int]] = []

    def accept(self, event_id: str, time_us: int) -> bool:
        times = [at for known, at in self.accepted if known == event_id]
        if times and max(times) >= max(at for _, at in self.accepted) - HORIZON_US:
            return False
        self.accepted.append((event_id, time_us))
        return True

    def within(self) -> list[tuple[str, int]]:
        latest = max((at for _, at in self.accepted), default=0)
        return [(event_id, at) for event_id, at in self.accepted if at >= latest - HORIZON_US]


def columns(events: Sequence[tuple[str, int]]) -> tuple[pa.Array, np.ndarray]:
    return pa.array([name for name, _ in events], pa.string()), np.array([at for _, at in events], dtype=np.int64)


@st.composite
def streams(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """Batches whose times wander on, with ids that come again, early and late."""
    batches: list[list[tuple[str, int]]] = []
    at = 0
    for _ in range(draw(st.integers(1, 12))):
        at += draw(st.integers(-20, 60))
        batches.append(draw(st.lists(st.tuples(NAMES, st.integers(at, at + 40)), max_size=30)))
    return batches


@settings(deadline=None)
@given(streams(), st.sampled_from([TINY, Sizes()]), st.sets(st.integers(0, 11)))
def test_a_repeat_is_what_the_rule_says(batches: list[list[tuple[str, int]]], sizes: Sizes, restarts: set[int]) -> None:
    plain, seen = PlainRule(), SeenIds(timedelta(microseconds=HORIZON_US), sizes=sizes)
    for number, batch in enumerate(batches):
        if number in restarts:
            seen = SeenIds(timedelta(microseconds=HORIZON_US), sizes=sizes)
            seen.remember(*columns(plain.within()[::-1]))
        expected = [plain.accept(*each) for each in batch]
        assert seen.accept_all(*columns(batch)).tolist() == expected


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
