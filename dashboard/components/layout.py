"""Parts of every page: panels, tables, facts, commands; and the pages for no data, trouble, and nothing there."""

from __future__ import annotations

from dashboard.components.html import Child, Markup, tag
from dashboard.components.live_html import link


def heading(title: Child, *notes: Child, aside: Child = None) -> Markup:
    """The one `h1` of a page, with notes below it and something beside it."""
    lines = [tag("h1", title, class_="sk-h1"), *(tag("p", note, class_="sk-facts") for note in notes)]
    beside = tag("p", aside, class_="sk-aside") if aside is not None else None
    return tag("div", tag("div", lines), beside, class_="sk-heading", id="sk-content", tabindex="-1")


def nothing_yet(lead: str, detail: str, commands: list[tuple[str, str]]) -> Markup:
    """There is no data: say so, and what to do."""
    steps = [tag("div", tag("p", why), command_line(command), class_="sk-step") for why, command in commands]
    note = "This page looks again every two seconds."
    return _without_data(lead, tag("p", detail, class_="sk-lead"), steps, note)


def trouble(message: str) -> Markup:
    """Something is wrong that a person can mend: the named error's own words."""
    detail = tag("p", message[:1].upper() + message[1:], class_="sk-lead sk-trouble", role="alert")
    note = "This page looks again every two seconds; nothing needs to be restarted here. No act is offered meanwhile."
    return _without_data("This cannot be read", detail, command_line("stagekeeper doctor"), note)


def not_found(title: str, detail: str, near: list[tuple[str, str]]) -> Markup:
    """What an address names is not there: say so, and name what is near it, as (name, address)."""
    links = [tag("li", link(address, name)) for name, address in near]
    listed = tag("ul", links, class_="sk-near") if links else None
    back = tag("p", link("./", "All actions"))
    return _without_data(title, tag("p", detail, class_="sk-lead"), [listed, back], None)


def _without_data(lead: str, detail: Markup, steps: Child, note: str | None) -> Markup:
    foot = tag("p", note, class_="sk-quiet") if note else None
    return tag("div", heading(lead), detail, steps, foot, class_="sk-empty")


def panel(title: Child, *body: Child, note: Child = None, kind: str = "") -> Markup:
    """A card with its title."""
    head = tag("h2", title, tag("span", note, class_="sk-key") if note is not None else None, class_="sk-h2")
    return tag("section", head, *body, class_=f"sk-panel {kind}".strip())


def table(heads: tuple[str, ...], rows: list[tuple[Child, ...]], *, name: str) -> Markup:
    """A plain table, which scrolls by itself where it is too wide."""
    head = tag("thead", tag("tr", [tag("th", title, scope="col") for title in heads]))
    body = tag("tbody", [tag("tr", [tag("td", value) for value in row]) for row in rows])
    shown = tag("table", head, body, class_="sk-table")
    return tag("div", shown, class_="sk-scroll", tabindex="0", role="region", aria_label=name)


def facts(rows: list[tuple[str, Child]]) -> Markup:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], class_="sk-provenance")


def command_line(command: str) -> Markup:
    """A command to copy."""
    return tag("pre", tag("code", command), class_="sk-command", tabindex="0")


def diff_lines(diff: str) -> Markup:
    """A unified diff, with + and - in words for a reader of the screen."""
    kinds = {"+": "ins", "-": "del"}
    lines = []
    for line in diff.splitlines():
        if line.startswith(("+++", "---", "\\")):
            continue
        if line.startswith("@@"):
            lines.append(tag("span", line.split("@@")[1].strip(), class_="sk-diff-at"))
        else:
            lines.append(tag(kinds.get(line[:1], "span"), line or " ", class_="sk-diff-line"))
    return tag("pre", lines, class_="sk-diff", tabindex="0", aria_label="What would be changed")
