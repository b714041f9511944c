"""User-windows as observations: the equation, the table, and what it assumes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.errors import EvidenceError
from analytics.evidence.sequential import BETS, bounds, log_e_value

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction

DIRECTIONS: tuple[Direction, ...] = ("above", "below")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_evidence_is_what_eight_gamblers_hold_together(direction: Direction) -> None:
    theta, windows = 0.1, [(10, 2), (10, 0), (3, 3), (50, 7), (10, 2), (1, 0)]
    purses, bets = np.full(8, 1 / 8), np.array(BETS[direction])
    stakes = (bets - 1) / (1 + (bets - 1) * theta)
    for actions, failures in windows:
        purses *= 1 + stakes * (failures / actions - theta)
    actions, failures = np.array(windows).T
    log_e = UserWindows.of(1, cell=0, actions=actions, failures=failures).log_e_value(theta, direction=direction)
    assert log_e[0] == pytest.approx(math.log(purses.sum()), abs=1e-9)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_with_one_action_a_user_it_is_the_rate_test(direction: Direction) -> None:
    table = UserWindows.of(3, cell=[0, 0, 1, 1], actions=1, failures=[0, 1, 0, 1], count=[280, 12, 40, 0])
    failures, trials = [12, 0, 0], [292, 40, 0]
    theta = [0.02, 0.3, 0.1]
    expected = log_e_value(failures, trials, theta, direction=direction)
    assert table.log_e_value(theta, direction=direction) == pytest.approx(expected.tolist(), abs=1e-10)
    for mine, theirs in zip(
        (table.lower_bound(alpha=0.05), table.upper_bound(alpha=0.05)),
        bounds(failures, trials, alpha=0.05),
        strict=True,
    ):
        assert mine == pytest.approx(theirs.tolist(), abs=2**-39)


def test_windows_are_tabulated() -> None:
    table = UserWindows.of(
        2, cell=[1, 0, 1, 0, 1], actions=[4, 9, 4, 9, 4], failures=[1, 0, 1, 2, 0], count=[1, 2, 3, 1, 0]
    )
    rows = zip(table.cell, table.actions, table.failures, table.count, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [(0, 9, 0, 2), (0, 9, 2, 1), (1, 4, 1, 4)]
    assert table.windows.tolist() == [3, 4]
    assert table.value == pytest.approx([2 / 27, 0.25])


def test_a_cell_without_windows_says_nothing() -> None:
    nobody = UserWindows.of(2, cell=[], actions=[], failures=[])
    assert nobody.log_e_value(0.02, direction="above").tolist() == [0, 0]
    assert [side.tolist() for side in (nobody.lower_bound(alpha=0.05), nobody.upper_bound(alpha=0.05))] == [
        [0, 0],
        [1, 1],
    ]
    assert np.isnan(nobody.value).all()


def test_a_user_with_a_thousand_failures_is_one_user() -> None:
    one = UserWindows.of(1, cell=0, actions=1_000, failures=1_000)
    assert one.log_e_value(0.02, direction="above") == pytest.approx(
        UserWindows.of(1, cell=0, actions=1, failures=1).log_e_value(0.02, direction="above").tolist()
    )


def test_what_is_assumed_is_said() -> None:
    assert ASSUMPTIONS == {"user": "assumes independent users", "action": "assumes independent actions"}


def test_misuse_is_refused() -> None:
    with pytest.raises(EvidenceError, match="at least one action"):
        UserWindows.of(1, cell=0, actions=0, failures=0)
    with pytest.raises(EvidenceError, match="5 of 4"):
        UserWindows.of(1, cell=0, actions=4, failures=5)
    with pytest.raises(EvidenceError, match="cell 1 is not among the 1 cells"):
        UserWindows.of(1, cell=1, actions=4, failures=0)
    with pytest.raises(EvidenceError, match="whole numbers"):
        UserWindows.of(1, cell=0, actions=4, failures=0, count=-1)
    table = UserWindows.of(1, cell=0, actions=4, failures=0)
    with pytest.raises(EvidenceError, match="between 0 and 1"):
        table.log_e_value(0.0, direction="above")
    with pytest.raises(EvidenceError, match="direction is 'up'"):
        table.log_e_value(0.5, direction="up")  # type: ignore[arg-type]
