"""Holds the decoder of whole batches to the decoder of single records."""

from __future__ import annotations

from producers.wire.topics import SOURCE_TOPICS
from streams.ingest.decode import Decoded, EventDecoder, Fault
from streams.ingest.decode_columns import BulkDecoder
from streams.ingest.event_columns import EventColumns


def hold_to_one_by_one(values: list[bytes | None], key: bytes | None, latest_us: int | None) -> None:
    """Whatever the topic, what is read at once is what is read one by one, and so is every fault."""
    one = EventDecoder(key)
    expected = [one.decode(value, latest_us) for value in values]
    for topic in [each.name for each in SOURCE_TOPICS]:
        decoder = BulkDecoder(key)
        for _ in range(2):  # the second time its receipts are known
            decoder.begin_batch()
            read = decoder.decode(topic, values, latest_us)
            assert [read.faults.get(place) for place in range(len(values))] == [
                each if isinstance(each, Fault) else None for each in expected
            ]
            assert read.usable.tolist() == [isinstance(each, Decoded) for each in expected]
            assert read.values.to_pylist() == [value or b"" for value in values]
            kept = read.events.kept(read.usable)
            usable = EventColumns.of([each for each in expected if isinstance(each, Decoded)])
            for name in ("ids", "types", "sources", "subjects"):
                assert getattr(kept, name) == getattr(usable, name)
            for name in ("time_us", "decided_at_us", "kinds", "risk_ranks", "latency_us", "cost_microusd"):
                assert getattr(kept, name).tolist() == getattr(usable, name).tolist(), name
            assert [kept.cells[place] if place >= 0 else None for place in kept.cell_of.tolist()] == [
                each.cell for each in expected if isinstance(each, Decoded)
            ]
