"""How a worker's process ends: with a name for what it could not do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streams.ingest.errors import DataPlaneError
from streams.shutdown import unsaved

CUT_OFF = """\
import asyncio, threading
from streams.worker import Worker
from analytics.lake.errors import UnreadableLakeError

class Stuck(Worker):
    def __init__(self) -> None:
        self._failure = {failure}
        self._config = type("Config", (), dict(lake_root="s3://bucket/lake"))
        self._source = type("Source", (), dict(unsaved={batches}))

Stuck()._cut_off()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "batches", "code", "said"),
    [
        ("UnreadableLakeError('the lake is gone')", 0, 1, "Error: the lake is gone\n"),
        ("UnreadableLakeError('the lake is gone')", 2, 1, "Error: the lake is gone\n"),
        ("None", 2, 1, "Error: the worker stopped before its last 2 batches were committed to the lake at s3://bucket"),
        ("ValueError('a mistake')", 0, 1, "ValueError: a mistake\n"),
        ("None", 0, 0, "leases that could not be given up pass to another worker after 15 s"),
    ],
)
def test_a_worker_that_is_cut_off_while_it_stops_says_why(failure: str, batches: int, code: int, said: str) -> None:
    program = CUT_OFF.format(failure=failure, batches=batches)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert ("Error: " in ended.stderr) == (code == 1)


def test_what_was_saved_needs_no_name() -> None:
    assert unsaved(0, "lake") is None
    one = unsaved(1, "lake")
    assert isinstance(one, DataPlaneError)
    assert "its last 1 batch was committed to the lake at lake" in str(one)
    assert "`stagekeeper doctor`" in str(one)
