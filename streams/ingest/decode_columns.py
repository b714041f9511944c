"""Many records at once: what `EventDecoder` says of each, in columns and in a fraction of its time.

Whole lists go through msgspec, and every check is made on whole columns. Each of these checks is as strict as that of
`EventDecoder` or stricter, and whatever fails one of them is handed to `EventDecoder`, whose word is final: a record
that this reads is read as `EventDecoder` would read it, and the reason of a fault is always its. A property test holds
the two equal.
"""

from __future__ import annotations

from itertools import compress
from operator import not_
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from analytics.signals.event_structs import OUTCOMES as KINDS_OF_DECISION
from analytics.signals.event_structs import STATUSES, DecidedAlone, Executed, Outcome
from producers.wire.topics import DECISIONS, MAX_EVENT_BYTES, OUTCOMES, REVIEWS
from streams.ingest.decode import (
    CONTROL,
    DECODE_ERRORS,
    EARLIEST_US,
    LATEST_US,
    RANKS,
    UNKNOWN,
    EventDecoder,
    Fault,
)
from streams.ingest.event_columns import NO_CELL, EventColumns, Flags, Longs, binary, longs
from streams.ingest.receipt_cache import EPOCH, UNOPENED, ReceiptOpener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from analytics.signals.event_structs import Names
    from streams.ingest.receipt_cache import Opened

Event = TypeVar("Event")

# As plain numbers: numpy takes more than twice as long over members of an enumeration.
_OF_DECISION: Final = {said: int(kind) for said, kind in KINDS_OF_DECISION.items()}
_OF_STATUS: Final = {status: int(kind) for status, kind in STATUSES.items()}

_ENVELOPE: Final[dict[str, Any]] = {"id": "-", "source": "-", "time": "1970-01-01T00:00:00Z", "subject": "-"}
_CONTRACT: Final = {"actor": {}, "target": {"environment": "-"}, "tool": "-", "workflow": "-", "risk_class": "search"}
# They stand in the place of what msgspec refuses, so that columns have one length.
_BLANK_DECISION: Final = msgspec.convert(
    {
        **_ENVELOPE,
        "type": DecidedAlone.type_name,
        "data": {"receipt": "sk1.-", "contract": _CONTRACT, "decision": {"result": {"outcome": "deny"}}},
    },
    DecidedAlone,
)
_BLANK_OUTCOME: Final[Outcome] = msgspec.convert(
    {**_ENVELOPE, "type": Executed.type_name, "data": {"receipt": "sk1.-", "status": "failed"}}, Executed
)


class Named(Protocol):
    """Has fields that must not hold a control character."""

    def names(self) -> Names:
        """Path and value of each."""
        ...


class Read(NamedTuple):
    """What records hold.

    Attributes:
        events: A position for each record; only those at which `usable` holds mean anything.
        values: The records' bytes.
        usable: Which records are events.
        faults: Why each of the others cannot be used, by position.
    """

    events: EventColumns
    values: pa.Array
    usable: Flags
    faults: dict[int, Fault]


