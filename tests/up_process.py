"""`stagekeeper up` as a command of its own, for tests that run it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STAGEKEEPER_")}


def command(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "stagekeeper", "up", "--home", str(home), "--kafka-port", "0", *options]
