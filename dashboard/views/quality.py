"""The last quality run, type by type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Child, Markup, tag
from dashboard.components.layout import command_line, panel, table
from dashboard.components.symbols import signal_state_label

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.audit.quality import QualityRun
    from dashboard.urls import PageLocation


def quality_panel(run: QualityRun | None, location: PageLocation, now: datetime) -> Markup:
    """What the last quality run of_type."""
    if run is None:
        return panel(
            "Data quality",
            location,
            tag(
                "p", "No quality run is kept in this lake. It checks the newest events type by type:", class_="sk-lead"
            ),
            command_line("stagekeeper quality run"),
        )
    rows: list[tuple[Child, ...]] = [
        (
            signal_state_label("pass" if of_type.success else "fail"),
            tag("code", of_type.event_type),
            tag("span", labels.count(of_type.checked), class_="sk-num"),
            tag(
                "ul",
                [
                    tag(
                        "li",
                        f"{failure.meaning or failure.expectation}: {labels.count(failure.unexpected)} events"
                        f"{'' if failure.severity == 'critical' else ' (warning)'}",
                        [tag("code", example) for example in failure.examples[:3]],
                    )
                    for failure in of_type.failed
                ],
                class_="sk-plain",
            )
            if of_type.failed
            else "Everything holds.",
        )
        for of_type in run.types
    ]
    return panel(
        "Data quality",
        location,
        tag(
            "p",
            f"Run {labels.age(run.run_at, now)}, at {labels.moment(run.run_at)}. The newest events are checked again, "
            "from their bytes, independently of the stream that let them in.",
            class_="sk-lead",
        ),
        table(("Result", "Event type", "Checked", "Found"), rows),
    )
