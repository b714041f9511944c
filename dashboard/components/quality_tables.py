"""The last quality run, type by type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboard import labels
from dashboard.components.html import Child, Markup, tag
from dashboard.components.layout import command_line, panel, table
from dashboard.components.symbols import signal_state_label

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.audit.quality import FailedExpectation, QualityRun


_UNSIGNED: Final = (
    "No receipt key is set: signatures are not looked at, so whoever can write to the topics can make events up. "
    "Set STAGEKEEPER_RECEIPT_KEY for routers, reviewers and workers."
)


def quality_tables(run: QualityRun | None, now: datetime, *, unsigned: bool) -> Markup:
    """What the last quality run said of each type, and that receipts are unsigned where they are."""
    title = "Expectations"
    notice = tag("p", _UNSIGNED, class_="sk-notice") if unsigned else None
    if run is None:
        lead = "No quality run is kept in this lake. It checks the newest events type by type:"
        begin = command_line("stagekeeper quality run")
        return panel(title, notice, tag("p", lead, class_="sk-lead"), begin)
    rows: list[tuple[Child, ...]] = [
        (
            signal_state_label("pass" if of_type.success else "fail"),
            tag("code", of_type.event_type),
            tag("span", labels.count(of_type.checked), class_="sk-num"),
            tag("ul", map(_failure, of_type.failed), class_="sk-plain") if of_type.failed else "Everything holds.",
        )
        for of_type in run.types
    ]
    lead = (
        f"Run {labels.age(run.run_at, now)}, at {labels.moment(run.run_at)}. The newest events are checked again, "
        "from their bytes, independently of the stream that let them in."
    )
    checked = table(("Result", "Event type", "Checked", "Found"), rows, name=title)
    return panel(title, notice, tag("p", lead, class_="sk-lead"), checked)


def _failure(failure: FailedExpectation) -> Markup:
    warning = "" if failure.severity == "critical" else " (warning)"
    text = f"{failure.meaning or failure.expectation}: {labels.count(failure.unexpected)} events{warning}"
    return tag("li", text, [tag("code", example) for example in failure.examples[:3]])
