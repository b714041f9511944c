from __future__ import annotations

import pytest

from analytics import text


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(0, "0 %"), (0.02, "2 %"), (0.0412371, "4.12 %"), (0.00012, "0.012 %"), (0.125, "12.5 %"), (1.2, "120 %")],
)
def test_percentages_keep_the_digits_that_matter(ratio: float, shown: str) -> None:
    assert text.percent(ratio) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(59, "59 s"), (180, "3 min"), (7_200, "2 h"), (200_000, "2 d")])
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(1500.99, "1,500 ms"), (2654.4, "2,650 ms"), (569.01, "569 ms"), (3.14, "3.1 ms")]
)
def test_a_quantile_shows_the_digits_it_is_known_to(milliseconds: float, shown: str) -> None:
    assert text.amount(milliseconds, "ms") == shown


def test_what_would_move_a_terminal_is_replaced() -> None:
    assert text.printable("Müller\x1b[2J\r\n\x07\x9b1m\u202e end") == "Müller�[2J����1m� end"
