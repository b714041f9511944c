"""The result of one check, of the doctor or of the checklist."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class CheckState(StrEnum):
    """How a check came out; unknown is never a pass."""

    PASS = "pass"  # noqa: S105 - the word, not a secret
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckResult:
    """The result of one of the doctor's checks."""

    check: str  # what was checked
    state: CheckState  # how it came out
    evidence: str  # what that rests on, with numbers
    fix: str = ""  # what to do about it; empty where there is nothing to do

    def to_dict(self) -> dict[str, str]:
        """The result as a JSON object."""
        return asdict(self)


def passed(check: str, evidence: str) -> CheckResult:
    """A result with nothing to do."""
    return CheckResult(check, CheckState.PASS, evidence)


def warned(check: str, evidence: str, fix: str) -> CheckResult:
    """A result that is worth a look."""
    return CheckResult(check, CheckState.WARN, evidence, fix)


def failed(check: str, evidence: str, fix: str) -> CheckResult:
    """A result that has to be mended."""
    return CheckResult(check, CheckState.FAIL, evidence, fix)


def unknown(check: str, evidence: str, fix: str) -> CheckResult:
    """A check that could not be made."""
    return CheckResult(check, CheckState.UNKNOWN, evidence, fix)


def exit_code(states: Iterable[CheckState]) -> int:
    """0: nothing fails. 1: something does. 3: nothing fails, and something is unknown."""
    reached = set(states)
    return 1 if CheckState.FAIL in reached else 3 if CheckState.UNKNOWN in reached else 0
