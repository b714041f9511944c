"""Recorded lakes give the signals and the verdicts that they gave before, field by field."""

from __future__ import annotations

import pytest
from golden_documents import checked, differences, read
from golden_lakes import LAKES, SECTIONS, missing, path_of, today
from golden_product import REASON_CODES

SHOWN = 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if name in {"fleet", "demo"} else name for name in LAKES]
)
def test_a_lake_gives_what_it_gave_before(name: str) -> None:
    if (why := missing(name)) is not None:
        pytest.skip(why)
    old, new = read(path_of(name)), today(name)
    found = [line for section in SECTIONS for line in differences(old.get(section), new.get(section), section)]
    shown = "\n".join(found[:SHOWN])
    assert not found, f"{len(found)} differences, for example\n{shown}\n\npython tests/golden_lakes.py {name} lists all"


def test_a_difference_is_told_by_its_path() -> None:
    old = {"cell": {"signals": [{"lower": 0.1, "failures": 3}], "gate": "g"}}
    new = {"cell": {"signals": [{"lower": 0.1000001, "failures": 3.0}, {}], "owner": "o"}}
    assert list(differences(old, new)) == [
        "cell.signals[0].lower: 0.1 → 0.1000001",
        "cell.signals[0].failures: 3 → 3.0",
        "cell.signals[1]: (absent) → {}",
        'cell.gate: "g" → (absent)',
        'cell.owner: (absent) → "o"',
    ]
    assert not list(differences({"x": 0.1}, {"x": 0.1 + 1e-15}))


def test_a_checksum_moves_with_every_float_and_not_with_its_last_bits() -> None:
    floats = {"limit": 1500.0, "held_s": 86_400.5, "lower": 0.0003, "log_e": -2.5e-13}

    def moved(name: str, factor: float) -> list[str]:
        parts = (checked(floats), checked({**floats, name: floats[name] * factor}))
        old, new = ({"checksums": {"cell": number}} for _, number in parts)
        return list(differences(old, new, "signals"))

    assert all(moved(name, 1 + 2e-6) for name in ("limit", "held_s", "lower"))
    assert not any(moved(name, 1 + 1e-12) for name in floats)
    assert not moved("log_e", -1.0)


def test_every_word_and_every_reason_code_is_in_the_fleet() -> None:
    outlines = read(path_of("fleet"))["verdicts"]["outlines"]
    words, codes = set(), set()
    for said in outlines:
        word, _, *reasons = said.split()
        words.add(word)
        codes.update(reason.partition(":")[0] for reason in reasons)
    assert words == {"PROMOTE", "HOLD", "ROLL_BACK", "INVALID"}
    # It has no events by user, nobody signs anything off, no epoch goes on beside the next one, no outcome comes late.
    left_out = {
        "rates_disagree",
        "set_aside",
        "too_few_users",
        "rising",
        "uneven_hours",
        "epoch_beside",
        "late_outcomes",
    }
    assert codes == set(REASON_CODES) - left_out
