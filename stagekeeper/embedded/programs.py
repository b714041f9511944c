"""The child programs of the embedded stack: their commands, their readiness checks and the demonstration's folder."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import URLError

from producers.errors import UsageError
from producers.web_guard import LOOPBACK
from stagekeeper.embedded.supervisor import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stagekeeper.settings import Settings

DEMO_GATE_FILE: Final = Path(__file__).with_name("demo_gates.yaml")
DEMO_AUTHORIZATION: Final = Path(__file__).with_name("demo_authorization.yaml")
_PAGE_SCRIPT: Final = Path(__file__).parent.parent / "console" / "app.py"
DEMO: Final = "demo"  # the scenario
DEMO_HISTORY: Final = "2h"
DEMO_HISTORY_EVENTS: Final = 24_000
DEMO_RATE: Final = 40  # live events a second of the demonstration
DEMO_MALFORMED: Final = 0.0005  # broken records as a share of the events, so that the rejects can be seen
QUALITY_EVERY_S: Final = 300.0  # seconds between two validations of fresh events

_DEMO_MARK: Final = ".stagekeeper-demo"
_PYTHON: Final = (sys.executable, "-P")  # without the working folder: it may hold packages with names like ours


def worker(settings: Settings, ready_file: Path, *, enacts: bool) -> Program:
    """The stream processors; `ready_file` appears once they read from the broker."""
    return _own(settings, "worker", "worker", "--ready-file", str(ready_file), *(["--enact"] if enacts else []))


def demo_traffic(settings: Settings, truth_file: Path) -> Program:
    """Simulated traffic: two hours of history at once, then live until it is stopped."""
    pace = ["--rate", str(DEMO_RATE), "--backfill", DEMO_HISTORY, "--backfill-events", str(DEMO_HISTORY_EVENTS)]
    storm = ["--malformed", str(DEMO_MALFORMED)]
    files = ["--truth", str(truth_file), "--flags", str(settings.flags)]
    return _own(settings, "traffic", "simulate", "--scenario", DEMO, *pace, *storm, *files)


def fresh_demo_folder(folder: Path) -> bool:
    """Empty the demonstration's folder, and tell whether there was one; raises `UsageError` if it bears no mark."""
    marked = (folder / _DEMO_MARK).exists()
    if not marked and folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} was not made by a demonstration and is not empty: it is left alone. "
            "Move it away, or give the demonstration its own --home."
        )
    if marked:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DEMO_MARK).touch()
    return marked


def quality(settings: Settings) -> Program:
    """One validation of the events that came since the last one; it ends by itself."""
    return _own(settings, "quality", "quality", "run")


def page(settings: Settings, port: int) -> Program:
    """The page, on the loopback interface; raises `UsageError` where its packages are not installed."""
    return Program("page", page_command(settings, port), settings.home / "page.log", settings.as_environment)


def page_command(
    settings: Settings, port: int, *, host: str = LOOPBACK, web_names: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command that serves the page at a host and port; raises as `page` does."""
    if importlib.util.find_spec("streamlit") is None:
        raise UsageError(
            'the page is not installed. Run: pip install "stagekeeper[dashboard]", or start with --headless.'
        )
    options = {
        "--server.port": str(port),
        "--server.address": host,
        "--server.headless": "true",
        "--server.fileWatcherType": "none",
        "--browser.gatherUsageStats": "false",
    }
    command = [*_PYTHON, "-m", "streamlit", "run", str(_PAGE_SCRIPT)]
    command += [part for option in options.items() for part in option]
    command += ["--", "--lake", settings.lake, "--gates", str(settings.gates)]
    command += [part for name in web_names for part in ("--web-name", name)]
    if host in {LOOPBACK, "localhost", "::1"}:
        command.append("--loopback")
    return tuple(command)


def service(settings: Settings, port: int, ready_file: Path) -> Program:
    """The HTTP service, on the loopback interface; `ready_file` appears once it serves."""
    return _own(settings, "service", "serve", "--port", str(port), "--ready-file", str(ready_file))


def page_answers(port: int) -> bool:
    """Whether the page on this port says that it is healthy."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/_stcore/health", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False  # not up yet


def _own(settings: Settings, name: str, *arguments: str) -> Program:
    """One of our own commands, run by this interpreter."""
    command = (*_PYTHON, "-m", "stagekeeper", *arguments)
    return Program(name, command, settings.home / f"{name}.log", settings.as_environment)
