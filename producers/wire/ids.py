"""Ids that nobody else has: UUIDs of version 4 (RFC 9562), their randomness drawn from the system a page at a time.

A system call for each id costs more than the id, and worse: it hands the interpreter to whichever thread waits for it,
in the middle of a decision.
"""

from __future__ import annotations

import os
from collections import deque

_PAGE = 256
"""Ids drawn at once."""

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

_drawn: deque[str] = deque()
os.register_at_fork(after_in_child=_drawn.clear)  # or parent and child would give out the same ids


def random_id() -> str:
    """A new id that nobody else has. Safe to use from many threads, and across a fork."""
    try:
        text = _drawn.pop()
    except IndexError:
        text = _draw()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"


def _draw() -> str:
    """Draw a page, keep all but one, and return that one; each is 32 hexadecimal digits."""
    text = os.urandom(16 * _PAGE).hex()
    _drawn.extend([text[start : start + 32] for start in range(32, len(text), 32)])
    return text[:32]
