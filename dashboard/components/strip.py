"""The strip on every page: how fresh the evidence is, which routers decide by which rules, who is here, emergencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Markup, join, tag
from dashboard.components.symbols import symbol
from dashboard.data.routers import by_ruleset

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dashboard.act_desk import EmergencySwitch
    from dashboard.data.freshness import EvidenceFreshness
    from dashboard.data.routers import RouterState
    from producers.wire.receipt import Cell

_RULESET = 8  # characters of a digest that tell two rulesets apart


def strip(fresh: EvidenceFreshness, routers: list[RouterState], now: datetime, *, news: str) -> Markup:
    """EvidenceFreshness and routers; `news` is read out to whoever hears the page."""
    live = tag("span", news, class_="sk-unseen", role="status", aria_live="polite")
    return tag("div", _freshness(fresh, now), _routers(routers), live, class_="sk-strip")


def _freshness(fresh: EvidenceFreshness, now: datetime) -> Markup:
    through = labels.timed(fresh.through)
    old = labels.age(fresh.through, now)
    if fresh.state == "none":
        return tag("span", symbol("NONE"), "No evidence judged yet", class_="sk-fresh")
    if fresh.state == "fresh":
        return tag(
            "span", symbol("ok"), "Fresh: evidence to ", tag("b", through), f", {old}", class_="sk-fresh sk-is-fresh"
        )
    limit = labels.span(fresh.limit_s)
    if fresh.state == "late":
        note = f", {old}; from {limit} on no verdict counts"
        return tag(
            "span", symbol("late"), "Late: evidence to ", tag("b", through), note, class_="sk-fresh sk-chip-late"
        )
    note = f", {old}. No verdict counts; rollbacks and emergencies can still be made"
    return tag("span", symbol("late"), "Stale: evidence to ", tag("b", through), note, class_="sk-fresh sk-chip-late")


def _routers(routers: list[RouterState]) -> Markup:
    if not routers:
        return tag("span", "no router decides", class_="sk-routers")
    (first, number), *others = by_ruleset(routers)
    name = tag("code", first[:_RULESET] or labels.UNKNOWN)
    if not others:
        return tag("span", labels.plural(len(routers), "router"), ", all on ruleset ", name, class_="sk-routers")
    shown = [tag("b", number), " on ruleset ", name]
    return tag("span", labels.plural(len(routers), "router"), ", ", shown, class_="sk-routers")


def emergency_band(switches: list[EmergencySwitch]) -> Markup | None:
    """What is stopped now, over the full width; None where nothing is."""
    if not switches:
        return None
    words = {"fallback": "falls back", "deny": "is denied"}
    items = [tag("li", symbol("emergency"), f"{switch.about.capitalize()} {words[switch.kind]}") for switch in switches]
    return tag("section", tag("ul", items), class_="sk-band", aria_label="Emergency in force")


def changed_verdicts(before: Mapping[Cell, str], now: Mapping[Cell, str]) -> str:
    """What is read out: the verdicts that changed since the last look, at most three."""
    words = [
        f"{cell.workflow} {cell.tool}: {state.replace('_', ' ').lower()}"
        for cell, state in now.items()
        if before.get(cell, state) != state
    ]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return str(join([f"Verdicts changed. {'; '.join(words[:3])}{more}."])) if words else ""
