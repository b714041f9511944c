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
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from analytics.signals.event_structs import CellEpoch, ReceiptRow
from producers.wire.receipt import VERSION
from streams.ingest.decode import BASE64URL, CONTROL, DECODE_ERRORS, EventDecoder
from streams.ingest.event_columns import longs
from streams.ingest.moments import LETTERS, micros_of_letters

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

_ID_BYTES: Final = 36
_ID: Final = slice(2, 2 + _ID_BYTES)
_MOMENT: Final = slice(_ID.stop + 3, _ID.stop + 3 + LETTERS)
_HEAD_BYTES: Final = _MOMENT.stop + 4
"""The frame of a receipt up to the first letter of the first name; 72, which three divides."""
_FRAME: Final = np.array([0, 1, 38, 39, 40, 68, 69, 70])
_FRAMED: Final = np.frombuffer(b'["","","', dtype=np.uint8)
_PLAIN: Final = np.array([32 <= code < 127 and chr(code) not in '"\\' for code in range(256)])
"""Which bytes stand for themselves in a JSON string, and in a name."""
_NO_NAMES: Final = -1
"""Stands for the position of a cell where a receipt's names are none."""
_HEAD_LETTERS: Final = _HEAD_BYTES * 4 // 3
_TAIL: Final = _HEAD_LETTERS - 4
"""From here on the letters of base64 say what follows the second `",`: four are for three bytes."""


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
        self._number_behind: dict[bytes, int] = {}  # by the letters from `_TAIL` on
        self.cells: list[CellEpoch] = []
        self.actions: list[Action] = []
        self._forget()

    def begin_batch(self) -> None:
        """Forget what is not worth its memory; positions in `cells` hold until the next call."""
        if max(len(self.cells), len(self._number_behind)) > CELLS_KEPT:
            self._forget()
        elif len(self._newest) > KEPT:
            self._older, self._newest = self._newest, {}

    def _forget(self) -> None:
        self._newest, self._older = {}, {}
        self._number, self._number_behind = {NOWHERE: 0}, {}
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
        letters = self._letters(tokens)
        if letters is None:
            for token in tokens:
                receipt = self._one.receipt(token)
                if receipt is not None:
                    self._keep([token], [receipt])
            return
        others = self._learn_alike(tokens, letters)
        rows = self._rows([_of_base64(letters[place]) for place in others])
        known = [(tokens[place], row) for place, row in zip(others, rows, strict=True) if row is not None]
        self._keep([token for token, _ in known], [row for _, row in known])

    def _learn_alike(self, tokens: list[str], letters: list[bytes]) -> list[int]:
        """Learn what begins as our own routers write it; the positions of all others.

        `["<id of 36 letters>","<moment of 27>","` are 71 bytes. With one more they are 96 letters of base64, which are
        the same whatever follows, so those of all tokens are read as one table. What follows, the names of a cell and
        an epoch, means the same behind each such beginning, and few different ones come: each is read once as JSON.
        That takes about a quarter less time than a look at each token.
        """
        long = [place for place, each in enumerate(letters) if len(each) > _HEAD_LETTERS]
        read = a2b_base64(b"".join([letters[place][:_HEAD_LETTERS] for place in long]))
        heads = np.frombuffer(read, dtype=np.uint8).reshape(-1, _HEAD_BYTES)
        moments, alike = micros_of_letters(heads[:, _MOMENT])
        alike &= (heads[:, _FRAME] == _FRAMED).all(axis=1) & _PLAIN[heads[:, _ID]].all(axis=1)
        tails = [letters[place][_TAIL:] for place in long]
        if not self._number_behind.keys() >= set(tails):
            new = {tail: place for tail, place, good in zip(tails, long, alike.tolist(), strict=True) if good}
            for tail in new.keys() - self._number_behind.keys():
                (row,) = self._rows([_of_base64(letters[new[tail]])])
                self._number_behind[tail] = _NO_NAMES if row is None else self.number_of(row.cell_epoch)
        numbers = [self._number_behind.get(tail, _NO_NAMES) for tail in tails]
        text = read.decode("latin-1")  # one letter a byte; those of ids are ASCII
        ids = [text[start : start + _ID_BYTES] for start in range(_ID.start, len(text), _HEAD_BYTES)]
        open_ = (alike & (longs(numbers) != _NO_NAMES)).tolist()
        opened = zip([tokens[place] for place in long], zip(ids, moments.tolist(), numbers, strict=True), strict=True)
        self._newest.update(compress(opened, open_))
        if len(long) == len(letters) and alike.all():
            return []
        return sorted(set(range(len(letters))).difference(compress(long, alike.tolist())))

    def _rows(self, payloads: list[bytes]) -> list[ReceiptRow | None]:
        """What is in each payload; None where it is no receipt."""
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
        return rows

    def _letters(self, tokens: list[str]) -> list[bytes] | None:
        """The payload of each token in letters of base64, or b"" for one that does not open.

        None where they are not all of one form.
        """
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
            return [line[_START:] for line in lines]
        return [self._signed(token, line) for token, line in zip(tokens, lines, strict=True)]

    def _signed(self, token: str, line: bytes) -> bytes:
        unsigned, _, signature = line.rpartition(b".")
        if not signature:
            return b""
        if self._key is not None:
            right = hmac.digest(self._key, token[: len(unsigned)].encode(), "sha256")
            if not hmac.compare_digest(_of_base64(signature), right):
                return b""
        return unsigned[_START:]

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
