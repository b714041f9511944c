from __future__ import annotations

from datetime import timedelta
from random import Random

from streams.data.dedupe import SeenIds

HOUR_US = 3_600_000_000


def test_the_same_id_is_accepted_once() -> None:
    seen = SeenIds()
    assert seen.accept("a", 0)
    assert not seen.accept("a", 0)
    assert not seen.accept("a", 5)
    assert seen.accept("b", 0)


def test_an_id_is_remembered_for_exactly_the_horizon() -> None:
    seen = SeenIds(timedelta(hours=1))
    assert seen.accept("a", 0)
    assert seen.accept("b", HOUR_US)
    assert not seen.accept("a", 0)
    assert seen.accept("c", HOUR_US + 1)
    assert seen.accept("a", 0)


def test_the_watermark_does_not_move_with_a_repeat() -> None:
    seen = SeenIds(timedelta(hours=1))
    seen.accept("a", 0)
    assert not seen.accept("a", 2 * HOUR_US)
    assert not seen.accept("a", 0)


def test_of_two_acceptances_the_later_one_counts() -> None:
    seen = SeenIds(timedelta(hours=1))
    seen.accept("a", 0)
    seen.accept("b", 2 * HOUR_US)
    assert seen.accept("a", 2 * HOUR_US)
    assert not seen.accept("a", 0)


def test_pruning_and_rebuilding_change_no_answer() -> None:
    random = Random(7)
    stream = [(f"id-{random.randrange(60_000)}", i * 100_000 + random.randrange(HOUR_US // 4)) for i in range(130_000)]
    pruned = SeenIds(timedelta(minutes=30))
    accepted: list[tuple[str, int]] = []
    remembered: dict[str, int] = {}
    latest: int | None = None
    for position, (event_id, time_us) in enumerate(stream):
        earlier = remembered.get(event_id)
        repeat = earlier is not None and latest is not None and earlier >= latest - HOUR_US // 2
        assert pruned.accept(event_id, time_us) is not repeat
        if not repeat:
            accepted.append((event_id, time_us))
            remembered[event_id] = max(time_us, remembered.get(event_id, time_us))
            latest = time_us if latest is None else max(latest, time_us)
        if position % 50_000 == 49_999:
            newest = max(at for _, at in accepted)
            within = [pair for pair in accepted if pair[1] >= newest - HOUR_US // 2]
            pruned = SeenIds(timedelta(minutes=30), within)
    assert len(pruned) < len(remembered)
