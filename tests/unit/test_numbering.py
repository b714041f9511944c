from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from fakes import NOON, FakeEmitter, a_contract, a_decided, a_decision, a_recorder
from hypothesis import given
from hypothesis import strategies as st

from analytics.audit.numbering import EventNumbers
from producers.delivery.recorder import RecordNumbers
from producers.wire.events import event_from_bytes, event_to_bytes
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence


def rows(numbers: Sequence[int], *, minute: int = 0, source: str | None = "/r", incarnation: str = "a") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "source": [source] * len(numbers),
            "incarnation": [incarnation] * len(numbers),
            "sequence": numbers,
            "ingested_at": [NOON + timedelta(minutes=minute)] * len(numbers),
        },
        schema={
            "source": pl.String,
            "incarnation": pl.String,
            "sequence": pl.Int64,
            "ingested_at": pl.Datetime("us", "UTC"),
        },
    )


def missing(numbers: EventNumbers, minute: int = 60) -> list[tuple[str, int, Any]]:
    return [(gap.source, gap.missing, gap.ranges) for gap in numbers.gaps(NOON + timedelta(minutes=minute))]


@given(st.lists(st.lists(st.integers(1, 60), max_size=12), max_size=8))
def test_what_is_missing_is_what_never_came_in_whatever_order_and_how_often(parts: list[list[int]]) -> None:
    numbers = EventNumbers()
    for part in parts:
        numbers.take(rows(part))
    came = {number for part in parts for number in part}
    lost = set(range(1, max(came, default=0) + 1)) - came
    gaps = numbers.gaps(NOON + timedelta(minutes=1), most_ranges=100)
    told = {number for gap in gaps for begin, end in gap.ranges for number in range(begin, end + 1)}
    assert told == lost
    assert sum(gap.missing for gap in gaps) == len(lost)


def test_a_number_is_missing_once_a_higher_one_was_read_a_while_ago() -> None:
    numbers = EventNumbers()
    numbers.take(rows([1, 2], minute=0))
    numbers.take(rows([5], minute=10))
    assert missing(numbers, minute=10) == []
    assert missing(numbers, minute=11) == [("/r", 2, ((3, 4),))]
    numbers.take(rows([3], minute=12))
    assert missing(numbers, minute=12) == [("/r", 1, ((4, 4),))]


def test_each_incarnation_counts_for_itself() -> None:
    numbers = EventNumbers()
    numbers.take(rows([1, 2, 3], incarnation="a"))
    numbers.take(rows([2], incarnation="b"))
    numbers.take(rows([1, 2], incarnation="c", source="/other"))
    assert missing(numbers) == [("/r", 1, ((1, 1),))]
    assert numbers.sources == {"/r", "/other"}


def test_a_lie_about_the_number_is_no_burden() -> None:
    numbers = EventNumbers()
    numbers.take(rows([1, 10**17]))
    assert missing(numbers) == [("/r", 10**17 - 2, ((2, 10**17 - 1),))]


def test_a_record_of_which_only_the_number_is_known_did_come() -> None:
    numbers = EventNumbers()
    numbers.take(rows([2], source=None))
    numbers.take(rows([1, 3]))
    assert missing(numbers) == []
    assert numbers.sources == {"/r"}


def test_every_event_of_a_recorder_has_the_next_number() -> None:
    emitter = FakeEmitter()
    recorder = a_recorder(emitter)
    for _ in range(2):
        receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
        recorder.executed(receipt, "succeeded")  # type: ignore[arg-type] # as text
    incarnations, numbers = zip(*((event.recordnumber or "").split(".") for event in emitter.events), strict=True)
    assert len(set(incarnations)) == 1
    assert numbers == ("1", "2", "3", "4")
    other = FakeEmitter()
    a_recorder(other).decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
    assert other.events[0].recordnumber not in {None, f"{incarnations[0]}.1"}


def test_threads_share_no_number() -> None:
    numbers, taken = RecordNumbers(lambda: "i"), []

    def take() -> None:
        taken.extend([numbers.next() for _ in range(500)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(taken) == {b"i.%d" % number for number in range(1, 2_001)}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_begins_an_incarnation_of_its_own() -> None:
    numbers = RecordNumbers(lambda: f"p{os.getpid()}")
    numbers.next()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, numbers.next())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        assert told.read() == b"p%d.1" % child
    assert numbers.next() == b"p%d.2" % os.getpid()


def test_a_number_survives_the_way_through_an_event() -> None:
    event = a_decided().model_copy(update={"recordnumber": "0123abc.17"})
    assert event_from_bytes(event_to_bytes(event)) == event
