"""Environments of their own for what we compare with: pinned, made once, under a folder that git ignores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[1] / ".stagekeeper" / "competitors"

PINNED: Final = {
    "quix": "quixstreams==3.28.1",
    "pathway": "pathway==0.33.0",
    "agt": "agent-governance-toolkit-core==5.0.0",
    "gbstats": "gbstats==0.8.0",
}
"""What each name stands for on the package index."""

_LONGEST_S: Final = 420.0


def interpreter(name: str) -> Path | None:
    """The Python that has a competitor; it is made where it is not there yet.

    Returns:
        None where it cannot be had; why is said on stderr.
    """
    wanted = PINNED[name]
    home = CACHE / wanted.replace("==", "-")
    python = home / "bin" / "python"
    if (home / "installed").exists():
        return python
    print(f"[bench] installing {wanted} for comparison, once", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
    try:
        for command in ([sys.executable, "-m", "venv", str(home)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LONGEST_S)
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or error.stdout or "").splitlines() if line.strip()]
        _not_measured(name, f"{wanted} cannot be installed: {said[-1] if said else f'exit code {error.returncode}'}")
    except (OSError, subprocess.TimeoutExpired) as error:
        _not_measured(name, f"{wanted} cannot be installed: {error}")
    else:
        (home / "installed").touch()
        return python
    return None


def _not_measured(name: str, why: str) -> None:
    print(f"NOT MEASURED: {name}: {why}", file=sys.stderr, flush=True)
