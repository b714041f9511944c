"""Receipts of many events at once: each different token is opened once.

A decision and everything that comes of it carry the same token, most often within a moment. What a token says is a
function of its letters and the receipt key alone, so what was opened lately is kept. Only tokens that opened are kept;
why one does not open is for `EventDecoder` to say, which looks at it anew.
"""

from __future__ import annotations

import binascii
import hmac
from binascii import a2b_base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa

from producers.wire.receipt import VERSION
from streams.data.decode import BASE64URL, CONTROL, DECODE_ERRORS, EventDecoder
from streams.data.wire import CellEpoch, ReceiptRow

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT: Final = 20_000
"""Between this and twice as many opened tokens are kept, beside those of the batch at hand."""

CELLS_KEPT: Final = 20_000
"""With more cells than this, all that was kept is dropped: a writer may name a new one in every event."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Opened: TypeAlias = tuple[str, int, int]
"""Decision id, moment of the decision in microseconds since 1970 UTC, and the position of its cell in `cells`."""

NOWHERE: Final = CellEpoch("", "", "", "", "", "")
UNOPENED: Final[Opened] = ("", 0, 0)
"""Stands in the place of a token that does not open. Position 0 of `cells` is `NOWHERE`."""

_PREFIX: Final = f"{VERSION}."
_START: Final = len(_PREFIX)
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


class Action(NamedTuple):
    """What a decision's contract must agree with."""

    environment: str
    workflow: str
    tool: str


class ReceiptOpener:
    """Opens tokens under one receipt key.

    Args:
        key: The receipt key; None accepts receipts without looking at signatures.
    """

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._one = EventDecoder(key)
        self._decode = msgspec.json.Decoder(ReceiptRow).decode
        self._newest: dict[str, Opened] = {}
        self._older: dict[str, Opened] = {}
        self._number: dict[tuple[str, ...], int] = {}
        self.cells: list[CellEpoch] = []
        self.actions: list[Action] = []
        self._forget()

    def begin_batch(self) -> None:
        """Forget what is not worth its memory; positions in `cells` hold until the next call."""
        if len(self.cells) > CELLS_KEPT:
            self._forget()
        elif len(self._newest) > KEPT:
            self._older, self._newest = self._newest, {}

    def _forget(self) -> None:
        self._newest, self._older = {}, {}
        self._number = {NOWHERE: 0}
        # Lists of their own, since a batch that is still to be written refers to those before.
        self.cells, self.actions = [NOWHERE], [Action("", "", "")]

    def number_of(self, cell: tuple[str, str, str, str, str, str]) -> int:
        """Position of a cell in `cells`."""
        number = self._number.get(cell)
        if number is None:
            number = self._number[cell] = len(self.cells)
            self.cells.append(CellEpoch(*cell))
            self.actions.append(Action(*cell[:3]))
        return number

    def open_all(self, tokens: Sequence[str]) -> list[Opened | None]:
        """What each token says; None for one that does not open."""
        newest, older = self._newest, self._older
        missing = [token for token in dict.fromkeys(tokens) if token not in newest]
        if missing and older:
            newest.update((token, older[token]) for token in missing if token in older)
            missing = [token for token in missing if token not in newest]
        if missing:
            self._learn(missing)
        return list(map(newest.get, tokens))

    def _learn(self, tokens: list[str]) -> None:
        payloads = self._payloads(tokens)
        if payloads is None:
            for token in tokens:
                receipt = self._one.receipt(token)
                if receipt is not None:
                    self._keep([token], [receipt])
            return
        rows: list[ReceiptRow | None] = []
        waiting = iter(payloads)
        while len(rows) < len(payloads):
            try:
                rows.extend(map(self._decode, waiting))
            except DECODE_ERRORS:  # of the payload after those that were read
                rows.append(None)
        everything = b"".join(payloads)
        if b"\\" in everything or b"\x7f" in everything:
            rows = [
                None if row is None or any(CONTROL.search(text) for _, text in row.names()) else row for row in rows
            ]
        readable = [row for row in rows if row is not None]
        self._keep([token for token, row in zip(tokens, rows, strict=True) if row is not None], readable)

    def _payloads(self, tokens: list[str]) -> list[bytes] | None:
        """The JSON inside each token, or b"" for one that does not open; None where they are not all of one form."""
        text = "\n".join(tokens)
        if not text.isascii():
            return None
        raw = text.encode()
        marks = raw.translate(None, BASE64URL)
        unsigned = marks == b"\n".join([b"."] * len(tokens))
        if not unsigned and marks != b"\n".join([b".."] * len(tokens)):
            return None
        if not all(token.startswith(_PREFIX) for token in tokens):
            return None
        if unsigned and self._key is not None:
            return [b""] * len(tokens)
        lines = raw.translate(_TO_STANDARD).split(b"\n")
        if unsigned:
            return [_of_base64(line[_START:]) for line in lines]
        return [self._signed(token, line) for token, line in zip(tokens, lines, strict=True)]

    def _signed(self, token: str, line: bytes) -> bytes:
        unsigned, _, signature = line.rpartition(b".")
        if not signature:
            return b""
        if self._key is not None:
            right = hmac.digest(self._key, token[: len(unsigned)].encode(), "sha256")
            if not hmac.compare_digest(_of_base64(signature), right):
                return b""
        return _of_base64(unsigned[_START:])

    def _keep(self, tokens: list[str], rows: list[ReceiptRow]) -> None:
        moments = pa.array([row.decided_at - EPOCH for row in rows], type=pa.duration("us")).cast(pa.int64())
        numbers = [
            self.number_of((row.environment, row.workflow, row.tool, row.stage, row.cohort, row.epoch)) for row in rows
        ]
        opened = zip([row.decision_id for row in rows], moments.to_pylist(), numbers, strict=True)
        self._newest.update(zip(tokens, opened, strict=True))


def _of_base64(letters: bytes) -> bytes:
    """The bytes behind letters of base64 whose padding was left out; b"" where there are none."""
    try:
        return a2b_base64(letters + b"==")  # more padding than is needed is passed over
    except binascii.Error:
        return b""
