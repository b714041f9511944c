from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from decoding import DecodedEvent, decode_all

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = {
    "asking",
    "environments",
    "loop_routers",
    "places",
    "promotion_rules",
    "rule_scenarios",
    "rule_trials",
    "rules_page",
    "traffic",
}
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in PARTS)


def said(*command: str) -> str:
    ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_what_the_benchmarks_send_is_accepted() -> None:
    sent = said(
        "-c",
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from datetime import UTC, datetime\nfrom traffic import events\n"
        "for _, _, value in events(8, until=datetime.now(UTC)): print(value.decode())",
    )
    records: list[bytes | None] = [line.encode() for line in sent.splitlines()]
    assert len(records) == 8
    assert all(isinstance(event, DecodedEvent) for event in decode_all(records, None, None))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_says_how_it_is_asked(script: str) -> None:
    text = said(str(BENCHMARKS / f"{script}.py"), "--help")
    assert "usage:" in text
    assert "--json" in text


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_table_holds_what_a_benchmark_found_beside_what_is_asked() -> None:
    found = json.loads(said(str(BENCHMARKS / "table.py"), "--quick", "--only", "judge", "evidence", "--json"))
    rows = {row["what"]: row for row in found["rows"]}
    (fleet,) = found["judge"]["fleets"]
    assert fleet["cells"] == 1_000
    tick = fleet["ticks"]["all"]
    shown = rows["a tick over 1,000 cells, all changed"]["measured"]
    assert shown == f"{tick['median_s']:.2f} s, slowest {tick['slowest_s']:.2f} s"
    assert tick["ledger_rows"] >= 1_000
    assert {"log_e_value, one threshold, 10,000 cells", "bounds, both, 10,000 cells"} <= rows.keys()
