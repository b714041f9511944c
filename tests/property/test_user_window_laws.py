from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes_of_events import NOON, EventLake
from laws import examples

from analytics.judging.event_source import LakeEvents
from analytics.judging.user_window_fold import UserWindowFold
from analytics.judging.user_windows import ClosedWindows, WindowCount
from analytics.signals.cells import ACTION, EPOCH
from analytics.signals.state import CellState

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.random import Generator

WINDOW_S = 600.0
KEPT_S = 3_000.0


def some_events(rng: Generator, history: EventLake, receipts: list[Any], minute: int) -> None:
    """What happens in ten minutes: actions of a few users and models, and undos of anything that was done before."""
    for _ in range(int(rng.integers(0, 8))):
        user = None if rng.random() < 0.2 else f"user-{rng.integers(0, 5)}"
        late = 25.0 * (rng.random() < 0.1)  # a decision that comes late may be its user's first
        at, model = minute + float(rng.random() * 10) - late, str(rng.choice(["m-1", "m-1", "m-2"]))
        receipts.append(history.act(at, user, failed=bool(rng.random() < 0.3), model=model))
    for _ in range(int(rng.integers(0, 3))):
        if receipts:
            history.undo(receipts.pop(int(rng.integers(0, len(receipts)))), minute + 9)
    history.store()


def said(users: ClosedWindows, as_of: datetime) -> list[Any]:
    """Everything that anybody asks of a fold."""
    tables = [
        users.tabled(signal, WindowCount(maturity_s, first_only=first_only)).sort(*EPOCH, "m", "y").rows()
        for first_only in (False, True)
        for signal in ("execution_error", "undo", "denial")
        for maturity_s in (0.0, 600.0, KEPT_S)
    ]
    recent = users.batches("execution_error").rows()
    unnamed = {key: count for key, count in users.unnamed.items() if count}
    assigned = users.assigned.sort(users.assigned.columns).rows()
    return [
        users.as_of,
        users.events_version,
        users.covered,
        users.named,
        users.people,
        unnamed,
        tables,
        recent,
        assigned,
    ]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=examples(5), deadline=None)
@pytest.mark.slow
def test_windows_that_are_kept_up_equal_a_whole_fold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        history = EventLake.at(Path(folder))
        kept_up, receipts, newest = UserWindowFold(LakeEvents(history.lake)), [], NOON
        for minute in range(0, 150, 10):
            some_events(rng, history, receipts, minute)
            if rng.random() < 0.3:
                continue
            as_of = NOON + timedelta(minutes=int(rng.integers(minute // 10, minute // 10 + 2)) * 10 - 10)
            as_of = newest = max(as_of, newest)
            state = CellState.from_increments(history.lake.scan("signals").collect())
            epochs = state.names(np.arange(state.epochs)).sort(EPOCH)
            epochs = epochs.filter(pl.Series(rng.random(epochs.height) < 0.8, dtype=pl.Boolean))
            split = epochs.select(ACTION).unique() if seed % 2 else epochs.select(ACTION).clear()
            found, whole = (
                fold.fold(as_of=as_of, window_s=WINDOW_S, kept_s=KEPT_S, epochs=epochs, split=split)
                for fold in (kept_up, UserWindowFold(LakeEvents(history.lake)))
            )
            assert said(found, as_of) == said(whole, as_of)
