from __future__ import annotations

from datetime import timedelta
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from streams.ingest.dedupe import SeenIds
from streams.ingest.id_store import Sizes

HOUR_US = 3_600_000_000


def accepts(seen: SeenIds, name: str, time_us: int) -> bool:
    return bool(seen.accept_all(pa.array([name], pa.string()), np.array([time_us]))[0])


def test_the_same_id_is_accepted_once() -> None:
    seen = SeenIds()
    assert accepts(seen, "a", 0)
    assert not accepts(seen, "a", 0)
    assert not accepts(seen, "a", 5)
    assert accepts(seen, "b", 0)


def test_an_id_is_remembered_for_exactly_the_horizon() -> None:
    seen = SeenIds(timedelta(hours=1))
    assert accepts(seen, "a", 0)
    assert accepts(seen, "b", HOUR_US)
    assert not accepts(seen, "a", 0)
    assert accepts(seen, "c", HOUR_US + 1)
    assert accepts(seen, "a", 0)


def test_the_watermark_does_not_move_with_a_repeat() -> None:
    seen = SeenIds(timedelta(hours=1))
    accepts(seen, "a", 0)
    assert not accepts(seen, "a", 2 * HOUR_US)
    assert not accepts(seen, "a", 0)


def test_of_two_acceptances_the_later_one_counts() -> None:
    seen = SeenIds(timedelta(hours=1))
    accepts(seen, "a", 0)
    accepts(seen, "b", 2 * HOUR_US)
    assert accepts(seen, "a", 2 * HOUR_US)
    assert not accepts(seen, "a", 0)


def test_within_a_batch_the_order_counts() -> None:
    seen = SeenIds(timedelta(hours=1))
    names = pa.array(["a", "b", "a", "a", "c"], pa.string())
    times = np.array([0, 2 * HOUR_US, 0, 2 * HOUR_US, 0])
    assert seen.accept_all(names, times).tolist() == [True, True, True, True, True]
    assert not accepts(seen, "a", 0)
    assert accepts(seen, "c", 0)


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(least=16, on_disk=64, most=1_024)])
@pytest.mark.slow
def test_pruning_and_rebuilding_change_no_answer(sizes: Sizes) -> None:
    random = Random(7)
    stream = [(f"id-{random.randrange(60_000)}", i * 100_000 + random.randrange(HOUR_US // 4)) for i in range(130_000)]
    pruned = SeenIds(timedelta(minutes=30), sizes=sizes)
    accepted: list[tuple[str, int]] = []
    remembered: dict[str, int] = {}
    latest: int | None = None
    at = 0
    while at < len(stream):
        batch = stream[at : at + random.choice([1, 30, 3_000])]
        at += len(batch)
        expected = []
        for event_id, time_us in batch:
            earlier = remembered.get(event_id)
            repeat = earlier is not None and latest is not None and earlier >= latest - HOUR_US // 2
            expected.append(not repeat)
            if not repeat:
                accepted.append((event_id, time_us))
                remembered[event_id] = max(time_us, remembered.get(event_id, time_us))
                latest = time_us if latest is None else max(latest, time_us)
        names, times = pa.array([name for name, _ in batch], pa.string()), np.array([time_us for _, time_us in batch])
        assert pruned.accept_all(names, times).tolist() == expected
        if random.random() < 0.02:
            within = [pair for pair in accepted if pair[1] >= (latest or 0) - HOUR_US // 2]
            pruned = SeenIds(timedelta(minutes=30), sizes=sizes)
            pruned.remember(pa.array([name for name, _ in within], pa.string()), np.array([at for _, at in within]))
    assert len(pruned.ids) < len(remembered)
