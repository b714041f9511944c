"""Receipts of many events: each different token is opened once.

A decision and everything that comes of it carry the same token, most often within a moment. What a token says is a
function of its letters and the receipt key alone, so what was opened lately is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import pyarrow as pa

from analytics.signals.event_structs import CellEpoch, ReceiptRow
from producers.wire.receipt import ReceiptError, open_token
from streams.ingest.event_columns import NO_CELL, UNDATED
from streams.ingest.faults import Fault, control_characters, make_fault, parse_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEPT: Final = 20_000  # between this and twice as many opened tokens are kept, beside those of the batch at hand
CELLS_KEPT: Final = 20_000  # with more, all that was kept is dropped: a writer may name a new cell in every event

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Opened: TypeAlias = tuple[str, int, int]
"""Decision id, moment of the decision in microseconds since 1970 UTC, and the position of its cell in `cells`."""

NO_RECEIPT: Final[Opened] = ("", UNDATED, NO_CELL)  # for a token that does not open, or that an event does not carry
_BLANK: Final = ReceiptRow("-", EPOCH, "-", "-", "-", "observe_only", "-", "-")


class ReceiptCache:
    """Opens tokens under one receipt key; None accepts receipts without looking at signatures."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._parse = msgspec.json.Decoder(ReceiptRow).decode
        self._newest: dict[str | None, Opened] = {None: NO_RECEIPT}
        self._older: dict[str | None, Opened] = {}
        self._number: dict[tuple[str, ...], int] = {}
        self.cells: list[CellEpoch] = []
        self.actions: list[tuple[str, str, str]] = []  # tool, workflow, environment: as the contract must say

    def begin_batch(self) -> None:
        """Forget what is not worth its memory; positions in `cells` hold until the next call."""
        if len(self.cells) > CELLS_KEPT:
            self._newest, self._older, self._number = {None: NO_RECEIPT}, {}, {}
            # Lists of their own, since a batch that is still to be written refers to those before.
            self.cells, self.actions = [], []
        elif len(self._newest) > KEPT:
            self._older, self._newest = self._newest, {None: NO_RECEIPT}

    def open_all(self, tokens: Sequence[str | None], faults: dict[int, Fault]) -> list[Opened]:
        """What each token says; `NO_RECEIPT` for None, and for one that does not open (`faults` takes why)."""
        newest, older = self._newest, self._older
        missing = [token for token in dict.fromkeys(tokens) if token is not None and token not in newest]
        if missing and older:
            newest.update((token, older[token]) for token in missing if token in older)
            missing = [token for token in missing if token not in newest]
        refused = self._open(missing) if missing else {}
        if refused:
            faults.update((place, refused[token]) for place, token in enumerate(tokens) if token in refused)
        return list(map(newest.get, tokens, repeat(NO_RECEIPT)))

    def _open(self, tokens: Iterable[str]) -> dict[str | None, Fault]:
        key, refused = self._key, dict[str | None, Fault]()
        opened, payloads = list[str](), list[bytes]()
        for token in tokens:
            try:
                payloads.append(open_token(token, key))
            except ReceiptError as error:
                refused[token] = make_fault(error.fault, f"data.receipt: {error}")
            else:
                opened.append(token)
        errors = dict[int, Exception]()
        rows = parse_all(self._parse, payloads, _BLANK, errors)
        for place, unparsed in errors.items():
            refused[opened[place]] = make_fault("malformed_receipt", f"data.receipt: {unparsed}")
        for place, field in control_characters(payloads, b"".join(payloads), rows):
            refused.setdefault(opened[place], make_fault("malformed_receipt", f"{field}: holds a control character"))
        moments = pa.array([row.decided_at - EPOCH for row in rows], type=pa.duration("us")).cast(pa.int64())
        cells = [(row.environment, row.workflow, row.tool, row.stage, row.cohort, row.epoch) for row in rows]
        ids = [row.decision_id for row in rows]
        read = zip(opened, zip(ids, moments.to_pylist(), map(self._number_of, cells), strict=True), strict=True)
        self._newest.update(read)
        for refusal in refused.keys() & self._newest.keys():
            del self._newest[refusal]
        return refused

    def _number_of(self, cell: tuple[str, str, str, str, str, str]) -> int:
        number = self._number.get(cell)
        if number is None:
            number = self._number[cell] = len(self.cells)
            self.cells.append(CellEpoch(*cell))
            self.actions.append((cell[2], cell[1], cell[0]))
        return number
