from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from streams.data.dedupe import SeenIds
from streams.data.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM = Random(3)
NAMINGS: dict[str, Callable[[int], str]] = {
    "random hexadecimal": lambda number: f"{number ^ RANDOM.getrandbits(128):032x}",
    "counted hexadecimal": "{:032x}".format,
    "counted from the left": "{:016x}0000000000000000".format,
    "words": "event-{}".format,
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_runs_find_what_was_added_and_nothing_else(naming: str) -> None:
    runs = Runs()
    known = {NAMINGS[naming](number): number for number in range(9_000)}
    names = list(known)
    for start in range(0, 6_000, 700):
        runs.add({name: known[name] for name in names[start : min(start + 700, 6_000)]}, 0)
    assert runs.times_of(names) == {name: known[name] for name in names[:6_000]}
    assert runs.nbytes == 24 * 6_000


def test_ids_that_differ_in_case_or_padding_are_different() -> None:
    lower = "ab" * 16
    others = [lower.upper(), f"{lower[:-1]} ", f" {lower[1:]}", lower[:31], lower + "0", "é" * 32]
    runs = Runs()
    runs.add({lower: 5}, 0)
    assert runs.times_of([*others, lower]) == {lower: 5}
    runs.add(dict.fromkeys(others, 7), 0)
    assert runs.times_of([*others, lower]) == {**dict.fromkeys(others, 7), lower: 5}


def test_the_latest_time_of_an_id_counts_and_old_ones_go() -> None:
    runs = Runs()
    runs.add({"a": 10, "b": 3}, 0)
    runs.add({"a": 4, "c": 8}, 0)
    assert runs.times_of(["a", "b", "c", "d"]) == {"a": 10, "b": 3, "c": 8}
    runs.add({f"later-{number}": 20 for number in range(10)}, oldest_us=9)
    assert runs.times_of(["a", "b", "c"]) == {"a": 10}
    assert len(runs) == 11


@pytest.mark.parametrize("newest", [1, 7, 500])
def test_spilling_changes_no_answer(newest: int) -> None:
    random = Random(11)
    stream = [(f"{random.randrange(4_000):032x}", i * 1_000 + random.randrange(300_000)) for i in range(12_000)]
    plain, spilling = SeenIds(timedelta(seconds=2)), SeenIds(timedelta(seconds=2), newest=newest)
    at = 0
    while at < len(stream):
        chunk = stream[at : at + random.randrange(1, 40)]
        ids, times = [each for each, _ in chunk], [time_us for _, time_us in chunk]
        assert spilling.accept_all(ids, times) == [plain.accept(*each) for each in chunk]
        at += len(chunk)
    assert len(spilling) < 4_000  # two seconds hold about half of that, some of them twice


def test_memory_is_bounded_by_the_horizon() -> None:
    seen = SeenIds(timedelta(seconds=10), newest=1_000)
    largest = 0
    for start in range(0, 200_000, 2_000):
        numbers = range(start, start + 2_000)
        seen.accept_all([f"{number:032x}" for number in numbers], [number * 1_000 for number in numbers])
        largest = max(largest, len(seen))
    assert largest < 4 * 10_000  # ten seconds hold 10,000
