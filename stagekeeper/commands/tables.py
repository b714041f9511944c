"""Tables for people at a terminal: the report's signals, verdicts and rejects."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from analytics.text import amount, percent
from analytics.verdicts.safety_forecast import outlook_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from analytics.report import CellSignals, RejectSummary
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.list_marks import ListMarks
    from producers.wire.receipt import Cell


NOTHING: Final = "-"
_NARROWEST: Final = 80
_UNTERMINALED: Final = 160  # columns of a table that goes to a file or a pipe
_WIDE: Final = 150  # columns from which on every figure has room

_COLOURS: Final = {"PROMOTE": "green", "HOLD": "yellow", "ROLL_BACK": "bold red", "INVALID": "magenta"}
_URGENCY: Final = ("ROLL_BACK", "INVALID", "PROMOTE", "HOLD")
_REASONS_SHOWN: Final = 3
_MOST_FORETOLD: Final = 20  # cells; each takes a tenth of a second

_FIGURES: Final[dict[str, tuple[bool, Callable[[CellSignals], str]]]] = {
    "decided": (True, lambda cell: f"{cell.counts['decisions']:,}"),
    "denied": (True, lambda cell: _rate(cell.rates["denial"])),
    "executed": (True, lambda cell: f"{cell.counts['executed']:,}"),
    "failed": (True, lambda cell: _rate(cell.rates["execution_error"])),
    "undone": (True, lambda cell: _rate(cell.rates["undo"])),
    "missing": (False, lambda cell: _rate(cell.rates["missing_outcome"])),
    "incidents": (False, lambda cell: _rate(cell.rates["incident"])),
    "p50": (False, lambda cell: NOTHING if cell.latency_ms is None else amount(cell.latency_ms.p50, "ms")),
    "p95": (True, lambda cell: NOTHING if cell.latency_ms is None else amount(cell.latency_ms.p95, "ms")),
    "cost": (False, lambda cell: NOTHING if cell.cost_usd is None else amount(cell.cost_usd.mean, "usd")),
}
"""The figures of a cell, each with whether a narrow terminal shows it too."""


def signals_table(signals: Sequence[CellSignals]) -> Table:
    """One line a cell: how much was seen, and the rates that matter first; a narrow terminal shows fewer of them."""
    wide = _width() >= _WIDE
    cells = [row.cell for row in signals]
    table = _table(cells)
    table.add_column("action", overflow="fold", min_width=22)
    if wide:
        table.add_column("stage", no_wrap=True)
    figures = {name: figure for name, (on_narrow, figure) in _FIGURES.items() if wide or on_narrow}
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    for row in signals:
        action = _action(row.cell, cells)
        labels = [action, row.stage] if wide else [Text.assemble(action, f"\n {row.stage}")]
        table.add_row(*labels, *(figure(row) for figure in figures.values()))
    return table


def verdicts_table(verdicts: Sequence[VerdictDocument], marks: ListMarks) -> Table:
    """One block a cell, most urgent first: the verdict, where it sends the action, and the reasons in numbers.

    What the list's marks believe bears a star and the kind of mark. Of the first cells that wait for evidence it says
    when that may be there.
    """
    cells, kinds, foretold = [verdict.cell for verdict in verdicts], marks.kinds, 0
    table = _table(cells)
    table.add_column("verdict", no_wrap=True)
    table.add_column("action", overflow="fold", min_width=22)
    table.add_column("why", overflow="fold", ratio=1)
    for verdict in sorted(verdicts, key=lambda one: _URGENCY.index(one.verdict)):
        shown = [reason.message for reason in verdict.reasons[:_REASONS_SHOWN]]
        if left := len(verdict.reasons) - len(shown):
            shown.append(f"and {left} more")
        target = "" if verdict.to_stage is None else f"\n → {verdict.to_stage}"
        if verdict.verdict == "HOLD" and foretold < _MOST_FORETOLD and (outlook := _outlook(verdict)) is not None:
            shown.append(outlook)
            foretold += 1
        if verdict.independence is not None:
            shown.append(verdict.independence)
        mark = kinds.get(verdict.verdict_id)
        table.add_row(
            Text(verdict.verdict + ("" if mark is None else f"\n* {mark}"), style=_COLOURS[verdict.verdict]),
            Text.assemble(_action(verdict.cell, cells), f"\n {verdict.stage}{target}"),
            Text("\n".join(shown)),
        )
    return table


def rejects_line(rejects: RejectSummary) -> str:
    """How many records were refused, and why."""
    if not rejects.total:
        return "No record was rejected."
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejects.by_reason.items())
    return f"{rejects.total:,} {'record was' if rejects.total == 1 else 'records were'} rejected: {reasons}."


def show(*parts: RenderableType) -> str:
    """Draw tables and lines as text, as wide as the terminal; colours only where the caller's terminal shows them."""
    drawn = io.StringIO()
    # click strips the colours again where its output is no terminal.
    console = Console(file=drawn, width=_width(), force_terminal=True, highlight=False, color_system="standard")
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines())


def _width() -> int:
    if not sys.stdout.isatty():
        return _UNTERMINALED
    return max(shutil.get_terminal_size().columns, _NARROWEST)


def _table(cells: Sequence[Cell]) -> Table:
    """An empty table; where all cells share one environment it is named once, above."""
    shared = _shared_environment(cells)
    title = None if shared is None else Text(f"environment {shared}", style="dim")
    return Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", title=title, title_justify="left")


def _shared_environment(cells: Sequence[Cell]) -> str | None:
    environments = {cell.environment for cell in cells}
    return environments.pop() if len(environments) == 1 else None


def _action(cell: Cell, among: Sequence[Cell]) -> Text:
    names = [cell.workflow, cell.tool]
    if _shared_environment(among) is None:
        names.insert(0, cell.environment)
    # As plain text: a name may hold brackets, which would be read as markup.
    return Text("/".join(names) + ("" if cell.cohort == "all" else f" ({cell.cohort})"), overflow="fold")


def _outlook(verdict: VerdictDocument) -> str | None:
    """When the signal of the first reason may be shown safe; None where the verdict waits for something else."""
    first = verdict.reasons[0]
    evidence = next(
        (part for part in verdict.signals if part.signal == first.signal and part.state == "undecided"), None
    )
    text = None if evidence is None or first.code != "more_evidence_needed" else outlook_text(evidence)
    return None if text is None else f"forecast of {first.signal}: {text}"


def _rate(ratio: float | None) -> str:
    return NOTHING if ratio is None else percent(ratio)
