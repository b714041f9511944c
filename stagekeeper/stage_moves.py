"""Changes of a stage by a person: upward only on evidence, downward always, and both on record."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import StageChange, StageConflictError
from producers.errors import StagekeeperError
from producers.wire.events import PolicyChangedData
from producers.wire.stage import STAGE_OF_MODE, Mode
from stagekeeper.factory import recording, ruleset_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.stage_store import ActionName, StageSetting, StageStore
    from producers.boundary.stage_writer import StageWriter
    from stagekeeper.settings import Settings

SOURCE = "/stagekeeper/stage"

Result = TypeVar("Result")


class OffTheRecordError(StagekeeperError):
    """A change is in force, and could not be recorded."""

    exit_code = 3  # 1 says that nothing has changed


class Grounds(NamedTuple):
    """What allows a move upward; nothing is needed for one downward."""

    verdict_id: str | None = None
    recommendation_id: str | None = None
    signoff_id: str | None = None


def is_upward(setting: StageSetting, to: Mode, share: int | None = None) -> bool:
    """Whether a mode, for a share of accounts, would give anybody more authority than he may have now."""
    if to is Mode.EXPANDED and (setting.share is not None or setting.mode is Mode.EXPANDED):
        return (share or 100) > (setting.share or 100)
    return STAGE_OF_MODE[to].rank > min(STAGE_OF_MODE[mode].rank for mode in setting.modes)


def in_words(setting: StageSetting) -> str:
    """The modes that an action may have."""
    if setting.share is not None:
        return mode_in_words(setting.modes[0], setting.share)
    return " or ".join(mode.value for mode in setting.modes)


def mode_in_words(mode: Mode, share: int | None) -> str:
    """A mode, and how many accounts have it."""
    return mode.value if share in {None, 100} else f"{mode.value} ({share} % of accounts)"


def move(
    store: StageStore,
    change: StageChange,
    before: StageSetting,
    grounds: Grounds,
    settings: Settings,
    *,
    actor: str,
    reason: str,
) -> StageSetting:
    """Put a change into force, on record: upward the record comes first, and downward nothing holds it up.

    Raises `OffTheRecordError` where a change downward is in force without its record, and what the store raises.
    """
    return recorded(
        PolicyChangedData(
            flag_key=MODE.key,
            changed_by=actor,
            reason=reason,
            before=in_words(before),
            after=mode_in_words(change.to, change.share),
            **change.action._asdict(),
            **grounds._asdict(),
        ),
        settings,
        lambda before_write: store.change(change, before_write=before_write),
        what=f"{change.action} has the mode {mode_in_words(change.to, change.share)}",
        at_any_rate=not is_upward(before, change.to, change.share),
    )


class StageWish(NamedTuple):
    """What somebody wants an action's stage to be, and why."""

    action: ActionName
    to: Mode
    share: int | None
    actor: str
    reason: str


class StageMove(NamedTuple):
    """A change of a stage that was made; an empty difference says that it was so already."""

    before: StageSetting
    after: StageSetting
    diff: str
    grounds: Grounds


def change_stage(
    store: StageWriter,
    wish: StageWish,
    settings: Settings,
    *,
    grounds_of: Callable[[StageSetting], Grounds],
    show: Callable[[StageSetting, str], None] = lambda _before, _diff: None,
    agree: Callable[[StageSetting], None] = lambda _before: None,
    tries: int = 10,  # how often it is made for what somebody else just wrote
) -> StageMove:
    """Change a stage, upward only on grounds, once whoever is asked agrees; raises as `move` and what is given here."""
    while True:
        tries -= 1
        before = store.read(wish.action)
        change = StageChange(wish.action, wish.to, before.version, wish.share)
        diff = store.preview(change)
        if diff:
            show(before, diff)
        grounds = grounds_of(before) if diff and is_upward(before, wish.to, wish.share) else Grounds()
        if diff:
            agree(before)
        try:
            after = move(store, change, before, grounds, settings, actor=wish.actor, reason=wish.reason)
        except StageConflictError:
            if tries <= 0:
                raise
        else:
            return StageMove(before, after, diff, grounds)


def stage_facts(setting: StageSetting) -> dict[str, Any]:
    """A setting as a JSON object."""
    return {
        **setting.action._asdict(),
        "stage": None if setting.stage is None else setting.stage.value,
        "modes": [mode.value for mode in setting.modes],
        "share": setting.share,
        "in_words": in_words(setting),
        "attempt": setting.attempt,
        "said_by": "entry" if setting.by_entry else "other targeting",
        "emergency": setting.emergency,
    }


def overlay_change(
    overlay: Overlay, scope: OverlayScope, actor: str, reason: str, *, before: str, after: str
) -> PolicyChangedData:
    """What is recorded of an entry that comes or goes."""
    return PolicyChangedData(
        flag_key=overlay.flag.key,
        changed_by=actor,
        reason=reason,
        before=before,
        after=after,
        workflow=scope.workflow,
        tool=scope.tool,
    )


def recorded(
    change: PolicyChangedData,
    settings: Settings,
    apply: Callable[[Callable[[str], None]], Result],
    *,
    what: str,
    at_any_rate: bool,
    source: str = SOURCE,
) -> Result:
    """Apply a change once it is on this machine's disk as an event; `at_any_rate` also where it cannot be put there.

    Raises `OffTheRecordError`, naming `what` is in force without a record, and what `apply` raises.
    """
    failures: list[Exception] = []
    with ExitStack() as stack:  # of recorders, which wait for the broker when nobody waits for the file any more

        def before_write(sha256: str) -> None:
            failures.clear()
            try:
                recorder = stack.enter_context(recording(settings, source))
                data = change.model_copy(update={"ruleset_sha256": ruleset_sha256(settings, sha256)})
                recorder.policy_changed(data, durable=True)
            except (StagekeeperError, OSError) as error:
                if not at_any_rate:
                    raise
                failures.append(error)

        result = apply(before_write)
    if failures:
        raise OffTheRecordError(f"{what}, and that is not on record: {failures[0]}") from failures[0]
    return result
