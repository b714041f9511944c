"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    """What was found; unknown is never a pass."""

    PASS = "pass"  # noqa: S105 - the word, not a secret
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        check: What was looked at.
        state: How it is.
        evidence: What that rests on, with numbers.
        mend: What to do about it; empty where there is nothing to do.
    """

    check: str
    state: State
    evidence: str
    mend: str = ""

    def document(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)


def healthy(check: str, evidence: str) -> Finding:
    """A finding with nothing to do."""
    return Finding(check, State.PASS, evidence)


def seconds(age_s: float) -> str:
    """A length of time for people."""
    for unit, name in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")):
        if age_s >= 2 * unit:
            return f"{age_s / unit:,.1f} {name}"
    return f"{age_s:,.1f} s"
