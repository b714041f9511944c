"""Emergencies and the denylist as a person flips them, on record: at once where it stops something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from producers.boundary.flagd_overlays import DENIED, EMERGENCIES
from producers.wire.stage import Mode
from stagekeeper.stage_moves import SOURCE, overlay_change, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.stage_writer import StageWriter
    from stagekeeper.settings import Settings


class _OverlayWords(NamedTuple):
    on: str  # what is recorded while an entry is there, before whom it covers
    off: str
    on_sentence: str
    off_sentence: str
    source: str


_WORDS: Final[dict[str, _OverlayWords]] = {
    EMERGENCIES.flag.key: _OverlayWords(
        f"{Mode.FALLBACK.value} for", "no emergency", "{} falls back", "the emergency of {} is over", SOURCE
    ),
    DENIED.flag.key: _OverlayWords(
        "denied for", "clear", "{} is switched off", "{} is switched on", "/stagekeeper/flags"
    ),
}


def add_overlay(
    overlay: Overlay,
    scope: OverlayScope,
    store: StageWriter,
    settings: Settings,
    *,
    actor: str,
    reason: str,
    announce: Callable[[bool], None] = lambda _changed: None,
) -> bool:
    """Put an entry into force at once, then record it; whether it was not there before, which is announced first.

    Raises `OffTheRecordError` where it is in force without a record, `StageStoreError` where it is not in force.
    """
    words = _WORDS[overlay.flag.key]
    edit = store.cover(overlay, scope)
    changed, in_force = edit.changed, f"{words.on} {scope}"
    announce(changed)
    # After the fact, for nothing may hold up an emergency; and also what was there: its record may be missing.
    recorded(
        overlay_change(overlay, scope, actor, reason, before=words.off if changed else in_force, after=in_force),
        settings,
        lambda record: record(edit.version),
        what=words.on_sentence.format(scope),
        at_any_rate=True,
        source=words.source,
    )
    return changed


def remove_overlay(
    overlay: Overlay, scope: OverlayScope, store: StageWriter, settings: Settings, *, actor: str, reason: str
) -> bool:
    """Take exactly this entry away, once that is on record; whether it was there. Raises `StageStoreError`."""
    words = _WORDS[overlay.flag.key]
    edit = recorded(
        overlay_change(overlay, scope, actor, reason, before=f"{words.on} {scope}", after=words.off),
        settings,
        lambda record: store.uncover(overlay, scope, before_write=record),
        what=words.off_sentence.format(scope),
        at_any_rate=False,
        source=words.source,
    )
    return edit.changed
