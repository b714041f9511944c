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
from typing import TYPE_CHECKING, Literal, get_args

import pytest
from console_pages import APP
from documents import ROOT
from page_lakes import FLEET, Behaviour, fill, populated

from analytics.judging.judge import Judge
from dashboard.urls import PageLocation, PageName
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page

    from analytics.lake.tables import Lake

pytestmark = [pytest.mark.browser, pytest.mark.integration]

HOSTILE = Behaviour("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "draft_write", 12)
ACTIONS = (*FLEET, HOSTILE)
SICK = ActionName("production", "support", "close_ticket")
AXE = "4.14.1"
ACTION = PageLocation().of_cell(FLEET[0].cell)
PLACES = [*(PageLocation(name) for name in get_args(PageName) if name != "action"), ACTION]
SEEN: list[tuple[PageLocation, Literal["light", "dark"]]] = [
    *((place, "light") for place in PLACES),
    *((place, "dark") for place in (PageLocation(), PageLocation("recommendations"), ACTION)),
]
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
        Judge(self.lake, self.root / "gates.yaml", settle_s=0).tick(now)


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
    environment = {**os.environ, "STAGEKEEPER_HOME": str(root / "home"), "PYTHONPATH": str(ROOT)}
    environment |= {"STAGEKEEPER_LAKE_ROOT": str(root / "lake"), "STAGEKEEPER_GATE_FILE": str(root / "gates.yaml")}
    for variable, name in (("FLAG_FILE", "flags.json"), ("AUTHORIZATION_FILE", "authorization.yaml")):
        shutil.copy(ROOT / "examples" / name, root / name)
        environment[f"STAGEKEEPER_{variable}"] = str(root / name)
    stages = FlagdStages(root / "flags.json")
    change = StageChange(SICK, Mode.APPROVED_EXTERNAL, stages.read(SICK).version)
    stages.change(change, before_write=lambda _: None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.address", "127.0.0.1"]
    command += ["--server.port", str(port), "--", "--loopback"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root, env=environment
    ) as running:
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
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    faults.watch(opened)
    opened.goto(served.address)
    opened.wait_for_selector(".sk-matrix")
    yield opened
    text = opened.inner_text("body")
    opened.close()
    # Streamlit asks for its own address below that of a page first, and finds it at the root.
    assert [fault for fault in faults.said if "404" not in fault] == []
    assert "Traceback" not in text


def mode_of(served: Served, action: ActionName = SICK) -> Mode | None:
    return FlagdStages(served.root / "flags.json").read(action).mode


def act(page: Page, key: str, button: str) -> None:
    """Say who and why, and press a button."""
    page.locator(f".st-key-{key}-name input").fill("maria")
    page.locator(f".st-key-{key}-reason textarea").fill("carrier rejects, INC-881")
    page.get_by_role("button", name=button).click()


def test_six_stages_fit_at_1280_pixels_and_counts_do_not_wrap(page: Page) -> None:
    heads = page.locator(".sk-stage-head")
    assert heads.count() == 6
    last = heads.last.bounding_box()
    assert last is not None
    assert last["x"] + last["width"] < 1280
    board = page.locator(".sk-board").bounding_box()
    assert board is not None
    assert page.evaluate("document.querySelector('.sk-board').scrollWidth") <= board["width"] + 1
    heights = page.evaluate("[...document.querySelectorAll('.sk-row .sk-count')].map((cell) => cell.scrollHeight)")
    assert max(heights) < 60
    assert page.locator("h1").count() == 1


def test_the_sick_action_is_found_read_and_rolled_back(page: Page, served: Served) -> None:
    page.locator("a.sk-action", has_text="close_ticket").click()
    page.wait_for_selector(".sk-verdict-ROLL_BACK")
    assert "tool=close_ticket" in page.url
    page.wait_for_function("document.querySelectorAll('.vega-embed .marks').length === 4")
    page.click("text=Review the rollback")
    page.wait_for_selector("text=What would be changed")
    act(page, "recommendation", "Accept and roll back")
    page.wait_for_selector("text=Accepted and written to")
    assert mode_of(served) is Mode.SEARCH_ONLY
    page.go_back()


def test_an_emergency_takes_two_clicks_and_ends_from_the_same_page(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Emergency").first.click()
    act(page, "emergency", "Fallback for everything now")
    page.wait_for_selector(".sk-band")
    assert FlagdStages(served.root / "flags.json").read(SICK).emergency
    page.get_by_role("link", name="Policy").first.click()
    page.wait_for_selector(".st-key-resume-0-act")
    act(page, "resume-0", "Resume")
    page.wait_for_selector("text=everything resumes")
    assert not FlagdStages(served.root / "flags.json").read(SICK).emergency


def test_what_is_typed_stays_while_the_numbers_move(page: Page, served: Served) -> None:
    page.goto(f"{served.address}recommendations")
    reason = page.locator(".st-key-recommendation-reason textarea")
    reason.fill("half a sentence")
    before = page.locator(".sk-strip").inner_text()
    served.move(seed=41)
    page.wait_for_function("(text) => document.querySelector('.sk-strip').innerText !== text", arg=before)
    assert reason.input_value() == "half a sentence"


def test_the_keyboard_is_enough(page: Page) -> None:
    page.locator("a.sk-action", has_text="send_reply").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".sk-evidence")
    assert page.locator(".sk-h1").inner_text() == "support / send_reply"


def test_nothing_from_an_event_runs(page: Page, served: Served) -> None:
    page.goto(served.address + PageLocation().of_cell(HOSTILE.cell).address.removeprefix("./"))
    page.wait_for_selector(".sk-evidence")
    assert page.locator(".sk-h1").inner_text() == f"{HOSTILE.workflow} / {HOSTILE.tool}"
    assert page.locator(".sk script, .sk img").count() == 0


def test_a_phone_shows_every_action_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("getComputedStyle(document.querySelector('.sk-matrix thead')).display === 'none'")
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390


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


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on PATH, so the page was NOT checked for accessibility (Debian: apt-get install npm)")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--no-save", "--no-audit", "--no-fund", f"axe-core@{AXE}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(
            f"npm could not fetch axe-core, so the page was NOT checked for accessibility: {done.stderr[-300:]}"
        )
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("place", "theme"), SEEN, ids=[f"{place.page}-{theme}" for place, theme in SEEN])
def test_axe_finds_nothing_serious(
    browser: Browser, served: Served, axe: str, place: PageLocation, theme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(served.address + place.address.removeprefix("./"))
        page.wait_for_selector("h1")
        page.wait_for_selector(".sk-strip")
        page.evaluate(axe)
        # Within a chart Vega names its marks one by one while it draws; what the chart says stands in words above it.
        found = page.evaluate("axe.run({exclude: [['.vega-embed svg']]}, {resultTypes: ['violations']})")
    finally:
        context.close()
    serious = [
        f"{one['id']}: {node['target']} {node.get('failureSummary', '')[:200]}"
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"][:3]
    ]
    assert serious == []
