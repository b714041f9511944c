"""Take the pictures of the README: start the demo, wait until the page shows verdicts, photograph it, stop everything.

Needs Debian's chromium on PATH. Run it with `make screenshots`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT, SCALE = 1280, 900, 1.5
VERDICTS = ("ROLL_BACK", "PROMOTE", "HOLD")
PATIENCE_MS = 120_000
STOP_S = 30

_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def demo() -> Iterator[str]:
    """The address of the page of a demo on free ports, which ends with the block."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "stagekeeper", "up", "--demo", "--home", home]
        command += ["--kafka-port", "0", "--page-port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                yield address(running)
            finally:
                running.send_signal(signal.SIGINT)
                running.communicate(timeout=STOP_S)


def address(running: subprocess.Popen[str]) -> str:
    """The page's address, as the demo prints it.

    Raises:
        RuntimeError: The demo ended without printing one.
    """
    said = []
    for line in running.stdout or ():
        said.append(line)
        found = re.search(r"http://[\w.:]+", line)
        if found:
            return found[0]
    raise RuntimeError("the demo ended before its page was up:\n" + "".join(said))


def photograph(page: Page, where: str) -> Iterator[Path]:
    """Wait for every kind of verdict, then take the overview, and follow the rollback that is asked for."""
    page.goto(where)
    for verdict in VERDICTS:
        page.wait_for_selector(f".sk-matrix .sk-chip-{verdict}", timeout=PATIENCE_MS)
    yield picture(page, "overview")
    page.click(".sk-need-ROLL_BACK a >> nth=0", timeout=PATIENCE_MS)
    page.wait_for_selector("text=What would be changed", timeout=PATIENCE_MS)
    yield picture(page, "recommendation")
    page.click("text=why, on the action's page", timeout=PATIENCE_MS)
    page.wait_for_selector(".sk-evidence", timeout=PATIENCE_MS)
    page.wait_for_function("document.querySelectorAll('.vega-embed .marks').length === 4", timeout=PATIENCE_MS)
    yield picture(page, "detail")
    page.get_by_role("link", name="Policy").first.click()
    page.wait_for_selector("text=Flags in force", timeout=PATIENCE_MS)
    yield picture(page, "policy")


def picture(page: Page, name: str) -> Path:
    """Photograph the page as it is."""
    page.mouse.move(WIDTH - 2, HEIGHT - 2)
    page.screenshot(path=IMAGES / f"{name}.png")
    return IMAGES / f"{name}.png"


def main() -> None:
    """Take the pictures."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not on PATH. On Debian: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    flags = [*_FLAGS, "--no-sandbox"] if root else _FLAGS
    with demo() as where, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
        for path in photograph(page, where):
            print(path)
        browser.close()


main()
