"""The demonstration's own folder: fresh each time, and never anybody else's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from producers.errors import UsageError

GATE_FILE: Final = Path(__file__).with_name("demo_gates.yaml")
"""The gate file of the demonstration."""

_MARK: Final = ".stagekeeper-demo"


def fresh_folder(folder: Path) -> bool:
    """Make the folder anew, empty.

    Only a folder that bears the demonstration's mark is wiped.

    Returns:
        Whether an earlier demonstration was wiped.

    Raises:
        UsageError: The folder has content and no mark.
    """
    marked = (folder / _MARK).exists()
    if not marked and folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} was not made by a demonstration and is not empty: it is left alone. "
            "Move it away, or give the demonstration its own --home."
        )
    if marked:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return marked
