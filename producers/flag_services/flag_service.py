"""What Stagekeeper asks of a flag service whose flags it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from producers.boundary.new_flags import new_flag
from producers.boundary.policy_flags import ATTEMPT, FLAGS, Flag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date, datetime

    from producers.boundary.policy_flags import FlagValue
    from producers.flag_services.served_flags import RuleKind, ServedFlag, ServedRule


class EarlierFlag(NamedTuple):
    """A version of a flag that another took the place of."""

    until: datetime
    flag: ServedFlag
    name: str  # later ones sort after it


class NewFlag(NamedTuple):
    """A flag to be made where it is missing."""

    flag: Flag
    variants: Mapping[str, FlagValue]
    default: str  # the variant that everybody gets
    description: str
    is_temporary: bool


_TOLD: Final = ("owner", "kind", "review_date", "cleanup_condition")  # as lines of the description


def first_flags(*, owner: str, review_date: date, cleanup_condition: str) -> list[NewFlag]:
    """Every flag as somebody starts with it: nothing acts by itself. Who owns each, and when it goes, is described."""
    flags = []
    for flag in (*FLAGS, ATTEMPT):
        stated = new_flag(flag, owner=owner, review_date=review_date, cleanup_condition=cleanup_condition)
        metadata = stated["metadata"]
        lines = [metadata["description"], *(f"{name}: {metadata[name]}" for name in _TOLD)]
        is_temporary = metadata["kind"] == "temporary"
        flags.append(NewFlag(flag, stated["variants"], stated["defaultVariant"], "\n".join(lines), is_temporary))
    return flags


def metadata_of(description: str | None) -> dict[str, str]:
    """What a description of `first_flags` tells."""
    pairs = (line.partition(": ") for line in (description or "").splitlines())
    return {name: value for name, _, value in pairs if name in _TOLD and value}


class FlagService(Protocol):
    """The flags of one environment of a service. What it raises are `StageStoreError`s."""

    @property
    def name(self) -> str:
        """The service and the environment, for people."""

    @property
    def same_accounts(self) -> bool:
        """Whether several flags choose the same accounts by the same percentage."""

    def load(self, flag: Flag) -> ServedFlag | None:
        """A flag as it is; None where there is none."""

    def earlier(self, flag: ServedFlag) -> Iterator[EarlierFlag]:
        """The versions before, newest first, as far back as the service tells."""

    def rule(
        self,
        flag: ServedFlag,
        kind: RuleKind,
        scope: Mapping[str, str],
        shares: Mapping[FlagValue, int],
        old: ServedRule | None = None,
    ) -> ServedRule:
        """A rule of ours that gives values to percentages of accounts; in the place of `old`, with its other parts."""

    def put(self, flag: ServedFlag, old: ServedRule | None, new: ServedRule | None) -> None:
        """Put a rule in the place of another, of the flag as it was loaded.

        Raises:
            StageConflictError: The flag is another by now; nothing was changed.
            OutcomeUnknownError: Nothing says whether it was made.
        """

    def prepare(self) -> None:
        """Make what flags need around them."""

    def create(self, new: NewFlag) -> bool:
        """Make a flag, or finish one that was begun; False where it is there and is left alone."""

    def close(self) -> None:
        """Let the connections go."""
