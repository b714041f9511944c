"""Ids that nobody else has: UUIDs of version 4 (RFC 9562), their bits drawn from a keyed hash (BLAKE2b, RFC 7693).

A system call for each id costs more than the id, and worse: it hands the interpreter to whichever thread waits for it,
in the middle of a decision. Many ids from one call save that and have one caller in a hundred pay for all of them. The
hash is keyed by what the system's random source gave this process; it is asked with a number that never comes twice,
and with the clock, so that two copies of a frozen machine go ways of their own.
"""

from __future__ import annotations

import os
import time
from collections import deque
from hashlib import blake2b
from itertools import count

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

_drawn: deque[str] = deque()
_numbers = count()
_key = os.urandom(blake2b.MAX_KEY_SIZE)


def random_id() -> str:
    """A new id that nobody else has. Safe to use from many threads, and across a fork."""
    try:
        text = _drawn.pop()
    except IndexError:
        text = _draw()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"


def _draw() -> str:
    """Draw four ids, each as 32 hexadecimal digits; keep three, and return one."""
    text = blake2b(b"%d %d" % (next(_numbers), time.time_ns()), key=_key).hexdigest()
    _drawn.extend((text[32:64], text[64:96], text[96:]))
    return text[:32]


def _begin_anew() -> None:
    """After a fork: or parent and child would give out the same ids."""
    global _key  # noqa: PLW0603 - there is one source of ids in a process
    _drawn.clear()
    _key = os.urandom(blake2b.MAX_KEY_SIZE)


os.register_at_fork(after_in_child=_begin_anew)
