from __future__ import annotations

import io
import re

from stagekeeper.embedded.progress import ProgressPrinter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_has_its_time_and_every_line_its_name() -> None:
    out = io.StringIO()
    ProgressPrinter(out).step("broker", "embedded\nat 127.0.0.1:9092")
    lines = out.getvalue().splitlines()
    assert [re.fullmatch(r"\[up +\d+\.\d s\] broker   (.*)", line)[1] for line in lines] == [
        "embedded",
        "at 127.0.0.1:9092",
    ]


def test_without_a_terminal_live_lines_are_sparse() -> None:
    out = io.StringIO()
    progress = ProgressPrinter(out, live_every_s=3600)
    progress.live("1 event")
    progress.live("2 events")
    assert out.getvalue() == ""
    eager = ProgressPrinter(out, live_every_s=0)
    eager.live("3 events")
    assert "status   3 events\n" in out.getvalue()


def test_on_a_terminal_the_live_line_replaces_itself_and_makes_room_for_a_step() -> None:
    out = Terminal()
    progress = ProgressPrinter(out)
    progress.live("1 event")
    progress.live("2 events")
    progress.step("stop", "everything")
    shown = [part.split("] ")[-1] for part in out.getvalue().split("\r\x1b[2K")]
    assert shown == ["", "1 event", "2 events", "stop     everything\n"]


def test_a_live_line_on_a_terminal_never_wraps() -> None:
    out = Terminal()
    ProgressPrinter(out, width=lambda: 40).live("x" * 200)
    assert len(out.getvalue().removeprefix("\r\x1b[2K")) == 39
