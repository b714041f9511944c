"""What a change of a stage would have done with the contracts that are on record, before it is made."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_stages import FlagdStages, with_stage
from producers.errors import StagekeeperError, UsageError

if TYPE_CHECKING:
    from analytics.backtest.policy_replay import PolicyComparison
    from producers.boundary.stage_store import StageChange, StageStore
    from stagekeeper.settings import Settings

LOOKED_BACK: Final = timedelta(days=7)
MOST_DECISIONS: Final = 2_000  # the newest; a person waits


def preview_line(store: StageStore, change: StageChange, settings: Settings, root: str) -> str:
    """A line beside the diff, by the rules in force and those after the change; it holds up nothing that it cannot say.

    `stagekeeper policy backtest` says more.
    """
    try:
        if not isinstance(store, FlagdStages):
            raise UsageError(f"only a flag file can be tried, and {store.name} is none")
        return _in_words(_compared(store.path, change, settings, root))
    except (ImportError, OSError, StagekeeperError) as error:
        return f"What it would have done with recorded contracts is not known: {error}"


def _compared(path: Path, change: StageChange, settings: Settings, root: str) -> PolicyComparison | None:
    # Whoever only moves actions down needs no extra `analytics`.
    from analytics.backtest.candidate_rules import CandidateRules  # noqa: PLC0415
    from analytics.backtest.policy_replay import compare  # noqa: PLC0415
    from analytics.lake.tables import Lake  # noqa: PLC0415

    lake, now = Lake.existing(root), datetime.now(UTC)
    if lake is None:
        return None
    with ExitStack() as stack:
        new = Path(stack.enter_context(TemporaryDirectory(prefix="stagekeeper-"))) / path.name
        new.write_bytes(with_stage(FlagText.load(path), change).content)
        old_rules, new_rules = (
            stack.enter_context(CandidateRules.opened(flags, settings.authorization)) for flags in (path, new)
        )
        return compare(
            lake,
            new_rules,
            since=now - LOOKED_BACK,
            until=now,
            action=change.action,
            against=old_rules,
            most=MOST_DECISIONS,
        )


def _in_words(comparison: PolicyComparison | None) -> str:
    days = f"the last {LOOKED_BACK.days} days"
    if comparison is None or not comparison.decisions:
        return f"No decision of it is on record in {days}, so nobody knows what the change would have done."
    newest = "the newest " if comparison.left_out else ""
    moves = Counter[str]()
    for key, count in comparison.differences.items():
        moves[f"{key.before.in_words} → {key.after.in_words}"] += count
    listed = ", ".join(f"{move} {count:,}" for move, count in moves.most_common(3))
    changed = comparison.differences.total()
    parts = [f"{changed:,} would differ" + (f" ({listed})" if changed else "")]
    if unsaid := comparison.unsaid.total():
        parts.append(f"of {unsaid:,} it cannot be said")
    return (
        f"By contracts on record, of {newest}{comparison.decisions:,} decisions of it in {days}, {' and '.join(parts)}."
    )
