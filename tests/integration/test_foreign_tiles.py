"""Our logs under the eyes of code that is not ours: Go's own packages for transparency logs."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from documents import ROOT
from lakes_of_events import NOON, EventLake

from analytics.audit.proof import check_proof, prove
from analytics.audit.sealing import Sealer, heads
from analytics.audit.signed_note import Signer
from analytics.audit.tiles import export_tiles
from analytics.lake.table_schemas import EVENTS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIGNER = Signer.new("audit.example")
FIRST, ALL = 300, 70_000


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("Go is not installed: no foreign code verified the logs")
    program = tmp_path_factory.mktemp("go") / "verify_log"
    source = ROOT / "examples" / "verify_log"
    subprocess.run([compiler, "build", "-o", str(program), "."], cwd=source, check=True)
    return program


def test_go_verifies_our_checkpoints_tiles_and_history(verifier: Path, tmp_path: Path) -> None:
    events = EventLake.at(tmp_path)
    events.act(0, "u-1", reported=False)
    events.store()
    lake = events.lake
    row = lake.scan(EVENTS).collect()
    sealer = Sealer(lake, [SIGNER], None, now=lambda: NOON + timedelta(days=10))
    old = tmp_path / "old"
    for first, end in ((1, FIRST), (FIRST, ALL)):
        offsets = pl.int_range(first, end, dtype=pl.Int64, eager=True)
        ids = pl.format("id-{}", offsets)
        lake.append(EVENTS, pl.concat([row] * (end - first)).with_columns(offset=offsets, id=ids))
        assert sealer.run() == end - first + (first == 1)
        ((log, head),) = heads(lake).items()
        if end == FIRST:
            old.write_text(head.checkpoint)
    folder, entry = tmp_path / "tiles", tmp_path / "entry"
    assert export_tiles(lake, log, folder) == ALL // 256 + 1 + 2 + 1
    for index in (1, 299, 65_535, ALL - 1):
        entry.write_bytes(check_proof(prove(lake, f"id-{index}")).entry)
        arguments = [str(verifier), str(folder), str(SIGNER.verifier), str(index), str(entry), str(old)]
        said = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (said.returncode, said.stdout) == (0, f"entry {index} of {ALL} is what was sealed\n"), said.stderr
    entry.write_bytes(entry.read_bytes() + b" ")
    said = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "entry 69999" in said.stderr
    other_key = [*arguments[:2], str(Signer.new("audit.example").verifier), *arguments[3:]]
    assert subprocess.run(other_key, capture_output=True, check=False).returncode == 1
