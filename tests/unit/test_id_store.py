from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from identified_events import identities

from streams.ingest import id_store
from streams.ingest.dedupe import SeenIds
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.errors import DataPlaneError
from streams.ingest.id_store import NEVER, IdRun, IdStore, Sizes, masks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streams.ingest.id_store import Words

pytestmark = pytest.mark.slow

RANDOM = Random(3)
NAMINGS: dict[str, Callable[[int], str]] = {
    "random hexadecimal": lambda number: f"{number ^ RANDOM.getrandbits(128):032x}",
    "random UUIDs": lambda number: "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}".format(
        *(RANDOM.getrandbits(bits) for bits in (32, 16, 16, 16)), number
    ),
    "counted UUIDs": "00000000-0000-0000-0000-{:012x}".format,
    "UUIDs counted from the left": "{:08x}-0000-0000-0000-000000000000".format,
    "words": "event-{}".format,
}
TINY = Sizes(least=16, on_disk=64, most=1_024)


def words_of(names: Sequence[str]) -> Words:
    return id_store.words_of(pa.array(names, pa.string()))


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("sizes", [TINY, Sizes()])
def test_runs_find_what_was_added_and_nothing_else(naming: str, sizes: Sizes) -> None:
    runs = IdStore(sizes)
    words = words_of([NAMINGS[naming](number) for number in range(9_000)])
    times = np.arange(9_000, dtype=np.int64)
    for start in range(0, 6_000, 700):
        end = min(start + 700, 6_000)
        runs.add(words[start:end], times[start:end], 0)
    assert runs.times_of(words).tolist() == [*range(6_000), *[NEVER] * 3_000]
    assert len(runs) == 6_000


def test_equal_first_words_are_told_apart() -> None:
    """Whatever the blocks of a run begin with: a thousand ids share one first word."""
    words = np.column_stack([np.repeat(np.array([7, 8, 9], dtype=np.uint64), 1_000), np.arange(3_000, dtype=np.uint64)])
    times = np.arange(3_000, dtype=np.int64)
    runs = IdStore(TINY)
    runs.add(words[::2].copy(), times[::2].copy(), 0)
    assert runs.times_of(words).tolist() == [at if at % 2 == 0 else NEVER for at in range(3_000)]


def test_the_latest_time_of_an_id_counts_and_old_ones_go() -> None:
    runs = IdStore(TINY)
    runs.add(words_of(["a", "b"]), np.array([10, 3]), 0)
    runs.add(words_of(["a", "c"]), np.array([4, 8]), 0)
    assert runs.times_of(words_of(["a", "b", "c", "d"])).tolist() == [10, 3, 8, NEVER]
    for number in range(6):
        runs.add(words_of([f"later-{number}-{each}" for each in range(10)]), np.full(10, 20), oldest_us=9)
    assert runs.times_of(words_of(["a", "b", "c"])).tolist() == [10, NEVER, NEVER]
    runs.add(words_of(["last"]), np.array([100]), oldest_us=21)
    assert len(runs) == 1


def test_a_filter_rarely_says_perhaps_of_what_is_not_there() -> None:
    numbers = np.random.default_rng(5).integers(0, 2**64, size=(120_000, 3), dtype=np.uint64)
    held, others = numbers[:60_000], numbers[60_000:, 0]
    run = IdRun(held[np.argsort(held[:, 0])], on_disk=True)
    assert 0 < len(run.candidates(others, masks_of(others))) < 60_000 / 100
    assert len(run.candidates(held[:, 0], masks_of(held[:, 0]))) == 60_000
    assert run.nbytes < 2.1 * 60_000


@pytest.mark.parametrize("size", [1, 40, 3_000])
def test_memory_and_runs_are_bounded_by_the_horizon(size: int) -> None:
    sizes = Sizes(least=256, on_disk=1_024, most=16_384)
    seen = SeenIds(timedelta(minutes=40), earlier=lambda wanted: np.full(len(wanted), NOT_FOUND), sizes=sizes)
    largest = most_runs = most_bytes = 0
    for start in range(0, min(200_000, 4_000 * size), size):
        numbers = range(start, start + size)
        names = [f"{number:032x}" for number in numbers]
        assert (seen.accept_all(identities(names, [number * 60_000 for number in numbers])) == NOT_FOUND).all()
        largest, most_runs = max(largest, len(seen.ids)), max(most_runs, len(seen.ids.runs))
        most_bytes = max(most_bytes, seen.ids.nbytes)
    assert largest < 40_000 + 2 * 16_384 + size  # forty minutes hold 40,000
    assert most_runs <= 3 * 3 + largest // 4_096 + 1  # three sizes that are merged, and those that are large enough
    assert most_bytes < 2.2 * largest + 24 * 4 * 1_024 + 24 * size


def test_a_folder_that_cannot_take_the_ids_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataPlaneError, match="TMPDIR"):
        IdStore(TINY).add(words_of([f"event-{number}" for number in range(100)]), np.zeros(100, dtype=np.int64), 0)
