"""How many examples a law is tried on: a part of them every day, all of them in `make test-all`."""

from __future__ import annotations

import os
from typing import Final

EVERY_DAY: Final = 0.4
SHARE: Final = float(os.environ.get("TEST_EXAMPLES", EVERY_DAY))
"""Share of the examples that are tried now; other ones each time."""


def examples(thorough: int) -> int:
    """How many of them now."""
    return max(1, round(thorough * SHARE))


def some(steps: range) -> range:
    """The steps that are tried now: all of them, or every third."""
    return steps if SHARE >= EVERY_DAY else steps[1::3]