class BulkDecoder:
    """Decodes the records of one topic at a time, under one receipt key.

    Args:
        key: The receipt key; None accepts receipts without looking at signatures.
    """

    def __init__(self, key: bytes | None) -> None:
        self._one = EventDecoder(key)
        self._receipts = ReceiptOpener(key)
        self._decision = msgspec.json.Decoder(DecidedAlone).decode
        self._outcome: Callable[[bytes], Outcome] = msgspec.json.Decoder(Outcome).decode

    def begin_batch(self) -> None:
        """Let go of what earlier batches needed."""
        self._receipts.begin_batch()

    def decode(self, topic: str, values: Sequence[bytes | None], latest_us: int | None) -> Read:
        """Decode records.

        Args:
            topic: Where they come from. What it should hold is read fast, whatever else it holds is read as well.
            values: Their values.
            latest_us: The last possible event time (`latest_possible`); None skips that check.
        """
        refused: set[int] = set()
        raw = [value or b"" for value in values]
        together = b"".join(raw)
        if topic == DECISIONS:
            decisions = _read_all(self._decision, raw, _BLANK_DECISION, refused)
            _check_bytes(raw, together, decisions, refused)
            events = self._of_decisions(decisions, refused)
        elif topic in {OUTCOMES, REVIEWS}:
            outcomes = _read_all(self._outcome, raw, _BLANK_OUTCOME, refused)
            _check_bytes(raw, together, outcomes, refused)
            events = self._of_outcomes(outcomes, refused)
        else:
            refused.update(range(len(raw)))
            events = self._of_outcomes([_BLANK_OUTCOME] * len(raw), refused)
        _check_times(events, latest_us, refused)
        usable, faults = self._settle(events, values, latest_us, refused)
        return Read(events, binary(raw, together), usable, faults)

    def _of_decisions(self, decisions: list[DecidedAlone], refused: set[int]) -> EventColumns:
        data = [each.data for each in decisions]
        opened = self._open([each.receipt for each in data], refused)
        contracts = [each.contract for each in data]
        results = [(each.decision.result, each.decision.enforced) for each in data]
        actions = self._receipts.actions
        said = [actions[number] for _, _, number in opened]
        meant = [(each.target.environment, each.workflow, each.tool) for each in contracts]
        _refuse_different(said, meant, refused)
        return self._columns(
            decisions,
            opened,
            refused,
            types=[DecidedAlone.type_name] * len(decisions),
            users=[each.actor.user for each in contracts],
            kinds=longs([_OF_DECISION[result.outcome, enforced and result.runs] for result, enforced in results]),
            risk_ranks=longs([RANKS[each.risk_class] for each in contracts]),
        )

    def _of_outcomes(self, outcomes: list[Outcome], refused: set[int]) -> EventColumns:
        classes: list[type[Outcome]] = list(map(type, outcomes))
        ran = [each is Executed for each in classes]
        executed = [outcome.data for outcome in compress(outcomes, ran) if isinstance(outcome, Executed)]
        of_executed = np.array(ran, dtype=np.bool_)
        kinds, latency_us, cost_microusd = (_unknown(len(outcomes)) for _ in range(3))
        kinds[of_executed] = longs([_OF_STATUS[data.status] for data in executed])
        kinds[~of_executed] = longs([outcome.kind for outcome in compress(outcomes, map(not_, ran))])
        latency_us[of_executed] = _amounts([data.latency_ms for data in executed], 1e3)
        cost_microusd[of_executed] = _amounts([data.cost_usd for data in executed], 1e6)
        return self._columns(
            outcomes,
            self._open([each.data.receipt for each in outcomes], refused),
            refused,
            types=[each.type_name for each in classes],
            users=[None] * len(outcomes),
            kinds=kinds,
            latency_us=latency_us,
            cost_microusd=cost_microusd,
        )

    def _open(self, tokens: list[str], refused: set[int]) -> list[Opened]:
        opened = self._receipts.open_all(tokens)
        if None in opened:
            refused.update(place for place, each in enumerate(opened) if each is None)
        return [each or UNOPENED for each in opened]

    def _columns(
        self,
        events: Sequence[DecidedAlone] | Sequence[Outcome],
        opened: list[Opened],
        refused: set[int],
        *,
        types: list[str],
        users: list[str | None],
        kinds: Longs,
        risk_ranks: Longs | None = None,
        latency_us: Longs | None = None,
        cost_microusd: Longs | None = None,
    ) -> EventColumns:
        subjects = [each.subject for each in events]
        _refuse_different(subjects, [decision_id for decision_id, _, _ in opened], refused)
        return EventColumns(
            ids=[each.id for each in events],
            types=types,
            sources=[each.source for each in events],
            subjects=subjects,
            users=users,
            time_us=_micros([each.time - EPOCH for each in events]),
            decided_at_us=longs([decided_at_us for _, decided_at_us, _ in opened]),
            kinds=kinds,
            risk_ranks=_unknown(len(events)) if risk_ranks is None else risk_ranks,
            latency_us=_unknown(len(events)) if latency_us is None else latency_us,
            cost_microusd=_unknown(len(events)) if cost_microusd is None else cost_microusd,
            cell_of=longs([number for _, _, number in opened]),
            cells=self._receipts.cells,
        )

    def _settle(
        self, events: EventColumns, values: Sequence[bytes | None], latest_us: int | None, refused: set[int]
    ) -> tuple[Flags, dict[int, Fault]]:
        """Let `EventDecoder` say what it makes of the refused ones."""
        usable = np.ones(len(events), dtype=np.bool_)
        faults: dict[int, Fault] = {}
        for place in sorted(refused):
            event = self._one.decode(values[place], latest_us)
            if isinstance(event, Fault):
                faults[place] = event
                usable[place] = False
            else:
                events.put(place, event, NO_CELL if event.cell is None else self._receipts.number_of(event.cell))
        return usable, faults


def _read_all(read: Callable[[bytes], Event], values: Sequence[bytes], blank: Event, refused: set[int]) -> list[Event]:
    """Decode each value; a blank stands in the place of one that fails."""
    events: list[Event] = []
    waiting = iter(values)
    while len(events) < len(values):
        try:
            events.extend(map(read, waiting))
        except DECODE_ERRORS:  # of the value after those that were read
            refused.add(len(events))
            events.append(blank)
    return events


def _check_bytes(values: Sequence[bytes], together: bytes, events: Sequence[Named], refused: set[int]) -> None:
    """Refuse what is too large, what is not UTF-8 in a field that nobody reads, and names with control characters."""
    if max(map(len, values), default=0) > MAX_EVENT_BYTES:
        refused.update(place for place, value in enumerate(values) if len(value) > MAX_EVENT_BYTES)
    if not together.isascii():
        refused.update(place for place, value in enumerate(values) if not (value.isascii() or _is_utf8(value)))
    # A control character in JSON is either escaped or DEL, so most records need no look at each name.
    if b"\\" in together or b"\x7f" in together:
        refused.update(
            place
            for place, (value, event) in enumerate(zip(values, events, strict=True))
            if (b"\\" in value or b"\x7f" in value) and any(CONTROL.search(text) for _, text in event.names())
        )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_times(events: EventColumns, latest_us: int | None, refused: set[int]) -> None:
    latest = LATEST_US if latest_us is None else min(latest_us, LATEST_US)
    for moments in (events.time_us, events.decided_at_us):
        outside = (moments < EARLIEST_US) | (moments > latest)
        if outside.any():
            refused.update(np.flatnonzero(outside).tolist())


def _refuse_different(said: list[Any], meant: list[Any], refused: set[int]) -> None:
    if said != meant:
        refused.update(place for place, pair in enumerate(zip(said, meant, strict=True)) if pair[0] != pair[1])


def _micros(since: list[timedelta]) -> Longs:
    """Whole microseconds of spans, exactly."""
    return np.array(pa.array(since, type=pa.duration("us")).cast(pa.int64()))


def _amounts(values: list[float | None], factor: float) -> Longs:
    """Amounts in whole micro-units, rounded as `round` does."""
    exact = np.array(values, dtype=np.float64)  # None becomes NaN, which no amount is
    known = ~np.isnan(exact)
    return np.where(known, np.rint(np.where(known, exact, 0.0) * factor), float(UNKNOWN)).astype(np.int64)


def _unknown(length: int) -> Longs:
    return np.full(length, UNKNOWN, dtype=np.int64)
