"""The page in a real browser: what a person sees, clicks and keeps while the numbers move."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_lakes import FLEET, Behaviour, fill, populated

import dashboard
from analytics.judging.judge import Judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page

    from analytics.lake.tables import Lake

pytestmark = [pytest.mark.browser, pytest.mark.integration]

APP = Path(dashboard.__file__).with_name("app.py")
HOSTILE = Behaviour("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "draft_write", 12)
ACTIONS = (*FLEET, HOSTILE)
PATIENCE_MS = 30_000
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]


@dataclass
class Served:
    """A page server on a lake of its own."""

    address: str
    root: Path
    lake: Lake
    process: subprocess.Popen[str]

    def move(self, seed: int) -> None:
        """Commit another minute of everything, and judge it."""
        now = datetime.now(UTC)
        fill(self.lake, ACTIONS, until=now, minutes=1, seed=seed)
        Judge(self.lake, self.root / "gates.yaml").tick(now)


@dataclass
class Faults:
    """What went wrong in the browser without anybody looking."""

    said: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        def console(message: ConsoleMessage) -> None:
            if message.type == "error":
                self.said.append(f"console: {message.text}")

        def failed(error: Error) -> None:
            self.said.append(f"page: {error}")

        def dialog(opened: Dialog) -> None:
            self.said.append(f"dialog: {opened.message}")
            opened.dismiss()

        page.on("console", console)
        page.on("pageerror", failed)
        page.on("dialog", dialog)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH, so the page was NOT seen in a browser (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the page was NOT seen")
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("page")
    lake = populated(root, fleet=ACTIONS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.address", "127.0.0.1"]
    command += ["--server.port", str(port), "--", "--lake", str(root / "lake"), "--gates", str(root / "gates.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root) as running:
        try:
            said = []
            for line in running.stdout or ():
                said.append(line)
                if "URL:" in line:
                    break
            else:
                pytest.fail("the page server ended:\n" + "".join(said))
            yield Served(f"http://127.0.0.1:{port}/", root, lake, running)
        finally:
            running.terminate()
            running.wait(timeout=30)


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """An open page on the overview, which must end without any fault."""
    faults = Faults()
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    faults.watch(opened)
    opened.goto(served.address)
    opened.wait_for_selector(".sk-matrix")
    yield opened
    text = opened.inner_text("body")
    opened.close()
    assert faults.said == []
    assert "Traceback" not in text


def open_cell(page: Page, label: str) -> None:
    page.click(f'a.sk-cell[aria-label*="{label}"]')
    page.wait_for_selector(".sk-evidence tbody tr")


def test_the_matrix_shows_every_action(page: Page) -> None:
    assert page.locator(".sk-matrix .sk-cell").count() == len(ACTIONS)
    for state in ("PROMOTE", "HOLD", "ROLL_BACK", "INVALID"):
        assert page.locator(f".sk-matrix .sk-cell-{state}").first.is_visible()
    assert page.locator(".sk-recs > li").count() == len(ACTIONS)


def test_a_click_opens_a_cell_and_the_browser_finds_the_way_back(page: Page) -> None:
    open_cell(page, "issue_refund at Narrow autonomy")
    assert "cell_tool=issue_refund" in page.url
    page.wait_for_function("document.querySelectorAll('.vega-embed .marks').length === 4")
    assert page.locator(".sk-h1").inner_text() == "refunds / issue_refund"
    page.click("text=All actions")
    page.wait_for_selector(".sk-matrix")
    page.wait_for_selector(".sk-evidence", state="detached")
    page.go_back()
    page.wait_for_selector(".sk-evidence")
    assert page.locator(".sk-h1").inner_text() == "refunds / issue_refund"


def test_an_address_opens_its_cell_in_a_new_tab(page: Page, browser: Browser, served: Served) -> None:
    where = page.locator('a.sk-cell[aria-label*="close_ticket"]').get_attribute("href")
    tab = browser.new_page()
    tab.goto(f"{served.address}{where}")
    tab.wait_for_selector(".sk-verdict-ROLL_BACK", timeout=PATIENCE_MS)
    assert tab.locator(".sk-h1").inner_text() == "support / close_ticket"
    tab.close()


def test_the_keyboard_is_enough(page: Page) -> None:
    page.locator('a.sk-cell[aria-label*="send_reply"]').focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".sk-evidence")
    assert page.locator(".sk-h1").inner_text() == "support / send_reply"


def test_new_rows_show_by_themselves_and_nothing_that_was_opened_closes(page: Page, served: Served) -> None:
    open_cell(page, "adjust_invoice at Narrow autonomy, cohort enterprise")
    page.click("details.sk-reasons summary")
    page.wait_for_function("document.querySelectorAll('.vega-embed .marks').length === 4")
    page.evaluate(
        """() => {
          window.kept = [...document.querySelectorAll('.vega-embed .marks, .sk-evidence tbody tr, .sk-h1')];
          window.facts = document.querySelector('.sk-facts').innerText;
          window.drawn = [...document.querySelectorAll('.vega-embed .marks')].map((chart) => chart.innerHTML).join();
        }"""
    )
    served.move(seed=41)
    page.wait_for_function("document.querySelector('.sk-facts').innerText !== window.facts")
    page.wait_for_function(
        "[...document.querySelectorAll('.vega-embed .marks')].map((chart) => chart.innerHTML).join() !== window.drawn"
    )
    assert page.evaluate("window.kept.every((element) => element.isConnected)")
    assert page.evaluate("document.querySelector('details.sk-reasons').open")
    assert page.locator(".sk-h1").inner_text() == "billing / adjust_invoice"


def test_nothing_from_an_event_runs(page: Page) -> None:
    open_cell(page, "<script>alert(1)</script>")
    assert page.locator(".sk-h1").inner_text() == f"{HOSTILE.workflow} / {HOSTILE.tool}"
    assert page.locator(".sk script, .sk img").count() == 0


def test_a_narrow_window_stays_readable(page: Page) -> None:
    page.set_viewport_size({"width": 600, "height": 900})
    page.wait_for_function("getComputedStyle(document.querySelector('.sk-cell-stage')).display !== 'none'")
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 600
    open_cell(page, "close_ticket")
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 600
    narrowest = page.locator(".sk-verdict-main").bounding_box()
    assert narrowest is not None
    assert narrowest["width"] > 500


def test_what_was_rejected_is_one_click_away(page: Page) -> None:
    page.click("a.sk-tally:has-text('Rejected events')")
    page.wait_for_selector("text=could not be used")
    assert page.locator("code:has-text('missing_receipt')").first.is_visible()


def test_a_server_that_stops_answering_is_not_mistaken_for_a_quiet_lake(page: Page, served: Served) -> None:
    assert page.locator(".sk-lost").is_hidden()
    served.process.send_signal(signal.SIGSTOP)
    try:
        page.wait_for_selector(".sk-lost:has-text('has not answered since')", state="visible")
    finally:
        served.process.send_signal(signal.SIGCONT)
    page.wait_for_selector(".sk-lost", state="hidden")


def test_another_sites_name_that_leads_here_sees_nothing(browser: Browser, served: Served) -> None:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(served.address.replace("127.0.0.1", "evil.example"))
        page.get_by_text("names nobody here").wait_for(timeout=60_000)
        assert "issue_refund" not in page.content()
    finally:
        context.close()
