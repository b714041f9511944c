"""The decoder: records into columns, or the reasons why they cannot be used.

Whole lists are parsed by msgspec, and every check is made on whole columns; only for a record that fails one is a
reason put into words. The reasons, and the order of the checks, stand in `streams.ingest.faults`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics.signals.event_structs import PolicyData, WireDecided, WireEvent, WireExecuted, WirePolicyChanged
from producers.wire.contract import RiskClass
from producers.wire.topics import MAX_EVENT_BYTES
from streams.ingest.binary_mode import to_structured
from streams.ingest.event_columns import NO_CELL, UNDATED, UNKNOWN, Bytes, EventColumns, Flags, Longs, binary, longs
from streams.ingest.faults import (
    MAX_DEPTH,
    PARSE_ERRORS,
    Fault,
    control_characters,
    is_too_deep,
    make_fault,
    parse_all,
    parse_fault,
)
from streams.ingest.receipt_cache import EPOCH, Opened, ReceiptCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from analytics.signals.decision_structs import WireContract
    from streams.ingest.binary_mode import HeadersOf

    Places = npt.NDArray[np.intp]

AHEAD_LIMIT: Final = timedelta(minutes=5)  # how far an event may lie ahead of the clock
EARLIEST_US: Final = -62_135_596_800_000_000  # the first moment of year 1
LATEST_US: Final = 253_402_300_799_999_999  # the last moment of year 9999

_RECORD_NUMBER: Final = r"\A[0-9a-z]{1,32}\.[1-9][0-9]{0,17}\z"
_RANKS: Final = {risk.value: risk.rank for risk in RiskClass}
# Stands in the place of what is no event, so that columns have one length.
_BLANK: Final = WirePolicyChanged(
    specversion="1.0", id="-", source="-", time=EPOCH, subject="-", data=PolicyData("-", "-", "-")
)

_CLASSES: Final[tuple[type[WireEvent], ...]] = get_args(WireEvent)
_CODES: Final[dict[type[WireEvent], int]] = {event_class: code for code, event_class in enumerate(_CLASSES)}
_TYPE_NAMES: Final = pa.array([event_class.__struct_config__.tag for event_class in _CLASSES], pa.string())
_ACTION_FIELDS: Final = (
    ("tool", "data.contract.tool"),
    ("workflow", "data.contract.workflow"),
    ("environment", "data.contract.target.environment"),
)

Event = TypeVar("Event", WireDecided, WireExecuted)


class Decoded(NamedTuple):
    """What records hold."""

    events: EventColumns  # a position for each record; only those at which `usable` holds mean anything
    values: pa.Array  # the records' bytes
    usable: Flags  # which records are events
    faults: dict[int, Fault]  # why each of the others cannot be used, by position


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def latest_possible(now: datetime) -> int:
    """The last possible event time, in microseconds since 1970 UTC."""
    return micros_of(now + AHEAD_LIMIT)


class EventDecoder:
    """Decodes records under one receipt key; None accepts receipts without looking at signatures."""

    def __init__(self, key: bytes | None) -> None:
        self._receipts = ReceiptCache(key)
        self._parse = msgspec.json.Decoder(WireEvent).decode

    def begin_batch(self) -> None:
        """Let go of what earlier batches needed."""
        self._receipts.begin_batch()

    def decode(
        self,
        values: Sequence[bytes | None],
        latest_us: int | None,
        oldest_us: int | None = None,
        headers_of: HeadersOf | None = None,
    ) -> Decoded:
        """Decode records; without `latest_us` (`latest_possible`), moments may lie ahead of the clock.

        What is about a decision before `oldest_us` is refused, where that is given. Without `headers_of`, all records
        are taken to be in structured mode.
        """
        raw = [value or b"" for value in values]
        errors: dict[int, Exception] = {}
        events: list[WireEvent] = parse_all(self._parse, raw, _BLANK, errors)
        by_headers = self._read_headers(raw, events, errors, headers_of) if errors and headers_of else {}
        joined = b"".join(raw)
        ends = np.zeros(len(raw) + 1, dtype=np.int64)
        np.cumsum(longs(map(len, raw)), out=ends[1:])
        faults = _byte_faults(raw, joined, ends)
        for place, fault in by_headers.items():
            faults.setdefault(place, fault)
        for place, error in errors.items():
            if place not in faults:
                faults[place] = parse_fault(raw[place], error)
        for place, field in control_characters(raw, joined, events):
            faults.setdefault(place, make_fault("wrong_type", f"{field}: holds a control character"))
        _blank_out(events, faults)
        receipts = self._receipts.open_all([event.data.receipt for event in events], faults)
        _blank_out(events, faults)
        columns = self._columns(events, receipts, faults)
        _check_numbers(columns, faults)
        _check_times(columns, latest_us, faults)
        _check_age(columns, oldest_us, faults)
        usable = np.ones(len(raw), dtype=np.bool_)
        usable[list(faults)] = False
        return Decoded(columns, binary(raw, joined, ends), usable, faults)

    def _read_headers(
        self, raw: list[bytes], events: list[WireEvent], errors: dict[int, Exception], headers_of: HeadersOf
    ) -> dict[int, Fault]:
        """Read what is no event by its value as its headers say, in place; the faults that only headers show."""
        faults: dict[int, Fault] = {}
        for place in list(errors):
            read = to_structured(raw[place], headers_of(place) or ()) if raw[place] else None
            if isinstance(read, Fault):
                faults[place] = read
            elif read is not None:
                raw[place] = read
                try:
                    events[place] = self._parse(read)
                except PARSE_ERRORS as error:
                    errors[place] = error
                else:
                    del errors[place]
        return faults

    def _columns(self, events: list[WireEvent], receipts: list[Opened], faults: dict[int, Fault]) -> EventColumns:
        """The columns of events; those whose receipt is about something else become faults."""
        codes = np.frombuffer(bytes(map(_CODES.__getitem__, map(type, events))), dtype=np.int8)
        is_decided, decisions = _of_class(events, codes, WireDecided)
        is_executed, executions = _of_class(events, codes, WireExecuted)
        contracts = [event.data.contract for event in decisions]
        executed = [event.data for event in executions]
        subjects = [event.subject for event in events]
        cell_of = longs([cell for _, _, cell in receipts])
        decision_ids = [decision_id for decision_id, _, _ in receipts]
        for place in _differing(decision_ids, subjects):
            if cell_of[place] != NO_CELL:  # or there is no receipt
                mismatch = _mismatch("decision_id", decision_ids[place], "subject", subjects[place])
                faults.setdefault(place, mismatch)
        self._check_actions(contracts, cell_of, np.flatnonzero(is_decided), faults)
        return EventColumns(
            ids=pa.array([event.id for event in events], pa.string()),
            types=_TYPE_NAMES.take(pa.array(codes)),
            sources=pa.array([event.source for event in events], pa.string()),
            record_numbers=pa.array([event.recordnumber for event in events], pa.string()),
            subjects=pa.array(subjects, pa.string()),
            users=_users(contracts, is_decided),
            time_us=_micros([event.time - EPOCH for event in events]),
            decided_at_us=longs([decided_at_us for _, decided_at_us, _ in receipts]),
            kinds=np.frombuffer(bytes([event.kind for event in events]), dtype=np.int8),
            risk_ranks=_placed(longs([_RANKS[contract.risk_class] for contract in contracts]), is_decided),
            latency_us=_placed(_amounts([data.latency_ms for data in executed], 1e3), is_executed),
            cost_microusd=_placed(_amounts([data.cost_usd for data in executed], 1e6), is_executed),
            cell_of=cell_of,
            cells=self._receipts.cells,
        )

    def _check_actions(
        self, contracts: list[WireContract], cell_of: Longs, places: Places, faults: dict[int, Fault]
    ) -> None:
        actions = self._receipts.actions
        of_receipts = [actions[cell] for cell in cell_of[places].tolist()]
        of_contracts = [(contract.tool, contract.workflow, contract.target.environment) for contract in contracts]
        for index in _differing(of_receipts, of_contracts):
            fields = zip(_ACTION_FIELDS, of_receipts[index], of_contracts[index], strict=True)
            name, of_receipt, where, of_contract = next(
                (name, receipt, where, contract) for (name, where), receipt, contract in fields if receipt != contract
            )
            faults.setdefault(int(places[index]), _mismatch(name, of_receipt, where, of_contract))


def _byte_faults(values: Sequence[bytes], joined: bytes, ends: Longs) -> dict[int, Fault]:
    faults: dict[int, Fault] = {}
    sizes = np.diff(ends)
    for place in np.flatnonzero(sizes == 0).tolist():
        faults[place] = Fault("null_value", "the record has no value")
    for place in np.flatnonzero(sizes > MAX_EVENT_BYTES).tolist():
        faults[place] = Fault("too_large", f"{sizes[place]} bytes, the limit is {MAX_EVENT_BYTES}")
    # What has few opening brackets needs no look at how they are nested. The mask makes "{" a "[".
    brackets = np.flatnonzero(np.frombuffer(joined, dtype=np.uint8) & 0xDF == ord("["))
    for place in np.flatnonzero(np.diff(np.searchsorted(brackets, ends)) > MAX_DEPTH).tolist():
        if is_too_deep(values[place]):
            faults.setdefault(place, Fault("not_json", f"nested too deeply: the limit is {MAX_DEPTH} levels"))
    # Fields that nobody reads are skipped by the parser without a look at their encoding.
    if not joined.isascii():
        for place, value in enumerate(values):
            try:
                value.decode()
            except UnicodeDecodeError as error:
                faults.setdefault(place, make_fault("not_json", str(error)))
    return faults


def _blank_out(events: list[WireEvent], faults: dict[int, Fault]) -> None:
    for place in faults:
        events[place] = _BLANK


def _of_class(events: list[WireEvent], codes: Bytes, wanted: type[Event]) -> tuple[Flags, list[Event]]:
    flags = codes == _CODES[wanted]
    return flags, cast("list[Event]", events if flags.all() else list(compress(events, flags.tolist())))


def _users(contracts: list[WireContract], is_decided: Flags) -> pa.StringArray:
    users = [contract.actor.user for contract in contracts]
    if len(users) == len(is_decided):
        return pa.array(users, pa.string())
    if not users:
        return pa.nulls(len(is_decided), pa.string())
    indexes = np.cumsum(is_decided) - 1
    return pa.array(users, pa.string()).take(pa.array(indexes, mask=~is_decided))


def _placed(values: Longs, places: Flags) -> Longs:
    """A column with values at some places, and `UNKNOWN` at all others."""
    column = np.full(len(places), UNKNOWN, dtype=np.int64)
    column[places] = values
    return column


def _differing(one: Sequence[object], other: Sequence[object]) -> list[int]:
    if one == other:
        return []
    return [place for place, (left, right) in enumerate(zip(one, other, strict=True)) if left != right]


def _mismatch(field: str, of_receipt: str, where: str, value: str) -> Fault:
    return make_fault("receipt_mismatch", f"the receipt's {field} is {of_receipt!r}, but {where} is {value!r}")


def _check_numbers(events: EventColumns, faults: dict[int, Fault]) -> None:
    numbers = events.record_numbers
    if numbers.null_count == len(numbers):
        return
    is_odd = pc.invert(pc.match_substring_regex(numbers, _RECORD_NUMBER)).fill_null(False)  # noqa: FBT003 - Arrow's own
    for place in np.flatnonzero(is_odd.to_numpy(zero_copy_only=False)).tolist():
        number = numbers[place].as_py()
        faults.setdefault(
            place, make_fault("wrong_type", f"recordnumber: {number!r} is no incarnation, dot and number")
        )


def _check_times(events: EventColumns, latest_us: int | None, faults: dict[int, Fault]) -> None:
    """Refuse moments that cannot be stored, or that have not come."""
    for field, moments_us, reason in (
        ("time", events.time_us, "wrong_type"),
        ("data.receipt decided_at", events.decided_at_us, "malformed_receipt"),
    ):
        is_dated = moments_us != UNDATED
        for place in np.flatnonzero(is_dated & ((moments_us < EARLIEST_US) | (moments_us > LATEST_US))).tolist():
            faults.setdefault(place, Fault(reason, f"{field}: outside the years 1 to 9999"))
        if latest_us is not None:
            for place in np.flatnonzero(moments_us > latest_us).tolist():
                moment = np.datetime64(int(moments_us[place]), "us")
                detail = f"{field}: {moment}Z lies more than 5 minutes ahead of the clock"
                faults.setdefault(place, Fault("impossible_time", detail))


def _check_age(events: EventColumns, oldest_us: int | None, faults: dict[int, Fault]) -> None:
    """Refuse what could repeat an event that the lake has let go of: nobody could tell."""
    if oldest_us is None:
        return
    dates_us = np.where(events.decided_at_us == UNDATED, events.time_us, events.decided_at_us)
    for place in np.flatnonzero(dates_us < oldest_us).tolist():
        field = "time" if events.decided_at_us[place] == UNDATED else "data.receipt decided_at"
        moments = [f"{np.datetime64(int(us), 'us')}Z" for us in (dates_us[place], oldest_us)]
        detail = f"{field}: {moments[0]} lies before {moments[1]}, from when on events are kept (keep_events_days)"
        faults.setdefault(place, Fault("beyond_retention", detail))


def _micros(since: list[timedelta]) -> Longs:
    return np.array(pa.array(since, type=pa.duration("us")).cast(pa.int64()))


def _amounts(values: list[float | None], factor: float) -> Longs:
    """Amounts in whole micro-units, rounded as `round` does."""
    exact = np.array(values, dtype=np.float64)  # None becomes NaN, which no amount is
    is_given = ~np.isnan(exact)
    return np.where(is_given, np.rint(np.where(is_given, exact, 0.0) * factor), float(UNKNOWN)).astype(np.int64)
